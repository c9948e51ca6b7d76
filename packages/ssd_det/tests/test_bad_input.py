"""Bad input to the console scripts: one message with file, record and remedy, and exit status 2, never a traceback."""

import errno
import json
import os
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import COCO, GENERATED, VOC, call, copy_of, export_shapes
from safetensors.torch import load_file, save_file

pytestmark = [
    pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning"),
]

Damage = Callable[[Path], object]
SKIP = "set data.on_error=skip"
FIRST = "train_000000"


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Curves take longer than these runs."""
    monkeypatch.setattr("ssd_det.report.write_run_report", lambda *_: None)


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_shapes(tmp_path_factory.mktemp("shapes"))


@pytest.fixture
def files(intact: Path, tmp_path: Path) -> Path:
    """Pictures as files, to be damaged."""
    return copy_of(intact, tmp_path / "data")


def train(form: list[str], root: Path, *arguments: str) -> Any:
    return call("train", *form, f"data.root={root}", f"output_dir={root.parent}/run", *arguments)


def picture(change: Callable[[Path], object]) -> Damage:
    """Damage to the first image file of the training set."""
    return lambda root: change(root / "JPEGImages" / f"{FIRST}.jpg")


def bomb(path: Path) -> None:
    """A PNG of a hundred bytes that announces 10^10 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def record(key: str, change: Callable[[Any], object]) -> Damage:
    """Damage to the list ``key`` of the training annotations."""

    def damage(root: Path) -> None:
        path = root / "annotations" / "train.json"
        content = json.loads(path.read_text())
        change(content[key])
        path.write_text(json.dumps(content))

    return damage


def box(*values: float) -> Damage:
    return record("annotations", lambda entries: entries[0].update(bbox=list(values)))


COCO_FAULTS: dict[str, tuple[Damage, list[str]]] = {
    "missing image": (picture(Path.unlink), ["train.json: image 1", f"{FIRST}.jpg", "file is missing", SKIP]),
    "not an image": (picture(lambda p: p.write_text("<html>")), [f"{FIRST}.jpg: not a JPEG, PNG", SKIP]),
    "empty image file": (picture(lambda p: p.write_bytes(b"")), [f"{FIRST}.jpg", SKIP]),
    "decompression bomb": (picture(bomb), [f"{FIRST}.jpg", "100000x100000", "Shrink the image"]),
    "box with NaN": (box(float("nan"), 2, 9, 9), ["train.json: annotation 1 of image", "not finite", SKIP]),
    "box of negative width": (box(2, 2, -4, 9), ["train.json: annotation 1", "no area (w=-4, h=9)", SKIP]),
    "box outside": (box(100, 2, 9, 9), ["train.json: annotation 1", "outside its 64x64 image", SKIP]),
    "unknown category": (
        record("annotations", lambda entries: entries[0].update(category_id=77)),
        ["train.json: annotation 1", "category id 77 is not in the category list", SKIP],
    ),
    "image id used twice": (
        record("images", lambda entries: entries[1].update(id=1)),
        ["train.json: image 1", "image id 1 is used twice", SKIP],
    ),
    "no annotations": (record("annotations", list.clear), ["train.json", "annotation list is empty"]),
    "json cut in half": (
        lambda root: truncate(root / "annotations" / "train.json"),
        ["train.json: file is no complete JSON, cut off or damaged", "Copy or download the file again"],
    ),
    "no json": (lambda root: (root / "annotations/train.json").unlink(), ["train.json: annotation file is missing"]),
    "size that is not the image's": (
        record("images", lambda entries: entries[0].update(width=70)),
        [f"{FIRST}.jpg: image is 64x64 pixels, its annotation says 70x64", "Correct the annotation", SKIP],
    ),
    "other categories to evaluate on": (
        record("categories", lambda entries: entries[0].update(name="blob")),
        ["training classes ['blob', ", "use annotation files with the same categories"],
    ),
}


@pytest.mark.parametrize("name", COCO_FAULTS)
def test_coco_input(files: Path, name: str) -> None:
    damage, expected = COCO_FAULTS[name]
    damage(files)
    outcome = train(COCO, files)
    message = outcome.mistake()
    for words in expected:
        assert words in message
    assert "step 1" not in outcome.err  # it is known before training


def voc(change: Callable[[str], str]) -> Damage:
    def damage(root: Path) -> None:
        path = root / "Annotations" / f"{FIRST}.xml"
        path.write_text(change(path.read_text()))

    return damage


def without_size(text: str) -> str:
    return text[: text.index("<size>")] + text[text.index("</size>") + len("</size>") :]


