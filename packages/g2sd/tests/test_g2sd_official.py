"""Encoders and teachers come out of every layout of checkpoints, and whatever does not fit says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from g2sd_generic_runs import distill, pretrain
from g2sd_golden import fill_state_dict
from torch import Tensor, nn

from g2sd.classifier import DistilledVisionTransformer
from g2sd.export import export_encoder
from g2sd.export import main as export
from g2sd.generic import GenericDistiller, GenericStudent
from g2sd.layouts import to_authors, to_ours
from g2sd.mae import MaskedAutoencoder
from g2sd.official import (
    convert_checkpoint,
    load_encoder,
    load_teacher,
    read_encoder,
    resample_positions,
    to_official,
)
from g2sd.pretraining import load_autoencoder
from vireo.backbones import MaskedViT
from vireo.errors import InputError

State = dict[str, Tensor]
SIZES: dict[str, Any] = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2}
DECODER: dict[str, Any] = {"decoder_dim": 24, "decoder_depth": 3, "decoder_heads": 2}
HEADS: dict[str, Any] = {"num_heads": 2, "decoder_heads": 2}  # of sizes that no published model has


@pytest.fixture(scope="module")
def model() -> MaskedAutoencoder:
    torch.manual_seed(0)
    network = MaskedAutoencoder(**SIZES, **DECODER)
    fixed = {key: value.clone() for key, value in network.state_dict().items() if key.endswith("pos_embed")}
    network.load_state_dict({**fill_state_dict(network.state_dict()), **fixed})
    return network


@pytest.fixture(scope="module")
def state(model: MaskedAutoencoder) -> State:
    """Under the authors' names."""
    return to_official(model)


def encoder_of(state: State) -> State:
    return {key: value for key, value in state.items() if not key.startswith(("decoder", "mask_token"))}


def classifier(**options: Any) -> MaskedViT:
    sizes: dict[str, Any] = {**SIZES, "positions": "learned", "qkv_bias": "qkv", "class_token": True, **options}
    return MaskedViT(**sizes)


def hugging_face(state: State, prefix: str = "vit.") -> State:
    """The layout of Hugging Face's ViTMAEForPreTraining."""
    first = {"cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings"}
    first |= {
        f"patch_embed.proj.{kind}": f"embeddings.patch_embeddings.projection.{kind}" for kind in ("weight", "bias")
    }
    first |= {f"norm.{kind}": f"layernorm.{kind}" for kind in ("weight", "bias")}
    parts = {"attn.proj": "attention.output.dense", "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"}
    parts |= {"norm1": "layernorm_before", "norm2": "layernorm_after"}
    found: State = {}
    for key, value in state.items():
        if "blocks." not in key:
            found[f"{prefix}{first[key]}" if key in first else f"decoder.{key}"] = value
            continue
        blocks, number, rest = key.split(".", 2)
        layer = f"{prefix}encoder.layer.{number}" if blocks == "blocks" else f"decoder.decoder_layers.{number}"
        name, _, kind = rest.rpartition(".")
        if name == "attn.qkv":
            for part, third in zip(("query", "key", "value"), value.chunk(3)):
                found[f"{layer}.attention.attention.{part}.{kind}"] = third.clone()
        else:
            found[f"{layer}.{parts[name]}.{kind}"] = value
    return found


def wrapped(state: State) -> State:
    return {f"module.{key}": value for key, value in state.items()}


