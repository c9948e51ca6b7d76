"""``itpn-predict``: classes, recovered pictures, label maps and boxes of image files, by the kind of the run."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from itpn_command_line import call, finetune
from itpn_pretrain_runs import PIXEL, clip, pretrain
from PIL import Image

from itpn.load import load_run
from itpn.prediction import predictor
from vireo.data import build_dataset, evaluation_view, labelled_loader
from vireo.errors import InputError
from vireo.testing.runs import read

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")

TINY = ["model.embed_dim=32", "model.depths=[1,1,2]", "model.num_heads=2", "epochs=1", "gallery_images=0"]
SEGMENT = [*TINY, "data.train_images=16", "data.val_images=6", "data.batch_size=8", "neck.dim=16"]
SEGMENT += ["segmenter.channels=16", "segmenter.auxiliary_channels=8"]
DETECT = [*TINY, "data.train_images=8", "data.val_images=6", "neck.dim=16", "detector.hidden=16", "data.batch_size=4"]
WITHOUT = [
    "itpn.report.write_run_report",
    "itpn.pretraining_report.write_run_report",
    "itpn.segmentation.write_run_report",
    "itpn.detection.write_run_report",
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of a run of each kind."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        for name in WITHOUT:
            patch.setattr(name, lambda *_, **__: None)
        pretrain(root / "pretraining", *PIXEL, "epochs=1")
        pretrain(root / "features", *clip(root), "epochs=1")
        finetune(root / "classifier", "epochs=1", "data.class_colours=true")
        for script, settings in (("segment", SEGMENT), ("detect", DETECT)):
            outcome = call(script, *settings, f"output_dir={root / script}")
            assert outcome.status == 0, outcome.err
    return {folder.name: folder for folder in root.iterdir() if folder.is_dir()}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of two images and what is none."""
    folder = tmp_path / "images"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "a.jpg")
    Image.new("L", (48, 64), 90).save(folder / "b.png")
    (folder / "c.jpg").write_bytes(b"no image")
    return folder


def predict(run: Path, images: Path, out: Path, *arguments: str, status: int = 2) -> list[dict[str, Any]]:
    """The rows of a call that ends with ``status``, 2 where an image is broken."""
    out.mkdir(exist_ok=True)
    files = ["--json", str(out / "rows.json"), "--csv", str(out / "rows.csv")]
    outcome = call("predict", str(images), "--run", str(run), "--out", str(out), *files, *arguments)
    assert outcome.status == status, outcome.err
    assert ("c.jpg" in outcome.err) == (status == 2)
    rows: list[dict[str, Any]] = read(out / "rows.json")
    table = list(csv.DictReader((out / "rows.csv").read_text().splitlines()))
    assert table == [{key: str(value) for key, value in row.items()} for row in rows]
    return rows


def test_classes(runs: dict[str, Path], images: Path, tmp_path: Path) -> None:
    rows = predict(runs["classifier"], images, tmp_path / "out", "--top", "3")
    assert [Path(row["file_name"]).name for row in rows] == ["a.jpg"] * 3 + ["b.png"] * 3
    assert [row["rank"] for row in rows[:3]] == [1, 2, 3]
    names = read(runs["classifier"] / "classes.json")
    assert all(row["class"] == names[row["label"]] for row in rows)
    assert 1 >= rows[0]["probability"] >= rows[1]["probability"] >= rows[2]["probability"] > 0
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"a.png", "b.png"}