def test_boxes_of_less_than_a_pixel_are_left_out_of_training(files: Path) -> None:
    """COCO's own training file has two without height; for evaluation they are faults."""
    box(2, 2, 0, 9)(files)
    assert train(COCO, files).status == 0
    outcome = train(COCO, files, "data.val_annotations=annotations/train.json", "resume=never")
    message = outcome.mistake()
    assert "train.json: annotation 1 of image" in message
    assert "no area (w=0, h=9)" in message


VOC_FAULTS: dict[str, tuple[Damage, list[str]]] = {
    "no size": (voc(without_size), [f"{FIRST}.xml: no image size", "Add the size of the image", SKIP]),
    "cut in half": (voc(lambda text: text[: len(text) // 2]), [f"{FIRST}.xml: file is no well-formed XML", SKIP]),
    "box of no width": (
        voc(lambda text: text.replace("<xmin>", "<xmin>99")),
        [f"{FIRST}.xml: object 1", "box has no area", SKIP],
    ),
    "missing xml": (
        lambda root: (root / "Annotations" / f"{FIRST}.xml").unlink(),
        [f"{FIRST}.xml: annotation file is missing", SKIP],
    ),
    "missing image": (picture(Path.unlink), ["train.txt: line 1", f"image file of '{FIRST}' is missing", SKIP]),
    "no such split": (
        lambda root: (root / "ImageSets/Main/train.txt").rename(root / "ImageSets/Main/trn.txt"),
        ["train.txt: split is missing", "Choose one of the splits there: trn, val"],
    ),
}


@pytest.mark.parametrize("name", VOC_FAULTS)
def test_voc_input(files: Path, name: str) -> None:
    damage, expected = VOC_FAULTS[name]
    damage(files)
    message = train(VOC, files).mistake()
    for words in expected:
        assert words in message


def test_truncated_jpeg(files: Path) -> None:
    """Its header is whole: it is found when it is read, or before training where that is asked for."""
    picture(truncate)(files)
    before = train(COCO, files, "data.check_images=full")
    assert "step 1" not in before.err
    for outcome in (before, train(COCO, files)):
        message = outcome.mistake()
        assert f"{FIRST}.jpg: " in message
        assert "incomplete or truncated" in message
        assert SKIP in message
    assert "use headers, full or none" in train(COCO, files, "data.check_images=all").mistake()


def test_images_without_boxes_are_trained_as_negatives(files: Path) -> None:
    record("annotations", lambda entries: entries.__delitem__(slice(1, None)))(files)
    outcome = train(COCO, files, "data.drop_empty=false", "data.noise=0.4", "data.flip=0")
    assert outcome.status == 0, outcome.err
    lines = [json.loads(line) for line in (files.parent / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == [1, 2]  # all 8 images in batches of 4


@pytest.mark.parametrize("workers", [0, 1])
def test_skip_trains_on_and_lists_what_it_left_out(files: Path, workers: int) -> None:
    picture(Path.unlink)(files)  # found by the reader
    (files / "JPEGImages" / "train_000001.jpg").write_text("no image")  # found in the header
    truncate(files / "JPEGImages" / "train_000002.jpg")  # found by the decoder
    record("annotations", lambda entries: entries[-1].update(bbox=[3, 3, -1, 5]))(files)
    outcome = train(COCO, files, "data.on_error=skip", f"data.workers={workers}", "data.batch_size=2")
    assert outcome.status == 0, outcome.err
    lines = (files.parent / "run" / "skipped.txt").read_text().splitlines()
    assert len(lines) == 4
    for words in (FIRST, "train_000001.jpg: not a JPEG", "train_000002.jpg: ", "no area (w=-1, h=5)"):
        assert sum(words in line for line in lines) == 1
    assert outcome.err.count("skipped: ") >= 3
    assert (files.parent / "run" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("optim.lrr=1", "nearest key is 'optim.lr'"),
        ("data.on_eror=skip", "nearest key is 'data.on_error'"),
        ("data=coc", "nearest is data=coco"),
        ("refiner=ful", "nearest is refiner=full"),
        ("data.root=null", "data.root: no folder given. add data.root="),
        ("data.root=/nowhere", "data.root=/nowhere: no such folder"),
        ("data.format=yolo", "use generated, coco or voc"),
        ("data.on_error=ignore", "Use 'raise' or 'skip'"),
        ("data.noise=1.5", "noise level 1.5 lies outside [0, 1)"),
        ("optim.name=lion", "use sgd or adamw"),
        ("model.backbone=resnet51", "use the name of a timm model"),
    ],
)
def test_configuration(intact: Path, tmp_path: Path, argument: str, words: str) -> None:
    outcome = call("train", *COCO, f"data.root={intact}", f"output_dir={tmp_path}/run", argument)
    assert words in outcome.mistake()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "shapes"
    outcome = call("train", *GENERATED, f"output_dir={folder}", "run.checkpoint_every=2")
    assert outcome.status == 0, outcome.err
    return folder


class Evil:
    """Creates a file when unpickled without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


SCRIPTS: dict[str, Callable[[Path, Path, Path], list[Any]]] = {
    "eval": lambda run, weights, picture: [f"run={run}", f"weights={weights}"],
    "refine": lambda run, weights, picture: [f"run={run}", f"weights={weights}"],
    "predict": lambda run, weights, picture: [picture, "--run", run, "--weights", weights, "--out", weights.parent],
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_weights_of_another_model(run: Path, intact: Path, tmp_path: Path, script: str) -> None:
    state = load_file(run / "model.safetensors")
    state["rcnn.cls.weight"] = torch.zeros(9, 16)
    state["rcnn.other"] = state.pop("rcnn.cls.bias")
    weights = tmp_path / "other.safetensors"
    save_file(state, weights)
    arguments = SCRIPTS[script](run, weights, intact / "JPEGImages" / f"{FIRST}.jpg")
    message = call(script, *arguments).mistake()
    for words in (
        str(weights),
        "1 missing: rcnn.cls.bias",
        "1 unexpected: rcnn.other",
        "1 misshaped: rcnn.cls.weight (file (9, 16), model (4, 16))",
    ):
        assert words in message


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_a_pickle_that_would_execute_code(
    run: Path, intact: Path, tmp_path: Path, script: str, save: Callable[[Any, Path], object]
) -> None:
    weights, trace = tmp_path / "evil.pt", tmp_path / "executed"
    save({"model": Evil(trace)}, weights)
    arguments = SCRIPTS[script](run, weights, intact / "JPEGImages" / f"{FIRST}.jpg")
    message = call(script, *arguments).mistake()
    assert f"{weights}: refused" in message
    assert "convert it to .safetensors" in message
    assert not trace.exists()


def test_a_checkpoint_that_would_execute_code(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    torch.save({"model": Evil(tmp_path / "executed")}, tmp_path / "run" / "checkpoints" / "step_00000009.pt")
    outcome = call("train", *GENERATED, f"output_dir={tmp_path}/run")
    assert "step_00000009.pt: refused" in outcome.mistake()
    assert not (tmp_path / "executed").exists()


def test_weights_in_the_authors_layout(run: Path, tmp_path: Path) -> None:
    from ssd_det import to_official

    official = to_official(load_file(run / "model.safetensors"))
    torch.save({"meta": {"epoch": 12}, "state_dict": official}, tmp_path / "official.pth")
    ours, theirs = tmp_path / "ours.json", tmp_path / "theirs.json"
    assert call("refine", f"run={run}", f"out={ours}").status == 0
    outcome = call("refine", f"run={run}", f"weights={tmp_path}/official.pth", f"out={theirs}")
    assert outcome.status == 0, outcome.err
    assert ours.read_bytes() == theirs.read_bytes()
    del official["rpn_head.rpn_cls.bias"]
    torch.save(official, tmp_path / "official.pth")
    message = call("refine", f"run={run}", f"weights={tmp_path}/official.pth").mistake()
    assert f"{tmp_path}/official.pth: " in message
    assert "1 missing: rpn_head.rpn_cls.bias" in message


def test_a_run_that_is_not_finished(run: Path, tmp_path: Path) -> None:
    folder = copy_of(run, tmp_path / "run")
    (folder / "model.safetensors").unlink()
    message = call("refine", f"run={folder}").mistake()
    assert f"weights={folder}/checkpoints/best.pt" in message
    assert call("refine", f"run={folder}", f"weights={folder}/checkpoints/best.pt").status == 0


def test_read_only_output_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("vireo.engine.folder.tempfile.TemporaryFile", refuse)
    message = call("train", *GENERATED, f"output_dir={tmp_path}/run").mistake()
    assert f"{tmp_path}/run: the output folder cannot be written (read-only file system)" in message
    assert "choose another folder with output_dir=" in message


def test_disk_full_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really = os.fsync

    def full(handle: int) -> None:
        if os.fstat(handle).st_size > 300_000:  # a checkpoint; the probe before training is smaller
            raise OSError(errno.ENOSPC, "No space left on device")
        really(handle)

    monkeypatch.setattr("vireo.engine.folder.os.fsync", full)
    outcome = call("train", *GENERATED, f"output_dir={tmp_path}/run")
    assert "cannot be written (no space left on device). free space on that disk" in outcome.mistake()
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []  # nothing half written
    monkeypatch.undo()
    outcome = call("train", *GENERATED, f"output_dir={tmp_path}/run")
    assert outcome.status == 0, outcome.err
