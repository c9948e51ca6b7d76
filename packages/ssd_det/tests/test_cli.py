"""The console scripts from end to end on one tiny run, and its input as COCO and VOC files."""

import hashlib
import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import COCO, GENERATED, SIZE, VOC, call, export_shapes
from PIL import Image

from ssd_det import refine_annotations
from ssd_det.load import load_run
from vireo.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")

SCRIPTS = ("train", "eval", "refine", "predict", "noise")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run on generated data."""
    folder = tmp_path_factory.mktemp("runs") / "shapes"
    outcome = call("train", *GENERATED, f"output_dir={folder}")
    assert outcome.status == 0, outcome.err
    return folder


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures as files; tests that change them work on copies."""
    return export_shapes(tmp_path_factory.mktemp("shapes"))


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_quick_and_loads_nothing_heavy(script: str) -> None:
    code = (
        f"import sys; sys.argv = ['ssd-det-{script}', '--help']\n"
        f"from ssd_det.{script} import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "assert 'torch' not in sys.modules"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert f"ssd-det-{script} " in done.stdout
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 4.0  # not the time others take


@pytest.mark.parametrize("command", [["train", "optim.lrr=1"], ["predict", "."], ["noise", "--coco", "x"]])
def test_exit_status_of_a_mistake(command: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"ssd_det.{command[0]}", *command[1:]], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2
    assert done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_run_leaves_its_files(run: Path) -> None:
    names = {"config.yaml", "classes.json", "config.json", "log.jsonl", "metrics.json", "model.safetensors"}
    assert names | {"report.html"} <= {path.name for path in run.iterdir()}
    assert not (run / "skipped.txt").exists()
    assert [entry["name"] for entry in read(run / "classes.json")] == ["ellipse", "rectangle", "triangle"]


def test_a_finished_run_says_so(run: Path) -> None:
    weights = (run / "model.safetensors").read_bytes()
    outcome = call("train", *GENERATED, f"output_dir={run}")
    assert outcome.status == 0
    assert "this run is finished; set resume=never, or more epochs" in outcome.err
    assert (run / "model.safetensors").read_bytes() == weights


def test_eval_repeats_the_numbers_of_training(run: Path, tmp_path: Path) -> None:
    outcome = call("eval", f"run={run}", f"out={tmp_path}/eval.json", "refined=4")
    assert outcome.status == 0, outcome.err
    measured, logged = read(tmp_path / "eval.json")["metrics"], read(run / "metrics.json")["metrics"]
    for name in ("AP", "AP50", "VOC_AP50", "iou_given", "iou_refined"):
        assert measured[name] == pytest.approx(logged[name], abs=1e-6)
    assert "AP50" in outcome.out


def test_refine_the_training_data_of_the_run(run: Path, tmp_path: Path) -> None:
    first = call("refine", f"run={run}", f"out={tmp_path}/a.json")
    again = call("refine", f"run={run}", f"out={tmp_path}/b.json")
    assert (first.status, again.status) == (0, 0), first.err + again.err
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    content = read(tmp_path / "a.json")
    statistics = content["refinement"]
    assert statistics["boxes"] == len(content["annotations"]) > 12
    assert sorted(annotation["id"] for annotation in content["annotations"]) == list(range(1, statistics["boxes"] + 1))
    for annotation in content["annotations"]:
        x, y, w, h = annotation["bbox"]
        assert min(x, y) >= 0
        assert min(w, h) >= 1
        assert max(x + w, y + h) <= SIZE + 1e-6
        assert 0 < annotation["score"] < 1
    for name, key in (("given", "noisy_bbox"), ("refined", "bbox")):
        expected = np.mean([iou(a[key], a["true_bbox"]) for a in content["annotations"]])
        assert statistics[name]["mean_iou"] == pytest.approx(expected, abs=2e-4)
    assert f"refined mean iou              {statistics['refined']['mean_iou']:.4f}" in first.out


def iou(a: list[float], b: list[float]) -> float:
    """Of two boxes xywh."""
    w, h = (min(a[k] + a[k + 2], b[k] + b[k + 2]) - max(a[k], b[k]) for k in (0, 1))
    shared = max(w, 0.0) * max(h, 0.0)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


@pytest.fixture(scope="module")
def noisy(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported training annotations with noise, one of them a crowd, with entries of the user's own."""
    clean = read(shapes / "annotations" / "train.json")
    clean["info"] = {"description": "mine"}
    clean["annotations"][0]["iscrowd"] = 1
    clean["annotations"][1]["colour"] = "red"
    folder = tmp_path_factory.mktemp("noisy")
    (folder / "clean.json").write_text(json.dumps(clean))
    assert call("noise", "--coco", folder / "clean.json", "--out", folder / "noisy.json", "--level", 0.4).status == 0
    return folder / "noisy.json"


def test_noise_refine_and_train_again(run: Path, shapes: Path, noisy: Path, tmp_path: Path) -> None:
    refined = tmp_path / "refined.json"
    outcome = call("refine", f"run={run}", f"annotations={noisy}", f"images={shapes}/JPEGImages", f"out={refined}")
    assert outcome.status == 0, outcome.err
    before, after = read(noisy), read(refined)
    assert after["info"] == {"description": "mine"}
    assert after["annotations"][0] == before["annotations"][0]  # the crowd
    assert after["annotations"][1]["colour"] == "red"
    assert [a["id"] for a in after["annotations"]] == [a["id"] for a in before["annotations"]]
    assert [a["noisy_bbox"] for a in after["annotations"][1:]] == [a["bbox"] for a in before["annotations"][1:]]
    assert after["refinement"]["crowd"] == 1
    outcome = call(
        "train",
        *COCO,
        f"data.root={shapes}",
        f"data.train_annotations={refined}",
        "refiner=none",
        "refiner.num_negatives=500",
        f"output_dir={tmp_path}/run",
    )
    assert outcome.status == 0, outcome.err
    plain = call("refine", f"run={tmp_path}/run", f"out={tmp_path}/x.json")
    assert "has no refiner" in plain.mistake()


def test_eval_on_other_data(shapes: Path, run: Path, tmp_path: Path) -> None:
    folder, trained = tmp_path / "data", tmp_path / "run"
    outcome = call("train", *VOC, f"data.root={shapes}", f"output_dir={trained}", "refiner=none")
    assert outcome.status == 0, outcome.err
    export_shapes(folder, val=6)
    arguments = [f"run={trained}", f"data.root={folder}"]
    assert call("eval", *arguments, "data.val_split=train").status == 0
    shutil.rmtree(folder / "annotations")
    (folder / "ImageSets" / "Main" / "train.txt").unlink()  # it needs no training data for a plain detector
    outcome = call("eval", *arguments)
    assert outcome.status == 0, outcome.err
    assert "6 images" in outcome.out
    for path in list((folder / "JPEGImages").glob("val_*"))[:2]:
        path.unlink()
    assert "set data.on_error=skip" in call("eval", *arguments).mistake()
    assert "4 images" in call("eval", *arguments, "data.on_error=skip").out
    assert "data.val_annotations: the run's data (data=voc) has no such setting" in (
        call("eval", *arguments, "data.val_annotations=x.json").mistake()
    )
    assert "nearest key is 'data.root'" in call("eval", f"run={run}", "data.rot=x").mistake()
    for xml in (folder / "Annotations").iterdir():
        xml.write_text(xml.read_text().replace("ellipse", "circle"))
    assert "its classes are not the model's (not among the model's: circle; absent: ellipse)" in (
        call("eval", *arguments, "data.on_error=skip").mistake()
    )


def test_train_and_refine_voc(shapes: Path, tmp_path: Path) -> None:
    outcome = call("train", *VOC, f"data.root={shapes}", f"output_dir={tmp_path}/run")
    assert outcome.status == 0, outcome.err
    out = tmp_path / "refined.json"
    outcome = call("refine", f"run={tmp_path}/run", f"voc={shapes}", "split=val", f"out={out}")
    assert outcome.status == 0, outcome.err
    assert len(read(out)["images"]) == 4
    assert read(out)["refinement"]["given"] is None  # the files hold no other boxes to compare with


def test_refine_from_python(run: Path, shapes: Path, noisy: Path, tmp_path: Path) -> None:
    images = shapes / "JPEGImages"
    assert (
        call("refine", f"run={run}", f"annotations={noisy}", f"images={images}", f"out={tmp_path}/a.json").status == 0
    )
    model = load_run(run).model
    report = refine_annotations(
        model, noisy, images, tmp_path / "b.json", short_side=SIZE, long_side=SIZE, batch_size=8
    )
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert report.sha256 == hashlib.sha256((tmp_path / "b.json").read_bytes()).hexdigest()
    assert report.refined is not None
    assert report.path == str(tmp_path / "b.json")
    with pytest.raises(InputError, match="output and input are the same file"):
        refine_annotations(model, noisy, images, noisy)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["annotations={noisy}", "images={shapes}/JPEGImages", "out={noisy}"], "output and input are the same file"),
        (["annotations={noisy}"], "no image folder given"),
        (["annotations={noisy}", "images={tmp}/nothing"], "image folder is missing"),
        (["annotations={tmp}/nothing.json", "images={shapes}/JPEGImages"], "annotation file is missing"),
        (["annotations={noisy}", "images={shapes}/JPEGImages", "voc={shapes}"], "are both given"),
        (["out=/proc/nowhere/x.json"], "/proc/nowhere: the output folder cannot be written"),
        (["run={tmp}"], "holds no config.yaml"),
        (["weights={tmp}/nothing.pt"], "no such file"),
        (["ot=x"], "nearest key is 'out'"),
    ],
)
def test_mistakes_in_refine(
    run: Path, shapes: Path, noisy: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    filled = [text.format(noisy=noisy, shapes=shapes, tmp=tmp_path) for text in arguments]
    defaults = [f"run={run}", f"out={tmp_path}/refined.json"]
    given = {text.partition("=")[0] for text in filled}
    outcome = call("refine", *filled, *(text for text in defaults if text.partition("=")[0] not in given))
    assert words in outcome.mistake()


def test_refine_wants_the_categories_of_the_model(run: Path, shapes: Path, noisy: Path, tmp_path: Path) -> None:
    content = read(noisy)
    content["categories"][0]["name"] = "circle"
    other = tmp_path / "other.json"
    other.write_text(json.dumps(content))
    outcome = call("refine", f"run={run}", f"annotations={other}", f"images={shapes}/JPEGImages")
    message = outcome.mistake()
    assert "not among the model's: circle; absent: ellipse" in message
    assert str(other) in message


def test_refine_without_the_images_it_cannot_read(run: Path, shapes: Path, noisy: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for path in (shapes / "JPEGImages").glob("train_*"):
        (images / path.name).write_bytes(path.read_bytes())
    name = read(noisy)["images"][2]["file_name"]
    (images / name).write_bytes((images / name).read_bytes()[:300])
    arguments = [f"run={run}", f"annotations={noisy}", f"images={images}", f"out={tmp_path}/refined.json"]
    assert name in call("refine", *arguments).mistake()
    outcome = call("refine", *arguments, "data.on_error=skip")
    assert outcome.status == 0, outcome.err
    assert name in outcome.out
    gone = read(noisy)["images"][2]["id"]
    kept = read(tmp_path / "refined.json")
    assert gone not in {annotation["image_id"] for annotation in kept["annotations"]}
    assert kept["refinement"]["dropped"] == sum(a["image_id"] == gone for a in read(noisy)["annotations"])


def test_predict_draws_what_it_can(run: Path, shapes: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for i, path in enumerate(sorted((shapes / "JPEGImages").glob("val_*"))[:2]):
        Image.open(path).save(folder / f"{i}.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    wide = tmp_path / "0.png"
    Image.new("L", (90, 40), 128).save(wide)
    out = tmp_path / "out"
    arguments = [folder, wide, "--run", run, "--out", out, "--json", out / "found.json", "--threshold", 0.05]
    outcome = call("predict", *arguments)
    assert str(folder / "broken.jpg") in outcome.mistake()
    assert sorted(path.name for path in out.iterdir()) == ["0.png", "0_2.png", "1.png", "found.json"]
    assert Image.open(out / "0.png").size == (448, 448)
    found = read(out / "found.json")
    assert found
    for entry in found:
        assert entry["score"] >= 0.05
        assert entry["category_id"] in (1, 2, 3)
    of_wide = [entry["bbox"] for entry in found if entry["file_name"] == str(wide)]
    assert all(x + w <= 90.02 and y + h <= 40.02 for x, y, w, h in of_wide)
    assert call("predict", wide, "--run", run, "--out", out).status == 0


def test_mistakes_in_predict(run: Path, tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    Image.new("RGB", (SIZE, SIZE)).save(picture)
    (tmp_path / "empty").mkdir()
    assert "no image in this folder" in call("predict", tmp_path / "empty", "--run", run).mistake()
    assert "would replace images" in call("predict", picture, "--run", run, "--out", tmp_path).mistake()
    assert "holds no config.yaml" in call("predict", picture, "--run", tmp_path, "--out", tmp_path / "o").mistake()
    outcome = call("predict", picture, "--run", run, "--out", "/proc/nowhere")
    assert "choose another folder with --out" in outcome.mistake()
    outcome = call("predict", tmp_path / "gone.png", "--run", run, "--out", tmp_path / "o")
    assert outcome.mistake() == f"error: {tmp_path}/gone.png: image file is missing"
