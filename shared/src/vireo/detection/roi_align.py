"""RoIAlign with half-pixel offsets on the levels of a pyramid, as detectron2's and mmdetection's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign, roi_align

FINEST_SCALE = 14.0  # finest strides: boxes of less than twice this side are on the finest level


class AlignedRoIAlign(MultiScaleRoIAlign):  # type: ignore[misc]
    """torchvision's ``MultiScaleRoIAlign`` takes coordinates to be half a pixel off; this one does not.

    A box of side s (the root of its area) is pooled from level floor(log2(s / 14 d)), d the finest stride (56 pixels
    where that is 4), with as many samples a bin as it takes pixels.

    Args:
        featmap_names: of the levels, finest first.
        strides: of these.
        output_size: side of what is pooled.
    """

    def __init__(self, featmap_names: Sequence[str], strides: Sequence[int], output_size: int) -> None:
        super().__init__(list(featmap_names), output_size, sampling_ratio=0)
        self.strides = tuple(strides)

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Maps ``(B, C, H_i, W_i)`` and boxes xyxy of each image to ``(boxes of all images, C, side, side)``."""
        maps = [x[name] for name in self.featmap_names]
        images = torch.repeat_interleave(
            torch.arange(len(boxes), device=maps[0].device),
            torch.tensor([len(b) for b in boxes], device=maps[0].device),
        )
        joined = torch.cat(boxes)
        rois = torch.cat((images[:, None].to(joined.dtype), joined), 1)
        sides = ((joined[:, 2] - joined[:, 0]) * (joined[:, 3] - joined[:, 1])).clamp(min=0).sqrt()
        level_of = (sides / (FINEST_SCALE * self.strides[0]) + 1e-6).log2().floor().clamp(0, len(maps) - 1)
        pooled = maps[0].new_zeros(len(rois), maps[0].shape[1], *self.output_size)
        for level, (map_, stride) in enumerate(zip(maps, self.strides)):
            chosen = torch.where(level_of == level)[0]
            own = roi_align(map_, rois[chosen].to(map_.dtype), self.output_size, 1 / stride, 0, aligned=True)
            pooled = pooled.index_put((chosen,), own)  # every level takes part, so every map gets a gradient
        return pooled
