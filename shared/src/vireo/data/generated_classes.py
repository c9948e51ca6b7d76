"""Classification pictures the project makes itself: a textured figure on a coloured ground, drawn by the thousand.

The class is the figure and its texture. Within a class there are eight modes (light or dark, two directions of the
texture, two tints), and position, size, turn, colours, ground and noise vary, so that neighbours in a feature space
mean something. Every picture is a function of (seed, index) alone.
"""

from __future__ import annotations

from functools import cached_property
from math import pi

import numpy as np
import torch
from torch import Tensor

from vireo.data.classification import ClassificationDataset
from vireo.data.random import counter_keys, counter_uniform
from vireo.errors import InputError

FIGURES = ("disc", "square", "triangle", "ring", "cross")
TEXTURES = ("striped", "chequered", "plain")
_BLOCK = 256  # pictures drawn at once; always this many, so that a picture does not depend on how many there are


class GeneratedClasses(ClassificationDataset):
    """Figures to be classified; class ``index % num_classes``, so that classes are balanced.

    Pictures are drawn when the first is asked for: about 0.2 ms each at 32x32.

    Args:
        length: number of pictures.
        image_size: ``(H, W)`` in pixels, at least 16.
        seed: another seed gives other pictures of the same classes: use one for training and one for evaluation.
        num_classes: 2 to 15; the first five are the striped figures.
        noise: amplitude of the uniform noise, in grey levels.
        class_colours: let the figures of each class vary about a hue of its own, so that they are told apart by more
            than outline and texture: for small pictures and short runs.

    Raises:
        InputError: an argument is out of range.
    """

    def __init__(
        self,
        length: int,
        image_size: tuple[int, int] = (32, 32),
        seed: int = 0,
        num_classes: int = 10,
        *,
        noise: float = 32.0,
        class_colours: bool = False,
    ) -> None:
        where = "GeneratedClasses"
        if length < 1:
            raise InputError(f"length {length} is not positive", where, "Ask for at least one picture")
        if min(image_size) < 16:
            raise InputError(f"image_size {tuple(image_size)} is too small", where, "Use at least (16, 16)")
        if seed < 0:
            raise InputError(f"seed {seed} is negative", where, "Use 0 or more")
        most = len(FIGURES) * len(TEXTURES)
        if not 2 <= num_classes <= most:
            raise InputError(f"num_classes {num_classes} is not in 2 to {most}", where, "Choose a number in that range")
        if noise < 0:
            raise InputError(f"noise {noise} is negative", where, "Use 0 or more")
        self.height, self.width = image_size
        self.seed, self.noise, self.class_colours = seed, noise, class_colours
        classes = [f"{texture} {figure}" for texture in TEXTURES for figure in FIGURES][:num_classes]
        super().__init__(classes, np.arange(length) % num_classes)
        self._length = length

    def load_image(self, index: int) -> Tensor:
        """``uint8 (3, H, W)`` RGB."""
        return self._pictures[self.sources[index]]

    def arrays(self, workers: int = 1) -> Tensor:
        """All images, ``uint8 (N, 3, H, W)`` in order."""
        return self._pictures[torch.from_numpy(self.sources)]

    @cached_property
    def _pictures(self) -> Tensor:
        pictures = torch.empty(self._length, 3, self.height, self.width, dtype=torch.uint8)
        for start in range(0, self._length, _BLOCK):
            block = pictures[start : start + _BLOCK]
            block.copy_(self._draw(np.arange(start, start + _BLOCK))[: len(block)])
        return pictures

    def _draw(self, numbers: np.ndarray) -> Tensor:
        """The pictures ``numbers``: ``uint8 (B, 3, H, W)``."""
        keys = torch.from_numpy(counter_keys(self.seed, 0, numbers))
        labels = torch.from_numpy(numbers % len(self.classes))
        count, side = len(numbers), min(self.height, self.width)
        drawn = iter(counter_uniform(keys, "figure", 20).view(count, 20, 1, 1).unbind(1))

        def uniform(low: float, high: float) -> Tensor:
            return low + (high - low) * next(drawn)

        light, tint, direction = (next(drawn).round() for _ in range(3))  # the eight modes
        row = (torch.arange(self.height).view(-1, 1) + 0.5 - self.height / 2) / side
        column = (torch.arange(self.width) + 0.5 - self.width / 2) / side
        x, y = _turn(column - uniform(-0.12, 0.12), row - uniform(-0.12, 0.12), uniform(-0.35, 0.35))
        depth = -_distance(labels % len(FIGURES), x, y, uniform(0.26, 0.38))
        along, across = _turn(x, y, pi / 2 * direction + uniform(-0.3, 0.3))
        pattern = _pattern(labels // len(FIGURES), along, across, uniform(0.16, 0.24), uniform(0, 1))
        figure = (depth * side + 0.5).clamp_(0, 1) * (0.5 + 0.5 * pattern)

        warmth = (2 * tint - 1) * 0.5 + uniform(-0.2, 0.2)
        colour = torch.cat((1 + warmth, 1 + uniform(-0.2, 0.2), 1 - warmth), 1)
        strength = (2 * light - 1) * uniform(36, 85)
        ground = 128 + torch.cat([uniform(-35, 35) for _ in range(3)], 1)
        shade = uniform(-60, 60) * column + uniform(-60, 60) * row

        if self.class_colours:  # the hue says the class, lightness and the other modes stay free
            hue = 2 * pi * labels.view(-1, 1, 1) / len(self.classes) + uniform(-0.5, 0.5)
            tinted = torch.cat([(hue - third * 2 * pi / 3).cos() for third in range(3)], 1)
            colour = 0.5 * strength + 70 * tinted
        else:
            colour = colour * strength

        picture = counter_uniform(keys, "noise", 3 * self.height * self.width).view(count, 3, self.height, self.width)
        picture.sub_(0.5).mul_(2 * self.noise).add_(shade[:, None]).add_(ground[..., None])
        picture.addcmul_(colour[..., None], figure[:, None])
        return picture.add_(0.5).clamp_(0, 255).to(torch.uint8)


def _turn(x: Tensor, y: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    cos, sin = angle.cos(), angle.sin()
    return x * cos + y * sin, y * cos - x * sin


def _disc(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    return torch.hypot(x, y) - radius


def _square(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    return torch.maximum(x.abs(), y.abs()) - 0.88 * radius


def _triangle(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    return torch.maximum(0.866 * x.abs() - 0.5 * y, y) - 0.6 * radius


def _ring(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    return (torch.hypot(x, y) - 0.78 * radius).abs() - 0.25 * radius


def _cross(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    long, short = torch.maximum(x.abs(), y.abs()), torch.minimum(x.abs(), y.abs())
    return torch.maximum(long - radius, short - 0.36 * radius)


def _distance(figures: Tensor, x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Distance to the outline ``(B, H, W)``, negative inside; ``figures`` (B,) are indices into :data:`FIGURES`."""
    distance = torch.empty_like(x)
    for number, outline in enumerate((_disc, _square, _triangle, _ring, _cross)):
        rows = figures == number
        distance[rows] = outline(x[rows], y[rows], radius[rows])
    return distance


def _pattern(textures: Tensor, along: Tensor, across: Tensor, period: Tensor, phase: Tensor) -> Tensor:
    """Brightness of the texture ``(B, H, W)`` in [-1, 1]; ``textures`` (B,) are indices into :data:`TEXTURES`."""
    wave = torch.sin(2 * pi * (along / period + phase))
    squares = wave * torch.sin(2 * pi * across / period)
    textures = textures.view(-1, 1, 1)
    return torch.where(textures == 0, wave, torch.where(textures == 1, squares, torch.ones_like(wave)))
