"""The structure loss: cross-entropy and an IoU that weights what lies near an outline (section 3.5 of the notes)."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from vireo.errors import InputError

BCE = Literal["mean", "weighted"]
KERNEL = 31  # pixels, the side of the neighbourhood
GAMMA = 5.0


def outline_weights(masks: Tensor, kernel: int = KERNEL, gamma: float = GAMMA) -> Tensor:
    """``1 + gamma * |mean of the neighbourhood - mask|``; what is outside of the image counts as 0.

    Args:
        masks: ``(B, 1, H, W)`` in [0, 1].
        kernel: side of the neighbourhood in pixels, odd.
        gamma: how much an outline counts.
    """
    half = kernel // 2
    # the mean over a square is that over rows of the means over columns, at a fifteenth of the work
    rows = F.avg_pool2d(masks, (kernel, 1), 1, (half, 0))
    mean = F.avg_pool2d(rows, (1, kernel), 1, (0, half))
    return 1 + gamma * (mean - masks).abs()


def structure_losses(
    logits: Tensor, masks: Tensor, bce: BCE = "mean", kernel: int = KERNEL, gamma: float = GAMMA
) -> dict[str, Tensor]:
    """``loss_bce`` and ``loss_iou``, means over the images; in float32 (or the wider type of the logits).

    Args:
        logits: ``(B, 1, H, W)``.
        masks: ``(B, 1, H, W)`` in [0, 1], soft or hard.
        bce: ``mean`` is the plain mean, which is what the authors' code computes; ``weighted`` the mean by
            :func:`outline_weights` per image, which it was meant to be. The IoU is weighted with both.
        kernel, gamma: see :func:`outline_weights`.

    Raises:
        InputError: shapes that differ, an even kernel, or an unknown ``bce``.
    """
    where = "structure_losses"
    if logits.shape != masks.shape or logits.ndim != 4:
        what = f"logits {tuple(logits.shape)} for masks {tuple(masks.shape)}"
        raise InputError(what, where, "give both as (batch, 1, height, width)")
    if kernel < 1 or kernel % 2 == 0:
        raise InputError(f"a kernel of {kernel} pixels", where, "use an odd number, the paper's is 31")
    if bce not in ("mean", "weighted"):
        raise InputError(f"unknown bce {bce!r}", where, "use mean (published) or weighted")
    logits = logits.float() if logits.dtype.itemsize < 4 else logits
    masks = masks.to(logits.dtype)
    weights = outline_weights(masks, kernel, gamma)
    over_image = (1, 2, 3)
    if bce == "mean":
        entropy = F.binary_cross_entropy_with_logits(logits, masks)
    else:
        each = F.binary_cross_entropy_with_logits(logits, masks, reduction="none")
        entropy = ((weights * each).sum(over_image) / weights.sum(over_image)).mean()
    found = logits.sigmoid()
    common = (weights * found * masks).sum(over_image)
    union = (weights * (found + masks)).sum(over_image) - common
    return {"loss_bce": entropy, "loss_iou": (1 - (common + 1) / (union + 1)).mean()}


def structure_loss(
    logits: Tensor, masks: Tensor, bce: BCE = "mean", kernel: int = KERNEL, gamma: float = GAMMA
) -> Tensor:
    """The sum of :func:`structure_losses`, a scalar."""
    losses = structure_losses(logits, masks, bce, kernel, gamma)
    return losses["loss_bce"] + losses["loss_iou"]
