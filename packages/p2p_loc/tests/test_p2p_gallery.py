"""The pictures and the page of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from p2p_loc import PointAnnotations, SmallLocalizer, build_evaluation_set, build_training
from p2p_loc.gallery import draw_labels, enlarged, write_gallery, write_label_pictures
from p2p_loc.report import round_curves, rounds_table, write_report


@pytest.fixture(scope="module")
def data() -> Any:
    path = Path(__file__).resolve().parents[1] / "src" / "p2p_loc" / "conf" / "data" / "generated.yaml"
    return OmegaConf.merge(OmegaConf.load(path), {"train_images": 3, "val_images": 3})


def moved(content: dict[str, Any], shift: float) -> dict[str, Any]:
    rows = [{**row, "bbox": [row["bbox"][0] + shift, *row["bbox"][1:]]} for row in content["annotations"]]
    return {**content, "annotations": rows}


def test_a_picture_of_each_kind_for_each_image(data: Any, tmp_path: Path) -> None:
    training = build_training(data)
    write_label_pictures(training, [training.content, moved(training.content, 3.0)], 2, tmp_path)
    network = SmallLocalizer(1, widths=(4, 4)).eval()
    write_gallery(network, build_evaluation_set(data), data, 5, tmp_path, torch.device("cpu"))
    names = sorted(path.name for path in (tmp_path / "gallery").iterdir())
    assert names == [*(f"labels_{i:02d}.png" for i in range(2)), *(f"locations_{i:02d}.png" for i in range(3))]
    for name in names:
        picture = cv2.imread(str(tmp_path / "gallery" / name))
        assert picture is not None
        assert picture.shape[1] > 2 * 384  # two cells of four times 96 pixels


def test_pictures_are_looked_at_as_in_evaluation(data: Any, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    class Recording(SmallLocalizer):
        def candidates(self, images: torch.Tensor, sizes: Any) -> Any:
            seen.extend(sizes)
            return super().candidates(images, sizes)

    smaller = OmegaConf.merge(data, {"short_side": 48, "long_side": 48})
    network = Recording(1, widths=(4, 4)).eval()
    write_gallery(network, build_evaluation_set(smaller), smaller, 2, tmp_path, torch.device("cpu"))
    assert seen == [(48, 48), (48, 48)]


def test_labels_are_drawn_where_they_are() -> None:
    row = {"id": 1, "image_id": 1, "category_id": 1, "point": [10, 10], "true_bbox": [40, 20, 10, 20]}
    images = [{"id": 1, "width": 64, "height": 64}]
    first, labels = (
        PointAnnotations.from_coco({"images": images, "annotations": [{**row, "bbox": box}]})
        for box in ([2, 2, 16, 16], [22, 2, 16, 16])
    )
    picture = np.zeros((256, 256, 3), np.uint8)
    drawn = draw_labels(picture, labels, first, 4)
    assert drawn[40, 120].tolist() == [255, 214, 10]  # the label's centre (30, 10)
    assert drawn[40, 80].tolist() != [0, 0, 0]  # on the way from the first label's
    assert drawn[120, 180].max() > 200  # the cross at (45, 30)
    assert drawn[200, 60].tolist() == [0, 0, 0]
    assert not picture.any()
    assert draw_labels(picture, first, first, 4)[40, 60].tolist() == [0, 0, 0]  # no way yet


def test_small_pictures_are_enlarged_by_a_whole_factor() -> None:
    picture, factor = enlarged(np.arange(96 * 60 * 3, dtype=np.uint8).reshape(96, 60, 3))
    assert factor == 4
    assert picture.shape == (384, 240, 3)
    assert enlarged(picture)[1] == 1


def rows_of_rounds(error: float | None = 0.4) -> list[dict[str, Any]]:
    labels = {"error": error, "improved": None if error is None else 0.5, "moved": 0.9, "movement": 2.0, "size": 16.0}
    return [
        {"round": t, "labels": labels, "metrics": {"AP@0.5": 0.5 + 0.1 * t, "AR@0.5": 1.0, "AP_tiny@0.5": 0.3}}
        for t in range(2)
    ]


def test_the_table_has_a_line_for_each_round_and_no_column_of_unknown_errors() -> None:
    table = rounds_table(rows_of_rounds())
    assert list(table.columns) == [
        "round",
        "label error",
        "nearer to the true centre",
        "moved",
        "way, px",
        "size, px",
        "AP@0.5",
    ]
    assert list(table.rows[1]) == [1, "0.400", "0.500", "0.900", "2.000", "16.000", "0.6000"]
    blind = rounds_table(rows_of_rounds(None))
    assert "label error" not in blind.columns
    assert sorted(round_curves(rows_of_rounds())) == ["Labels by round", "Locations by round"]
    assert sorted(round_curves(rows_of_rounds(None))) == ["Locations by round"]
    assert round_curves(rows_of_rounds()[:1]) == {}


def test_the_page_shows_rounds_and_published_numbers(tmp_path: Path) -> None:
    rows = rows_of_rounds()
    (tmp_path / "rounds.json").write_text(json.dumps(rows))
    classes = {name: {"AP@0.5": value, "AR@0.5": 0.77} for name, value in (("ant", 0.123), ("bee", -1.0))}
    metrics = {**rows[-1]["metrics"], "AP_small@0.5": -1.0, "per_class": classes}
    (tmp_path / "metrics.json").write_text(json.dumps({"config": {"seed": 0}, "metrics": metrics}))
    (tmp_path / "round_1").mkdir()
    record = {"kind": "eval", "epoch": 0, "step": 1, "metrics": {"AP@0.5": 0.5, "AP_tiny@0.5": 0.25}}
    (tmp_path / "round_1" / "log.jsonl").write_text(json.dumps(record) + "\n")
    page = write_report(tmp_path, {"AP@0.5": 0.5407, "AP@1": 0.7}).read_text()
    assert "Rounds" in page
    assert "0.541" in page
    assert "not run at this scale" in page
    assert "0.1230" in page  # of a class
    assert "AP_" not in page  # sizes have a table of their own ...
    assert "<td>tiny</td>" in page
    assert "<td>small</td>" not in page  # ... without those of no object
    assert "0.77" not in page  # of a class too, which has no column for it