LAYOUTS: dict[str, Callable[[State], Any]] = {
    "the authors' file": lambda state: {"model": state, "epoch": 1599},
    "a bare dict": dict,
    "with module.": lambda state: {"model": wrapped(state)},
    "ours": to_ours,
    "Hugging Face": hugging_face,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_masked_autoencoders(layout: str, state: State, model: MaskedAutoencoder, tmp_path: Path) -> None:
    """The encoder, the teacher and the whole network, from every layout."""
    torch.save(LAYOUTS[layout](state), tmp_path / "file.pth")
    found = read_encoder(tmp_path / "file.pth")
    assert found.keys() == model.encoder.state_dict().keys()
    assert all(torch.equal(value, state[key]) for key, value in found.items())
    teacher = load_teacher(tmp_path / "file.pth", 2, **HEADS)
    for key, value in to_official(teacher).items():
        assert torch.equal(value, state[key]), key
    assert len(teacher.decoder.blocks) == 2
    again = MaskedAutoencoder(**SIZES, **DECODER)
    load_autoencoder(again, str(tmp_path / "file.pth"))
    for key, value in again.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key


def test_other_layouts_of_encoders(state: State, tmp_path: Path) -> None:
    """The encoder alone, Hugging Face's without a decoder, fine-tuned classifiers, students of both stages."""
    encoder = encoder_of(state)
    student = GenericStudent(**SIZES, decoder_dim=16, decoder_depth=1, decoder_heads=2, encoder_weight=1.0)
    fill_state_dict(student.state_dict(), 3)
    distilled = DistilledVisionTransformer(**SIZES, num_classes=5)
    fill_state_dict(distilled.state_dict(), 4)
    average = classifier(readout="mean", num_classes=5)
    files: dict[str, tuple[Any, nn.Module | State]] = {
        "encoder": ({"model": encoder}, encoder),
        "hugging": (hugging_face(encoder, ""), encoder),
        "student": ({"model": to_official(student), "optimizer": {}, "epoch": 299}, student.encoder),
        "distiller": (GenericDistiller(load_model(state), student_of(24), 2).state_dict(), student_of(24).encoder),
        "distilled": ({"model": distilled.state_dict()}, distilled),
        "average": (average.state_dict(), average),
    }
    for name, (content, source) in files.items():
        torch.save(content, tmp_path / f"{name}.pth")
        found = read_encoder(tmp_path / f"{name}.pth")
        wanted = source if isinstance(source, dict) else source.state_dict()
        assert found.keys() == {key for key in wanted if not key.startswith(("head", "dist_token"))}, name
        if name != "distiller":  # drawn twice
            assert all(torch.equal(value, wanted[key]) for key, value in found.items()), name


def load_model(state: State) -> MaskedAutoencoder:
    network = MaskedAutoencoder(**SIZES, **DECODER)
    network.load_state_dict(to_ours(state))
    return network


def student_of(width: int) -> GenericStudent:
    return GenericStudent(**SIZES, decoder_dim=16, decoder_depth=1, decoder_heads=2, teacher_dim=width)


def test_runs(tmp_path: Path) -> None:
    """Folders and files of our runs, whose configuration tells the heads."""
    teacher = pretrain(tmp_path / "teacher", "epochs=1", "eval_every=0")
    distill(tmp_path / "student", teacher, "epochs=1", "eval_every=0")
    for path in (tmp_path / "student", tmp_path / "student" / "model.safetensors"):
        assert read_encoder(path)["pos_embed"].shape == (1, 17, 16)
    for path in (teacher, teacher / "model.safetensors"):
        teacher_blocks: Any = load_teacher(path, 3).decoder.blocks
        assert teacher_blocks[0].attn.num_heads == 2
    out = tmp_path / "encoder.safetensors"
    export([str(tmp_path / "student"), str(out)])
    assert read_encoder(out).keys() == read_encoder(tmp_path / "student").keys()


# -- starting an encoder -----------------------------------------------------------------------------------------------


def test_what_stays_fresh_and_what_is_left_out(state: State, tmp_path: Path) -> None:
    torch.save({"model": state}, tmp_path / "full.pth")
    distilled = DistilledVisionTransformer(**SIZES, num_classes=5)
    report = load_encoder(distilled, tmp_path / "full.pth")
    assert torch.equal(distilled.get_parameter("blocks.1.mlp.fc2.weight"), state["blocks.1.mlp.fc2.weight"])
    words = str(report)
    assert "fresh, as expected: distillation token and its head (3), classifier (2)" in words
    assert "left out, as expected: decoder (44)" in words
    average = classifier(readout="mean", num_classes=5)
    words = str(load_encoder(average, tmp_path / "full.pth"))
    assert "norm of the average (2)" in words
    assert "final norm (2)" in words


def test_classifiers_as_a_start(tmp_path: Path) -> None:
    """The read-out of one is not taken over by another; its norm is where both have it."""
    source = classifier(readout="mean", num_classes=5)
    fill_state_dict(source.state_dict(), 2)
    torch.save(source.state_dict(), tmp_path / "average.pth")
    same = classifier(readout="mean", num_classes=7)
    report = load_encoder(same, tmp_path / "average.pth")
    assert torch.equal(same.get_parameter("fc_norm.weight"), source.get_parameter("fc_norm.weight"))
    assert set(report.fresh) == {"head.weight", "head.bias"} == set(report.left_out)
    token = classifier(readout="cls", num_classes=5)
    assert {"norm.weight", "norm.bias"} < set(load_encoder(token, tmp_path / "average.pth").fresh)


def test_positions_follow_the_grid(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "full.pth")
    larger = classifier(img_size=24)
    report = load_encoder(larger, tmp_path / "full.pth")
    assert "interpolated from 4x4 to 6x6 patches" in str(report)
    assert torch.equal(larger.get_parameter("pos_embed"), resample_positions(state["pos_embed"], (6, 6)))
    oblong = classifier(img_size=(16, 24))
    load_encoder(oblong, tmp_path / "full.pth")
    assert torch.equal(oblong.get_parameter("pos_embed")[:, :1], state["pos_embed"][:, :1])
    without = classifier(class_token=False)
    assert "class token (1)" in str(load_encoder(without, tmp_path / "full.pth"))
    assert torch.equal(without.get_parameter("pos_embed"), state["pos_embed"][:, 1:])
    fixed = MaskedAutoencoder(**{**SIZES, "img_size": 24}, **DECODER).encoder
    table = fixed.get_parameter("pos_embed").clone()
    load_encoder(fixed, tmp_path / "full.pth")
    assert torch.equal(fixed.get_parameter("pos_embed"), table)
    torch.save({**state, "pos_embed": torch.rand(1, 17, 32)}, tmp_path / "trained.pth")
    with pytest.raises(InputError, match="not the fixed sincos_2d ones"):
        load_encoder(fixed, tmp_path / "trained.pth")


def test_further_parts_that_may_stay_fresh(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "full.pth")
    scaled = classifier(init_values=0.1)
    with pytest.raises(InputError, match=r"4 missing: blocks\.0\.ls1\.gamma"):
        load_encoder(scaled, tmp_path / "full.pth")
    assert len(load_encoder(scaled, tmp_path / "full.pth", fresh=(".gamma",)).fresh) == 4


# -- conversion --------------------------------------------------------------------------------------------------------


def test_conversion(state: State, model: MaskedAutoencoder, tmp_path: Path) -> None:
    student = student_of(24)
    authors = to_official(student)
    idle = {"decoder_norm.weight": torch.ones(16), "decoder_pred.bias": torch.ones(48)}  # theirs, of no use
    torch.save({"model": {**authors, **idle}}, tmp_path / "student.pth")
    torch.save({"model": state}, tmp_path / "full.pth")
    found = convert_checkpoint(tmp_path / "student.pth", "student")
    assert found.keys() == student.state_dict().keys()
    student.load_state_dict(found)
    assert convert_checkpoint(tmp_path / "full.pth", "mae").keys() == model.state_dict().keys()
    assert convert_checkpoint(tmp_path / "full.pth", "encoder").keys() == model.encoder.state_dict().keys()
    with pytest.raises(InputError, match="holds no student, but: masked autoencoder"):
        convert_checkpoint(tmp_path / "full.pth", "student")
    with pytest.raises(InputError, match="unknown kind 'teacher'"):
        convert_checkpoint(tmp_path / "full.pth", "teacher")  # type: ignore[arg-type]
    torch.save({"model": encoder_of(state)}, tmp_path / "encoder.pth")
    with pytest.raises(InputError, match="holds no decoder, but: encoder alone"):
        convert_checkpoint(tmp_path / "encoder.pth", "mae")


def test_export(state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": state}, tmp_path / "full.pth")
    export([str(tmp_path / "full.pth"), str(tmp_path / "out.safetensors")])
    printed = capsys.readouterr().out
    assert "kept: 30 entries of an encoder: 32 channels, 2 blocks, patches of 4, images of 16" in printed
    assert "left out: decoder (44)" in printed
    again = classifier()
    load_encoder(again, tmp_path / "out.safetensors")
    assert torch.equal(again.get_parameter("blocks.0.attn.qkv.weight"), state["blocks.0.attn.qkv.weight"])
    for arguments, message in (
        ([str(tmp_path / "full.pth"), str(tmp_path / "out.pth")], "no .safetensors file"),
        ([str(tmp_path / "absent.pth"), str(tmp_path / "out.safetensors")], "no such file"),
    ):
        with pytest.raises(SystemExit, match="2"):
            export(arguments)
        assert message in capsys.readouterr().err


def test_an_exported_encoder_is_timms(tmp_path: Path) -> None:
    """What is printed as its use gives the same features."""
    import timm

    student = GenericStudent(embed_dim=192, num_heads=3, decoder_dim=32, decoder_depth=1, decoder_heads=2)
    torch.save(to_official(student), tmp_path / "student.pth")
    out = str(tmp_path / "tiny.safetensors")
    assert 'timm.create_model("vit_tiny_patch16_224", num_classes=0, ' in export_encoder(
        str(tmp_path / "student.pth"), out
    )
    network: Any = timm.create_model(
        "vit_tiny_patch16_224", num_classes=0, pretrained=True, pretrained_cfg_overlay={"file": out}
    ).eval()
    image = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        expected = student.encoder.forward_visible(image)
        torch.testing.assert_close(network.forward_features(image), expected, rtol=1e-4, atol=1e-5)


# -- faults ------------------------------------------------------------------------------------------------------------


def changed(**entries: Tensor | None) -> Callable[[State], State]:
    def change(state: State) -> State:
        found = {**state, **{key.replace("__", "."): value for key, value in entries.items() if value is not None}}
        return {key: value for key, value in found.items() if entries.get(key.replace(".", "__"), value) is not None}

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed(blocks__1__norm1__weight=None), "1 missing: blocks.1.norm1.weight"),
        (changed(norm__weight=None, norm__bias=None), "2 missing: norm.weight, norm.bias"),
        (changed(blocks__2__norm1__weight=torch.ones(32)), "1 unexpected: blocks.2.norm1.weight"),
        (changed(adapter__weight=torch.ones(3)), "1 unexpected: adapter.weight"),
        (changed(cls_token=torch.zeros(1, 1, 8)), "cls_token (file (1, 1, 8), model (1, 1, 32))"),
        (changed(pos_embed=torch.zeros(1, 16, 32)), "15 stored positions are no square grid"),
        (changed(pos_embed=torch.zeros(1, 17, 48)), "pos_embed (file (1, 17, 48), model (1, 17, 32))"),
        (changed(patch_embed__proj__weight=None), "holds no encoder of a masked autoencoder"),
        (lambda state: {f"backbone.{key}": value for key, value in state.items()}, "holds a detector or segmenter"),
        (lambda _: {"epoch": 3}, "holds no state dict"),
        (lambda _: b"no checkpoint", "cannot be read as a checkpoint"),
    ],
)
def test_encoders_that_do_not_fit(change: Any, message: str, state: State, tmp_path: Path) -> None:
    content = change(encoder_of(state))
    if isinstance(content, bytes):
        (tmp_path / "file.pth").write_bytes(content)
    else:
        torch.save(content, tmp_path / "file.pth")
    with pytest.raises(InputError) as error:
        load_encoder(classifier(), tmp_path / "file.pth")
    assert message in str(error.value)


def test_a_distillation_token_in_the_second_place(tmp_path: Path) -> None:
    state = DistilledVisionTransformer(**SIZES, num_classes=5).state_dict()
    torch.save({**state, "pos_embed": torch.zeros(1, 18, 32)}, tmp_path / "deit.pth")
    with pytest.raises(InputError, match="the layout of DeiT"):
        load_encoder(classifier(), tmp_path / "deit.pth")


def test_half_of_hugging_face(state: State, tmp_path: Path) -> None:
    theirs = hugging_face(state)
    del theirs["vit.encoder.layer.1.attention.attention.key.bias"]
    torch.save(theirs, tmp_path / "file.pth")
    with pytest.raises(InputError, match="the file is not complete"):
        read_encoder(tmp_path / "file.pth")


def test_names_return(state: State) -> None:
    assert to_authors(to_ours(state), "state").keys() == state.keys()
