"""Drawing, curves and the HTML report."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from vireo.report import (
    Table,
    class_colour,
    draw_detections,
    grid,
    plot_curves,
    plot_lines,
    stacked,
    write_picture,
    write_report,
    write_run_report,
)

GREY = np.full((400, 600, 3), 128, np.uint8)


def log_records() -> list[dict]:
    records: list[dict] = []
    for step in range(1, 61):
        losses = {"loss_cls": 2 / step, "loss_box": float("nan") if step == 7 else 1 / step, "loss_rpn": None}
        records.append(
            {"kind": "train", "epoch": step // 30, "step": step, "lr": 0.01, "losses": losses, "images_per_s": 12.5,
             "time": 1000.0 + 60 * step}
        )  # fmt: skip
    records.append({"kind": "eval", "epoch": 1, "step": 60, "metrics": {"AP": 0.5, "APs": -1, "per_class": {"a": 0.5}}})
    records.append({"kind": "event", "event": "resumed <at> step 9", "time": 1000.0})
    return records


def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return (before != after).any(axis=2)


def test_boxes_are_drawn_where_they_are() -> None:
    drawn = draw_detections(GREY, [[200, 150, 300, 250]], [1], [0.9], classes=("cat", "dog"))
    assert drawn.shape == GREY.shape
    assert (GREY == 128).all()  # the input is left alone
    difference = changed(GREY, drawn)
    for y, x in ((150, 250), (249, 250), (200, 200), (200, 299)):  # the four sides, in the colour of the class
        assert tuple(drawn[y, x]) == class_colour(1)
    assert not difference[170:235, 215:285].any()  # nothing inside
    assert difference[134:149, 201:230].mean() > 0.9  # the tag above
    difference[120:252, 198:302] = False
    assert not difference.any()  # nothing elsewhere


def test_name_stays_in_the_picture() -> None:
    plain = draw_detections(GREY, [[520, 0, 600, 60]], [0])
    named = draw_detections(GREY, [[520, 0, 600, 60]], [0], classes=("a name longer than its box",))
    assert changed(plain, named)[:, 300:520].any()  # moved to the left instead of being cut off


def test_names_do_not_hide_each_other() -> None:
    boxes = [[100, 100, 300, 300]] * 2
    drawn = draw_detections(GREY, boxes, [0, 1], [0.9, 0.8], classes=("first", "second"))
    for label in (0, 1):
        assert (drawn == class_colour(label)).all(axis=2).sum() > 500


def test_masks_and_points() -> None:
    mask = np.zeros((1, 400, 600), bool)
    mask[0, 100:200, 100:200] = True
    masked = draw_detections(GREY, [[100, 100, 200, 200]], [0], masks=torch.from_numpy(mask))
    bare = draw_detections(GREY, [[100, 100, 200, 200]], [0])
    assert changed(masked, bare)[130:190, 110:190].all()
    assert not changed(masked, bare)[205:].any()
    pointed = draw_detections(GREY, [[100, 100, 200, 200]], [0], points=[[150, 160]])
    assert tuple(pointed[160, 150]) == class_colour(0)
    assert not changed(pointed, bare)[180:].any()


def test_layouts_agree_and_small_images_grow() -> None:
    image = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    boxes, labels = torch.tensor([[4.0, 4.0, 40.0, 40.0]]), torch.tensor([2])
    from_hwc = draw_detections(image, boxes, labels)
    from_chw = draw_detections(torch.from_numpy(image).permute(2, 0, 1), boxes, labels)
    assert from_hwc.shape == (7 * 48, 7 * 64, 3)  # 448 / 64
    assert (from_hwc == from_chw).all()
    assert draw_detections(image, np.zeros((0, 4)), [], min_side=0).tolist() == image.tolist()


def test_colours_differ() -> None:
    colours = np.array([class_colour(i) for i in range(20)])
    distance = np.abs(colours[:, None] - colours[None]).sum(axis=2) + 1000 * np.eye(20)
    assert distance.min() > 30


@pytest.mark.parametrize(
    ("image", "boxes", "message"),
    [
        (GREY.astype(np.float32), [[0, 0, 1, 1]], "uint8"),
        (GREY[..., 0], [[0, 0, 1, 1]], "uint8"),
        (GREY, [[0, 0, 1, 1]] * 2, "2 boxes for 1"),
    ],
)
def test_wrong_drawing_input(image: np.ndarray, boxes: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_detections(image, boxes, [0])


def test_grid() -> None:
    red, blue = np.full((20, 30, 3), (255, 0, 0), np.uint8), np.full((10, 10, 3), (0, 0, 255), np.uint8)
    sheet = grid([red, blue, blue], columns=2)
    assert (sheet == (255, 0, 0)).all(axis=2).sum() == 600
    assert (sheet == (0, 0, 255)).all(axis=2).sum() == 200
    assert sheet.shape[0] > 2 * 20
    captioned = grid([red, blue, blue], columns=2, captions=["one", "two", "three"])
    assert captioned.shape[0] > sheet.shape[0]
    with pytest.raises(ValueError, match="captions"):
        grid([red], columns=1, captions=["a", "b"])
    with pytest.raises(ValueError, match="at least one"):
        grid([], columns=1)


def test_curves() -> None:
    curves = plot_curves(log_records())
    assert list(curves) == ["Total loss", "Losses", "Metrics", "Learning rate", "Images per second"]
    for svg in curves.values():
        assert ElementTree.fromstring(svg).tag.endswith("svg")
        assert b"currentColor" in svg
    assert curves == plot_curves(log_records())
    assert plot_curves([]) == {}
    assert plot_curves([{"kind": "eval", "step": 1, "metrics": {"AP": -1}}]) == {}


def test_own_lines() -> None:
    svg = plot_lines({"block 7": ([0, 1, 2], [0.5, 0.25, 0.75])}, "epoch", "on-rate")
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    nothings: list[dict[str, tuple[list[float], list[float]]]] = [{}, {"empty": ([], [])}, {"ragged": ([1.0], [])}]
    for nothing in nothings:
        with pytest.raises(ValueError, match="at least one line"):
            plot_lines(nothing)


def test_own_curves_come_first_in_the_page(tmp_path: Path) -> None:
    own = {"On-rates": plot_lines({"block 7": ([0, 1], [0.5, 0.25])})}
    page = write_report(tmp_path, "t", {}, log_records(), {}, curves=own).read_text()
    assert page.index("On-rates") < page.index("Total loss")


def test_long_logs_make_small_curves() -> None:
    records = [{"kind": "train", "step": i, "losses": {"loss": 1.0 + i % 2}} for i in range(20_000)]
    assert sum(map(len, plot_curves(records).values())) < 60_000


class Resources(HTMLParser):
    """Collects what a page refers to, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: set[str] = set()
        self.cells: list[str] = []
        self._in_cell = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag in ("td", "th"):
            self.cells.append("")
        self._in_cell = tag in ("td", "th")

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.cells[-1] += data


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    tmp_path = tmp_path_factory.mktemp("run")
    picture = tmp_path / "epoch_3.png"
    Image.fromarray(GREY).save(picture)
    noisy = np.random.default_rng(0).integers(0, 255, (900, 1800, 3), dtype=np.uint8)
    path = write_report(
        tmp_path,
        "Run <one>",
        {"seed": 3, "data": {"root": "<script>alert('x')</script>", "noise": {"level": 0.4}}, "model": {"clip": None}},
        log_records(),
        {"AP": 0.2873, "APs": -1.0, "per_class": {"<b>cat</b>": 0.25}},
        paper_metrics={"AP": 0.276, "AP75": 0.26},
        paper_note="Table 1 & 2",
        gallery=[("Predictions", [picture, noisy])],
        tables=[Table("Refined boxes", ("boxes", "IoU"), [("noisy", 0.459), ("refined", 0.7014)])],
    )
    assert path == tmp_path / "report.html"
    return path.read_text(encoding="utf-8")


