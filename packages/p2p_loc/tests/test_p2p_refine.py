"""``p2p-refine`` from its command line: on files of any detector, on runs, and its mistakes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from p2p_runs import REPORT, done

from p2p_loc import Detections
from p2p_loc.refiner import PointRefiner
from p2p_loc.relabel import refine_annotations
from vireo.testing import Outcome, call_script
from vireo.testing.runs import read


def refine(*arguments: object) -> Outcome:
    return call_script("p2p_loc.refine", *arguments)


def first_labels() -> dict[str, Any]:
    rows = [
        {"id": i, "image_id": 1, "category_id": 3, "point": [x, 20.0], "bbox": [x - 8, 12.0, 16.0, 16.0]}
        | {"true_bbox": [x + 1, 12.0, 8.0, 16.0], "note": "mine"}
        for i, x in ((5, 20.0), (6, 60.0))
    ]
    image = {"id": 1, "width": 96, "height": 64, "file_name": "1.png"}
    return {"images": [image], "annotations": rows, "categories": [{"id": 3, "name": "person"}]}


def found(**more: Any) -> list[dict[str, Any]]:
    """A sure detection at the first person, and one too weak at the second."""
    return [
        {"image_id": 1, "category_id": 3, "bbox": [20.0, 12.0, 10.0, 16.0], "score": 0.9, **more},
        {"image_id": 1, "category_id": 3, "bbox": [60.0, 12.0, 10.0, 16.0], "score": 0.1, **more},
    ]


def files(folder: Path, first: Any = None, detections: Any = None) -> list[str]:
    """The arguments for two files and an output."""
    for name, content in (("points", first or first_labels()), ("found", detections or found())):
        (folder / f"{name}.json").write_text(json.dumps(content))
    out = folder / "refined.json"
    return [f"annotations={folder / 'points.json'}", f"detections={folder / 'found.json'}", f"out={out}"]


def test_files_of_any_detector(tmp_path: Path) -> None:
    outcome = refine(*files(tmp_path))
    assert outcome.status == 0, outcome.err
    refined = read(tmp_path / "refined.json")
    first, second = refined["annotations"]
    assert first == {**first_labels()["annotations"][0], "bbox": [20.0, 12.0, 10.0, 16.0]}
    assert second == first_labels()["annotations"][1]
    assert refined["refinement"]["score_thr"] == 0.2
    assert refined["refinement"]["statistics"]["moved"] == 0.5
    lines = dict(re.split(r" {2,}", line, maxsplit=1) for line in outcome.out.splitlines())
    assert (lines["objects"], lines["moved"], lines["improved"]) == ("2", "0.5000", "0.5000")
    assert float(lines["error"]) < float(lines["initial error"])
    before = (tmp_path / "refined.json").read_bytes()
    refine(*files(tmp_path))
    assert (tmp_path / "refined.json").read_bytes() == before


def test_labels_that_stay_where_they_are_are_worth_a_warning(tmp_path: Path) -> None:
    assert "warning" not in refine(*files(tmp_path)).err
    large = [{**row, "bbox": [0.0, 0.0, 90.0, 40.0]} for row in found()]  # no edge of it is near
    outcome = refine(*files(tmp_path, detections=large))
    assert outcome.status == 0
    assert "warning: 0.0% of the labels moved" in outcome.err
    assert "refine.max_grow" in outcome.err


def test_settings_on_the_command_line(tmp_path: Path) -> None:
    assert refine(*files(tmp_path), "refine.score_thr=0", "refine.label=point").status == 0
    boxes = [row["bbox"] for row in read(tmp_path / "refined.json")["annotations"]]
    assert boxes == [[17.0, 12.0, 16.0, 16.0], [57.0, 12.0, 16.0, 16.0]]


def test_detectors_of_points(tmp_path: Path) -> None:
    """A point is a position in pixels, so 24.5 is where the box from 20 to 30 has its middle."""
    rows = [{key: value for key, value in row.items() if key != "bbox"} for row in found(point=[24.5, 19.5])]
    assert "record 0" in refine(*files(tmp_path, detections=rows)).mistake()
    assert refine(*files(tmp_path, detections=rows), "refine.label=point", "refine.include_point=false").status == 0
    assert read(tmp_path / "refined.json")["annotations"][0]["bbox"] == [17.0, 12.0, 16.0, 16.0]


def test_mistakes(tmp_path: Path) -> None:
    arguments = files(tmp_path)
    points = arguments[0].partition("=")[2]
    assert "annotations: is not given" in refine().mistake()
    assert "out: is not given" in refine(*arguments[:2]).mistake()
    assert "output and input are the same file" in refine(*arguments[:2], f"out={points}").mistake()
    assert "leave out run or annotations" in refine(arguments[0], f"run={tmp_path}").mistake()
    assert "holds no config.yaml" in refine(f"run={tmp_path}").mistake()
    assert "refine.mode: unknown mode" in refine(*arguments, "refine.mode=median").mistake()
    assert refine(*arguments).status == 0
    again = refine(f"annotations={tmp_path / 'refined.json'}", *arguments[1:2], f"out={tmp_path / 'again.json'}")
    assert "these labels were refined before" in again.mistake()
    torn = tmp_path / "found.json"
    torn.write_text(torn.read_text()[:50])
    assert "found.json" in refine(*arguments).mistake()
    assert "record 1" in refine(*files(tmp_path, detections=[*found()[:1], {**found()[1], "image_id": 9}])).mistake()
    without = first_labels()
    del without["annotations"][1]["bbox"]
    message = refine(*files(tmp_path, without)).mistake()
    assert "annotation 6 has no 'bbox'" in message
    assert "p2p-points" in message


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(REPORT, lambda *_: None)
        return done(tmp_path_factory.mktemp("run") / "a")


def test_labels_of_a_run(run: Path, tmp_path: Path) -> None:
    """Of round 0 they are those of round 1, from the detections that were kept or made again."""
    kept, made = tmp_path / "kept.json", tmp_path / "made.json"
    assert refine(f"run={run}", "round=0", f"out={kept}").status == 0
    assert refine(f"run={run}", f"weights={run / 'round_0' / 'model.safetensors'}", f"out={made}").status == 0
    labels = [[row["bbox"] for row in read(path)["annotations"]] for path in (kept, run / "labels" / "round_1.json")]
    assert labels[0] == labels[1]
    assert kept.read_bytes() == made.read_bytes()
    assert refine(f"run={run}").status == 0  # of the last round: labels for one more
    assert [row["bbox"] for row in read(run / "refined.json")["annotations"]] != labels[0]


def test_labels_of_a_later_round_are_refused(run: Path, tmp_path: Path) -> None:
    """Refinement starts from the first labels, wherever a file of others comes from."""
    given = [f"detections={run / 'detections' / 'round_0.json'}", f"out={tmp_path / 'out.json'}"]
    assert refine(f"annotations={run / 'labels' / 'round_0.json'}", *given).status == 0
    again = refine(f"annotations={run / 'labels' / 'round_1.json'}", *given)
    assert "these labels were refined before" in again.mistake()


def test_detections_of_a_run_give_its_labels(run: Path) -> None:
    detections = Detections.from_coco(read(run / "detections" / "round_0.json"))
    first, later = (read(run / "labels" / f"round_{t}.json") for t in (0, 1))
    assert refine_annotations(first, detections, PointRefiner()) == later


def test_rounds_and_weights_of_a_run(run: Path, tmp_path: Path) -> None:
    assert "has no round 7. choose one of the rounds that it has: 0, 1" in refine(f"run={run}", "round=7").mistake()
    weights = run / "round_1" / "checkpoints" / "best.pt"
    assert "leave out one of the two" in refine(f"run={run}", "round=0", f"weights={weights}").mistake()
    out = tmp_path / "refined.json"
    assert refine(f"run={run}", f"weights={weights}", f"out={out}", "data.eval_batch_size=1").status == 0
    assert len(read(out)["annotations"]) > 0
    assert "data.root" in refine(f"run={run}", f"data.root={tmp_path}").mistake()
    assert "device: 'foo' cannot be used" in refine(f"run={run}", "device=foo").mistake()
