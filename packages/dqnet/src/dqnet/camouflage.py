"""Generated camouflage: an object that differs from its surroundings by the direction of its texture alone.

Nothing tells the object by its brightness or colour: one band-pass texture covers the picture, and the object is where
that texture runs in another direction. Two decoys of the *same* direction have outlines, and are no objects. So what is
an object shows only in comparison with the rest, and where it ends only locally (section 10 of the notes).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from vireo.errors import InputError

from .mask_dataset import MaskDataset

_FREQUENCY = (0.12, 0.22)  # cycles per pixel
_BANDWIDTH = 0.05  # standard deviation about it
_TURN = (math.pi / 4, math.pi / 2)  # of the object's texture against the background's
_OBJECT, _DECOYS = (0.06, 0.22), ((0.03, 0.10), (0.03, 0.10))  # shares of the picture's area
_PLACE = (0.25, 0.75)  # of a centre, in sides
_WAVES = np.arange(2, 6)  # of an outline
_CONTRAST, _NOISE = 0.5, 0.25
_GREY, _LEVELS = 116.0, 58.0  # levels of 0 and of one unit: about the mean and deviation by which images are normalised


class GeneratedCamouflage(MaskDataset):
    """Square pictures, each a function of (seed, index) alone; masks hold 0 and 255.

    Args:
        length: number of pictures.
        side: of a picture in pixels.
        seed: another seed gives other pictures.

    Raises:
        InputError: no picture, a side below 16 pixels, or a negative seed.
    """

    def __init__(self, length: int, side: int = 64, seed: int = 0) -> None:
        where = type(self).__name__
        if length < 1:
            raise InputError(f"length {length} is not positive", where, "ask for at least one picture")
        if side < 16:
            raise InputError(f"side {side} leaves no room for a texture", where, "use 16 pixels or more")
        if seed < 0:
            raise InputError(f"seed {seed} is negative", where, "use 0 or more")
        self.side, self.seed = side, seed
        super().__init__(length)

    def load(self, index: int) -> tuple[Tensor, Tensor]:
        """Picture ``uint8 (3, side, side)`` and mask ``uint8 (side, side)`` of 0 and 255."""
        rng = np.random.default_rng((self.seed, int(self.sources[index])))
        angle, frequency = rng.uniform(0, math.pi), rng.uniform(*_FREQUENCY)
        turned = angle + rng.choice((-1, 1)) * rng.uniform(*_TURN)
        backdrop, *patches, inside = oriented_noise(rng, [angle] * (1 + len(_DECOYS)) + [turned], frequency, self.side)
        scene = backdrop
        for share, patch in zip(_DECOYS, patches):
            scene = np.where(blob(rng, self.side, share), patch, scene)
        mask = blob(rng, self.side, _OBJECT)
        scene = np.where(mask, inside, scene)
        noisy = _CONTRAST * scene + _NOISE * rng.standard_normal((3, self.side, self.side), np.float32)
        gain, offset = rng.uniform(0.6, 1.4, (3, 1, 1)), rng.normal(0, 0.2, (3, 1, 1))
        levels = (_LEVELS * gain).astype(np.float32) * noisy + (_GREY + _LEVELS * offset).astype(np.float32)
        picture = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
        return torch.from_numpy(picture), torch.from_numpy(mask.astype(np.uint8) * 255)


def oriented_noise(rng: np.random.Generator, angles: list[float], frequency: float, side: int) -> np.ndarray:
    """Independent textures, one for each of ``angles``.

    Args:
        rng: of the noise.
        angles: radians; of the direction in which each texture varies.
        frequency: cycles per pixel about which it varies.
        side: pixels.

    Returns:
        ``(len(angles), side, side)``, each of mean about 0 and variance 1.
    """
    rows, columns = (axis(side).astype(np.float32) for axis in (np.fft.fftfreq, np.fft.rfftfreq))
    theta = np.array(angles, np.float32)[:, None, None]
    fx, fy = frequency * np.cos(theta), frequency * np.sin(theta)

    def bump(sign: int) -> np.ndarray:
        return _gauss(columns - sign * fx) * _gauss(rows[:, None] - sign * fy)

    white = rng.standard_normal((len(angles), side, side // 2 + 1, 2), np.float32).view(np.complex64)[..., 0]
    white[..., 0] *= math.sqrt(2)  # a real picture keeps half of this column's variance
    noise = np.fft.irfft2(white * (bump(1) + bump(-1)), s=(side, side))
    unit: np.ndarray = noise / noise.std((1, 2), keepdims=True)
    return unit


def _gauss(offset: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * (offset / _BANDWIDTH) ** 2)


def blob(rng: np.random.Generator, side: int, share: tuple[float, float]) -> np.ndarray:
    """A random smooth outline, filled.

    Its radius at angle phi is r0 (1 + sum over m = 2..5 of a_m cos(m phi + b_m)), with every a_m uniform in
    +-0.22 / sqrt(m - 1).

    Args:
        rng: of place and outline.
        side: of the picture in pixels.
        share: range of its area in the picture's; less where the border cuts it.

    Returns:
        bool ``(side, side)``.
    """
    y0, x0 = side * rng.uniform(*_PLACE, 2)
    waves = rng.uniform(-0.22, 0.22, len(_WAVES)) / np.sqrt(_WAVES - 1)
    phases = rng.uniform(0, 2 * math.pi, len(_WAVES))
    # the outline's area is pi r0^2 (1 + sum a_m^2 / 2)
    r0 = side * math.sqrt(rng.uniform(*share) / (math.pi * (1 + (waves**2).sum() / 2)))
    axis = np.arange(side) + 0.5
    offset = ((axis - x0) + 1j * (axis - y0)[:, None]).astype(np.complex64)
    distance = np.abs(offset)
    turn = offset / np.maximum(distance, 1e-9)  # e^(i phi), whose powers turn m times as fast
    series = np.zeros_like(turn)
    for coefficient in (waves * np.exp(1j * phases)).astype(np.complex64)[::-1]:
        series = (series + coefficient) * turn  # Horner's scheme, of the powers 1 to 4
    inside: np.ndarray = distance < r0 * (1 + (series * turn).real)
    return inside
