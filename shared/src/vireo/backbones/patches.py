"""Images as patches: what a transformer embeds, and what masked autoencoders predict.

Legend of shapes: B images, C channels, N patches of p x p pixels in row-major order, K or M of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

_EPS = 1e-6  # inside the root of a patch's deviation, as MAE has it


def gather_patches(images: Tensor, grid: tuple[int, int], ids: Tensor | None = None) -> Tensor:
    """The pixels of patches, of each in the order channel, row, column, in which a patch embedding reads them.

    Args:
        images: ``(B, C, H, W)``.
        grid: rows and columns of patches; they divide H and W.
        ids: int64 ``(B, K)``, patches in row-major order; None for all in their order.

    Returns:
        ``(B, K, C * (H / rows) * (W / columns))``.
    """
    rows, columns = grid
    patches = images.unflatten(3, (columns, -1)).unflatten(2, (rows, -1))  # (B, C, rows, p, columns, p)
    if ids is None:
        patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    else:
        batch = torch.arange(len(images), device=images.device)[:, None]
        patches = patches[batch, :, ids // columns, :, ids % columns]  # (B, K, C, p, p)
    pixels: Tensor = patches.flatten(2)
    return pixels


def patchify(images: Tensor, patch_size: int, ids: Tensor | None = None) -> Tensor:
    """The pixels of patches, of each in the order row, column, channel, in which MAE predicts them.

    Args:
        images: ``(B, C, H, W)``, of sides that patches divide.
        patch_size: p.
        ids: int64 ``(B, M)``, the patches wanted; None for all.

    Returns:
        ``(B, N or M, p * p * C)``.
    """
    columns = images.shape[3] // patch_size
    patches = images.unflatten(3, (columns, patch_size)).unflatten(2, (-1, patch_size))  # (B, C, rows, p, columns, p)
    if ids is None:
        every: Tensor = patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        return every
    batch = torch.arange(len(images), device=images.device)[:, None]
    chosen: Tensor = patches[batch, :, ids // columns, :, ids % columns].permute(0, 1, 3, 4, 2).flatten(2)
    return chosen


def unpatchify(patches: Tensor, patch_size: int, grid: tuple[int, int]) -> Tensor:
    """The inverse of :func:`patchify`: ``(B, N, p * p * C)`` of ``grid`` rows and columns to ``(B, C, H, W)``."""
    cells: Tensor = patches.unflatten(2, (patch_size, patch_size, -1)).unflatten(1, grid)  # (B, rows, columns, p, p, C)
    return cells.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation ``sqrt(var + 1e-6)``, with the unbiased variance, of each patch: twice ``(B, N, 1)``."""
    variance, mean = torch.var_mean(patches, -1, keepdim=True)
    return mean, (variance + _EPS).sqrt()


def pixel_loss(prediction: Tensor, patches: Tensor, norm_pix: bool = True) -> Tensor:
    """Mean squared error of predicted patches (He et al., Masked Autoencoders, section 3).

    Args:
        prediction: ``(B, M, p * p * C)``.
        patches: what they should be, in pixels, likewise; see :func:`patchify`.
        norm_pix: the prediction is of pixels normalised by their patch.
    """
    patches = patches.float()
    if norm_pix:
        mean, deviation = patch_statistics(patches)
        patches = (patches - mean) / deviation
    return (prediction.float() - patches).square().mean()
