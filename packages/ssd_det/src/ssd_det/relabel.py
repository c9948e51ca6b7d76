"""From inaccurate to refined annotations: the work behind ``ssd-det-refine``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vireo.errors import InputError

from .quality import BoxQuality, box_quality

if TYPE_CHECKING:
    import torch

    from vireo.data import DetectionDataset

    from .model import SSDDet

MIN_BOX = 1.0  # pixels; given boxes with a smaller side are left out, refined ones give way to the given box


@dataclass(frozen=True)
class RefineStatistics:
    """What refinement did to a set of boxes."""

    boxes: int
    """Boxes of the result that have a score: refined ones, those kept as given included."""
    kept_given: int
    """Boxes whose refined version had no area inside the image, so that the given one was kept."""
    crowd: int
    """Crowd (COCO) or difficult (VOC) boxes, passed on unchanged."""
    dropped: int
    """Annotations that could not be read or are smaller than a pixel; they are not in the result."""
    mean_score: float
    given: BoxQuality | None
    """The input boxes against the true ones, where these are known."""
    refined: BoxQuality | None


@dataclass(frozen=True)
class RefinedBoxes:
    """Refined boxes by annotation: ids (N,), boxes (N, 4) float64 xyxy in original pixels, scores (N,), kept (N,) bool.

    ``kept`` marks boxes that stayed as given. Crowd boxes are not among them.
    """

    ids: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    kept: np.ndarray


def refine_boxes(
    model: SSDDet,
    dataset: DetectionDataset,
    *,
    short_side: int = 800,
    long_side: int = 1333,
    batch_size: int = 2,
    workers: int = 0,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> tuple[RefinedBoxes, list[str]]:
    """Run the refiner over a data set: images resized as for testing, no flip.

    Args:
        model: with a refiner; moved to ``device`` and put into evaluation mode.
        dataset: gives the boxes to refine; its ``on_error``, if any, says what becomes of unreadable images.
        short_side, long_side: test size of the images, as in training.
        batch_size: images at a time.
        workers: processes that decode.
        device: default: CUDA if there is a device, else the CPU.
        progress: show a bar.

    Returns:
        The refined boxes, and a line for each image that was left out.

    Raises:
        InputError: no refiner, another number of classes, or an unreadable image.
    """
    import torch
    from rich.progress import track

    from vireo.data import Loader, NormalizePad, detection_transforms

    from .boxes import clip_boxes

    if model.refiner is None:
        raise InputError(
            "the model has no refiner, it is a plain detector", "model", "Use a run that was trained with refiner=full"
        )
    if len(dataset.classes) != model.num_classes:
        raise InputError(
            f"{len(dataset.classes)} categories, the model knows {model.num_classes}",
            "annotations",
            "Use annotations with the categories the model was trained on",
        )
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    loader = Loader(
        dataset,
        batch_size=batch_size,
        shuffle=False,
        transform=detection_transforms(False, short_side, long_side),
        device_transform=NormalizePad(),
        device=device,
        workers=workers,
        on_error=getattr(dataset, "on_error", "raise"),
    )
    model.to(device).eval()
    parts: list[tuple[np.ndarray, ...]] = []
    for images, targets in track(loader, "refining", total=len(loader), disable=not progress):
        kept = [{**target, **_without_crowd(target)} for target in targets]
        for target, refined in zip(kept, model.refine(images, kept)):
            height, width = target["orig_size"]
            size = torch.tensor(target["size"], dtype=torch.float64)
            scale = torch.tensor([size[1] / width, size[0] / height] * 2)
            boxes = clip_boxes(refined["boxes"].double().cpu(), size) / scale
            given = target["boxes"].double().cpu() / scale
            usable = ((boxes[:, 2:] - boxes[:, :2]) >= MIN_BOX).all(1)  # False for NaN
            chosen = torch.where(usable[:, None], boxes, given)
            parts.append(tuple(t.cpu().numpy() for t in (target["ids"], chosen, refined["scores"].double(), ~usable)))
    columns = [np.concatenate(column) for column in zip(*parts)]
    if not columns or not len(columns[0]):
        raise InputError("there is no box to refine", "annotations", "Give the file with the training annotations")
    return RefinedBoxes(*columns), list(loader.skipped)


def apply_refinement(
    content: Mapping[str, Any],
    dataset: DetectionDataset,
    found: RefinedBoxes,
    bad_iou: float = 0.5,
    high_overlap: float = 0.7,
) -> tuple[dict[str, Any], RefineStatistics]:
    """A COCO dict with refined boxes, and what they gained.

    Args:
        content: the annotations ``dataset`` was read from; not changed.
        dataset: its crowd boxes stay, its true boxes are compared with.
        found: for the boxes that are not crowd.
        bad_iou, high_overlap: thresholds of :func:`~ssd_det.quality.box_quality`.
    """
    row = {int(ann_id): i for i, ann_id in enumerate(found.ids)}
    corners = found.boxes.round(3)
    xywh = np.concatenate([corners[:, :2], (corners[:, 2:] - corners[:, :2]).round(3)], axis=1).tolist()
    scores = found.scores.round(6).tolist()
    crowd = {int(ann_id) for record in dataset.records for ann_id in record.ids[record.iscrowd]}
    annotations = []
    waiting: dict[Any, int] = {**row, **dict.fromkeys(crowd, -1)}
    for annotation in content["annotations"]:
        place = waiting.pop(annotation.get("id"), None) if isinstance(annotation, Mapping) else None
        if place is None:
            continue
        changed = {"bbox": xywh[place], "score": scores[place], "noisy_bbox": annotation["bbox"]} if place >= 0 else {}
        annotations.append({**annotation, **changed})
    usable = {record.image_id for record in dataset.records}
    images = [image for image in content["images"] if isinstance(image, Mapping) and image.get("id") in usable]

    statistics = RefineStatistics(
        boxes=len(row),
        kept_given=int(found.kept.sum()),
        crowd=len(crowd),
        dropped=len(content["annotations"]) - len(annotations),
        mean_score=round(float(found.scores.mean()), 6),
        **_qualities(dataset, row, corners, bad_iou, high_overlap),
    )
    return {**content, "images": images, "annotations": annotations, "refinement": asdict(statistics)}, statistics


def _qualities(
    dataset: DetectionDataset, row: Mapping[int, int], refined: np.ndarray, bad_iou: float, high_overlap: float
) -> dict[str, BoxQuality | None]:
    """``given`` and ``refined`` against the true boxes; None where those are not known."""
    records = [record for record in dataset.records if record.true_boxes is not None and len(record)]
    keep = [np.array([int(i) in row for i in record.ids], bool) for record in records]
    if not any(mask.any() for mask in keep):
        return {"given": None, "refined": None}
    given = np.concatenate([record.boxes[mask] for record, mask in zip(records, keep)])
    true = np.concatenate([record.true_boxes[mask] for record, mask in zip(records, keep)])  # type: ignore[index]
    image = np.repeat([record.image_id for record in records], [mask.sum() for mask in keep])
    order = [row[int(i)] for record, mask in zip(records, keep) for i in record.ids[mask]]
    return {
        "given": box_quality(given, true, image, bad_iou, high_overlap),
        "refined": box_quality(refined[order], true, image, bad_iou, high_overlap),
    }


def _without_crowd(target: Mapping[str, Any]) -> dict[str, Any]:
    keep = ~target["iscrowd"]
    return {name: target[name][keep] for name in ("boxes", "labels", "ids")}
