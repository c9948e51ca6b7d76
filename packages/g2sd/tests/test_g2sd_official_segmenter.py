"""Segmenters in the authors' layout: read, written, refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from g2sd_golden import keys
from g2sd_segment_runs import tiny_segmenter, write_encoder

from g2sd.official_segmenter import from_official, read_segmenter, segmenter_options, to_official
from g2sd.segmenter import Segmenter
from vireo.engine.checkpoint import fit_state_dict
from vireo.errors import InputError

HOOK = torch.zeros(1, 4, 16, 16)


def distiller() -> dict[str, torch.Tensor]:
    """A checkpoint of the authors' training: both networks and what its hooks caught."""
    teacher = to_official(tiny_segmenter(2, embed_dim=32, num_heads=4))
    whole = {f"student.{key}": value for key, value in to_official(tiny_segmenter()).items()}
    whole |= {f"teacher.{key}": value for key, value in teacher.items()}
    return {**whole, "student_decode_head_conv_seg": HOOK, "teacher_decode_head_conv_seg": HOOK}


def write(path: Path, state: dict[str, torch.Tensor]) -> Path:
    torch.save({"state_dict": state, "meta": {"CLASSES": ("a", "b", "c", "d"), "iter": 3}}, path)
    return path


@pytest.mark.parametrize("auxiliary_channels", [8, 0])
def test_there_and_back(tmp_path: Path, auxiliary_channels: int) -> None:
    model = tiny_segmenter(auxiliary_channels=auxiliary_channels)
    state = to_official(model)
    assert sum("relative_position_index" in key for key in state) == 3
    found = from_official(write(tmp_path / "iter_160000.pth", state)).eval()
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(found(images), model(images))
    assert (found.auxiliary_head is None) is (auxiliary_channels == 0)


@pytest.mark.parametrize(("part", "dim"), [("student", 24), ("teacher", 32)])
def test_parts_of_a_distiller(tmp_path: Path, part: str, dim: int) -> None:
    model = from_official(write(tmp_path / "latest.pth", distiller()), part)  # type: ignore[arg-type]
    assert model.backbone.channels == (dim,) * 4


def test_sizes_of_the_published_student() -> None:
    """At the crop of the reference numbers, 128."""
    state = {key: torch.empty(shape, device="meta") for key, (shape, _) in keys("upernet_mae_small").items()}
    options = segmenter_options({k: v for k, v in state.items() if "index" not in k}, "file")
    heads = {"num_classes": 150, "channels": 384, "auxiliary_channels": 256}
    sizes = {"img_size": 128, "patch_size": 16, "embed_dim": 384, "depth": 12, "num_heads": 6}
    assert options == {**sizes, **heads}
    with torch.device("meta"):
        model = Segmenter(**options)
    assert set(to_official(model)) == set(state)


def test_mistakes(tmp_path: Path) -> None:
    state = to_official(tiny_segmenter())
    without = {key: value for key, value in state.items() if "conv_seg" not in key}
    plain = {key: value for key, value in state.items() if "position_bias_table" not in key}
    cases = [
        ({**state, "optimizer.state": torch.zeros(1)}, "none of a segmenter's: optimizer.state"),
        (without, "segmenter of another kind"),
        (plain, "segmenter of another kind"),
        ({key: value for key, value in state.items() if "decode_head" not in key}, "no decode_head"),
        ({key: value for key, value in state.items() if "blocks.1" not in key}, "does not fit"),
        ({**distiller(), "other": HOOK}, "a distiller's checkpoint with other"),
    ]
    for number, (content, message) in enumerate(cases):
        with pytest.raises(InputError, match=message):
            from_official(write(tmp_path / f"{number}.pth", content))
    alone = {key: value for key, value in distiller().items() if key.startswith("student.")}
    with pytest.raises(InputError, match="holds no teacher"):
        read_segmenter(write(tmp_path / "alone.pth", alone), "teacher")
    with pytest.raises(InputError, match="unknown part 'pupil'"):
        read_segmenter(tmp_path / "alone.pth", "pupil")  # type: ignore[arg-type]
    write_encoder(tmp_path / "encoder.safetensors")
    with pytest.raises(InputError, match="holds an encoder, no segmenter"):
        from_official(tmp_path / "encoder.safetensors")
    wide = Segmenter(4, (16, 64), 8, 24, 3, 2, channels=8, auxiliary_channels=8)
    with pytest.raises(InputError, match="not square"):
        from_official(write(tmp_path / "wide.pth", wide.state_dict()))
    own = tiny_segmenter(embed_dim=32, num_heads=4)
    with pytest.raises(InputError, match="does not fit"):
        fit_state_dict(own, read_segmenter(write(tmp_path / "ours.pth", state)), "ours.pth")
