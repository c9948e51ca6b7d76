"""``dqnet-score``: saved maps of any method against masks."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import cv2
import dqnet_scored_maps as maps
import numpy as np
import pytest

from dqnet.scoring import score_folder
from vireo.errors import InputError
from vireo.testing import Outcome, call_script
from vireo.testing.runs import read


def score(*arguments: object) -> Outcome:
    return call_script("dqnet.score", *arguments)


def folders(root: Path) -> list[object]:
    return ["--pred", root / "maps", "--mask", root / "masks"]


def rewrite(path: Path, pixels: np.ndarray) -> None:
    assert cv2.imwrite(str(path), pixels)


def test_saved_maps_score_as_pysodmetrics_says(tmp_path: Path) -> None:
    maps.write_folders(tmp_path)
    files = {option: tmp_path / f"scores.{option}" for option in ("csv", "latex", "json")}
    options = [text for option, path in files.items() for text in (f"--{option}", path)]
    outcome = score(*folders(tmp_path), *options, "--per-image", tmp_path / "images.csv")
    assert outcome.status == 0, outcome.err
    names = [f"image_{n}.png" for n in range(4)]

    def grey(folder: str, name: str) -> np.ndarray:
        pixels = cv2.imread(str(tmp_path / folder / name), cv2.IMREAD_GRAYSCALE)
        assert pixels is not None
        return pixels

    expected = maps.reference([(grey("maps", name), grey("masks", name)) for name in names])
    (row,) = csv.DictReader(files["csv"].read_text().splitlines())
    assert (row["set"], row["images"]) == ("maps", "4")
    assert max(abs(float(row[key]) - expected[key]) for key in maps.TABLE) < 1e-9
    (content,) = read(files["json"]).values()
    assert np.abs(np.array(content["em_curve"]) - expected["em_curve"]).max() < 1e-9
    assert np.abs(np.array(content["fm_curve"]) - expected["fm_curve"]).max() < 1e-9
    assert (content["images"], content["skipped"]) == (4, [])
    rounded = [f"{expected[key]:.3f}" for key in maps.TABLE]
    assert " & ".join(["maps", *rounded]) in files["latex"].read_text()
    shown = [cell.strip() for cell in outcome.out.splitlines()[3].split("│")]
    assert shown[1:12] == ["maps", "4", *rounded]
    images = list(csv.DictReader((tmp_path / "images.csv").read_text().splitlines()))
    assert [line["image"] for line in images] == [name[:-4] for name in names]
    assert np.mean([float(line["wFmeasure"]) for line in images]) == pytest.approx(expected["wFmeasure"], abs=1e-9)


def test_several_sets_in_one_table(tmp_path: Path) -> None:
    for number, name in enumerate(("A_1", "B"), start=2):
        maps.write_folders(tmp_path / name, number)
    sets = [
        text for name in ("A_1", "B") for text in ("--set", name, tmp_path / name / "maps", tmp_path / name / "masks")
    ]
    outcome = score(*sets, "--latex", tmp_path / "scores.tex", "--csv", tmp_path / "scores.csv")
    assert outcome.status == 0, outcome.err
    rows = list(csv.DictReader((tmp_path / "scores.csv").read_text().splitlines()))
    assert [(row["set"], row["images"]) for row in rows] == [("A_1", "2"), ("B", "3")]
    assert r"A\_1 & 0." in (tmp_path / "scores.tex").read_text()
    assert "two sets have one name" in score(*sets, *sets[:4]).mistake()


def test_threads_change_nothing(tmp_path: Path) -> None:
    maps.write_folders(tmp_path, 6)
    one, three = (score_folder(tmp_path / "maps", tmp_path / "masks", workers=n) for n in (1, 3))
    assert one.metrics == three.metrics
    assert list(one.images) == list(three.images)


def test_files_of_every_kind(tmp_path: Path) -> None:
    """Grey in three channels, another suffix or its case, masks without or full of foreground, grey masks."""
    pairs = maps.write_folders(tmp_path, 5)
    kinds = [mask for _, mask in pairs]
    kinds[1], kinds[2], kinds[3] = kinds[1] * 0, np.full_like(kinds[2], 255), kinds[3] // 2 + 20
    for number, mask in enumerate(kinds):
        rewrite(tmp_path / "masks" / f"image_{number}.png", np.stack([mask] * 3, 2) if number == 4 else mask)
    rewrite(tmp_path / "maps" / "image_0.png", np.stack([pairs[0][0]] * 3, 2))
    (tmp_path / "maps" / "image_4.png").rename(tmp_path / "maps" / "image_4.PNG")
    (tmp_path / "maps" / "image_3.png").unlink()
    rewrite(tmp_path / "maps" / "image_3.bmp", pairs[3][0])
    (tmp_path / "maps" / "readme.txt").write_text("is not looked at")
    found = score_folder(tmp_path / "maps", tmp_path / "masks")
    expected = maps.reference((pred, mask) for (pred, _), mask in zip(pairs, kinds))
    assert max(abs(found.metrics[key] - expected[key]) for key in maps.TABLE) < 1e-9


def test_maps_of_another_size(tmp_path: Path) -> None:
    ((pred, mask),) = maps.write_folders(tmp_path, 1)
    small = cv2.resize(pred, (25, 20))
    rewrite(tmp_path / "maps" / "image_0.png", small)
    message = score(*folders(tmp_path)).mistake()
    assert "image_0.png" in message
    assert "map is 25x20 pixels, its mask 50x40" in message
    assert "--resize" in message
    found = score_folder(tmp_path / "maps", tmp_path / "masks", resize=True)
    enlarged = cv2.resize(small, (50, 40), interpolation=cv2.INTER_LINEAR)
    assert found.metrics["MAE"] == pytest.approx(float(maps.reference([(enlarged, mask)])["MAE"]), abs=1e-9)


def test_files_without_partner(tmp_path: Path) -> None:
    maps.write_folders(tmp_path, 4)
    whole = score_folder(tmp_path / "maps", tmp_path / "masks")
    blank = np.zeros((9, 9), np.uint8)
    rewrite(tmp_path / "masks" / "alone.png", blank)
    message = score(*folders(tmp_path)).mistake()
    assert "1 of 5 masks have no map: alone" in message
    assert "--on-error skip" in message
    outcome = score(*folders(tmp_path), "--on-error", "skip", "--json", tmp_path / "scores.json")
    assert outcome.status == 0
    assert "skipped: " in outcome.err
    (content,) = read(tmp_path / "scores.json").values()
    assert content["metrics"] == whole.metrics
    assert len(content["skipped"]) == 1
    (tmp_path / "masks" / "alone.png").rename(tmp_path / "maps" / "alone.png")
    assert "1 of 5 maps have no mask: alone" in score(*folders(tmp_path)).mistake()


def test_two_files_of_one_name(tmp_path: Path) -> None:
    pairs = maps.write_folders(tmp_path, 2)
    rewrite(tmp_path / "maps" / "image_1.bmp", pairs[1][0])
    assert "image_1.png and image_1.bmp have one name" in score(*folders(tmp_path)).mistake()


@pytest.mark.parametrize("fault", ["colours", "damaged", "indices"])
def test_files_that_cannot_be_used(fault: str, tmp_path: Path) -> None:
    pairs = maps.write_folders(tmp_path, 3)
    folder, words = {"colours": ("maps", "has colours"), "damaged": ("maps", ""), "indices": ("masks", "0 and 1")}[
        fault
    ]
    path = tmp_path / folder / "image_1.png"
    if fault == "colours":
        rewrite(path, np.stack([pairs[1][0], pairs[1][0], pairs[1][1]], 2))
    elif fault == "damaged":
        path.write_bytes(path.read_bytes()[:-40])
    else:
        rewrite(path, pairs[1][1] // 255)
    message = score(*folders(tmp_path)).mistake()
    assert str(path) in message
    assert words in message
    assert "--on-error skip" in message
    found = score_folder(tmp_path / "maps", tmp_path / "masks", on_error="skip")
    assert list(found.images) == ["image_0", "image_2"]
    assert str(path) in found.skipped[0]


def test_nothing_to_score(tmp_path: Path) -> None:
    maps.write_folders(tmp_path, 1)
    assert "nothing to score" in score("--pred", tmp_path).mistake()
    assert "nothing to score" in score().mistake()
    assert "there is no such folder" in score("--pred", tmp_path / "none", "--mask", tmp_path).mistake()
    (tmp_path / "maps" / "image_0.png").rename(tmp_path / "maps" / "other.png")
    assert "none of its 1 images has the name" in score(*folders(tmp_path), "--on-error", "skip").mistake()
    (tmp_path / "maps" / "other.png").rename(tmp_path / "maps" / "image_0.png")
    (tmp_path / "maps" / "image_0.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"no map could be scored.*image_0"):
        score_folder(tmp_path / "maps", tmp_path / "masks", on_error="skip")


def test_scripts_start_without_torch() -> None:
    code = "import sys, dqnet.score, dqnet.predict, dqnet.eval; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
