"""The OA-MIL noise protocol: reference numbers, the drop rules, deterministic files, and what bad input says."""

from __future__ import annotations

import copy
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd_det.noise import add_noise, main, make_noisy_coco, make_noisy_voc, perturb_boxes
from vireo.errors import InputError

GOLDEN = Path(__file__).parent / "golden"


def legacy_rng(seed: int = 45) -> np.random.RandomState:
    return np.random.RandomState(seed)


def small_coco() -> dict[str, Any]:
    """Two images listed against the order of their ids, annotations interleaved; one crowd box, five to be dropped."""
    boxes: list[tuple[int, int, list[float], dict[str, Any]]] = [
        (1, 7, [10, 20, 40, 30], {}),
        (2, 3, [100, 50, 60, 80], {}),
        (3, 7, [0, 0, 200, 100], {"iscrowd": 1}),
        (4, 3, [5, 5, 50, 50], {"ignore": True}),
        (5, 3, [500, 5, 50, 50], {}),  # outside
        (6, 3, [5, 5, 50, 50], {"area": 0}),
        (7, 3, [5, 5, 0.5, 50], {}),
        (8, 3, [5, 5, -3, 50], {}),
        (9, 7, [60, 20, 80, 70], {"area": 123.5}),
    ]
    return {
        "images": [
            {"id": 7, "width": 200, "height": 100, "file_name": "b.jpg"},
            {"id": 3, "width": 320, "height": 240, "file_name": "a.jpg"},
        ],
        "annotations": [
            {"id": i, "image_id": image, "bbox": box, "area": box[2] * box[3], "category_id": 1, "iscrowd": 0, **more}
            for i, image, box, more in boxes
        ],
        "categories": [{"id": 1, "name": "cell"}],
    }


