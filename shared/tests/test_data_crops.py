"""Random resized crops of a sample: what is drawn, what is cut out, and that the loader repeats both."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from vireo.data import Compose, GeneratedClasses, Loader, RandomResizedCrop, stack_classification
from vireo.data.crops import Crop
from vireo.errors import InputError


def image(height: int = 60, width: int = 90) -> Tensor:
    return torch.randint(256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_drawn_as_torchvision_does_and_then_the_flip() -> None:
    settings: dict[str, Any] = {"scale": (0.08, 1.0), "interpolation": "bicubic"}
    theirs = v2.Compose([v2.RandomResizedCrop(32, antialias=True, **settings), v2.RandomHorizontalFlip(0.5)])
    ours = RandomResizedCrop(32, flip=0.5, **settings)
    flips = 0
    for seed in range(50):
        torch.manual_seed(seed)
        expected = theirs(image())
        torch.manual_seed(seed)
        cut, target = ours(image(), {"label": 1})
        assert torch.equal(cut, expected)
        assert target == {"label": 1}
        torch.manual_seed(seed)
        flips += ours.draw(image()).flip
    assert 10 < flips < 40


@pytest.mark.parametrize("flip", [False, True])
def test_an_explicit_window(flip: bool) -> None:
    given = image()
    before = given.clone()
    cut = RandomResizedCrop(20).cut(given, Crop(7, 11, 20, 20, flip))
    window = given[:, 7:27, 11:31]
    assert torch.equal(cut, window.flip(-1) if flip else window)
    smaller = RandomResizedCrop(10, interpolation="bilinear").cut(given, Crop(0, 0, 60, 90, flip))
    assert smaller.shape == (3, 10, 10)
    assert smaller.dtype == torch.uint8
    assert smaller.float().std() < 0.5 * given.float().std()  # antialiased: noise averages out
    assert torch.equal(given, before)


def test_windows_have_the_area_and_shape_asked_for() -> None:
    crop = RandomResizedCrop(8, scale=(0.3, 0.5), ratio=(0.5, 2.0))
    torch.manual_seed(0)
    windows = [crop.draw(image(300, 400)) for _ in range(500)]
    areas = np.array([window.height * window.width / (300 * 400) for window in windows])
    ratios = np.log([window.width / window.height for window in windows])
    assert 0.29 < areas.min() < 0.31
    assert 0.49 < areas.max() < 0.51
    assert abs(areas.mean() - 0.4) < 0.02
    assert abs(ratios).max() < np.log(2.05)
    assert abs(ratios.mean()) < 0.1
    assert all(window.top + window.height <= 300 and window.left + window.width <= 400 for window in windows)


def test_an_image_too_long_for_any_window() -> None:
    """The largest window of an allowed shape, in the middle."""
    torch.manual_seed(0)
    window = RandomResizedCrop(8, scale=(1.0, 1.0)).draw(image(30, 400))
    assert window[:4] == (0, 180, 30, 40)


def test_the_loader_repeats_its_crops() -> None:
    def passes(workers: int) -> Tensor:
        loader = Loader(
            GeneratedClasses(10),
            batch_size=5,
            shuffle=False,
            transform=RandomResizedCrop(24),
            device_transform=Compose(stack_classification),
            workers=workers,
        )
        return torch.cat([images for epoch in (0, 1) for images, _ in loader.batches(epoch)])

    images = passes(0)
    assert images.shape == (20, 3, 24, 24)
    assert not torch.equal(images[:10], images[10:])
    assert torch.equal(images, passes(2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "size 0 is not positive"),
        ({"size": 8, "scale": (0.5, 0.2)}, r"scale 0.5 to 0.2 is no range"),
        ({"size": 8, "scale": (0.5, 1.2)}, r"scale 1.2 is more than the image"),
        ({"size": 8, "ratio": (0.0, 1.0)}, r"ratio 0.0 to 1.0 is no range"),
        ({"size": 8, "interpolation": "box"}, "'box' is not a choice"),
        ({"size": 8, "flip": 1.5}, "flip 1.5 is no probability"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"RandomResizedCrop: {message}"):
        RandomResizedCrop(**arguments)
