"""COCO metrics: the same numbers as pycocotools, and the cases it leaves open."""

from __future__ import annotations

import contextlib
import copy
import io
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vireo.errors import InputError
from vireo.evaluation import evaluate_coco

KEYS = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]


def pycocotools_precision(ground_truth: dict, results: list[dict], iou_type: str) -> tuple[np.ndarray, np.ndarray]:
    """The twelve statistics and the AP of each category id in rising order."""
    with contextlib.redirect_stdout(io.StringIO()):
        target = COCO()
        target.dataset = copy.deepcopy(ground_truth)
        target.createIndex()
        evaluator = COCOeval(target, target.loadRes(copy.deepcopy(results)), iou_type)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    precision = evaluator.eval["precision"][:, :, :, 0, -1]
    per_class = [p[p > -1].mean() if (p > -1).any() else -1 for p in np.moveaxis(precision, 2, 0)]
    return evaluator.stats, np.array(per_class)


def as_results(predictions: list[dict], category_ids: list[int], with_masks: bool) -> list[dict]:
    results = []
    for p in predictions:
        boxes = p["boxes"].double().numpy()
        for i, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
            record: dict[str, Any] = {
                "image_id": p["image_id"],
                "category_id": category_ids[int(p["labels"][i])],
                "score": float(p["scores"][i]),
            }
            if with_masks:
                record["segmentation"] = mask_utils.encode(np.asfortranarray(p["masks"][i].numpy().astype(np.uint8)))
            else:
                record["bbox"] = [x1, y1, x2 - x1, y2 - y1]
            results.append(record)
    return results


def ellipse(box: np.ndarray, height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width] + 0.5
    x1, y1, x2, y2 = box
    return ((2 * x - x1 - x2) / (x2 - x1)) ** 2 + ((2 * y - y1 - y2) / (y2 - y1)) ** 2 <= 1


def scene(
    seed: int, images: int, size: tuple[int, int], detections: int, with_masks: bool = False
) -> tuple[dict, list[dict]]:
    """Random objects (crowds, all sizes, empty images) and detections around them with tied scores; unsorted ids."""
    rng = np.random.default_rng(seed)
    height, width = size
    category_ids = [7, 3, 90, 12]  # not sorted, with gaps; the last two share no objects in small scenes
    ground_truth: dict[str, list] = {
        "images": [{"id": 1000 - 3 * i, "height": height, "width": width} for i in range(images)],
        "categories": [{"id": c, "name": f"class {c}"} for c in category_ids],
        "annotations": [],
    }
    predictions = []
    for i, image in enumerate(ground_truth["images"]):
        n = 0 if i % 5 == 4 else int(rng.integers(1, 8))
        sides = np.exp(rng.uniform(np.log(6), np.log(min(size) * 0.9), (n, 2)))
        corner = rng.uniform(0, 1, (n, 2)) * (np.array([width, height]) - sides)
        boxes = np.concatenate([corner, corner + sides], axis=1)
        labels = rng.integers(0, 3, n)
        for k in range(n):
            annotation = {
                "id": len(ground_truth["annotations"]) + 1,
                "image_id": image["id"],
                "category_id": category_ids[labels[k]],
                "bbox": [*corner[k].tolist(), *sides[k].tolist()],
                "area": float(sides[k].prod() * rng.uniform(0.5, 1)),
                "iscrowd": int(rng.random() < 0.15),
            }
            if with_masks:
                x1, y1, x2, y2 = boxes[k].tolist()
                polygon = [x1, y1, x2, y1, (x1 + x2) / 2, y2]
                encoded = mask_utils.encode(np.asfortranarray(ellipse(boxes[k], height, width).astype(np.uint8)))
                pixels = ellipse(boxes[k], height, width).T.ravel().astype(int)
                changes = np.flatnonzero(np.diff(pixels, prepend=0))  # runs start with background
                counts = np.diff(changes, prepend=0, append=pixels.size).tolist()
                plain = {"size": [height, width], "counts": counts}
                annotation["segmentation"] = [[polygon], encoded, plain][k % 3]
            ground_truth["annotations"].append(annotation)
        if i % 7 == 6:
            continue  # an image without predictions
        m = int(rng.integers(0, detections + 1))
        source = rng.integers(0, n, m) if n else np.zeros(m, dtype=int)
        base = boxes if n else np.array([[1.0, 2.0, 30.0, 20.0]])
        moved = base[source] + rng.normal(0, 0.08, (m, 4)) * np.tile(base[source, 2:] - base[source, :2], 2)
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        right = rng.random(m) < 0.8
        predictions.append(
            {
                "image_id": image["id"],
                "boxes": torch.tensor(moved, dtype=torch.float32),
                "scores": torch.tensor(rng.integers(0, 20, m) / 20, dtype=torch.float32),
                "labels": torch.tensor(np.where(right & (n > 0), labels[source] if n else 0, rng.integers(0, 4, m))),
            }
        )
        if with_masks:
            stack = np.stack([ellipse(b, height, width) for b in moved]) if m else np.zeros((0, height, width), bool)
            predictions[-1]["masks"] = torch.from_numpy(stack)
    return ground_truth, predictions


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_same_numbers_as_pycocotools(seed: int, iou_type: str) -> None:
    with_masks = iou_type == "segm"
    # 450 boxes an image in 4 classes: the limit of 100 detections per image and class cuts.
    ground_truth, predictions = (
        scene(seed, 12, (120, 150), 25, with_masks=True) if with_masks else scene(seed, 25, (480, 640), 650)
    )
    category_ids = [c["id"] for c in ground_truth["categories"]]
    untouched = copy.deepcopy(ground_truth)
    metrics = evaluate_coco(ground_truth, predictions, iou_type)  # type: ignore[arg-type]
    assert ground_truth == untouched
    stats, per_class = pycocotools_precision(ground_truth, as_results(predictions, category_ids, with_masks), iou_type)
    assert [metrics[k] for k in KEYS] == pytest.approx(stats, abs=1e-9)
    expected = {f"class {c}": v for c, v in zip(sorted(category_ids), per_class)}
    assert list(metrics["per_class"]) == [f"class {c}" for c in category_ids]
    assert metrics["per_class"] == pytest.approx(expected, abs=1e-9)
    assert metrics["AP"] > 0.05  # the scene has something to compare
    if not with_masks:
        assert max(np.bincount(p["labels"]).max() for p in predictions if len(p["labels"])) > 100


