"""The encoders in timm's registry: sizes, heads, maps, checkpoints, and as the body of a detector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from g2sd.classifier import Classifier, DistilledVisionTransformer
from g2sd.generic import GenericStudent
from g2sd.official import to_official
from g2sd.sizes import ENCODERS
from g2sd.timm_models import _MODELS
from vireo.backbones import load_registrations
from vireo.backbones.vit import ViTFeatures
from vireo.engine.checkpoint import save_weights
from vireo.errors import InputError

SMALL: dict[str, Any] = {"img_size": 64, "embed_dim": 48, "depth": 3, "num_heads": 3}
NAMES = ("g2sd_vit_small", "g2sd_vit_small_distilled")


@pytest.fixture(autouse=True)
def _registered() -> None:
    assert "g2sd" in load_registrations()


def create(name: str, file: Path | None = None, **options: Any) -> Any:
    torch.manual_seed(0)
    weights: Any = {} if file is None else {"pretrained": True, "pretrained_cfg_overlay": {"file": str(file)}}
    return timm.create_model(name, **weights, **options)


def images(height: int = 64, width: int = 64) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", _MODELS)
def test_sizes(name: str) -> None:
    with torch.device("meta"):
        network = create(name, num_classes=7)
    size = ENCODERS[_MODELS[name]]
    assert (network.embed_dim, len(network.blocks)) == (size["embed_dim"], size["depth"])
    assert network.blocks[0].attn.num_heads == size["num_heads"]
    assert network.get_classifier().out_features == 7
    assert hasattr(network, "dist_token") == name.endswith("distilled")
    assert network.grid_size == (14, 14)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """A student of generic distillation in the authors' layout."""
    torch.manual_seed(1)
    network = GenericStudent(**SMALL, decoder_dim=32, decoder_depth=1, decoder_heads=2, teacher_dim=16)
    path = tmp_path_factory.mktemp("files") / "gd.pth"
    torch.save({"model": to_official(network), "epoch": 299}, path)
    return path, network.export_encoder()


@pytest.fixture(scope="module")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """A student of specific distillation, as a run of ours leaves it."""
    torch.manual_seed(2)
    state = DistilledVisionTransformer(**SMALL, num_classes=5).state_dict()
    path = tmp_path_factory.mktemp("files") / "model.safetensors"
    save_weights(state, path)
    return path, state


@pytest.mark.parametrize("name", NAMES)
def test_a_student_of_generic_distillation(name: str, student: tuple[Path, dict[str, Tensor]]) -> None:
    file, encoder = student
    own = create(name, file, num_classes=4, **SMALL).state_dict()
    assert all(torch.equal(own[key], value) for key, value in encoder.items())
    heads = {"head.weight", "head.bias"}
    heads |= {"dist_token", "head_dist.weight", "head_dist.bias"} if name.endswith("distilled") else set()
    assert own.keys() - encoder.keys() == heads


def test_a_student_of_specific_distillation(distilled: tuple[Path, dict[str, Tensor]]) -> None:
    file, state = distilled
    whole = create("g2sd_vit_small_distilled", file, num_classes=5, **SMALL).state_dict()
    assert all(torch.equal(whole[key], value) for key, value in state.items())
    other = create("g2sd_vit_small_distilled", file, num_classes=3, **SMALL).state_dict()
    assert torch.equal(other["dist_token"], state["dist_token"])
    assert other["head.weight"].shape == other["head_dist.weight"].shape == (3, 48)
    plain = create("g2sd_vit_small", file, num_classes=5, **SMALL).state_dict()
    assert torch.equal(plain["head.weight"], state["head.weight"])


def test_a_teacher_of_another_image_size(tmp_path: Path) -> None:
    teacher = Classifier(**SMALL, num_classes=5, readout="mean")
    torch.save({"model": teacher.state_dict()}, tmp_path / "teacher.pth")
    network = create("g2sd_vit_base", tmp_path / "teacher.pth", num_classes=5, global_pool="avg", **SMALL).eval()
    with torch.no_grad():
        torch.testing.assert_close(network(images()), teacher.eval()(images()))
    larger = create("g2sd_vit_base", tmp_path / "teacher.pth", **{**SMALL, "img_size": 96})
    assert larger.pos_embed.shape == (1, 37, 48)


@pytest.mark.parametrize("name", NAMES)
def test_maps(name: str) -> None:
    maps = create(name, features_only=True, out_indices=(0, 2), **SMALL).eval()
    assert maps.feature_info.reduction() == [16, 16]
    assert [tuple(m.shape) for m in maps(images())] == [(2, 48, 4, 4)] * 2
    whole = create(name, num_classes=0, **SMALL).eval()
    with torch.no_grad():
        final, found = whole.forward_intermediates(images(), indices=[2], norm=True, output_fmt="NLC")
        torch.testing.assert_close(final, whole.forward_features(images()))
        torch.testing.assert_close(final[:, 1:], found[0])
        pairs = whole.forward_intermediates(images(), [2], True, True, intermediates_only=True)
        torch.testing.assert_close(pairs[0][1][:, 0], final[:, 0])
        torch.testing.assert_close(pairs[0][0].flatten(2).transpose(1, 2), final[:, 1:])


@pytest.mark.parametrize("name", NAMES)
def test_body_of_a_detector(name: str, student: tuple[Path, dict[str, Tensor]]) -> None:
    """Images of another shape than its positions."""
    network = ViTFeatures(name, out_channels=16, weights=str(student[0]), **SMALL).eval()
    body: Any = network.body
    assert torch.equal(body.state_dict()["blocks.1.mlp.fc1.weight"], student[1]["blocks.1.mlp.fc1.weight"])
    with torch.no_grad():
        maps = network(images(64, 96))
    assert [tuple(m.shape) for m in maps] == [(2, 16, 16, 24), (2, 16, 8, 12), (2, 16, 4, 6), (2, 16, 2, 3)]


@pytest.mark.parametrize("name", NAMES)
def test_what_timm_asks_of_a_model(name: str) -> None:
    network = create(name, num_classes=5, drop_rate=0.0, **SMALL).train()
    answer = network(images())
    total = sum(part.square().sum() for part in answer) if isinstance(answer, tuple) else answer.square().sum()
    total.backward()
    plain = {key: parameter.grad.clone() for key, parameter in network.named_parameters()}
    network.zero_grad()
    network.set_grad_checkpointing()
    answer = network(images())
    (sum(part.square().sum() for part in answer) if isinstance(answer, tuple) else answer.square().sum()).backward()
    for key, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, plain[key])
    network.eval()
    with torch.no_grad():
        assert network.forward_head(network.forward_features(images()), pre_logits=True).shape == (2, 48)
        network.reset_classifier(3)
        assert network(images()).shape == (2, 3)
        network.reset_classifier(0)
        assert network(images()).shape == (2, 48)


def test_faults(distilled: tuple[Path, dict[str, Tensor]]) -> None:
    with pytest.raises(InputError, match="no stable address"):
        create("g2sd_vit_small", pretrained=True)
    with pytest.raises(InputError, match="no such file"):
        create("g2sd_vit_small", Path("nowhere.pth"), **SMALL)
    with pytest.raises(InputError, match="no such pooling 'max'"):
        create("g2sd_vit_small", global_pool="max")
    with pytest.raises(InputError, match="no such pooling 'avg'"):
        create("g2sd_vit_small_distilled", global_pool="avg")
    with pytest.raises(InputError, match="does not fit the encoder"):
        create("g2sd_vit_small", distilled[0], **{**SMALL, "depth": 2})
