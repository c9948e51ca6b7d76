"""Scripts that make a picture of each image: what is done, and what is said of images that cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from vireo.engine.image_script import for_each_image, image_parser, named_images, prediction_parser
from vireo.errors import InputError


def test_bad_images_are_listed_and_the_others_done(capsys: pytest.CaptureFixture[str]) -> None:
    done: list[tuple[Path, Path, int]] = []

    def length(path: Path) -> int:
        if path.stem == "bad":
            raise InputError("is no image", str(path), "restore the file")
        return len(path.stem)

    images = [(Path(name), Path(f"out/{name}")) for name in ("a.png", "bad.png", "ccc.png")]
    assert for_each_image(images, length, lambda *row: done.append(row)) == 2
    assert done == [(Path("a.png"), Path("out/a.png"), 1), (Path("ccc.png"), Path("out/ccc.png"), 3)]
    assert capsys.readouterr().err == "error: bad.png: is no image\n"
    assert for_each_image(images[:1], length, lambda *_: None) == 0


def test_images_and_their_pictures(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.png", "notes.txt"):
        (tmp_path / name).touch()
    parser = image_parser("x-draw", "Draw.", out=str(tmp_path / "out"))
    images = named_images(parser.parse_args([str(tmp_path), "c.webp"]))
    assert [(source.name, target.name) for source, target in images] == [
        ("a.png", "a.png"),
        ("b.jpg", "b.jpg"),
        ("c.webp", "c.png"),
    ]
    assert {target.parent for _, target in images} == {tmp_path / "out"}
    assert named_images(parser.parse_args([str(tmp_path / "b.jpg")]), as_png=True)[0][1].name == "b.png"
    with pytest.raises(InputError, match="would replace images"):
        named_images(parser.parse_args([str(tmp_path), "--out", str(tmp_path)]))


def test_outputs_must_be_writable(tmp_path: Path) -> None:
    parser = prediction_parser("x-predict", "Predict.", run="outputs/x", json="boxes")
    arguments = ["a.png", "--out", str(tmp_path / "out")]
    assert parser.parse_args(arguments).run == "outputs/x"
    assert named_images(parser.parse_args(arguments)) == [(Path("a.png"), tmp_path / "out" / "a.png")]
    with pytest.raises(InputError, match=r"/proc/nowhere.*choose another folder with --json"):
        named_images(parser.parse_args([*arguments, "--json", "/proc/nowhere/a.json"]))
    with pytest.raises(InputError, match=r"/proc/nowhere.*choose another folder with --out"):
        named_images(parser.parse_args(["a.png", "--out", "/proc/nowhere"]))
