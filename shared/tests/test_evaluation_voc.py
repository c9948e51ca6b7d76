"""VOC average precision: cases by hand, and a plain loop over detections as the second opinion."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vireo.errors import InputError
from vireo.evaluation import voc_average_precision

OBJECT = (0.0, 0.0, 10.0, 10.0)
OTHER = (50.0, 50.0, 60.0, 60.0)
FAR = (80.0, 80.0, 90.0, 90.0)


def target(*boxes: tuple, ignored: tuple[int, ...] = (), classes: int = 1) -> dict:
    return {
        "images": [{"id": 4}, {"id": 2}],
        "categories": [{"id": 10 - c, "name": f"class {c}"} for c in range(classes)],
        "annotations": [
            {"id": k, "image_id": 4, "category_id": 10, "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": k in ignored}
            for k, (x1, y1, x2, y2) in enumerate(boxes)
        ],
    }


def found(*boxes: tuple, scores: list[float] | None = None, image_id: int = 4) -> list[dict]:
    n = len(boxes)
    return [
        {
            "image_id": image_id,
            "boxes": np.array(boxes),
            "scores": np.array(scores or [1 - 0.1 * i for i in range(n)]),
            "labels": np.zeros(n, dtype=int),
        }
    ]


@pytest.mark.parametrize(
    ("boxes", "ignored", "detections", "area", "eleven"),
    [
        ([OBJECT], (), [OBJECT], 1, 1),
        ([OBJECT], (), [(0, 0, 10, 5)], 1, 1),  # IoU exactly 0.5 counts
        ([OBJECT], (), [(0, 0, 10, 4.9)], 0, 0),
        ([OBJECT], (), [FAR, OBJECT], 1 / 2, 1 / 2),
        ([OBJECT], (), [OBJECT, OBJECT], 1, 1),  # the second match is false, but comes after full recall
        ([OBJECT, OTHER], (), [OBJECT, OBJECT, OTHER], 0.5 + 0.5 * 2 / 3, (6 + 5 * 2 / 3) / 11),
        ([OBJECT, OTHER], (), [OBJECT], 0.5, 6 / 11),  # recall 0.5 reaches the points 0 ... 0.5
        ([OBJECT, OTHER], (1,), [OTHER, OTHER, OBJECT], 1, 1),  # on an ignored object: neither true nor false
        ([OBJECT, OTHER], (1,), [FAR, OTHER, OBJECT], 1 / 2, 1 / 2),
        ([OBJECT], (0,), [OBJECT], -1, -1),  # nothing left to find
        ([], (), [OBJECT], -1, -1),
        ([OBJECT], (), [], 0, 0),
    ],
)
def test_by_hand(boxes: list, ignored: tuple, detections: list, area: float, eleven: float) -> None:
    ground_truth, predictions = target(*boxes, ignored=ignored), found(*detections) if detections else []
    for interpolation, expected in (("area", area), ("11point", eleven)):
        result = voc_average_precision(ground_truth, predictions, interpolation=interpolation)  # type: ignore[arg-type]
        assert result["AP50"] == pytest.approx(expected)
        assert result["per_class"] == {"class 0": pytest.approx(expected)}


def test_recall_of_three_tenths_reaches_its_point() -> None:
    """Three of ten found: the recalls 0, 0.1, 0.2 and 0.3 are reached, although 3 * 0.1 > 3 / 10 in floating point."""
    boxes = [(20.0 * i, 0.0, 20.0 * i + 10, 10.0) for i in range(10)]
    result = voc_average_precision(target(*boxes), found(*boxes[:3]), interpolation="11point")
    assert result["AP50"] == pytest.approx(4 / 11)


def test_other_image_and_other_class_do_not_match() -> None:
    assert voc_average_precision(target(OBJECT), found(OBJECT, image_id=2))["AP50"] == 0
    prediction = found(OBJECT)[0] | {"labels": np.array([1])}
    result = voc_average_precision(target(OBJECT, classes=2), [prediction])
    assert result == {"AP50": 0, "per_class": {"class 0": 0, "class 1": -1}}


def test_threshold_names_the_metric() -> None:
    result = voc_average_precision(target(OBJECT), found((0, 0, 10, 7)), iou_threshold=0.75)
    assert (result["AP75"], "AP50" in result) == (0, False)


def test_unknown_image_is_reported() -> None:
    with pytest.raises(InputError, match="99"):
        voc_average_precision(target(OBJECT), found(OBJECT, image_id=99))


def plain_average_precision(ground_truth: dict, predictions: list[dict], category: int, label: int) -> float:
    """The devkit's loop: detections one by one, area under the interpolated curve."""
    objects: dict[int, list] = {}
    for a in ground_truth["annotations"]:
        if a["category_id"] == category:
            x, y, w, h = a["bbox"]
            objects.setdefault(a["image_id"], []).append([x, y, x + w, y + h, a["iscrowd"], False])
    total = sum(not o[4] for image in objects.values() for o in image)
    detections: list[tuple[float, int, Any]] = [
        (float(s), p["image_id"], box)
        for p in predictions
        for box, s, c in zip(p["boxes"], p["scores"], p["labels"])
        if c == label
    ]
    recall, precision, tp, fp = [0.0], [0.0], 0, 0
    for _, image_id, (x1, y1, x2, y2) in sorted(detections, key=lambda d: -d[0]):
        best, chosen = 0.0, None
        for o in objects.get(image_id, []):
            inter = max(0.0, min(x2, o[2]) - max(x1, o[0])) * max(0.0, min(y2, o[3]) - max(y1, o[1]))
            iou = inter / ((x2 - x1) * (y2 - y1) + (o[2] - o[0]) * (o[3] - o[1]) - inter)
            if iou > best:
                best, chosen = iou, o
        if chosen is None or best < 0.5:
            fp += 1
        elif not chosen[4]:
            tp, fp = (tp, fp + 1) if chosen[5] else (tp + 1, fp)
            chosen[5] = True
        recall.append(tp / total)
        precision.append(tp / max(1, tp + fp))
    return sum((recall[i] - recall[i - 1]) * max(precision[i:]) for i in range(1, len(recall)))


