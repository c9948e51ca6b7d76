"""VOC AP50 of the official evaluation (``golden/voc_map.npz``)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from vireo.evaluation import voc_average_precision

GOLDEN = Path(__file__).parent / "golden" / "voc_map.npz"


@pytest.mark.parametrize(("interpolation", "key"), [("area", "area"), ("11point", "voc07")])
def test_average_precision(interpolation: Literal["area", "11point"], key: str) -> None:
    golden = np.load(GOLDEN)
    objects, detections = golden["gt"].astype(float), golden["dets"].astype(float)
    images = range(12)
    ground_truth = {
        "images": [{"id": i} for i in images],
        "categories": [{"id": c, "name": str(c)} for c in range(4)],
        "annotations": [
            {
                "id": i,
                "image_id": int(image),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "category_id": int(category),
                "iscrowd": int(difficult),
            }
            for i, (image, x1, y1, x2, y2, category, difficult) in enumerate(objects)
        ],
    }
    predictions = [
        {"image_id": i, "boxes": rows[:, 1:5], "scores": rows[:, 5], "labels": rows[:, 6]}
        for i in images
        for rows in [detections[detections[:, 0] == i]]
    ]
    result = voc_average_precision(ground_truth, predictions, interpolation=interpolation)
    assert result["AP50"] == pytest.approx(float(golden[key]), abs=1e-6)
    assert list(result["per_class"].values()) == pytest.approx(golden[f"{key}_ap"].tolist(), abs=1e-6)
