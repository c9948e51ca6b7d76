"""Detection metrics on the COCO json format, mean IoU, top-k error, k-NN and linear probe, merging across processes.

A prediction is a dict for one image: ``image_id`` (int), ``boxes`` (n, 4) xyxy in pixels of the original image,
``scores`` (n,), ``labels`` (n,) class indices (positions in the ground truth's ``categories`` list), and, for mask
metrics, ``masks`` (n, H, W) or n COCO run-length encodings. Arrays may be torch CPU tensors or numpy arrays. Metrics
of detection and segmentation are fractions in [0, 1]; errors of classifiers are in percent.
"""

from typing import TYPE_CHECKING

from vireo.lazy import exports

if TYPE_CHECKING:  # what vireo.lazy imports on first use
    from vireo.evaluation.classifier import evaluate_classifier as evaluate_classifier
    from vireo.evaluation.classifier import with_accuracy as with_accuracy
    from vireo.evaluation.coco import evaluate_coco as evaluate_coco
    from vireo.evaluation.features import Features as Features
    from vireo.evaluation.features import gather_features as gather_features
    from vireo.evaluation.frozen import feature_errors as feature_errors
    from vireo.evaluation.frozen import pooled as pooled
    from vireo.evaluation.knn import knn_error as knn_error
    from vireo.evaluation.losses import mean_losses as mean_losses
    from vireo.evaluation.merge import gather_predictions as gather_predictions
    from vireo.evaluation.miou import SegmentationScore as SegmentationScore
    from vireo.evaluation.probe import linear_probe as linear_probe
    from vireo.evaluation.topk import TopK as TopK
    from vireo.evaluation.topk import topk_correct as topk_correct
    from vireo.evaluation.voc import voc_average_precision as voc_average_precision

__all__, __getattr__, __dir__ = exports(__name__, __file__)
