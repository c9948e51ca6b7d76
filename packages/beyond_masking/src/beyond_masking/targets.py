"""What is predicted: the pixels of each patch, normalised by the patch (section 3.1 of the notes on the method).

Order of a patch's values: row, column, channel (fastest), for targets and predictions alike.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor, nn

from vireo.backbones.masking import gather_tokens

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def denormalized(images: Tensor) -> Tensor:
    """ImageNet-normalised ``(..., 3, H, W)`` back to [0, 1]."""
    mean, std = (
        torch.tensor(constant, device=images.device).view(3, 1, 1) for constant in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return images * std + mean


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """Images ``(B, C, H, W)`` to patches ``(B, N, p * p * C)``, row by row."""
    patches = images.unflatten(3, (-1, patch_size)).unflatten(2, (-1, patch_size))
    return patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(patches: Tensor, patch_size: int, channels: int = 3) -> Tensor:
    """Patches ``(B, N, p * p * C)`` of a square image to ``(B, C, H, H)``; the inverse of :func:`patchify`."""
    side = math.isqrt(patches.shape[1])
    grid = patches.unflatten(2, (patch_size, patch_size, channels)).unflatten(1, (side, side))
    return grid.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


class PixelTarget(nn.Module):
    """Pixels of each patch in [0, 1], normalised per patch and channel: ``(u - mean) / (std + eps)``.

    ``std`` is the unbiased one and ``eps`` is added outside the root (MAE normalises over all values of a patch
    jointly, with eps inside it).

    Args:
        patch_size: p.
        normalize: False leaves the pixels in [0, 1].
        mean, std: by which the given images were normalised.
        eps: smallest deviation that counts.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        patch_size: int = 16,
        normalize: bool = True,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.patch_size, self.normalize, self.eps = patch_size, normalize, eps
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def statistics(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels less the mean of their patch, that mean, and ``std + eps``.

        Returns:
            Float32 ``(B, C, rows, p, columns, p)`` and twice ``(B, C, rows, 1, columns, 1)``.
        """
        pixels = images.float() * self.std + self.mean
        pixels = pixels.unflatten(3, (-1, self.patch_size)).unflatten(2, (-1, self.patch_size))
        mean = pixels.mean((3, 5), keepdim=True)
        centred = pixels - mean
        variance = centred.square().sum((3, 5), keepdim=True) / (self.patch_size**2 - 1)
        return centred, mean, variance.sqrt() + self.eps

    @torch.no_grad()
    def picture(self, images: Tensor) -> Tensor:
        """The target of all patches in their places: normalised ``(B, C, H, W)`` to float32 ``(B, C, H, W)``."""
        if not self.normalize:
            return images.float() * self.std + self.mean
        centred, _, deviation = self.statistics(images)
        return (centred / deviation).flatten(4).flatten(2, 3)

    def forward(self, images: Tensor, ids: Tensor | None = None) -> Tensor:
        """The target.

        Args:
            images: normalised ``(B, C, H, W)``.
            ids: int64 ``(B, M)``, the patches wanted; None for all.

        Returns:
            float32 ``(B, N or M, p * p * C)``.
        """
        patches = patchify(self.picture(images), self.patch_size)
        return patches if ids is None else gather_tokens(patches, ids)

    def denormalize(self, prediction: Tensor, images: Tensor) -> Tensor:
        """A prediction for all patches of ``images`` as pictures in [0, 1], ``(B, C, H, W)``."""
        pictures = unpatchify(prediction.float(), self.patch_size, images.shape[1])
        if self.normalize:
            centred, mean, deviation = self.statistics(images)
            placed = pictures.view(centred.shape) * deviation + mean
            pictures = placed.flatten(4).flatten(2, 3)
        return pictures.clamp(0, 1)


def per_patch_mean(pictures: Tensor, patch_size: int) -> Tensor:
    """Mean over channels and pixels of each patch: ``(B, C, H, W)`` to ``(B, N)``."""
    patches = pictures.unflatten(3, (-1, patch_size)).unflatten(2, (-1, patch_size))
    return patches.mean((1, 3, 5)).flatten(1)


def normalized_pixel_target(
    images: Tensor,
    patch_size: int = 16,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
    eps: float = 1e-6,
) -> Tensor:
    """:class:`PixelTarget` as a function: normalised images ``(B, C, H, W)`` to ``(B, N, p * p * C)``."""
    return PixelTarget(patch_size, True, mean, std, eps).to(images.device)(images)


@cache
def area_matrix(size: int, source: int) -> Tensor:
    """The matrix of adaptive average pooling of ``source`` values to ``size``, float32 ``(size, source)``.

    Row i averages the values from ``floor(i m / n)`` to ``ceil((i + 1) m / n)``: shrinking and enlarging alike.
    """
    matrix = torch.zeros(size, source, device="cpu")  # whatever the default device: it is kept
    for row in range(size):
        begin, end = row * source // size, -(-(row + 1) * source // size)
        matrix[row, begin:end] = 1 / (end - begin)
    return matrix


def area_resize(images: Tensor, rows: Tensor, columns: Tensor | None = None) -> Tensor:
    """``R X C^T`` with rows of :func:`area_matrix`: ``(..., m, m)`` to ``(..., len(rows), len(columns))``.

    The smaller side is made first. ``columns`` are ``rows`` by default.
    """
    columns = rows if columns is None else columns
    return rows @ images @ columns.T if len(rows) <= len(columns) else rows @ (images @ columns.T)
