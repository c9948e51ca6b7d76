"""Detection metrics on the COCO json format, and merging of predictions across processes.

A prediction is a dict for one image: ``image_id`` (int), ``boxes`` (n, 4) xyxy in pixels of the original image,
``scores`` (n,), ``labels`` (n,) class indices (positions in the ground truth's ``categories`` list), and, for mask
metrics, ``masks`` (n, H, W) or n COCO run-length encodings. Arrays may be torch CPU tensors or numpy arrays. Metrics
are fractions in [0, 1].
"""

from vireo.evaluation.coco import evaluate_coco
from vireo.evaluation.merge import gather_predictions
from vireo.evaluation.voc import voc_average_precision

__all__ = ["evaluate_coco", "gather_predictions", "voc_average_precision"]
