"""COCO metrics of a torchvision detector over a data set."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from vireo.data import DetectionDataset, Loader
from vireo.errors import InputError

MASK_THRESHOLD = 0.5


def evaluate_detector(
    model: Any, loader: Loader, dataset: DetectionDataset, masks: bool = True
) -> dict[str, Any] | None:
    """COCO metrics of boxes and masks, as ``box_AP``, ``mask_AP`` and so on; None on all processes but the first.

    Args:
        model: a detector, not wrapped for several processes; left in evaluation mode.
        loader: over this process's share of ``dataset``.
        dataset: the ground truth.
        masks: judge them too.
    """
    import torch.distributed as dist

    from vireo.evaluation import evaluate_coco, gather_predictions

    model.eval()
    own = [found for images, targets in loader.batches(0) for found in predictions_of(model, images, targets)]
    predictions = gather_predictions(own)
    if dist.is_initialized() and dist.get_rank() != 0:
        return None
    truth = ground_truth(dataset) if masks else dataset.coco()
    kinds = {"box": evaluate_coco(truth, predictions)}
    if masks:
        kinds["mask"] = evaluate_coco(truth, predictions, "segm")
    return {f"{kind}_{name}": value for kind, metrics in kinds.items() for name, value in metrics.items()}


@torch.no_grad()
def predictions_of(model: Any, images: list[Tensor], targets: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Detections for :func:`vireo.evaluation.evaluate_coco`, in pixels of the given images; masks as run lengths."""
    found = []
    for target, detected in zip(targets, model(images)):
        prediction = {
            "image_id": int(target["image_id"]),
            "boxes": detected["boxes"].cpu(),
            "scores": detected["scores"].cpu(),
            "labels": detected["labels"].cpu() - 1,
        }
        if "masks" in detected:
            masks = (detected["masks"][:, 0] > MASK_THRESHOLD).byte().cpu().numpy()
            prediction["masks"] = run_lengths(masks)
        found.append(prediction)
    return found


def run_lengths(masks: np.ndarray) -> list[dict[str, Any]]:
    """COCO run lengths of uint8 masks ``(n, H, W)``."""
    from faster_coco_eval import mask as coco_mask

    encoded: list[dict[str, Any]] = []
    if len(masks):
        encoded = coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0)))
    return encoded


def ground_truth(dataset: DetectionDataset) -> dict[str, Any]:
    """The annotations of a data set with a ``segmentation`` each; drawn from its masks where it knows no outlines.

    Raises:
        InputError: it has neither.
    """
    truth = dataset.coco()
    if all("segmentation" in annotation for annotation in truth["annotations"]):
        return truth
    drawn: list[dict[str, Any]] = []
    for index, record in enumerate(dataset.records):
        masks = dataset.load_masks(index)
        if masks is None:
            raise InputError("the annotations have no masks", record.file_name, "read the data with masks=True")
        drawn += run_lengths(masks.numpy())
    annotations = [{**a, "segmentation": outline} for a, outline in zip(truth["annotations"], drawn, strict=True)]
    return {**truth, "annotations": annotations}
