"""Masked feature modelling with a moving-average teacher: inspired by the paper, which released no code for it.

The paper lets every level of the pyramid also predict features that a moving average of the backbone makes of the whole
image (section 3.4). Momentum, targets and heads are not known; those here are a choice, and no published number
belongs to them.
"""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vireo.backbones.masking import gather_tokens
from vireo.errors import InputError

from .attention import init_layers
from .hivit import HiViT
from .neck import PyramidNeck
from .pixel import MaskedPyramidAutoencoder, PixelOutput

MOMENTUM = 0.9996  # of the teacher at the start of training; 1 at its end


def momentum_at(step: int, total_steps: int, start: float = MOMENTUM) -> float:
    """The share of the teacher that is kept by the update before ``step``: half a cosine from ``start`` to 1."""
    progress = min(step / max(1, total_steps), 1.0)
    return 1 - (1 - start) * 0.5 * (1 + math.cos(math.pi * progress))


class MomentumTeacher(nn.Module):
    """A moving average of a backbone, and the features it makes of whole images.

    Args:
        backbone: whose weights are copied.
    """

    def __init__(self, backbone: HiViT) -> None:
        super().__init__()
        self.backbone = deepcopy(backbone)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> MomentumTeacher:
        """Stays in evaluation mode: nothing is dropped."""
        return super().train(False)

    @torch.no_grad()
    def update(self, backbone: HiViT, momentum: float) -> None:
        """``teacher <- momentum * teacher + (1 - momentum) * backbone``."""
        for own, other in zip(self.backbone.parameters(), backbone.parameters()):
            own.lerp_(other, 1 - momentum)

    @torch.no_grad()
    def forward(self, images: Tensor, ids: Tensor) -> list[Tensor]:
        """Targets of units.

        Args:
            images: ``(B, 3, H, W)``, seen whole.
            ids: int64 ``(B, M)``, the units wanted.

        Returns:
            For strides 16, 8 and 4 the features of each cell, normalised, ``(B, M, s * s * c)`` of s x s cells.
        """
        f4, f8, x16, _ = self.backbone.forward_units(images)
        levels = (x16, f8, f4)
        normed = [F.layer_norm(level.float(), level.shape[-1:]).flatten(2) for level in levels]
        return [gather_tokens(level, ids) for level in normed]


class MomentumPyramidAutoencoder(MaskedPyramidAutoencoder):
    """Pixel pre-training that also predicts a teacher's features of the removed units.

    A linear head for each level reads the decoder's tokens; the pyramid's own know nothing of a removed unit. Call
    :meth:`update_teacher` before each step. The teacher is part of the state dict, so of checkpoints, but not of the
    final weights of a run.

    Args:
        backbone, neck: see :class:`~itpn.pixel.MaskedPyramidAutoencoder`.
        mfm_weight: of the feature losses of the three levels, added to that of the pixels.
        **options: of :class:`~itpn.pixel.MaskedPyramidAutoencoder`.

    Raises:
        InputError: a weight that is not positive.
    """

    training_only = ("teacher.",)

    def __init__(self, backbone: HiViT, neck: PyramidNeck, mfm_weight: float = 0.3, **options: Any) -> None:
        super().__init__(backbone, neck, **options)
        if not mfm_weight > 0:
            raise InputError(f"a weight of {mfm_weight}", "mfm_weight", "use a positive one, e.g. 0.3")
        self.mfm_weight = mfm_weight
        self.teacher: nn.Module = MomentumTeacher(backbone)
        sizes = [side**2 * dim for side, dim in zip((1, 2, 4), reversed(backbone.dims))]
        self.feature_heads = nn.ModuleList(nn.Linear(self.mask_token.shape[2], size) for size in sizes)
        init_layers(self.feature_heads)

    def update_teacher(self, step: int, total_steps: int) -> None:
        """Move the teacher towards the backbone, before step number ``step`` of ``total_steps``, counted from 0.

        Before the first step the teacher becomes the backbone, which may have been loaded since it was copied.
        """
        assert isinstance(self.teacher, MomentumTeacher)
        self.teacher.update(self.backbone, momentum_at(step, total_steps) if step else 0.0)

    def _judged(self, images: Tensor, tokens: Tensor, mask: Any) -> PixelOutput:
        pixels = super()._judged(images, tokens, mask)
        removed = tokens[:, mask.ids_keep.shape[1] :]
        targets = self.teacher(images, mask.ids_removed)
        distances = [
            F.smooth_l1_loss(head(removed).float(), target) for head, target in zip(self.feature_heads, targets)
        ]
        features = torch.stack(distances).sum()
        losses = {**pixels.losses, "features": features.detach()}
        return PixelOutput(pixels.loss + self.mfm_weight * features, losses, pixels.prediction, mask)