def test_report_needs_nothing_beside_it(page: str) -> None:
    parser = Resources()
    parser.feed(page)
    assert len(parser.sources) == 5 + 2  # curves and pictures
    assert all(source.startswith("data:image/") for source in parser.sources)
    assert not parser.tags & {"script", "link", "iframe", "object"}
    assert "@import" not in page
    assert "url(" not in page
    for source in parser.sources:
        kind, _, content = source.removeprefix("data:").partition(";base64,")
        decoded = base64.b64decode(content)
        if kind == "image/svg+xml":
            references = re.findall(rb'(?:href|src)="([^"]*)"', decoded)
            assert all(reference.startswith(b"#") for reference in references)
        else:
            assert max(Image.open(io.BytesIO(decoded)).size) <= 1400


def test_report_escapes(page: str) -> None:
    assert "<script>" not in page
    assert "&lt;script&gt;alert(" in page
    assert "<title>Run &lt;one&gt;</title>" in page
    assert "&lt;b&gt;cat&lt;/b&gt;" in page
    assert "resumed &lt;at&gt; step 9" in page
    assert "Table 1 &amp; 2" in page


def test_report_numbers(page: str) -> None:
    parser = Resources()
    parser.feed(page)
    cells = parser.cells
    first = cells.index("metric")
    assert cells[first : first + 12] == [
        *("metric", "this run", "the paper"),
        *("AP", "0.287", "0.276"),
        *("APs", "–", "–"),
        *("AP75", "not run at this scale", "0.260"),
    ]
    assert [cells[i + 1] for i in (cells.index("noisy"), cells.index("refined"))] == ["0.459", "0.701"]
    assert cells[cells.index("noise.level") + 1] == "0.4"
    assert cells[cells.index("clip") + 1] == "none"
    assert "epochs <b>3</b>" in page
    assert "elapsed <b>60 min</b>" in page
    assert "epoch 3</figcaption>" in page


