"""The rounds around a stand-in for a detector: order, files, going on after any interruption, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from p2p_loc import Detections, PointAnnotations
from p2p_loc.refiner import PointRefiner
from p2p_loc.rounds import remove_rounds, self_refine_rounds
from vireo.errors import InputError

TRUTH = [[20.0, 20.0, 8.0, 16.0], [60.0, 30.0, 8.0, 16.0]]


def first_labels() -> dict[str, Any]:
    """Two people, one on each image, whose points are off their centres (24, 28) and (64, 38)."""
    points = [[21.0, 34.0], [67.0, 31.0]]
    rows = [
        {"id": i + 1, "image_id": i + 1, "category_id": 1, "point": p, "bbox": [p[0] - 8, p[1] - 8, 16.0, 16.0]}
        | {"true_bbox": true}
        for i, (p, true) in enumerate(zip(points, TRUTH))
    ]
    images = [{"id": i, "width": 96, "height": 64, "file_name": f"{i}.png"} for i in (1, 2)]
    return {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "person"}]}


class Detector:
    """Finds each person half way between the centre of its training label and the true one.

    ``stop_at``: event at which it raises KeyboardInterrupt, as a kill would end a process there.
    """

    def __init__(self, stop_at: str | None = None) -> None:
        self.events: list[str] = []
        self.stop_at = stop_at

    def note(self, event: str) -> None:
        self.events.append(event)
        if event == self.stop_at:
            raise KeyboardInterrupt

    def train(self, labels: dict[str, Any], number: int) -> np.ndarray:
        self.note(f"train {number}")
        return PointAnnotations.from_coco(labels).boxes

    def predict(self, model: np.ndarray) -> list[dict[str, Any]]:
        self.note("predict")
        centres = (model[:, :2] + model[:, 2:]) / 2
        true = np.array([[x + w / 2, y + h / 2] for x, y, w, h in TRUTH])
        places = (centres + true) / 2
        return [
            {"image_id": i + 1, "category_id": 1, "bbox": [x - 6, y - 6, 12.0, 12.0], "score": 0.9}
            for i, (x, y) in enumerate(places.tolist())
        ]

    def keep(self, number: int, model: np.ndarray, statistics: dict[str, Any]) -> dict[str, Any]:
        self.note(f"keep {number}")
        return {"edge": float(model[0, 0])}

    def rounds(self, folder: Path | None = None, **options: Any) -> Any:
        options = {"rounds": 2, "on_round": self.keep, **options}
        return self_refine_rounds(self.train, self.predict, first_labels(), folder=folder, **options)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_round_trains_on_better_labels() -> None:
    detector = Detector()
    result = detector.rounds()
    assert detector.events == [*("train 0", "predict", "keep 0", "train 1", "predict", "keep 1", "train 2", "keep 2")]
    errors = [entry.statistics["error"] for entry in result.rounds]
    assert errors[1] < 0.7 * errors[0]
    assert errors[2] < 0.9 * errors[1]
    assert [entry.statistics["moved"] for entry in result.rounds] == [0.0, 1.0, 1.0]
    assert result.rounds[0].extra == {"edge": 13.0}
    np.testing.assert_array_equal(result.model, PointAnnotations.from_coco(result.labels).boxes)


def test_refinement_starts_from_the_first_labels() -> None:
    """The second one too: a point keeps its first box where nothing is found any more."""
    found = iter([Detector().predict(PointAnnotations.from_coco(first_labels()).boxes), []])
    result = self_refine_rounds(lambda labels, _: labels, lambda _: next(found), first_labels())
    first, second, third = (entry.labels["annotations"] for entry in result.rounds)
    assert first != second
    assert third == first == first_labels()["annotations"]


def test_no_refinement_is_one_training() -> None:
    detector = Detector()
    result = detector.rounds(rounds=0)
    assert detector.events == ["train 0", "keep 0"]
    assert result.labels == first_labels()


def test_detections_as_arrays_or_rows_are_the_same() -> None:
    detector = Detector()
    of_rows = detector.rounds(rounds=1).labels
    arrays = self_refine_rounds(
        *(detector.train, lambda model: Detections.from_coco(detector.predict(model)), first_labels()), rounds=1
    )
    assert arrays.labels == of_rows


@pytest.mark.parametrize("event", ["train 0", "predict", "keep 0", "train 1", "keep 1", "train 2", "keep 2"])
def test_goes_on_where_it_was_stopped(tmp_path: Path, event: str) -> None:
    Detector().rounds(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        Detector(event).rounds(tmp_path / "stopped")
    again = Detector()
    again.rounds(tmp_path / "stopped")
    assert files(tmp_path / "whole") == files(tmp_path / "stopped")
    reached = 0 if event == "predict" else int(event[-1])
    assert again.events[0] == f"train {reached}"  # rounds whose detections are there are not trained again


def test_files_of_a_folder(tmp_path: Path) -> None:
    result = Detector().rounds(tmp_path)
    assert set(files(tmp_path)) == {
        *(f"labels/round_{t}.json" for t in range(3)),
        *(f"detections/round_{t}.json" for t in range(2)),
        *("labels/settings.json", "rounds.json"),
    }
    rows = json.loads((tmp_path / "rounds.json").read_text())
    assert rows == [{"round": e.number, "labels": e.statistics, **e.extra} for e in result.rounds]
    assert json.loads((tmp_path / "labels" / "round_2.json").read_text()) == result.labels
    remove_rounds(tmp_path)
    assert files(tmp_path) == {}


def test_more_rounds_go_on(tmp_path: Path) -> None:
    Detector().rounds(tmp_path / "whole", rounds=2)
    Detector().rounds(tmp_path / "more", rounds=1)
    again = Detector()
    again.rounds(tmp_path / "more", rounds=2)
    assert again.events[0] == "train 1"
    assert files(tmp_path / "whole") == files(tmp_path / "more")


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    result = Detector().rounds(tmp_path, write=False)
    assert files(tmp_path) == {}
    assert result.labels == Detector().rounds().labels


def test_rounds_of_other_settings_are_refused(tmp_path: Path) -> None:
    Detector().rounds(tmp_path)
    with pytest.raises(InputError, match=r"made with other settings: topk 16 \(now 4\), score_thr 0.0 \(now 0.2\)\."):
        Detector().rounds(tmp_path, refiner=PointRefiner(topk=4, score_thr=0.2))
    other = first_labels()
    other["annotations"][0]["point"][0] += 1
    detector = Detector()
    with pytest.raises(InputError, match="made with other settings: annotations"):
        self_refine_rounds(detector.train, detector.predict, other, folder=tmp_path)


@pytest.mark.parametrize("content", ["[{", '[{"image_id": 1}]', '{"a": 1}'])
def test_damaged_files_are_named(tmp_path: Path, content: str) -> None:
    Detector().rounds(tmp_path)
    (tmp_path / "detections" / "round_1.json").write_text(content)
    with pytest.raises(InputError, match=r"round_1\.json: .* remove it: it is made again"):
        Detector().rounds(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("labels/settings.json", "[]", "are no settings of rounds. take another folder"),
        ("labels/settings.json", '{"refiner": 3}', "are no settings of rounds"),
        ("labels/settings.json", "{", "cannot be read .* take another folder"),
        ("rounds.json", "{}", "is no list of rounds. remove it: it is made again"),
        ("rounds.json", "[3]", "is no list of rounds"),
    ],
)
def test_other_damaged_files(tmp_path: Path, file: str, content: str, message: str) -> None:
    Detector().rounds(tmp_path)
    (tmp_path / file).write_text(content)
    with pytest.raises(InputError, match=message):
        Detector().rounds(tmp_path)


def test_fewer_rounds_than_a_folder_has_are_refused(tmp_path: Path) -> None:
    Detector().rounds(tmp_path)
    with pytest.raises(InputError, match=r"it has round 2 already, of more refinements than rounds=1\. set rounds=2"):
        Detector().rounds(tmp_path, rounds=1)


def without_point(content: dict[str, Any]) -> None:
    del content["annotations"][0]["point"]


def of_no_image(content: dict[str, Any]) -> None:
    content["annotations"][0]["image_id"] = 9


@pytest.mark.parametrize(("damage", "message"), [(without_point, "no 'point'"), (of_no_image, "not listed")])
def test_unfit_annotations(damage: Callable[[dict[str, Any]], None], message: str) -> None:
    content = first_labels()
    damage(content)
    with pytest.raises(InputError, match=message):
        self_refine_rounds(lambda *_: pytest.fail("trained"), lambda _: [], content)


def test_wrong_detections_and_counts() -> None:
    with pytest.raises(InputError, match="detections of predict_fn: are no rows"):
        self_refine_rounds(lambda *_: None, lambda _: [{"score": 1.0}], first_labels())
    with pytest.raises(InputError, match="rounds: -1 refinements"):
        self_refine_rounds(lambda *_: None, lambda _: [], first_labels(), rounds=-1)
