"""Feature pre-training: backbone and pyramid learn what a teacher, such as CLIP, makes of the units (section 3.5).

Legend of shapes: B images, N units, C channels of stage 3, d of the pyramid, D values of a target.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vireo.errors import InputError

from .attention import AttentionBlock, init_layers
from .hivit import HiViT
from .neck import PyramidNeck, PyramidUnits
from .pixel import NORM_EPS, fuse_levels, level_embeddings
from .relative import places_of

EXTRA_BLOCKS = 2  # behind the tapped block
EXTRA_EPS = 1e-5  # of their norms: the authors leave torch's default there
EXTRA_SCALE = 0.1  # their layer scale at the start, where the backbone's blocks have one
MaskAt = Literal["late", "embed"]
Supervise = Literal["all", "masked"]


class DistillOutput(NamedTuple):
    """What a step of feature pre-training computes.

    Attributes:
        loss: scalar to minimise.
        losses: its parts, ``pyramid`` and ``tap``, without gradient.
        prediction: ``(B, N, D)`` from the pyramid.
        tapped: ``(B, N, D)`` from the tapped block.
    """

    loss: Tensor
    losses: dict[str, Tensor]
    prediction: Tensor
    tapped: Tensor


class FeatureDistillPretrain(nn.Module):
    """Backbone and pyramid whose fused levels, and one block of stage 3, predict a teacher's features of each unit.

    As released, only the input of stage 3 is masked, so the pyramid's lateral connections carry what is masked, and
    every unit is judged (section 8, row 2).

    Args:
        backbone: the published ones have ``rel_pos="bias"`` and ``init_values=0.1``.
        neck: of the backbone's ``dims``; published with ``depth=1``.
        teacher_dim: D.
        tap: which block of stage 3 is tapped, as a share of its depth.
        supervise: judge ``all`` units, or those that are ``masked``.
        mask_at: ``late``, as released; ``embed`` masks the patch embedding, so nothing of a masked unit is seen.

    Raises:
        InputError: an unknown choice, or a share that is none.
    """

    def __init__(
        self,
        backbone: HiViT,
        neck: PyramidNeck,
        teacher_dim: int,
        tap: float = 0.75,
        supervise: Supervise = "all",
        mask_at: MaskAt = "late",
    ) -> None:
        super().__init__()
        if supervise not in ("all", "masked"):
            raise InputError(f"unknown choice {supervise!r}", "supervise", "use all or masked")
        if mask_at not in ("late", "embed"):
            raise InputError(f"unknown choice {mask_at!r}", "mask_at", "use late or embed")
        if not 0 <= tap < 1:
            raise InputError(f"a share of {tap} names no block", "tap", "use 0 to less than 1, e.g. 0.75")
        self.backbone, self.neck, self.supervise, self.mask_at = backbone, neck, supervise, mask_at
        dim, depth = backbone.embed_dim, backbone.depths[2]
        self.tap = int(tap * depth)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim if mask_at == "late" else backbone.dims[0]))
        stage: Any = backbone.blocks[-depth:]
        self.cls_pt_layers = nn.ModuleList(
            AttentionBlock(
                dim,
                backbone.num_heads,
                drop_path=getattr(stage[min(self.tap + i, depth - 1)].drop_path, "drop_prob", 0.0),
                init_values=None if stage[0].gamma_1 is None else EXTRA_SCALE,
                norm_eps=EXTRA_EPS,
                rel_pos=backbone.rel_pos,
                grid=backbone.grid_size,
            )
            for i in range(EXTRA_BLOCKS)
        )
        self.decoder_embed = level_embeddings(neck.dim, dim)
        self.norm, self.norm_cls = nn.LayerNorm(dim, eps=NORM_EPS), nn.LayerNorm(dim, eps=NORM_EPS)
        self.lm_head, self.lm_cls_head = nn.Linear(dim, teacher_dim), nn.Linear(dim, teacher_dim)
        for part in (self.cls_pt_layers, self.decoder_embed, self.lm_head, self.lm_cls_head):
            init_layers(part)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    @property
    def teacher_dim(self) -> int:
        """D."""
        return self.lm_head.out_features

    def encode(self, images: Tensor, mask: Tensor) -> tuple[PyramidUnits, Tensor]:
        """The pyramid, and the tapped tokens behind the extra blocks.

        Args:
            images: normalised ``(B, 3, H, W)``.
            mask: bool ``(B, N)`` or ``(B, rows, columns)``, true where a unit is masked.

        Raises:
            InputError: units do not divide the images, or a mask of another number of units.
        """
        grid = self.backbone.grid_of((images.shape[-2], images.shape[-1]))
        mask = mask.flatten(1).bool()
        if mask.shape != (len(images), grid[0] * grid[1]):
            what = f"a mask of {tuple(mask.shape)} for {len(images)} images of {grid[0]}x{grid[1]} units"
            raise InputError(what, "mask", "give one value for each unit")
        units = self.backbone.embed_units(images)
        if self.mask_at == "embed":
            units = torch.where(mask[:, :, None, None, None], self.mask_token.to(units.dtype), units)
        f4, f8, x = self.backbone.forward_early(units)
        if self.mask_at == "late":
            x = torch.where(mask[:, :, None], self.mask_token.to(x.dtype), x)
        x16, tapped = self.backbone.forward_late(x, grid, tap=self.tap)
        assert tapped is not None, "the tap is a block of the stage"
        places = places_of(grid, device=images.device)
        for layer in self.cls_pt_layers:
            tapped = layer(tapped, places)
        return self.neck(f4, f8, x16), tapped

    def forward(self, images: Tensor, mask: Tensor, target: Tensor) -> DistillOutput:
        """Loss of a batch: the mean smooth L1 distance of both predictions, added.

        Without a masked unit in the batch the loss is 0 where only these are judged.

        Args:
            images, mask: see :meth:`encode`.
            target: ``(B, N, D)`` of a teacher, without gradient.

        Raises:
            InputError: as :meth:`encode`, or a target of another shape.
        """
        pyramid, tapped = self.encode(images, mask)
        prediction = self.lm_head(self.norm(fuse_levels(self.decoder_embed, pyramid)))
        tapped = self.lm_cls_head(self.norm_cls(tapped))
        if target.shape != prediction.shape:
            what = f"targets of shape {tuple(target.shape)}, predictions of {tuple(prediction.shape)}"
            raise InputError(what, "target", "give the teacher images of as many units, and its own teacher_dim")
        judged = mask.flatten(1).bool() if self.supervise == "masked" else None
        losses = {"pyramid": _distance(prediction, target, judged), "tap": _distance(tapped, target, judged)}
        parts = {name: part.detach() for name, part in losses.items()}
        return DistillOutput(losses["pyramid"] + losses["tap"], parts, prediction, tapped)


def _distance(prediction: Tensor, target: Tensor, judged: Tensor | None) -> Tensor:
    """Mean smooth L1 distance of all units, or of those ``judged``, bool ``(B, N)``; 0 if there are none."""
    if judged is None:
        return F.smooth_l1_loss(prediction.float(), target.float())
    distances = F.smooth_l1_loss(prediction.float(), target.float(), reduction="none").mean(2)
    return (distances * judged).sum() / judged.sum().clamp(min=1)
