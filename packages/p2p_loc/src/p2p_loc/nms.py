"""Non-maximum suppression of candidates that have a score for each class."""

from __future__ import annotations

from torch import Tensor
from torchvision.ops import batched_nms


def multiclass_nms(
    boxes: Tensor, scores: Tensor, *, score_threshold: float = 0.05, iou: float = 0.5, max_detections: int = 1000
) -> dict[str, Tensor]:
    """Detections from candidates, each class for itself.

    Args:
        boxes: ``(K, 4)`` xyxy.
        scores: ``(K, C)`` in [0, 1].
        score_threshold: scores must be above it.
        iou: a box with a larger overlap with a better one of its class is dropped.
        max_detections: how many are kept at most, the best.

    Returns:
        ``boxes`` ``(n, 4)``, ``scores`` ``(n,)`` and ``labels`` ``(n,)`` (class indices), best first.
    """
    row, label = (scores > score_threshold).nonzero(as_tuple=True)
    kept, score = boxes[row], scores[row, label]
    best = batched_nms(kept.float(), score.float(), label, iou)[:max_detections]
    return {"boxes": kept[best], "scores": score[best], "labels": label[best]}
