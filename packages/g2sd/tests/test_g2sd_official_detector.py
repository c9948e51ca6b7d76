"""Detectors in the authors' layout: both ways, sizes read off the weights, and what is no such detector."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from g2sd_detect_runs import tiny_detector
from torch import Tensor

from g2sd.detection import load_teacher
from g2sd.distilled_detector import DetectionTeacher, DistilledDetector, require_pair
from g2sd.official_detector import detector_of, from_official, official_name, own_name, read_detector, to_official
from vireo.engine.checkpoint import save_weights
from vireo.errors import InputError

State = dict[str, Tensor]


def test_names_go_both_ways() -> None:
    model = tiny_detector(imitation=True)
    for key in model.state_dict():
        assert own_name(official_name(key)) == key
    state = to_official(model)
    again = tiny_detector(2, imitation=True)
    again.load_state_dict(from_official(state, "state"))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values()))
    assert set(to_official(model.detector)) == {key for key in state if not key.startswith("stu_adapter.")}


@pytest.mark.parametrize("masks", [True, False])
@torch.no_grad()
def test_sizes_are_read_off_the_weights(tmp_path: Path, masks: bool) -> None:
    model = tiny_detector(masks=masks, imitation=True, embed_dim=32, depth=3, num_heads=4)
    constants = {
        "pixel_mean": torch.zeros(3, 1, 1),
        "proposal_generator.anchor_generator.cell_anchors.0": torch.ones(3),
    }
    torch.save({"model": {**to_official(model), **constants}, "iteration": 3}, tmp_path / "model.pth")
    state = read_detector(tmp_path / "model.pth")
    found = detector_of(state, "model.pth")
    assert found.roi_heads.has_mask() is masks
    images = [torch.rand(3, 30, 20)]
    for detector in (model.detector, found):
        detector.roi_heads.score_thresh = 0.0
    expected, again = model.detector(images)[0], found(images)[0]
    assert len(expected["boxes"])
    assert all(torch.equal(expected[key], again[key]) for key in expected)

    batch, _, _ = model.prepare(images)
    teacher = load_teacher(tmp_path / "model.pth")
    maps, objectness = teacher.eval()(batch)
    assert torch.equal(maps[1], model.detector.backbone(batch)["1"])
    assert torch.equal(objectness[0], model.detector.rpn.head(list(maps))[0][0])
    assert (teacher.num_classes, teacher.classes) == (3, None)


def without(prefix: str) -> Callable[[State], State]:
    return lambda state: {key: value for key, value in state.items() if not key.startswith(prefix)}


def encoder_alone(state: State) -> State:
    body = {key.removeprefix("backbone.net."): value for key, value in state.items() if "backbone.net." in key}
    return {key: value for key, value in body.items() if "rel_pos" not in key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (encoder_alone, "is no detector: it holds an encoder"),
        (lambda state: {"weight": torch.zeros(2)}, "it holds no backbone"),
        (
            lambda state: {**state, "backbone.bottom_up.stem": torch.zeros(2)},
            "is no ViTDet detector: it holds backbone",
        ),
        (without("proposal_generator."), "no whole detector: it holds no detector.rpn.head.conv"),
        (without("backbone.net.blocks."), "it holds no detector.backbone.body.blocks.0"),
        (without("backbone.simfp_4."), "6 missing: backbone.pyramid.branches.2"),
        (lambda state: {**state, "roi_heads.box_head.fc1.bias": torch.zeros(9)}, "1 misshaped"),
    ],
)
def test_what_is_no_detector(tmp_path: Path, change: Callable[[State], State], message: str) -> None:
    save_weights(change(to_official(tiny_detector())), tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=message):
        load_teacher(tmp_path / "model.safetensors")


def test_pickles_are_refused(tmp_path: Path) -> None:
    """Those of the model zoo hold arrays of numpy; reading one would execute what it says."""
    path = tmp_path / "model_final.pkl"
    with pytest.raises(InputError, match="no such file"):
        read_detector(path)
    path.write_bytes(pickle.dumps({"model": {"backbone.net.pos_embed": np.zeros(3)}}))
    with pytest.raises(InputError, match=r"is a pickle, which could execute code.*save_file"):
        read_detector(path)


@pytest.mark.parametrize(
    ("sizes", "classes", "message"),
    [
        ({"channels": 16}, None, "the teacher's pyramid has 16 channels, the student's 8"),
        ({"patch_size": 4}, None, r"strides of \(1, 2, 4, 8, 16\), the student's of \(2, 4, 8, 16, 32\)"),
        ({"num_classes": 5}, None, "the teacher detects 5 classes, the data have 3"),
        ({}, ["b", "a", "c"], "the teacher detects b, a, c, the data have a, b, c"),
    ],
)
def test_pairs_that_do_not_fit(sizes: dict[str, Any], classes: list[str] | None, message: str) -> None:
    student: DistilledDetector = tiny_detector()
    teacher = DetectionTeacher(tiny_detector(**sizes).detector, classes)
    with pytest.raises(InputError, match=message):
        require_pair(teacher, student.detector, ["a", "b", "c"])
    require_pair(
        DetectionTeacher(tiny_detector(embed_dim=32).detector, ["a", "b", "c"]), student.detector, ["a", "b", "c"]
    )
