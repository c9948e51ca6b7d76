"""``p2p-eval`` from its command line: on runs, and on result files of any detector."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from p2p_files import write_people
from p2p_runs import DATA, configuration
from p2p_saved_run import MODEL, saved_run
from p2p_scenes import scene

from p2p_loc.annotations import Detections
from p2p_loc.box_eval import evaluate_boxes
from p2p_loc.data import build_evaluation_set
from p2p_loc.location import evaluate_locations
from vireo.engine.cli import plain
from vireo.engine.results import write_config
from vireo.testing import Outcome, call_script
from vireo.testing.runs import read
from vireo.testing.series import torchrun


def evaluate(*arguments: object) -> Outcome:
    return call_script("p2p_loc.eval", *arguments)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_run(tmp_path_factory.mktemp("saved") / "run")


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Ground truth and results."""
    truth, found = scene(5)
    for image in truth["images"]:
        image["file_name"] = f"{image['id']}.png"
    paths = tmp_path / "truth.json", tmp_path / "results.json"
    for path, content in zip(paths, (truth, found.coco())):
        path.write_text(json.dumps(content))
    return paths


def test_a_class_without_objects_of_a_size_is_told(files: tuple[Path, Path], tmp_path: Path) -> None:
    truth, _ = files
    empty = tmp_path / "empty.json"
    empty.write_text("[]")
    outcome = evaluate("run=null", f"truth={truth}", f"results={empty}")
    assert "0.5000" in outcome.out  # of one class nobody is so tiny, and nobody was missed
    assert "eval.without_objects=skip leaves them out" in outcome.out
    left_out = evaluate("run=null", f"truth={truth}", f"results={empty}", "eval.without_objects=skip")
    assert "0.5000" not in left_out.out
    assert "has no object of size" not in left_out.out


def test_a_result_file(files: tuple[Path, Path], tmp_path: Path) -> None:
    truth, results = files
    out = tmp_path / "scores" / "out.json"
    outcome = evaluate("run=null", f"truth={truth}", f"results={results}", "box=true", f"out={out}")
    assert outcome.status == 0, outcome.err
    measured, content, found = read(out), read(truth), Detections.from_coco(read(results))
    assert measured["metrics"] == evaluate_locations(content, found)
    assert measured["box_metrics"] == evaluate_boxes(content, found)
    assert measured["ignore_flags"] == ["iscrowd"]
    assert measured["notes"] == outcome.out.splitlines()[1:4]
    assert "a class has no object of size tiny1: as in the authors' code" in measured["notes"][2]
    assert "counted like all others" in outcome.out
    assert f"{measured['metrics']['AP_tiny3@0.5']:.4f}" in outcome.out
    assert f"{measured['metrics']['per_class']['class 1']['AP@2']:.4f}" in outcome.out
    assert f"{measured['box_metrics']['AR75_small']:.4f}" in outcome.out


def test_settings_reach_the_metric(files: tuple[Path, Path], tmp_path: Path) -> None:
    truth, results = files
    flags = ["iscrowd", "ignore", "uncertain"]
    settings = ["eval.taus=[0.25,4]", "eval.max_dets=[3,200]", f"eval.ignore_flags=[{','.join(flags)}]"]
    more = ["eval.multi_match_neutral=true", "eval.without_objects=skip", f"out={tmp_path / 'o.json'}"]
    outcome = evaluate("run=null", f"truth={truth}", f"results={results}", *settings, *more)
    assert outcome.status == 0, outcome.err
    options: dict[str, Any] = {"multi_match_neutral": True, "without_objects": "skip", "ignore_flags": flags}
    found = Detections.from_coco(read(results))
    expected = evaluate_locations(read(truth), found, taus=[0.25, 4], max_dets=[3, 200], **options)
    assert read(tmp_path / "o.json")["metrics"] == expected
    assert "AP@4/200" in outcome.out


