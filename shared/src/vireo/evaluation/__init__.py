"""Detection metrics on the COCO json format, merging of predictions across processes, and top-k error.

A prediction is a dict for one image: ``image_id`` (int), ``boxes`` (n, 4) xyxy in pixels of the original image,
``scores`` (n,), ``labels`` (n,) class indices (positions in the ground truth's ``categories`` list), and, for mask
metrics, ``masks`` (n, H, W) or n COCO run-length encodings. Arrays may be torch CPU tensors or numpy arrays. Detection
metrics are fractions in [0, 1]; top-k errors are in percent.
"""

from typing import TYPE_CHECKING, Any

from vireo.evaluation.coco import evaluate_coco
from vireo.evaluation.merge import gather_predictions
from vireo.evaluation.voc import voc_average_precision

if TYPE_CHECKING:
    from vireo.evaluation.topk import TopK as TopK
    from vireo.evaluation.topk import topk_correct as topk_correct

__all__ = ["TopK", "evaluate_coco", "gather_predictions", "topk_correct", "voc_average_precision"]


def __getattr__(name: str) -> Any:
    if name not in ("TopK", "topk_correct"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vireo.evaluation import topk  # not with the others: it imports torch

    return getattr(topk, name)