def test_a_file_is_classified_as_in_evaluation(runs: dict[str, Path], tmp_path: Path) -> None:
    """An image of the evaluation set, written to a file and read again."""
    loaded = load_run(runs["classifier"])
    data = loaded.config.data
    dataset = build_dataset(data, train=False)
    path = tmp_path / "picture.png"
    Image.fromarray(dataset.load_image(3).permute(1, 2, 0).numpy()).save(path)
    loader: Any = labelled_loader(dataset, data, loaded.config.model.img_size)
    batch, targets = next(iter(loader))
    with torch.no_grad():
        expected = loaded.network(batch)[targets["index"] == 3].softmax(1)[0]
        view = evaluation_view(dataset.load_image(3), data, loaded.config.model.img_size)
        torch.testing.assert_close(loaded.network(view).softmax(1)[0], expected)
    rows = predictor(str(runs["classifier"]), top=6, device="cpu")(path).rows
    assert sum(row["probability"] for row in rows) == pytest.approx(1, abs=1e-4)
    for row in rows:
        assert row["probability"] == pytest.approx(float(expected[row["label"]]), abs=1e-4)


def test_recovered_pictures(runs: dict[str, Path], images: Path, tmp_path: Path) -> None:
    rows = predict(runs["pretraining"], images, tmp_path / "out")
    assert [row.keys() for row in rows] == [{"file_name", "loss"}] * 2
    assert all(row["loss"] > 0 for row in rows)
    with Image.open(tmp_path / "out" / "a.png") as picture:
        assert picture.width > 3 * 200
    again = predict(runs["pretraining"], images, tmp_path / "again", "--seed", "1")
    assert again != rows
    assert predict(runs["pretraining"], images, tmp_path / "out") == rows


def test_label_maps(runs: dict[str, Path], images: Path, tmp_path: Path) -> None:
    rows = predict(runs["segment"], images, tmp_path / "out")
    names = read(runs["segment"] / "classes.json")
    for file, size in (("a", (90, 60)), ("b", (48, 64))):
        with (
            Image.open(tmp_path / "out" / f"{file}_labels.png") as labels,
            Image.open(tmp_path / "out" / f"{file}.png") as p,
        ):
            assert (labels.size, labels.mode) == (size, "L")
            counted = np.bincount(np.asarray(labels).ravel(), minlength=len(names)) / np.prod(size)
            assert p.size[0] % size[0] == 0
        own = {row["label"]: row["share"] for row in rows if Path(row["file_name"]).stem == file}
        assert own == pytest.approx({label: share for label, share in enumerate(counted) if share}, abs=1e-5)
        assert all(row["class"] == names[row["label"]] for row in rows)


def test_boxes(runs: dict[str, Path], images: Path, tmp_path: Path) -> None:
    rows = predict(runs["detect"], images, tmp_path / "out", "--threshold", "0.05")
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"a.png", "b.png"}
    names = read(runs["detect"] / "classes.json")
    for row in rows:
        assert row["class"] == names[row["label"]]
        assert row["score"] >= 0.05
        width, height = (90, 60) if "a.jpg" in row["file_name"] else (48, 64)
        assert 0 <= row["x1"] <= row["x2"] <= width
        assert 0 <= row["y1"] <= row["y2"] <= height
    assert predict(runs["detect"], images, tmp_path / "none", "--threshold", "1") == []


@pytest.mark.parametrize(
    ("kind", "arguments", "words"),
    [
        ("classifier", ["--run", "/nowhere"], "/nowhere: holds no config.yaml"),
        ("classifier", ["--top", "0"], "--top: 0 classes an image"),
        ("classifier", ["--weights", "/nowhere.pt"], "/nowhere.pt: no such file"),
        ("classifier", ["--csv", "/proc/nowhere/x.csv"], "/proc/nowhere"),
        ("detect", ["--threshold", "2"], "--threshold: a score of 2.0"),
        ("features", [], "a pre-training on features recovers no picture"),
    ],
)
def test_mistakes(
    runs: dict[str, Path], images: Path, tmp_path: Path, kind: str, arguments: list[str], words: str
) -> None:
    common = ["--run", str(runs[kind]), "--out", str(tmp_path / "out")]
    assert words in call("predict", str(images / "a.jpg"), *common, *arguments).mistake()


def test_a_kind_of_run_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model: {}\ndata: {}\noptim: {}\nseed: 0\n")
    with pytest.raises(InputError, match="is no configuration of itpn-pretrain or itpn-finetune"):
        predictor(str(tmp_path))
