"""Pictures the project draws itself: handwritten digits on a smooth background, with the class of every pixel.

The digits are scikit-learn's 1,797 of 8 x 8 pixels (UCI, handwritten by 43 people). Training pictures take the first
1,400, evaluation pictures the others, so a digit of the evaluation was never seen.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from vireo.data.classification import ClassificationDataset
from vireo.data.segmentation import SegmentationDataset
from vireo.errors import InputError

TRAIN_DIGITS = 1400
CLASSES = ("background", *map(str, range(10)))
DIGITS = 2  # of a picture
SIDE_SHARE = (0.4, 0.6)  # side of a digit, of the picture's
INK = 0.35  # of full ink: where a pixel belongs to the digit
NOISE = 2.0  # grey levels


class Canvas(NamedTuple):
    """A picture, uint8 ``(S, S, 3)`` RGB, and its labels, uint8 ``(S, S)``: 0 background, digit + 1."""

    pixels: np.ndarray
    labels: np.ndarray


@cache
def digit_images() -> tuple[np.ndarray, np.ndarray]:
    """The digits: ink in [0, 1], float32 ``(1797, 8, 8)``, and what they show, ``(1797,)``."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return (bunch.images / 16).astype(np.float32), bunch.target


def draw_canvas(index: int, size: int, *, train: bool, seed: int = 0) -> Canvas:
    """Picture ``index`` of a set; the same arguments give the same picture.

    Args:
        index: from 0.
        size: side S in pixels.
        train: draw training digits, else those of the evaluation.
        seed: of the set.
    """
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, index, int(train)))))
    inks, shown = digit_images()
    coarse = np.asarray(rng.uniform(30, 110, 3) + rng.uniform(-30, 30, (3, 3, 3)), np.float32)
    pixels: np.ndarray
    labels: np.ndarray


@cache
def digit_images() -> tuple[np.ndarray, np.ndarray]:
    """The digits: ink in [0, 1], float32 ``(1797, 8, 8)``, and what they show, ``(1797,)``."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return (bunch.images / 16).astype(np.float32), bunch.target


def draw_canvas(index: int, size: int, *, train: bool, seed: int = 0) -> Canvas:
    """Picture ``index`` of a set; the same arguments give the same picture.

    Args:
        index: from 0.
        size: side S in pixels.
        train: draw training digits, else those of the evaluation.
        seed: of the set.
    """
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, index, int(train)))))
    inks, shown = digit_images()
    coarse = np.asarray(rng.uniform(50, 205, 3) + rng.uniform(-60, 60, (2, 2, 3)), np.float32)
    pixels: np.ndarray = np.array(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC))
    labels = np.zeros((size, size), np.uint8)
    for _ in range(DIGITS):
        number = int(rng.integers(TRAIN_DIGITS) if train else rng.integers(TRAIN_DIGITS, len(inks)))
        side = round(rng.uniform(*SIDE_SHARE) * size)
        top, left = rng.integers(0, size - side + 1, 2)
        window = np.s_[top : top + side, left : left + side]
        ink = cv2.resize(inks[number], (side, side), interpolation=cv2.INTER_LINEAR)
        colour = rng.uniform(170, 255, 3).astype(np.float32)  # always lighter than the background
        pixels[window] += ink[:, :, None] * (colour - pixels[window])
        labels[window][ink > INK] = shown[number] + 1
    noisy = pixels + NOISE * rng.standard_normal(pixels.shape)
    return Canvas(np.clip(np.rint(noisy), 0, 255).astype(np.uint8), labels)


class DigitSegmentation(SegmentationDataset):
    """Pictures with the class of each pixel.

    Args:
        length: how many.
        size: side of a picture in pixels.
        train: of training digits, else of the evaluation's.
        seed: of the set; sets of other seeds share no picture.
    """

    def __init__(self, length: int, size: int = 64, *, train: bool, seed: int = 0) -> None:
        _require(length, size)
        super().__init__(length, CLASSES)
        self.size, self.train, self.seed = size, train, seed

    def load(self, index: int) -> tuple[Tensor, Tensor]:
        """Picture ``uint8 (3, S, S)`` and labels ``uint8 (S, S)``."""
        pixels, labels = draw_canvas(int(self.sources[index]), self.size, train=self.train, seed=self.seed)
        return torch.from_numpy(pixels).permute(2, 0, 1), torch.from_numpy(labels)

    def load_image(self, index: int) -> Tensor:
        """The picture."""
        return self.load(index)[0]

    def load_labels(self, index: int) -> Tensor:
        """The labels."""
        return self.load(index)[1]


class DigitImages(ClassificationDataset):
    """The same pictures without labels, for pre-training.

    Args:
        length, size, train, seed: see :class:`DigitSegmentation`.
    """

    def __init__(self, length: int, size: int = 64, *, train: bool, seed: int = 0) -> None:
        _require(length, size)
        super().__init__(("picture",), np.zeros(length, np.int64))
        self.size, self.train, self.seed = size, train, seed

    def load_image(self, index: int) -> Tensor:
        """``uint8 (3, S, S)`` RGB."""
        pixels, _ = draw_canvas(int(self.sources[index]), self.size, train=self.train, seed=self.seed)
        return torch.from_numpy(pixels).permute(2, 0, 1)


def _require(length: int, size: int) -> None:
    """Raise InputError unless there are pictures, and room for digits in them."""
    if length < 1:
        raise InputError(f"length {length} is not positive", "pictures of digits", "ask for at least one")
    if size < 32:
        raise InputError(f"a picture of {size} pixels has no room for digits", "image_size", "use at least 32")
