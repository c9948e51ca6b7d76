"""Flips, rotation, normalisation and resizing against the reference arithmetic, and what a batch holds."""

from __future__ import annotations

import cv2
import dqnet_golden as golden
import numpy as np
import pytest
import torch
from torch import Tensor

from dqnet.transforms import FlipRotate, StackImages, binary_mask, flip_rotate, probability_to_uint8
from vireo.data.random import seeded
from vireo.errors import InputError

WARP = 1e-3  # OpenCV builds differ by this much


@pytest.fixture(scope="module")
def case() -> dict[str, Tensor]:
    return golden.load("pipeline_rotate")


def test_training_pair_equals_the_reference(case: dict[str, Tensor]) -> None:
    image = case["image"].permute(2, 0, 1)
    image, mask = flip_rotate(image, case["mask"], bool(case["flip"]), angle=float(case["angle"]))
    assert image.dtype == torch.uint8
    assert mask.dtype == torch.float16
    golden.close(mask[::4, ::4], case["rot_mask"], WARP)
    images, targets = StackImages(96, train=True)([image], [{"mask": mask, "index": torch.tensor(0)}])
    golden.close(images[0, :, ::3, ::3], case["train_image"], WARP)
    golden.close(targets["mask"][0, 0, ::2, ::2], case["train_mask"], WARP)


def test_test_image_equals_the_reference(case: dict[str, Tensor]) -> None:
    targets = [{"mask": case["mask"]}]
    images, same = StackImages(96, train=False)([case["image"].permute(2, 0, 1)], targets)
    golden.close(images[0, :, ::3, ::3], case["test_image"], golden.MODULE)
    assert same is targets


def test_saved_map_equals_the_reference(case: dict[str, Tensor]) -> None:
    saved = probability_to_uint8(case["prob"], (110, 150))
    assert saved.dtype == np.uint8
    assert np.array_equal(saved, case["pred_u8"].numpy())


def test_probabilities_are_cut_off_and_not_rounded() -> None:
    saved = probability_to_uint8(torch.tensor([[0.0, 0.999], [1.0, 0.5]]), (2, 2))
    assert saved.tolist() == [[0, 254], [255, 127]]


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ([0, 255, 127, 128], [0, 1, 0, 1]),
        ([0, 90, 45, 46], [0, 1, 0, 1]),  # stretched: half of the range is 45
        ([90, 200, 145, 146], [0, 1, 0, 1]),
        ([0, 0, 0, 0], [0, 0, 0, 0]),
        ([255, 255, 255, 255], [1, 1, 1, 1]),
        ([90, 90, 90, 90], [0, 0, 0, 0]),  # nothing to stretch
    ],
)
def test_masks_that_are_not_binary(stored: list[int], expected: list[int]) -> None:
    assert binary_mask(torch.tensor([stored], dtype=torch.uint8)).tolist() == [expected]


def test_image_and_mask_move_together() -> None:
    mask = torch.zeros(40, 60, dtype=torch.uint8)
    mask[5:20, 30:55] = 255
    image = mask.expand(3, -1, -1).contiguous()
    for left, up, angle in ((True, False, None), (False, True, None), (True, True, 8.5), (False, False, -10.0)):
        moved, soft = flip_rotate(image, mask, left, up, angle)
        assert float((moved[0].float() / 255 - soft.float()).abs().max()) < 4e-3  # a grey level
        assert not torch.equal(moved, image)
    assert torch.equal(flip_rotate(image, mask, left=True)[0], image.flip(-1))
    assert torch.equal(flip_rotate(image, mask, up=True)[1], mask.flip(-2).half() / 255)


def test_draws_follow_the_generators_and_their_probabilities() -> None:
    image = torch.arange(3 * 8 * 10, dtype=torch.uint8).reshape(3, 8, 10)
    target = {"mask": torch.zeros(8, 10, dtype=torch.uint8)}

    def draws(transform: FlipRotate) -> list[Tensor]:
        images = []
        for key in range(60):
            with seeded(key):
                images.append(transform(image, target)[0])
        return images

    mirrored = draws(FlipRotate(0.5, 0.0, 0.0))
    share = sum(torch.equal(moved, image.flip(-1)) for moved in mirrored) / len(mirrored)
    assert 0.25 < share < 0.75
    assert all(torch.equal(moved, image) or torch.equal(moved, image.flip(-1)) for moved in mirrored)
    assert all(torch.equal(a, b) for a, b in zip(mirrored, draws(FlipRotate(0.5, 0.0, 0.0))))
    assert all(torch.equal(moved, image) for moved in draws(FlipRotate(0, 0, 0)))
    assert all(torch.equal(moved, image.flip(-1, -2)) for moved in draws(FlipRotate(1, 1, 0)))


def test_angles_are_uniform_within_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    angles: list[float] = []
    matrix = cv2.getRotationMatrix2D

    def recorded(centre: tuple[float, float], angle: float, scale: float) -> np.ndarray:
        angles.append(angle)
        return matrix(centre, angle, scale)

    monkeypatch.setattr(cv2, "getRotationMatrix2D", recorded)
    transform, image = FlipRotate(0, 0, rotate=0.5, limit=10), torch.zeros(3, 4, 4, dtype=torch.uint8)
    for key in range(200):
        with seeded(key):
            transform(image, {"mask": image[0]})
    assert 60 < len(angles) < 140
    assert -10 <= min(angles) < -7
    assert 7 < max(angles) <= 10
    assert abs(float(np.mean(angles))) < 2


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"flip": 1.5}, "data.flip"),
        ({"vertical_flip": -0.1}, "data.vertical_flip"),
        ({"rotate": 2}, "data.rotate.p"),
        ({"limit": 200}, "data.rotate.limit"),
    ],
)
def test_values_out_of_range_are_refused(settings: dict[str, float], key: str) -> None:
    with pytest.raises(InputError, match=key):
        FlipRotate(**settings)
