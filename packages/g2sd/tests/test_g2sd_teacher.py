"""Teachers: frozen whatever happens, strictly loaded, and checked before anybody learns from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from g2sd_generic_runs import pretrain
from torch import Tensor, nn

from g2sd.check_teacher import main as check
from g2sd.generic import GenericDistiller, GenericStudent, require_pair
from g2sd.mae import MaskedAutoencoder, random_mask, visible_patches
from g2sd.official import load_teacher, to_official
from g2sd.teacher import FrozenTeacher, MAETeacher
from g2sd.teacher_check import Recovery, check_teacher, sample_images
from vireo.data.image_tree import ImageTree
from vireo.errors import InputError
from vireo.testing.runs import write_folders

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")

State = dict[str, Tensor]
SIZES: dict[str, Any] = {"img_size": 32, "embed_dim": 192, "depth": 12, "num_heads": 3}  # of ViT-Ti, 2x2 patches
DECODER: dict[str, Any] = {"decoder_dim": 128, "decoder_depth": 4, "decoder_heads": 4}
FULL = "mae_pretrain_vit_base_full.pth"


@pytest.fixture(scope="module")
def model() -> MaskedAutoencoder:
    torch.manual_seed(0)
    return MaskedAutoencoder(**SIZES, **DECODER)


@pytest.fixture(scope="module")
def state(model: MaskedAutoencoder) -> State:
    return to_official(model)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A masked autoencoder of 4x4 patches that was trained long enough to recover something."""
    return pretrain(tmp_path_factory.mktemp("teacher"), "epochs=12", "eval_every=0", "optim.lr=0.05")


class Answer(NamedTuple):
    logits: Tensor
    ids: Tensor