@pytest.mark.parametrize("level", [0.1, 0.2, 0.4])
def test_golden_noise_boxes(level: float) -> None:
    case = np.load(GOLDEN / "noise_boxes.npz")
    rng = legacy_rng()
    expected = case[f"noisy_{level:.2f}"]
    noisy = np.stack([perturb_boxes(b, wh[::-1], level, rng) for b, wh in zip(case["boxes"], case["sizes_wh"])])
    assert noisy.dtype == np.float32
    np.testing.assert_allclose(noisy, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    kept = (expected == case["boxes"]).all(-1)
    assert kept.any()  # the case exercises the kept clean box ...
    np.testing.assert_array_equal((noisy == case["boxes"]).all(-1), kept)  # ... which must be taken exactly

    all_at_once = perturb_boxes(
        case["boxes"].reshape(-1, 4), case["sizes_wh"][:, ::-1].repeat(8, axis=0), level, legacy_rng()
    )
    np.testing.assert_array_equal(all_at_once.reshape(noisy.shape), noisy)


@pytest.mark.parametrize(
    ("level", "iou", "share"), [(0.1, 0.811, 1.00), (0.2, 0.664, 0.98), (0.3, 0.545, 0.62), (0.4, 0.448, 0.32)]
)
def test_expected_iou_of_unclipped_boxes(level: float, iou: float, share: float) -> None:
    n = 40_000
    side = legacy_rng(1).uniform(20, 200, (n, 2))
    coco = {
        "images": [{"id": 0, "width": 2000, "height": 2000}],
        "annotations": [{"id": i, "image_id": 0, "bbox": [900, 900, w, h]} for i, (w, h) in enumerate(side.tolist())],
        "categories": [],
    }
    noise = add_noise(coco, level)["noise"]
    assert noise["mean_iou"] == pytest.approx(iou, abs=0.01)
    assert noise["share_iou_above_half"] == pytest.approx(share, abs=0.015)
    assert noise["boxes"] == n
    assert noise["kept_clean"] == 0


@given(
    level=st.floats(0, 0.99),
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(2, 600),
    width=st.integers(2, 600),
    fractions=st.lists(st.tuples(*[st.floats(0, 1)] * 4), min_size=0, max_size=12),
)
@settings(max_examples=60, deadline=None)
def test_noisy_boxes_stay_near_and_inside(level: float, seed: int, height: int, width: int, fractions: list) -> None:
    f = np.array(fractions, dtype=np.float64).reshape(-1, 4)
    top_left = f[:, :2] * [width - 1, height - 1]
    clean = np.concatenate([top_left, top_left + 0.1 + f[:, 2:] * ([width, height] - top_left)], axis=1).astype(
        np.float32
    )
    untouched, rng = clean.copy(), legacy_rng(seed)
    noisy = perturb_boxes(clean, (height, width), level, rng)
    np.testing.assert_array_equal(clean, untouched)
    assert noisy.shape == clean.shape
    assert (noisy[:, 2:] > noisy[:, :2]).all()  # never empty
    kept = (noisy == clean).all(axis=1)
    inside = (noisy[:, :2] >= 0).all(axis=1) & (noisy[:, 2] <= width - 1) & (noisy[:, 3] <= height - 1)
    assert (kept | inside).all()
    size = clean[:, 2:] - clean[:, :2]
    reach = 1.5 * level * size + 1.101  # centre and half the size, and 1.1 pixels of clamping at W - 1
    moved = np.abs(noisy - clean).reshape(-1, 2, 2) - reach[:, None]
    assert (moved <= 1e-3).all()
    consumed = legacy_rng(seed)
    consumed.uniform(size=clean.shape)
    assert rng.uniform() == consumed.uniform()  # four draws a box, kept or not


def test_order_drop_rules_and_fields() -> None:
    coco = small_coco()
    before = copy.deepcopy(coco)
    noisy = add_noise(coco, 0.3)
    assert coco == before
    assert [a["id"] for a in noisy["annotations"]] == [1, 2, 3, 9]
    by_id = {a["id"]: a for a in noisy["annotations"]}
    assert by_id[3] == before["annotations"][2]  # crowd: not perturbed, no true_bbox
    # Image 7 stands first in the file: annotations 1 and 9 take the first draws, then annotation 2 of image 3.
    clean = np.array([[10, 20, 50, 50], [60, 20, 140, 90], [100, 50, 160, 130]])
    expected = perturb_boxes(clean, [[100, 200], [100, 200], [240, 320]], 0.3, legacy_rng())
    for annotation_id, box in zip((1, 9, 2), expected):
        x, y, w, h = by_id[annotation_id]["bbox"]
        np.testing.assert_allclose([x, y, x + w, y + h], box, atol=1e-4)
        assert by_id[annotation_id]["true_bbox"] == before["annotations"][annotation_id - 1]["bbox"]
    assert by_id[9]["area"] == 123.5
    noise = noisy["noise"]
    assert {k: noise[k] for k in ("level", "seed", "boxes", "kept_clean", "crowd", "dropped")} == {
        "level": 0.3,
        "seed": 45,
        "boxes": 3,
        "kept_clean": 0,
        "crowd": 1,
        "dropped": 5,
    }


def test_order_is_that_of_pycocotools(tmp_path: Path) -> None:
    from pycocotools import coco as coco_api

    coco = small_coco()
    path = tmp_path / "train.json"
    path.write_text(json.dumps(coco))
    api = coco_api.COCO(str(path))
    order = [a["id"] for i in api.getImgIds() for a in api.loadAnns(api.getAnnIds(imgIds=[i])) if a["id"] in (1, 2, 9)]
    assert order == [1, 9, 2]


def test_level_zero_only_clamps() -> None:
    noisy = add_noise(small_coco(), 0.0)
    assert noisy["noise"]["mean_iou"] == 1.0
    for annotation in noisy["annotations"]:
        if not annotation["iscrowd"]:
            assert annotation["bbox"] == annotation["true_bbox"]


def test_file_is_deterministic(tmp_path: Path) -> None:
    clean = tmp_path / "train.json"
    clean.write_text(json.dumps(small_coco()))
    reordered = tmp_path / "reordered.json"  # the same content with other key order and spacing
    reordered.write_text(json.dumps({k: small_coco()[k] for k in ("categories", "annotations", "images")}, indent=2))
    first = make_noisy_coco(clean, tmp_path / "new" / "folder" / "a.json", 0.4)
    second = make_noisy_coco(reordered, tmp_path / "b.json", 0.4)
    other = make_noisy_coco(clean, tmp_path / "c.json", 0.4, seed=46)
    data = (tmp_path / "b.json").read_bytes()
    assert first.sha256 == second.sha256 == hashlib.sha256(data).hexdigest()
    assert first.sha256 == "38846af43b42d6f294795ecb6d899b59688d457724f2721e9f80151ea2e89b0f"
    assert other.sha256 != first.sha256
    assert json.loads(data)["noise"]["mean_iou"] == first.mean_iou
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.json", "c.json", "new", "reordered.json", "train.json"]


def test_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clean, target = tmp_path / "train.json", tmp_path / "noisy.json"
    clean.write_text(json.dumps(small_coco()))
    target.write_text("old")

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vireo.engine.folder.os.fsync", full_disk)
    with pytest.raises(InputError, match=r"noisy\.json: .* cannot be written \(no space left on device\)"):
        make_noisy_coco(clean, target, 0.4)
    assert target.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["noisy.json", "train.json"]


VOC_XML = """<annotation><filename>{name}.jpg</filename>
<size><width>200</width><height>100</height><depth>3</depth></size>
<object><name>cell</name><difficult>0</difficult>
<bndbox><xmin>11</xmin><ymin>21</ymin><xmax>51</xmax><ymax>51</ymax></bndbox></object>
<object><name>cell</name><difficult>1</difficult>
<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>101</xmax><ymax>81</ymax></bndbox></object></annotation>"""


def test_voc(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import cv2

    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("b", "a"):
        (tmp_path / "Annotations" / f"{name}.xml").write_text(VOC_XML.format(name=name))
        cv2.imwrite(str(tmp_path / "JPEGImages" / f"{name}.jpg"), np.zeros((100, 200, 3), np.uint8))
    (tmp_path / "ImageSets/Main/trainval.txt").write_text("b\na\n")
    report = make_noisy_voc(tmp_path, "trainval", tmp_path / "noisy.json", 0.4)
    noisy = json.loads((tmp_path / "noisy.json").read_text())
    assert (report.boxes, report.crowd, report.dropped) == (2, 2, 0)
    assert [Path(image["file_name"]).stem for image in noisy["images"]] == ["b", "a"]  # the order of the list
    expected = perturb_boxes(np.array([[10, 20, 50, 50]] * 2), (100, 200), 0.4, legacy_rng())
    plain = [a for a in noisy["annotations"] if not a["iscrowd"]]
    for annotation, box in zip(plain, expected):
        assert annotation["true_bbox"] == [10, 20, 40, 30]
        x, y, w, h = annotation["bbox"]
        np.testing.assert_allclose([x, y, x + w, y + h], box, atol=1e-4)
    assert [a["bbox"] for a in noisy["annotations"] if a["iscrowd"]] == [[0, 0, 100, 80]] * 2

    (tmp_path / "Annotations" / "a.xml").write_text("<annotation>")
    command = ["--voc", str(tmp_path), "--out", str(tmp_path / "noisy.json"), "--level", "0.4"]
    assert main(command) == 2
    assert "a.xml" in capsys.readouterr().err
    assert main([*command, "--on-error", "skip"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^skipped +1$", out, re.MULTILINE)
    assert "a.xml" in out


def edited(change: Callable[[dict[str, Any]], Any]) -> str:
    coco = small_coco()
    change(coco)
    return json.dumps(coco)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps(small_coco())[:300], r"train\.json: not valid JSON .* cut short"),
        ("[1, 2]", r"train\.json: no list 'images'"),
        (edited(lambda c: c.pop("annotations")), "no list 'annotations'"),
        (edited(lambda c: c.update(annotations=[])), "no box to perturb"),
        (edited(lambda c: c["images"][1].update(id=7)), "image 1: image id 7 occurs twice"),
        (edited(lambda c: c["images"][0].pop("height")), "image 0: id, height or width is missing"),
        (edited(lambda c: c["images"][0].update(height=0)), "image 0: size .* is not positive"),
        (edited(lambda c: c["annotations"][1].update(image_id=99)), "annotation 2: no image has the id 99"),
        (edited(lambda c: c["annotations"][1].update(bbox=[1, 2, 3])), "annotation 2: bbox .* four finite numbers"),
        (edited(lambda c: c["annotations"][1].update(bbox=["a", 2, 3, 4])), "annotation 2: image_id or a bbox"),
        (edited(lambda c: c["annotations"][1].update(bbox=[1, 2, float("nan"), 4])), "not valid JSON .*NaN"),
        (edited(lambda c: c["annotations"][1].update(bbox=[1, 2, 1e999, 4])), "not valid JSON .*Infinity"),
        (
            edited(lambda c: c["annotations"][0].update(true_bbox=[1, 2, 3, 4])),
            "annotation 1: the boxes are noisy already",
        ),
    ],
)
def test_bad_annotations(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "train.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        make_noisy_coco(path, tmp_path / "noisy.json", 0.4)
    assert not (tmp_path / "noisy.json").exists()


def test_bad_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "train.json"
    path.write_text(json.dumps(small_coco()))
    out = str(tmp_path / "noisy.json")

    def message(*arguments: str) -> str:
        assert main([*arguments]) == 2
        return capsys.readouterr().err

    assert "outside [0, 1)" in message("--coco", str(path), "--out", out, "--level", "1.0")
    assert "outside [0, 1)" in message("--coco", str(path), "--out", out, "--level", "nan")
    assert "seed -1" in message("--coco", str(path), "--out", out, "--level", "0.4", "--seed", "-1")
    assert "cannot be read" in message("--coco", str(tmp_path / "absent.json"), "--out", out, "--level", "0.4")
    assert "same file" in message("--coco", str(path), "--out", str(tmp_path / "x/../train.json"), "--level", "0.4")
    assert "cannot be written" in message("--coco", str(path), "--out", str(path / "noisy.json"), "--level", "0.4")
    with pytest.raises(SystemExit) as stop:
        main(["--out", out, "--level", "0.4"])  # neither --coco nor --voc
    assert stop.value.code == 2
    with pytest.raises(InputError, match=r"shape \(4,\)"):
        perturb_boxes(np.zeros(4), (10, 10), 0.1, legacy_rng())


def test_command_prints_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "train.json"
    path.write_text(json.dumps(small_coco()))
    assert main(["--coco", str(path), "--out", str(tmp_path / "noisy.json"), "--level", "0.4"]) == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["boxes"] == "3"
    assert rows["sha256"] == hashlib.sha256((tmp_path / "noisy.json").read_bytes()).hexdigest()


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from ssd_det.noise import main\ntry: main(['--help'])\nfinally: assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--level" in done.stdout