@pytest.mark.parametrize("seed", range(3))
def test_against_a_plain_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ground_truth: dict[str, list] = {
        "images": [{"id": i} for i in range(20)],
        "categories": [{"id": 5, "name": "a"}, {"id": 3, "name": "b"}, {"id": 9, "name": "c"}],
        "annotations": [],
    }
    predictions = []
    for image in range(20):
        n, m = int(rng.integers(0, 7)), int(rng.integers(0, 30))
        corner, side = rng.uniform(0, 60, (n, 2)), rng.uniform(20, 40, (n, 2))
        labels = rng.integers(0, 3, n)
        for k in range(n):
            ground_truth["annotations"].append(
                {
                    "id": len(ground_truth["annotations"]),
                    "image_id": image,
                    "category_id": [5, 3, 9][labels[k]],
                    "bbox": [*corner[k], *side[k]],
                    "iscrowd": int(rng.random() < 0.2),
                }
            )
        source = rng.integers(0, n, m) if n else np.zeros(m, dtype=int)
        start = corner[source] + rng.normal(0, 4, (m, 2)) if n else np.zeros((m, 2))
        predictions.append(
            {
                "image_id": image,
                "boxes": np.concatenate([start, start + (side[source] if n else 9)], axis=1),
                "scores": rng.random(m),
                "labels": np.where(rng.random(m) < 0.6, labels[source] if n else 0, rng.integers(0, 3, m)),
            }
        )
    result = voc_average_precision(ground_truth, predictions)
    for label, category in enumerate(ground_truth["categories"]):
        expected = plain_average_precision(ground_truth, predictions, category["id"], label)
        assert 0 < expected < 1
        assert result["per_class"][category["name"]] == pytest.approx(expected, abs=1e-12)
    assert result["AP50"] == pytest.approx(np.mean(list(result["per_class"].values())))