class Network(nn.Module):
    """Answers in every kind of container."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.dropout = nn.Linear(4, 3), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Mapping[str, Any]:
        y = self.dropout(self.layer(x))
        return {"answer": Answer(y, y.argmax(1)), "list": [y, (y,)], "word": "w"}


# -- a frozen teacher --------------------------------------------------------------------------------------------------


def test_frozen() -> None:
    network = Network().train()
    teacher = FrozenTeacher(network).train()
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    x = torch.rand(5, 4, requires_grad=True)
    answer = teacher(x)
    logits = answer["answer"].logits
    assert isinstance(answer["answer"], Answer)
    assert answer["word"] == "w"
    for tensor in (logits, answer["answer"].ids, answer["list"][0], answer["list"][1][0]):
        assert not tensor.is_inference()
        assert not tensor.requires_grad
    (logits * torch.ones(3, requires_grad=True)).sum().backward()  # a graph may keep it
    assert torch.equal(logits, teacher.ask(network.layer, x))  # and no dropout was at work


def test_precision() -> None:
    network, x = Network(), torch.rand(5, 4)
    whole, half, auto = (FrozenTeacher(network, name)(x)["answer"].logits for name in ("32", "bf16", "auto"))
    assert whole.dtype == half.dtype == torch.float32
    assert torch.equal(whole, auto)  # on a CPU
    assert not torch.equal(whole, half)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(FrozenTeacher(network, "32")(x)["answer"].logits, whole)
    with pytest.raises(InputError, match="unknown precision 'fp16'"):
        FrozenTeacher(network, "fp16")


def test_a_distiller_holds_its_teacher_apart(model: MaskedAutoencoder) -> None:
    student = GenericStudent(**{**SIZES, "depth": 1}, decoder_dim=16, decoder_depth=1, decoder_heads=2, teacher_dim=128)
    distiller = GenericDistiller(model, student, 3).double()
    assert not any("teacher" in key for key in distiller.state_dict())
    assert len(list(distiller.parameters())) == len(list(student.parameters()))
    assert next(distiller.teacher.parameters()).dtype == torch.float64
    model.float()
    distiller = distiller.float().train()
    assert not distiller.teacher.network.training
    output = distiller(torch.rand(2, 3, 32, 32), torch.rand(2, 4))
    output.loss.backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert distiller.export_encoder().keys() == student.encoder.state_dict().keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_size": 8}, "the teacher has patches of 16 pixels, the student of 8"),
        ({"img_size": 64}, "the teacher sees (2, 2) patches, the student (4, 4)"),
        ({"teacher_dim": 64}, "the student predicts 64 channels, the teacher's decoder has 128"),
        ({"encoder_weight": 1.0}, "the student predicts 768 channels, the teacher's encoder has 192"),
    ],
)
def test_students_that_do_not_suit(model: MaskedAutoencoder, change: dict[str, Any], message: str) -> None:
    sizes = {**SIZES, "depth": 1, "decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2, "teacher_dim": 128}
    with pytest.raises(InputError) as error:
        require_pair(MAETeacher.of(model), GenericStudent(**{**sizes, **change}))
    assert message in str(error.value)


# -- loading it --------------------------------------------------------------------------------------------------------


def test_published_sizes_tell_the_heads(state: State, model: MaskedAutoencoder, tmp_path: Path) -> None:
    """The targets are those of the whole network; behind the target block nothing is left."""
    torch.save({"model": state}, tmp_path / "full.pth")
    teacher = load_teacher(tmp_path / "full.pth", 3)
    mask = random_mask(model.encoder, 2, torch.rand(2, 4))
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        found = teacher(visible_patches(teacher.encoder, images, mask), mask).decoder
        expected = MAETeacher.of(model, 3)(visible_patches(model.encoder, images, mask), mask).decoder
    torch.testing.assert_close(found, expected)
    assert "decoder.blocks.3.norm1.weight" not in teacher.state_dict()
    named = load_teacher(tmp_path / "full.pth", name="mae_vit_tiny_patch16_12h_dec128d4b")
    blocks: Any = named.encoder.blocks
    assert blocks[0].attn.num_heads == 12
    assert load_teacher(tmp_path / "full.pth", img_size=64).encoder.grid_size == (4, 4)


def test_what_stands_behind_the_target_may_be_absent(state: State, tmp_path: Path) -> None:
    behind = ("decoder_norm.", "decoder_pred.", "decoder_blocks.3.", "decoder_blocks.2.")
    kept = {key: value for key, value in state.items() if not key.startswith(behind)}
    torch.save({"model": kept}, tmp_path / "cut.pth")
    load_teacher(tmp_path / "cut.pth", 2)
    found = check_teacher(tmp_path / "cut.pth", 2)
    assert found.recovery is None
    assert "no pixel head in the file" in str(found)


def test_a_random_decoder(state: State, tmp_path: Path) -> None:
    """The ablation: an encoder is enough, and the decoder is another with each state of the generator."""
    torch.save({"model": {key: value for key, value in state.items() if "decoder" not in key}}, tmp_path / "e.pth")
    torch.manual_seed(1)
    first, second = (load_teacher(tmp_path / "e.pth", random_decoder=True) for _ in range(2))
    assert first.decoder_dim == 512
    assert torch.equal(first.encoder.state_dict()["blocks.3.mlp.fc1.weight"], state["blocks.3.mlp.fc1.weight"])
    weights = [teacher.decoder.state_dict()["blocks.0.mlp.fc1.weight"] for teacher in (first, second)]
    assert not torch.equal(*weights)
    torch.save({"model": state}, tmp_path / "full.pth")
    drawn = load_teacher(tmp_path / "full.pth", random_decoder=True).decoder.state_dict()
    assert drawn["embed.weight"].shape == state["decoder_embed.weight"].shape
    assert not torch.equal(drawn["embed.weight"], state["decoder_embed.weight"])


def without(*starts: str) -> Callable[[State], State]:
    return lambda state: {key: value for key, value in state.items() if not key.startswith(starts)}


def cut(state: State) -> bytes:
    import io

    buffer = io.BytesIO()
    torch.save({"model": state}, buffer)
    return buffer.getvalue()[:-4000]


FAULTS: list[tuple[Callable[[State], Any], dict[str, Any], str]] = [
    (without("decoder", "mask_token"), {}, "holds no decoder, but: encoder alone"),
    (without("decoder", "mask_token"), {}, f"use the file of the whole masked autoencoder, {FULL}"),
    (without("mask_token"), {}, "1 missing: mask_token"),
    (without("decoder_pos_embed"), {}, "1 missing: pos_embed"),
    (without("decoder_blocks.1.attn"), {"target_block": 2}, "4 missing: blocks.1.attn.qkv.weight"),
    (without("blocks.5.mlp.fc1"), {}, "2 missing: blocks.5.mlp.fc1.weight"),
    (dict, {"target_block": 5}, "the teacher's decoder has 4 blocks, no block 5. use target_block=1 to 4"),
    (dict, {"target_block": 0}, "no block 0"),
    (dict, {"name": "mae_vit_base_patch16"}, "has embed_dim 192, decoder_dim 128, decoder_depth 4; mae_vit_base"),
    (dict, {"name": "mae_vit_base"}, "unknown model 'mae_vit_base'"),
    (lambda state: {**state, "pos_embed": state["pos_embed"] + 1}, {}, "are not the fixed sincos_2d ones"),
    (lambda state: {**state, "decoder_pos_embed": 2 * state["decoder_pos_embed"]}, {}, "not the fixed sincos_2d ones"),
    (lambda state: {**state, "decoder_embed.weight": torch.zeros(100, 192)}, {}, "no file tells decoder_heads"),
    (cut, {}, "cannot be read as a checkpoint"),
]


@pytest.mark.parametrize(("change", "options", "message"), FAULTS)
def test_teachers_that_cannot_teach(
    change: Any, options: dict[str, Any], message: str, state: State, tmp_path: Path
) -> None:
    content, file = change(state), tmp_path / "teacher.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save({"model": content}, file)
    for function in (load_teacher, check_teacher):
        with pytest.raises(InputError) as error:
            function(file, **{"target_block": 4, **options})
        assert message in str(error.value)


# -- g2sd-check-teacher ------------------------------------------------------------------------------------------------


def test_what_it_says(run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    check([str(run), "--target-block", "2"])
    printed = capsys.readouterr().out
    for words in (
        f"{run}: masked autoencoder, encoder and decoder",
        "encoder: sizes of its own, 32 channels, 2 blocks, 2 heads, patches of 4, images of 16; 0.0 million",
        "decoder: 24 channels, 3 blocks, 2 heads",
        "target: block 2 of 3 is inside",
        "on 8 drawn pictures: it predicts normalised ones, as the paper's teacher",
    ):
        assert words in printed, printed
    write_folders(tmp_path / "images", {"train": 3}, vary=True)
    check([str(run), "--images", str(tmp_path / "images")])
    printed = capsys.readouterr().out
    assert "target: any block from 1 to 3" in printed
    assert "on 8 images of its data" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target-block", "4"], "use target_block=1 to 3"),
        (["--name", "mae_vit_base_patch16"], "has patch_size"),
        (["--images", "absent"], "absent"),
    ],
)
def test_status_2(run: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        check([str(run), *arguments])
    assert message in capsys.readouterr().err


def test_a_decoder_that_was_never_trained(state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": state}, tmp_path / "fresh.pth")
    with pytest.raises(SystemExit, match="2"):
        check([str(tmp_path / "fresh.pth")])
    assert "its decoder seems untrained" in capsys.readouterr().err


def test_raw_pixels_are_told_from_normalised_ones(run: Path) -> None:
    """Hint at the files of MAE's demonstration, whose encoder is another."""
    found = check_teacher(run)
    assert found.recovery is not None
    assert found.recovery.normalised < 1 < found.recovery.raw
    raw = str(found._replace(recovery=Recovery(2.3, 0.2)))
    assert f"it predicts raw ones, as mae_visualize_*.pth do; the paper's teacher is {FULL}" in raw


def test_images_that_cannot_be_read(tmp_path: Path) -> None:
    write_folders(tmp_path, {"train": 2}, vary=True)
    first = sorted(tmp_path.rglob("*.jpg"))[0]
    assert len(sample_images(ImageTree(tmp_path), 16)) == 6
    first.write_bytes(b"no image")
    assert sample_images(ImageTree(tmp_path, "skip"), 16).shape == (5, 3, 16, 16)