def test_report_of_an_empty_run(tmp_path: Path) -> None:
    page = write_report(tmp_path, "Nothing yet", {}, [], {}).read_text()
    assert "Nothing yet" in page
    assert "<table" not in page
    assert "the paper" not in page


def test_report_missing_picture(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.png"):
        write_report(tmp_path, "t", {}, [], {}, gallery=[("g", [tmp_path / "absent.png"])])


def test_pictures_are_written_by_the_name_of_their_file(tmp_path: Path) -> None:
    picture = draw_detections(GREY, [[200, 150, 300, 250]], [1], [0.9], classes=("cat", "dog"))
    for name, kind in (("new/a.png", "PNG"), ("new/b.jpg", "JPEG")):
        write_picture(tmp_path / name, picture)
        written = Image.open(tmp_path / name)
        assert written.format == kind
        difference = np.abs(np.asarray(written).astype(int) - picture)
        assert difference.max() == 0 if kind == "PNG" else difference.mean() < 1
    assert len(list((tmp_path / "new").iterdir())) == 2


def test_report_of_a_folder(tmp_path: Path) -> None:
    content = {"config": {"epochs": 3}, "metrics": {"AP": 0.25}}
    (tmp_path / "metrics.json").write_text(json.dumps(content))
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in log_records()))
    write_picture(tmp_path / "gallery" / "found_00.png", GREY)

    def own(records: Sequence[Mapping[str, Any]]) -> dict[str, bytes]:
        return {f"{len(records)} records": plot_lines({"a": ([0, 1], [0, 1])}, "x")}

    pictures = {"What was found": "found_*.png", "What was not": "lost_*.png"}
    page = write_run_report(tmp_path, "A run", pictures, paper_metrics={"AP": 0.5}, own_curves=own).read_text()
    assert (tmp_path / "report.html").read_text() == page
    for words in ("A run", "0.250", "0.500", "What was found", "found 00", f"{len(log_records())} records"):
        assert words in page
    assert "What was not" not in page


def test_stacked_pictures_stand_below_each_other_on_the_ground_of_the_first() -> None:
    first, second = np.full((2, 5, 3), 7, np.uint8), np.full((3, 2, 3), 9, np.uint8)
    canvas = stacked([first, second])
    assert canvas.shape == (5, 5, 3)
    assert (canvas[:2] == 7).all()
    assert (canvas[2:, :2] == 9).all()
    assert (canvas[2:, 2:] == 7).all()
