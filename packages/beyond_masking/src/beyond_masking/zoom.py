"""Degradations that move the frame: (a) zoomed-in and (b) zoomed-out.

The patches an encoder sees and the patches to be predicted do not coincide; predictions are compared after resizing
them by area, which is a product with constant matrices.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vireo.backbones import TokenMask
from vireo.errors import InputError

from .degradations import Degradation
from .draws import Draws
from .targets import PixelTarget, area_matrix, area_resize, per_patch_mean, unpatchify


class ZoomIn(Degradation):
    """(a) The encoder sees the middle of the crop at its own scale; the whole crop is to be predicted.

    The centre of the enlarged prediction is compared with the target of what was seen, patch by patch (those that a
    mask removed, or all); the frame around it with the enlarged target of the shrunk crop, always. Both targets are
    normalised on patch grids of their own.

    Args:
        input_size: side S of the middle.
        full_size: side F of the crop.
        edge_weight: weight of the frame in the loss; the centre has the rest.
        edge_reduction: ``sum`` of the means of the frame's four strips, as published, or ``mean`` over its pixels.
    """

    needs_all = True
    shrink: Tensor
    enlarge: Tensor

    def __init__(
        self, input_size: int = 224, full_size: int = 288, edge_weight: float = 0.2, edge_reduction: str = "sum"
    ) -> None:
        super().__init__(full_size, input_size)
        if edge_reduction not in ("sum", "mean"):
            raise InputError(f"unknown reduction {edge_reduction!r}", "edge_reduction", "use sum or mean")
        if full_size <= input_size or (full_size - input_size) % 2:
            what = f"a crop of {full_size} has no middle of {input_size} with equal borders"
            raise InputError(what, "ZoomIn", "use a full size that is larger by an even number")
        self.edge_weight, self.edge_reduction = edge_weight, edge_reduction
        self.border = (full_size - input_size) // 2
        self.register_buffer("shrink", area_matrix(input_size, full_size), persistent=False)
        self.register_buffer("enlarge", area_matrix(full_size, input_size), persistent=False)

    def degrade(self, images: Tensor, params: Any) -> Tensor:
        """The middle."""
        middle = slice(self.border, self.border + self.input_size)
        return images[:, :, middle, middle]

    def seen_of(self, images: Tensor) -> Tensor:
        """The whole crop, shrunk."""
        return area_resize(images, self.shrink)

    def losses(
        self, prediction: Tensor, images: Tensor, params: Any, mask: TokenMask | None, target: PixelTarget
    ) -> dict[str, Tensor]:
        """``loss_center`` and ``loss_edge``; see the class and :meth:`Degradation.losses`."""
        border, inner = self.border, self.input_size
        predicted = unpatchify(prediction.float(), target.patch_size)
        middle = self.enlarge[border : border + inner]
        recovered = area_resize(predicted, middle)
        wanted = target.picture(self.degrade(images, params))
        center = mean_over(per_patch_mean((recovered - wanted).square(), target.patch_size), mask)

        # resizing is linear: enlarge the difference once, and only where the frame is
        difference = predicted - target.picture(self.seen_of(images))
        outer = torch.cat((self.enlarge[:border], self.enlarge[-border:]))
        rows = area_resize(difference, outer, self.enlarge).square()  # above and below, corners included
        columns = area_resize(difference, middle, outer).square()  # left and right
        if self.edge_reduction == "sum":  # of four means; above and below have as many pixels, left and right too
            edge = 2 * (rows.mean() + columns.mean())
        else:
            edge = (rows.sum() + columns.sum()) / (rows.numel() + columns.numel())
        return {"loss_center": center, "loss_edge": edge}

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """Weighted sum of centre and frame."""
        return (1 - self.edge_weight) * losses["loss_center"] + self.edge_weight * losses["loss_edge"]


class ZoomOut(Degradation):
    """(b) The encoder sees the crop at some place of a canvas, its mirror image around it; the crop is to be predicted.

    Prediction and target are patches of the crop at the size of the canvas; both are shrunk and set into the canvas
    before they are compared, patch by patch of the canvas, so mirrored pixels count again.

    Parameters: int ``(1 or B, 2)``, left and top of the crop in the canvas.

    Args:
        image_size: side s of the crop.
        canvas_size: side S of the canvas, at most 2 s.
        per_sample: draw the place for each image; published: once for a batch.
    """

    needs_all = True
    shrink: Tensor
    enlarge: Tensor

    def __init__(self, image_size: int = 160, canvas_size: int = 224, per_sample: bool = False) -> None:
        super().__init__(image_size, canvas_size)
        if not image_size < canvas_size <= 2 * image_size:
            what = f"a crop of {image_size} cannot be mirrored to a canvas of {canvas_size}"
            raise InputError(what, "ZoomOut", "use a canvas that is larger, at most twice")
        self.per_sample = per_sample
        self.register_buffer("shrink", area_matrix(image_size, canvas_size), persistent=False)
        self.register_buffer("enlarge", area_matrix(canvas_size, image_size), persistent=False)

    def draw(self, draws: Draws) -> Tensor:
        """int64 ``(1 or B, 2)`` in 0 .. canvas - crop - 1."""
        room = self.input_size - self.crop_size
        u = draws.uniform("zoom_out", 2, shared=not self.per_sample)
        return (u * room).long().clamp(max=room - 1)

    def place(self, images: Tensor, params: Tensor) -> Tensor:
        """Set ``(B, C, s, s)`` into the canvas, mirrored with the edge pixel repeated: ``(B, C, S, S)``."""
        steps = torch.arange(self.input_size, device=images.device) - params.to(images.device)[:, :, None]
        last = self.crop_size - 1
        mirrored = torch.where(steps < 0, -1 - steps, torch.where(steps > last, 2 * last + 1 - steps, steps))
        columns, rows = mirrored.unbind(1)
        if len(params) == 1:
            return images.index_select(2, rows[0]).index_select(3, columns[0])
        sample = torch.arange(len(images), device=images.device)[:, None, None]
        return images[sample, :, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)

    def degrade(self, images: Tensor, params: Tensor) -> Tensor:
        """The canvas."""
        return self.place(images, params)

    def seen_of(self, images: Tensor) -> Tensor:
        """The crop, enlarged."""
        return area_resize(images, self.enlarge)

    def losses(
        self, prediction: Tensor, images: Tensor, params: Tensor, mask: TokenMask | None, target: PixelTarget
    ) -> dict[str, Tensor]:
        """See the class and :meth:`Degradation.losses`."""
        difference = unpatchify(prediction.float(), target.patch_size) - target.picture(self.seen_of(images))
        error = area_resize(difference, self.shrink).square().mean(1, keepdim=True)
        return {"loss": mean_over(per_patch_mean(self.place(error, params), target.patch_size), mask)}


def mean_over(per_patch: Tensor, mask: TokenMask | None) -> Tensor:
    """Mean of ``(B, N)`` over the removed patches, or all without a mask."""
    return per_patch.mean() if mask is None else (per_patch * mask.mask).sum() / mask.mask.sum()