def test_encoded_masks_and_mask_arrays_agree() -> None:
    ground_truth, predictions = scene(5, 6, (60, 80), 6, with_masks=True)
    encoded = [
        p | {"masks": [mask_utils.encode(np.asfortranarray(m.numpy().astype(np.uint8))) for m in p["masks"]]}
        for p in predictions
    ]
    assert evaluate_coco(ground_truth, encoded, "segm") == evaluate_coco(ground_truth, predictions, "segm")


def one_image(**annotation: Any) -> dict:
    defaults = {"id": 0, "image_id": 5, "category_id": 1, "bbox": [10.0, 10.0, 40.0, 40.0]}
    return {
        "images": [{"id": 5, "height": 100, "width": 100}, {"id": 6, "height": 100, "width": 100}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [defaults | annotation],
    }


def detection(image_id: int = 5, box: tuple = (10, 10, 50, 50), score: float = 0.9, label: int = 0) -> dict:
    return {"image_id": image_id, "boxes": np.array([box]), "scores": np.array([score]), "labels": np.array([label])}


def test_perfect_detection() -> None:
    """Annotation id 0, which pycocotools counts as unmatched; no area, no iscrowd given."""
    metrics = evaluate_coco(one_image(), [detection()])
    assert [metrics[k] for k in KEYS] == pytest.approx([1, 1, 1, -1, 1, -1, 1, 1, 1, -1, 1, -1])
    assert metrics["per_class"] == {"cat": pytest.approx(1), "dog": -1}


def test_half_overlap_counts_up_to_its_threshold() -> None:
    metrics = evaluate_coco(one_image(), [detection(box=(10, 10, 50, 36))])  # IoU 26/40 = 0.65
    assert metrics["AP"] == pytest.approx(0.4)  # found at .50 .55 .60 .65 of ten thresholds
    assert (metrics["AP50"], metrics["AP75"]) == (pytest.approx(1), 0)


def test_tensors_of_mixed_precision() -> None:
    prediction = {key: torch.tensor(value) for key, value in detection().items()}
    prediction["scores"] = prediction["scores"].bfloat16().requires_grad_()
    prediction["boxes"] = prediction["boxes"].half()
    assert evaluate_coco(one_image(), [prediction])["AP"] == pytest.approx(1)


@pytest.mark.parametrize("predictions", [[], [{"image_id": 6, "boxes": [], "scores": [], "labels": []}]])
@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_no_predictions_at_all(predictions: list[dict], iou_type: Any) -> None:
    ground_truth = one_image(segmentation=[[10, 10, 50, 10, 50, 50, 10, 50]])
    if iou_type == "segm":
        predictions = [p | {"masks": []} for p in predictions]
    metrics = evaluate_coco(ground_truth, predictions, iou_type)
    assert [metrics[k] for k in KEYS] == [0, 0, 0, -1, 0, -1, 0, 0, 0, -1, 0, -1]
    assert metrics["per_class"] == {"cat": 0, "dog": -1}


def test_no_ground_truth() -> None:
    metrics = evaluate_coco(one_image() | {"annotations": []}, [detection()])
    assert [metrics[k] for k in KEYS] == [-1] * 12
    assert metrics["per_class"] == {"cat": -1, "dog": -1}


def test_crowd_alone_is_no_object() -> None:
    assert evaluate_coco(one_image(iscrowd=1), [detection()])["AP"] == -1


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        ([detection(image_id=77)], "77"),
        ([detection(), detection()], "image 5.*two sets"),
        ([detection(label=2)], "image 5.*label"),
        ([detection(score=float("nan"))], "image 5.*score"),
        ([detection(box=(0, 0, float("inf"), 5))], "image 5.*box"),
        ([detection() | {"scores": np.zeros(2)}], "1 boxes, 2 scores"),
    ],
)
def test_unfit_predictions(predictions: list[dict], message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluate_coco(one_image(), predictions)


@pytest.mark.parametrize(
    ("change", "message"), [({"image_id": 8}, "image 8"), ({"category_id": 8, "id": 31}, "annotation 31.*category 8")]
)
def test_unfit_annotations(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluate_coco(one_image(**change), [])


def test_unfit_masks() -> None:
    with_mask = one_image(segmentation=[[10, 10, 50, 10, 50, 50]])
    with pytest.raises(InputError, match=r"annotation 0.*no segmentation"):
        evaluate_coco(one_image(), [], "segm")
    with pytest.raises(InputError, match=r"image 5.*no masks"):
        evaluate_coco(with_mask, [detection()], "segm")
    with pytest.raises(InputError, match=r"2 masks for 1"):
        evaluate_coco(with_mask, [detection() | {"masks": np.zeros((2, 100, 100))}], "segm")


def test_no_images() -> None:
    with pytest.raises(InputError, match="no images"):
        evaluate_coco({"images": [], "annotations": [], "categories": []}, [])
