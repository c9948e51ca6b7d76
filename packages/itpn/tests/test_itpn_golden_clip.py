"""The CLIP teacher agrees with the reference numbers, from every layout its weights come in, and refuses the others."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from itpn_golden import close, filled, load, tensor
from torch import Tensor

from itpn.clip import CLIPTeacher
from vireo.errors import InputError

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    return filled("tiny_clip_teacher")


def hugging_face(state: State) -> State:
    """The layout of Hugging Face."""
    renamed: State = {"visual_projection.weight": state["proj"].T.contiguous(), "text_model.x": torch.ones(1)}
    tops = {
        "class_embedding": "embeddings.class_embedding",
        "conv1.weight": "embeddings.patch_embedding.weight",
        "positional_embedding": "embeddings.position_embedding.weight",
        **{f"ln_pre.{kind}": f"pre_layrnorm.{kind}" for kind in ("weight", "bias")},
        **{f"ln_post.{kind}": f"post_layernorm.{kind}" for kind in ("weight", "bias")},
    }
    parts = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    parts["attn.out_proj"] = "self_attn.out_proj"
    for key, value in state.items():
        if key in tops:
            renamed[f"vision_model.{tops[key]}"] = value
        if key.startswith("transformer."):
            _, _, number, rest = key.split(".", 3)
            layer = f"vision_model.encoder.layers.{number}"
            if rest.startswith("attn.in_proj_"):
                for name, third in zip("qkv", value.chunk(3)):
                    renamed[f"{layer}.self_attn.{name}_proj.{rest.removeprefix('attn.in_proj_')}"] = third.clone()
            else:
                part, _, kind = rest.rpartition(".")
                renamed[f"{layer}.{parts[part]}.{kind}"] = value
    renamed["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    return renamed


@pytest.mark.parametrize("side", [64, 80])
def test_targets(state: State, side: int) -> None:
    """Position tables of 4x4 patches, and of 5x5, to which they are resized."""
    numbers, teacher = load("tiny_clip_teacher"), CLIPTeacher(state)
    images = tensor("input.image01", (2, 3, side, side), 0).sigmoid()
    close(teacher.preprocess(images)[:, :, ::8, ::8], numbers[f"scaled_{side}"], 1e-5)
    close(teacher(images), numbers[f"target_{side}"], 2e-5)
    assert (teacher.dim, teacher.patch_size) == (24, 16)


def test_every_layout_is_the_same_tower(state: State, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    images = torch.rand(1, 3, 64, 64)
    expected = CLIPTeacher(state)(images)
    whole = {**{f"visual.{key}": value.half() for key, value in state.items()}, "ln_final.weight": torch.ones(3)}
    torch.save(whole, tmp_path / "openai.pt")
    save_file(hugging_face(state), tmp_path / "model.safetensors")
    close(CLIPTeacher(tmp_path / "openai.pt")(images), expected, 2e-3)  # stored in half precision
    close(CLIPTeacher(tmp_path / "model.safetensors")(images), expected, 1e-6)


def test_options(state: State) -> None:
    images = torch.rand(1, 3, 64, 64)
    official = CLIPTeacher(state)
    expected = official.preprocess(images)
    close(CLIPTeacher(state, input="clip").preprocess((images + 1) / 2), expected, 1e-5)
    targets = official(images)
    assert (CLIPTeacher(state, activation="gelu")(images) - targets).abs().max() > 1e-3
    half = CLIPTeacher(state, dtype=torch.bfloat16)(images)
    assert half.dtype == torch.float32
    close(half, targets, 0.05)


def test_it_is_never_trained(state: State) -> None:
    teacher = CLIPTeacher(state).train()
    images = torch.rand(1, 3, 64, 64, requires_grad=True)
    assert not teacher.training
    assert not teacher(images).requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    with torch.autocast("cpu", torch.bfloat16):  # of the student's training
        close(teacher(images), CLIPTeacher(state)(images), 1e-6)


def test_no_tower(state: State, tmp_path: Path) -> None:
    cases: list[tuple[State, str]] = [
        ({"visual.layer1.0.conv1.weight": torch.ones(1)}, "holds no image tower"),  # a CLIP ResNet
        ({"conv1.weight": torch.ones(1)}, "it has no positional_embedding, ln_post.weight, proj"),
        (
            {key: value for key, value in state.items() if ".resblocks.0." not in key},
            "missing: transformer.resblocks.0",
        ),
        ({**state, "ln_pre.weight": torch.ones(3)}, "ln_pre.weight"),
    ]
    for content, message in cases:
        with pytest.raises(InputError, match=message):
            CLIPTeacher(content)
    with pytest.raises(InputError, match="no such file"):
        CLIPTeacher(tmp_path / "absent.pt")


def test_archives_with_code_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "ViT-B-16.pt"
    with zipfile.ZipFile(path, "w") as archive:  # what tells it from a file of tensors
        archive.writestr("ViT-B-16/constants.pkl", b"")
    with pytest.raises(InputError, match=r"TorchScript archive.*Hugging Face"):
        CLIPTeacher(path)


@pytest.mark.parametrize("option", [{"input": "imagenet"}, {"activation": "relu"}])
def test_unknown_options(state: State, option: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="unknown"):
        CLIPTeacher(state, **option)


def test_images_that_patches_do_not_divide(state: State) -> None:
    with pytest.raises(InputError, match="64x72 are not divided by patches of 16"):
        CLIPTeacher(state)(torch.rand(1, 3, 64, 72))