def test_ranges_of_sizes_and_options_of_boxes(files: tuple[Path, Path], tmp_path: Path) -> None:
    truth, results = files
    settings = [
        "eval.size_ranges={wide:[1,40],narrow:[4,9]}",
        "eval.multi_match_neutral=true",
        "eval.multi_match_tau=3",
    ]
    boxes = ["box=true", "box_eval.ious=[0.4]", "box_eval.ignore_flags=[iscrowd]", "box_eval.ignore_iod=off"]
    out = f"out={tmp_path / 'o.json'}"
    outcome = evaluate("run=null", f"truth={truth}", f"results={results}", *settings, *boxes, out)
    assert outcome.status == 0, outcome.err
    found, ranges = Detections.from_coco(read(results)), {"wide": (1, 40), "narrow": (4, 9)}
    measured = read(tmp_path / "o.json")
    options: dict[str, Any] = {"multi_match_neutral": True, "multi_match_tau": 3}
    assert measured["metrics"] == evaluate_locations(read(truth), found, size_ranges=ranges, **options)
    more: dict[str, Any] = {"ious": [0.4], "ignore_flags": ["iscrowd"], "ignore_iod": "off"}
    assert measured["box_metrics"] == evaluate_boxes(read(truth), found, size_ranges=ranges, **more)
    for value in (measured["metrics"]["AP_narrow@1"], measured["box_metrics"]["AR40_wide"]):
        assert f"{value:.4f}" in outcome.out


def test_images_with_many_objects_are_warned_of(files: tuple[Path, Path]) -> None:
    outcome = evaluate("run=null", f"truth={files[0]}", f"results={files[1]}", "eval.max_dets=3")
    assert outcome.status == 0
    assert "images have more than 3 objects of a class" in outcome.err
    assert "raise eval.max_dets" in outcome.err


def test_a_result_file_needs_no_torch(files: tuple[Path, Path]) -> None:
    script = "import sys; from p2p_loc.eval import main; main(); assert 'torch' not in sys.modules"
    arguments = ["run=null", f"truth={files[0]}", f"results={files[1]}", "box=true"]
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_run_and_its_detections_from_a_file(run: Path, tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    outcome = evaluate(f"run={run}", f"save_results={results}")
    assert outcome.status == 0, outcome.err
    measured = read(run / "eval.json")
    assert measured["round"] == 1
    assert measured["images"] == 4
    assert {"AP@0.25", "AP_tiny@2", "AR@1"} <= measured["metrics"].keys()  # the run's own distances
    assert 0 < measured["metrics"]["AR@2"] <= 1
    assert measured["metrics"]["AP_reasonable@1"] == -1  # nobody is as tall
    assert "-1.0000" not in outcome.out
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps(build_evaluation_set(configuration(*DATA).data).truth))
    again = tmp_path / "again.json"
    own = ["eval.taus=[0.25,0.5,1,2]", "eval.without_objects=skip"]
    outcome = evaluate("run=null", f"truth={truth}", f"results={results}", *own, f"out={again}")
    assert outcome.status == 0, outcome.err
    means = [{k: v for k, v in content["metrics"].items() if k != "per_class"} for content in (read(again), measured)]
    assert means[0] == pytest.approx(means[1], abs=0.02)  # decimals of the file


def test_rounds_weights_and_tiles_of_a_run(run: Path, tmp_path: Path) -> None:
    outs = {}
    for name, arguments in {
        "last": [],
        "round": ["round=1"],
        "first": ["round=0"],
        "weights": [f"weights={run / 'round_0' / 'model.safetensors'}"],
        "tiles": ["data.eval_tile=[32,32]", "data.eval_overlap=[8,8]"],
    }.items():
        outcome = evaluate(f"run={run}", *arguments, f"out={tmp_path / name}.json")
        assert outcome.status == 0, outcome.err
        outs[name] = read(tmp_path / f"{name}.json")
    metrics = {name: content["metrics"] for name, content in outs.items()}
    assert metrics["last"] == metrics["round"] != metrics["first"] == metrics["weights"]
    assert metrics["tiles"] != metrics["last"]
    assert outs["first"]["round"] == 0
    assert outs["weights"]["round"] is None
    assert evaluate(f"run={run}", "round=0").status == 0
    assert read(run / "eval_round_0.json")["metrics"] == metrics["first"]


def test_false_is_not_the_runs_own_choice(run: Path, tmp_path: Path) -> None:
    """A run that was trained with neutral second detections is measured so, unless the command says otherwise."""
    own = shutil.copytree(run, tmp_path / "own") / "config.yaml"
    own.write_text(own.read_text().replace("  max_dets: 200", "  max_dets: 200\n  multi_match_neutral: true"))
    assert "multi_match_neutral: true" in own.read_text()
    metrics = []
    for folder, arguments in (
        (own.parent, []),
        (own.parent, ["eval.multi_match_neutral=false"]),
        (run, ["eval.multi_match_neutral=true"]),
        (run, []),
    ):
        outcome = evaluate(f"run={folder}", *arguments, f"out={tmp_path / 'o.json'}")
        assert outcome.status == 0, outcome.err
        metrics.append(read(tmp_path / "o.json")["metrics"])
    assert metrics[0] == metrics[2] != metrics[1] == metrics[3]


