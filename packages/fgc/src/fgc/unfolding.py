"""Unfolding (im2col) of one image into memory that is kept, with few and cheap operations per call."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Unfold:
    """What the taps of a convolution see of one image.

    The image goes through a padded copy; memory and views, by number of channels, are made once and used again, since
    at this size making them costs as much as the arithmetic. Not to be called from several threads at once.

    Args:
        conv: without groups and dilation.
        height, width: of the images.
        planar: the layout, see :meth:`__call__`.
        capacity: most channels.
        like: for dtype and device.

    Attributes:
        size: height and width of the convolution's output.
    """

    def __init__(self, conv: nn.Conv2d, height: int, width: int, planar: bool, capacity: int, like: Tensor) -> None:
        (top, left), self.planar = _pair(conv.padding), planar
        self.kernel, self.stride = _pair(conv.kernel_size), _pair(conv.stride)
        rows, cols = height + 2 * top, width + 2 * left
        self.size = (rows - self.kernel[0]) // self.stride[0] + 1, (cols - self.kernel[1]) // self.stride[1] + 1
        self.padded = like.new_zeros((capacity, rows, cols) if planar else (rows, cols, capacity))
        channels_first = self.padded if planar else self.padded.permute(2, 0, 1)
        self.inside = channels_first[:, top : top + height, left : left + width]
        self.positions = self.size[0] * self.size[1]
        self.memory = like.new_ones((1 + capacity * self.kernel[0] * self.kernel[1]) * self.positions)
        self.views: dict[int, tuple[Tensor, Tensor, Tensor, Tensor]] = {}

    def __call__(self, image: Tensor, relu: bool) -> Tensor:
        """Planar: ``(C, H, W)`` to ``(1 + C * taps, positions)``, the first row ones for a bias; else to
        ``(positions, taps * C)``.

        Args:
            image: of any strides.
            relu: apply ReLU on the way.
        """
        count = image.shape[0]
        inside, seen, target, unfolded = self.views.get(count) or self._make(count)
        if relu:
            torch.clamp_min(image, 0, out=inside)
        else:
            inside.copy_(image)
        target.copy_(seen)
        return unfolded

    def _make(self, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        (down, across), (step_y, step_x), positions = self.kernel, self.stride, self.positions
        with_ones = self.memory[: (1 + count * down * across) * positions]
        memory = with_ones[positions:]
        if self.planar:
            plane, line, pixel = self.padded.stride()
            shape: tuple[int, ...] = (count, down, across, *self.size)
            strides: tuple[int, ...] = (plane, line, pixel, step_y * line, step_x * pixel)
            unfolded = with_ones.view(-1, positions)
        else:
            line, pixel, plane = self.padded.stride()
            shape = (*self.size, down, across, count)
            strides = (step_y * line, step_x * pixel, line, pixel, plane)
            unfolded = memory.view(positions, -1)
        seen = self.padded.as_strided(shape, strides)
        self.views[count] = views = (self.inside[:count], seen, memory.view(shape), unfolded)
        return views


class Lines:
    """Planar unfolding across lines only, for stride 1: a third of the memory of a full one for a 3x3 kernel.

    The taps down the lines are views of it, one matrix ``(channels * taps across, positions)`` each; above the first
    stands a row of ones for a bias.

    Args:
        unfold: planar, of the same convolution; lends its padded copy.
    """

    def __init__(self, unfold: Unfold) -> None:
        padded, (down, across), width = unfold.padded, unfold.kernel, unfold.size[1]
        channels, lines, _ = padded.shape
        memory = padded.new_ones(1 + channels * across, lines * width)
        self.inside = unfold.inside[None]
        self.target = memory[1:].view(channels, across, lines, width)
        plane, line, pixel = padded.stride()
        self.source = padded.as_strided(self.target.shape, (plane, pixel, line, pixel))
        ends = [(tap * width, tap * width + unfold.positions) for tap in range(down)]
        self.seen = [memory[min(tap, 1) :, start:stop] for tap, (start, stop) in enumerate(ends)]

    def __call__(self, image: Tensor) -> list[Tensor]:
        """``(1, C, H, W)`` to what each line of the kernel sees."""
        self.inside.copy_(image)
        self.target.copy_(self.source)
        return self.seen


def _pair(value: object) -> tuple[int, int]:
    assert isinstance(value, tuple)
    return value[0], value[1]
