"""What every network of this package has in common: losses in training, points with scores in evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .nms import multiclass_nms

Target = dict[str, Any]


class Candidates(NamedTuple):
    """The candidates of one image before non-maximum suppression.

    Attributes:
        boxes: ``(K, 4)`` xyxy in pixels of the network's input, inside the image.
        scores: ``(K, C)`` in [0, 1].
    """

    boxes: Tensor
    scores: Tensor


class Localizer(nn.Module):
    """Base of the networks: subclasses give :meth:`losses` and :meth:`candidates`.

    The predicted location of an object is the centre of its box.

    Args:
        num_classes: C.
        score_threshold, nms_iou, max_detections: of :func:`~p2p_loc.nms.multiclass_nms`.
    """

    def __init__(
        self, num_classes: int, *, score_threshold: float = 0.05, nms_iou: float = 0.5, max_detections: int = 1000
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.score_threshold, self.nms_iou, self.max_detections = score_threshold, nms_iou, max_detections

    def losses(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Scalars to be summed.

        Args:
            images: float ``(B, 3, H, W)``, normalised, zero-padded at the right and the bottom.
            targets: per image ``boxes`` ``(n, 4)`` xyxy, ``labels`` ``(n,)`` class indices and ``size`` ``(h, w)``
                without padding; objects that are not to be trained on are left out already.
        """
        raise NotImplementedError

    def candidates(self, images: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Candidates]:
        """Boxes with scores, before non-maximum suppression: what the tiles of a large image are joined from.

        Args:
            images: as of :meth:`losses`.
            sizes: ``(h, w)`` of each image without padding.
        """
        raise NotImplementedError

    def detections(self, found: Candidates) -> dict[str, Tensor]:
        """``boxes``, ``scores`` and ``labels`` of an image, best first, from its candidates or those of its tiles."""
        return multiclass_nms(
            found.boxes,
            found.scores,
            score_threshold=self.score_threshold,
            iou=self.nms_iou,
            max_detections=self.max_detections,
        )

    def forward(self, images: Tensor, targets: Sequence[Target]) -> Any:
        """:meth:`losses` in training, else a dict of :meth:`detections` for each image, in pixels of the input."""
        if self.training:
            return self.losses(images, targets)
        with torch.no_grad():
            found = self.candidates(images, [target["size"] for target in targets])
        return [self.detections(candidates) for candidates in found]
