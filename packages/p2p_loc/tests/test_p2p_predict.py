"""``p2p-predict`` from its command line, and the same in Python."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from p2p_saved_run import saved_run
from PIL import Image

from p2p_loc.detection import detect
from p2p_loc.load import load_run
from p2p_loc.predict import main, point_rows, predictor
from p2p_loc.results import read_results
from vireo.data import decode_image
from vireo.errors import InputError
from vireo.testing.runs import read


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_run(tmp_path_factory.mktemp("saved") / "run")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of two pictures."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number, size in enumerate([(70, 110), (48, 48)]):
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def test_pictures_and_points(run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, rows = tmp_path / "out", tmp_path / "points.json"
    assert main([str(images), "--run", str(run), "--out", str(out), "--json", str(rows), "--threshold", "0.01"]) == 0
    printed = capsys.readouterr().out
    found = read(rows)
    assert {row["image_id"] for row in found} == {1, 2}
    assert {row["category_id"] for row in found} == {1}
    assert f"{images / '0.png'}: {sum(row['image_id'] == 1 for row in found)} objects" in printed
    first = found[0]
    x, y, w, h = first["bbox"]
    assert first["point"] == pytest.approx([x + (w - 1) / 2, y + (h - 1) / 2], abs=2e-3)
    before, after = (np.array(Image.open(folder / "1.png")) for folder in (images, out))
    assert before.shape == after.shape
    assert (before != after).any()
    truth = {"images": [{"id": 1}, {"id": 2}], "categories": [{"id": 1, "name": "person"}]}
    assert len(read_results(rows, truth)) == len(found) > 0  # p2p-eval reads it


def test_tiles_rounds_and_threshold(run: Path, images: Path, tmp_path: Path) -> None:
    found = {}
    for name, options in {
        "whole": [],
        "tiles": ["--tile", "32", "32", "--overlap", "8", "8"],
        "first": ["--round", "0"],
        "sure": ["--threshold", "0.6"],
    }.items():
        rows = tmp_path / f"{name}.json"
        arguments = [str(images / "0.png"), "--run", str(run), "--out", str(tmp_path / name), "--json", str(rows)]
        assert main([*arguments, "--threshold", "0.01", *options]) == 0
        found[name] = read(rows)
    assert found["tiles"] != found["whole"] != found["first"]
    assert found["sure"] == [row for row in found["whole"] if row["score"] >= 0.6]
    model = load_run(run).model
    expected = detect(model, decode_image(images / "0.png"), tile=(32, 32), overlap=(8, 8))
    predict = predictor(model, tile=(32, 32), overlap=(8, 8), threshold=0.01, device="cpu")
    here = predict(images / "0.png")
    np.testing.assert_allclose(here.boxes, expected["boxes"][expected["scores"] >= 0.01].numpy(), atol=1e-4)
    assert point_rows(here, str(images / "0.png"), 1, [1]) == found["tiles"]


def test_very_large_images_are_cut_in_any_case(run: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 2100, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "long.png")
    model = load_run(run).model
    found = predictor(model, threshold=0.0, device="cpu")(tmp_path / "long.png")
    cut, whole = (detect(model, found.image, tile=tile) for tile in ((1024, 1024), None))
    np.testing.assert_array_equal(found.boxes, cut["boxes"].numpy())
    assert not np.array_equal(found.boxes, whole["boxes"].numpy())


def test_images_are_resized_as_in_training(run: Path, images: Path) -> None:
    model = load_run(run).model
    found = predictor(model, sides=(140, 220), threshold=0.0, device="cpu")(images / "0.png")
    assert found.image.shape == (3, 70, 110)
    assert found.boxes[:, 2].max() <= 110
    assert len(found.points) > 0
    same = predictor(model, sides=(70, 110), threshold=0.0, device="cpu")(images / "0.png")
    plain = predictor(model, threshold=0.0, device="cpu")(images / "0.png")
    np.testing.assert_array_equal(same.points, plain.points)


def test_a_bad_image_does_not_stop_the_others(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "broken.png").write_bytes((images / "0.png").read_bytes()[:200])
    assert main([str(images), "--run", str(run), "--out", str(tmp_path / "out")]) == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0.png", "1.png"]
    assert "broken.png: PNG is cut off or damaged" in capsys.readouterr().err
    with pytest.raises(InputError, match="missing"):
        predictor(load_run(run).model, device="cpu")(images / "absent.png")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--threshold", "2"], "--threshold: a score of 2.0"),
        (["--tile", "64", "64"], "do not cover an image"),  # the run's overlap is larger
        (["--tile", "0", "64", "--overlap", "0", "0"], "do not cover an image"),
        (["--round", "5"], "has no round 5"),
    ],
)
def test_mistakes_are_named(
    run: Path, images: Path, tmp_path: Path, options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(images / "0.png"), "--run", str(run), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, *options])
    assert ended.value.code == 2
    assert words in capsys.readouterr().err