def test_an_image_that_cannot_be_decoded_is_left_out(tmp_path: Path) -> None:
    root = write_people(tmp_path / "people")
    broken = sorted((root / "images").glob("val_*"))[1]
    files = [f"data.{split}_{kind}" for split in ("train", "val") for kind in ("images", "annotations")]
    values = ["images", "train.json", "images", "val.json"]
    settings = ["data=coco", f"data.root={root}", *(f"{key}={value}" for key, value in zip(files, values))]
    config = configuration(*settings, "data.workers=0", "model=small", *MODEL)
    folder = saved_run(tmp_path / "run")
    write_config(folder, plain(config))
    broken.write_bytes(broken.read_bytes()[:200])  # the header is whole
    assert broken.name in evaluate(f"run={folder}").mistake()
    outcome = evaluate(f"run={folder}", "data.on_error=skip")
    assert outcome.status == 0, outcome.err
    measured, truth = read(folder / "eval.json"), read(root / "val.json")
    (lost,) = [image["id"] for image in truth["images"] if image["file_name"] == broken.name]
    assert measured["images"] == 2
    assert measured["objects"] == sum(row["image_id"] != lost for row in truth["annotations"])
    assert "1 images could not be decoded" in outcome.out


def test_two_processes_measure_what_one_does(run: Path, tmp_path: Path) -> None:
    """An odd number of images in tiles: one process has one more than the other."""
    settings = [f"run={run}", "data.eval_tile=[32,32]", "data.eval_overlap=[8,8]"]
    config = run.parent / "odd" / "config.yaml"
    shutil.copytree(run, config.parent)
    config.write_text(config.read_text().replace("val_images: 4", "val_images: 5"))
    settings[0] = f"run={config.parent}"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the processes have
    try:
        assert evaluate(*settings, f"out={tmp_path / 'one.json'}").status == 0
    finally:
        torch.set_num_threads(threads)
    torchrun("p2p_loc.eval", *settings, f"out={tmp_path / 'two.json'}")
    one, two = read(tmp_path / "one.json"), read(tmp_path / "two.json")
    assert one["images"] == 5
    assert one["detections"] > 20
    assert one == two


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run=null"], "nothing to evaluate"),
        (["run=null", "truth=a.json"], "nothing to evaluate"),
        (["run=null", "truth=a.json", "results=b.json", "round=1"], "belongs to a run"),
        (["truth=a.json"], "belongs to a result file"),
        (["run=null", "truth=absent.json", "results=b.json"], "absent.json: cannot be read"),
        (["run=absent"], "holds no config.yaml"),
        (["run=absent", "eval.tau=1"], "eval.tau"),
    ],
)
def test_mistakes_are_named(arguments: list[str], words: str) -> None:
    assert words in evaluate(*arguments).mistake()


def test_mistakes_of_values_are_named(run: Path, files: tuple[Path, Path]) -> None:
    assert "has no round 7" in evaluate(f"run={run}", "round=7").mistake()
    assert "the run's data (data=generated) has no such setting" in evaluate(f"run={run}", "data.val_split=x").mistake()
    assert "no different positive numbers" in evaluate(f"run={run}", "eval.taus=[]").mistake()
    given = ["run=null", f"truth={files[0]}", f"results={files[1]}"]
    assert "'ignore' is no list" in evaluate(*given, "eval.ignore_flags=ignore").mistake()
    assert "without_objects" in evaluate(*given, "eval.without_objects=nan").mistake()
    assert "'maybe' is unknown" in evaluate(*given, "eval.multi_match_neutral=maybe").mistake()
    assert "no positive number" in evaluate(*given, "eval.multi_match_tau=-1").mistake()
    for ranges, words in (("3", "no ranges"), ("{a:[3]}", "no ranges"), ("{a:[3,2]}", "no size is in [3, 2)")):
        assert words in evaluate(*given, f"eval.size_ranges={ranges}").mistake()
    assert "no positive numbers" in evaluate(*given, "box=true", "box_eval.ious=[a]").mistake()
    files[1].write_text(files[1].read_text()[:-20])
    assert "it may be cut short" in evaluate(*given).mistake()
