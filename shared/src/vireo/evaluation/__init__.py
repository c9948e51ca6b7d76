"""Detection metrics on the COCO json format, top-k error, k-NN and linear probe, merging across processes.

A prediction is a dict for one image: ``image_id`` (int), ``boxes`` (n, 4) xyxy in pixels of the original image,
``scores`` (n,), ``labels`` (n,) class indices (positions in the ground truth's ``categories`` list), and, for mask
metrics, ``masks`` (n, H, W) or n COCO run-length encodings. Arrays may be torch CPU tensors or numpy arrays. Detection
metrics are fractions in [0, 1]; errors of classifiers are in percent.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vireo.evaluation.coco import evaluate_coco
from vireo.evaluation.merge import gather_predictions
from vireo.evaluation.voc import voc_average_precision

if TYPE_CHECKING:
    from vireo.evaluation.features import Features as Features
    from vireo.evaluation.features import gather_features as gather_features
    from vireo.evaluation.knn import knn_error as knn_error
    from vireo.evaluation.probe import linear_probe as linear_probe
    from vireo.evaluation.topk import TopK as TopK
    from vireo.evaluation.topk import topk_correct as topk_correct

_HOMES = {
    "Features": "features",
    "TopK": "topk",
    "gather_features": "features",
    "knn_error": "knn",
    "linear_probe": "probe",
    "topk_correct": "topk",
}
__all__ = [
    "Features",
    "TopK",
    "evaluate_coco",
    "gather_features",
    "gather_predictions",
    "knn_error",
    "linear_probe",
    "topk_correct",
    "voc_average_precision",
]


def __getattr__(name: str) -> Any:
    """Import torch only when something that needs it is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
