"""The claim runner with training replaced by a record of its commands, and the command lines under ``benchmarks/``."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, TextIO

import pytest

from vireo.engine.overrides import check_overrides

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
PAPERS = sorted(path.stem for path in BENCHMARKS.glob("claims/*.py"))
SPEED = sorted(path.stem for path in BENCHMARKS.glob("*.py") if "__main__" in path.read_text())

pytestmark = pytest.mark.skipif(not PAPERS, reason="the shared library is tested outside its repository")


class Processes:
    """Stands for ``subprocess``: writes the results that a run of the given settings would leave.

    Attributes:
        commands: module and settings of every run, in the order of their starts.
        metrics: of a run, by its folder's name; tests change it.
        failing: names of folders whose runs fail.
        environment: of the last run.
    """

    def __init__(self) -> None:
        self.commands: list[tuple[str, list[str]]] = []
        self.metrics: Callable[[str], dict[str, Any]] = some_metrics
        self.failing: set[str] = set()
        self.environment: dict[str, str] = {}

    def run(self, command: list[str], stdout: TextIO, stderr: TextIO, env: dict[str, str]) -> SimpleNamespace:
        assert command[:2] == [sys.executable, "-m"]
        self.commands.append((command[2], command[3:]))
        self.environment = env
        given = dict(setting.split("=", 1) for setting in command[3:])
        target = given.get("out") or given.get("--output")  # a file, or the folder of a ranking
        result_file = Path(target or "metrics.json")
        if command[2] == "if_nas.rank":
            result_file /= "ranking.json"
        if "--random" in given:
            result_file /= f"random_{given['--seed']}_00.json"
        folder = Path(given.get("output_dir") or (result_file.parent if target else given["run"]))
        assert Path(stdout.name) == folder / "console.txt"
        stdout.write(f"{command[2]} with seed {given.get('seed')}\n")
        if folder.name in self.failing:
            return SimpleNamespace(returncode=2)
        metrics = self.metrics(folder.name)
        result = {"metrics": metrics, "wall_s": 2.5, "steps": 7, "kendall_tau": 0.5}
        result["rounds"] = [{"round": t, "labels": metrics, "metrics": metrics, "train_s": 2.5} for t in range(3)]
        (result_file if target else folder / "metrics.json").write_text(json.dumps(result))
        return SimpleNamespace(returncode=0)


def seed_of(folder: str) -> int:
    found = re.search(r"_(\d+)(_finetuned)?$", folder)
    assert found
    return int(found[1])


def some_metrics(folder: str) -> dict[str, Any]:
    """What the runs of any paper may leave; every number is that of the seed."""
    value = float(seed_of(folder))
    blocks, error = {"7": value, "8": value}, {"top1_error": value}
    features = {"linear": error, "knn": error, "loss": value, "mIoU": value, "mAcc": value, "aAcc": value}
    features |= dict.fromkeys(("wFmeasure", "IoU", "maxEm", "meanEm", "Smeasure", "MAE"), value)
    features |= dict.fromkeys(("error", "AP@0.25", "AP@0.5", "AP@1", "AP@2"), value)
    found = {"AP": value, "box_AP": value, "box_AP50": value, **error, **features}
    found |= {"preference": value, "edge_weight": dict.fromkeys("1234", value), "top1": value, "depth": value}
    return {**found, "pruning": 0.55, "overlap": blocks, "purity": blocks}


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], ModuleType]:
    """Imports a file under benchmarks/ as if it were started; its results go to a temporary folder."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for path in BENCHMARKS.glob("*.py"):
        monkeypatch.delitem(sys.modules, path.stem, raising=False)
    common = importlib.import_module("common")
    monkeypatch.setattr(common, "ROOT", tmp_path)
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")

    def load(file: str) -> ModuleType:
        name = f"benchmarks_{Path(file).stem}"
        spec = importlib.util.spec_from_file_location(name, BENCHMARKS / file)
        assert spec is not None
        assert spec.loader is not None
        loaded = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, loaded)
        spec.loader.exec_module(loaded)
        return loaded

    return load


@pytest.fixture
def processes(module: object, monkeypatch: pytest.MonkeyPatch) -> Processes:
    fake = Processes()
    monkeypatch.setattr(importlib.import_module("claim"), "subprocess", fake)
    return fake


@pytest.fixture
def run(
    module: Callable[[str], ModuleType], processes: Processes, tmp_path: Path
) -> Callable[..., tuple[int, dict[str, Any]]]:
    """Runs a claim in a temporary folder; gives its exit status and what it wrote."""

    def claim(paper: str, data: str, *arguments: str) -> tuple[int, dict[str, Any]]:
        script = module(f"claims/{paper}.py")
        root = [f"--root={tmp_path / 'data'}"] if script.PAPER.claims[data].root else []
        lists = tmp_path / "data" / "ImageSets" / "Main"  # of a VOC data set
        lists.mkdir(parents=True, exist_ok=True)
        for part in ("train", "val"):
            (lists / f"{part}.txt").write_text(f"{part}_0\n{part}_1\n")
        status = script.main(script.PAPER, [data, *root, f"--output={tmp_path / 'runs'}", *arguments])
        result = tmp_path / "results" / f"{paper}_{data}.json"
        return status, json.loads(result.read_text()) if result.exists() else {}

    return claim


def folders(tmp_path: Path, data: str) -> list[str]:
    return sorted(path.parent.name for path in (tmp_path / "runs" / data).glob("*/console.txt"))


@pytest.mark.parametrize("paper", PAPERS)
def test_settings_of_every_arm_are_those_of_the_package(
    paper: str,
    module: Callable[[str], ModuleType],
    run: Callable[..., tuple[int, dict[str, Any]]],
    processes: Processes,
) -> None:
    pytest.importorskip(paper, reason="the package is not installed")
    for data in module(f"claims/{paper}.py").PAPER.claims:
        status, result = run(paper, data, "--all", "--seeds", "3", "--override=epochs=1")
        assert status == 0
        assert len(result["arms"]) >= 2
    for entry, settings in processes.commands:
        package, _, name = entry.partition(".")
        assert package == paper
        if not settings[0].startswith("--"):  # no settings of Hydra
            check_overrides(settings, f"{package}.conf", name)


@pytest.mark.parametrize(
    ("paper", "data", "expected"),
    [
        ("ssd_det", "shapes", ["plain_detector__clean_boxes_0", "plain_detector_0", "ssd_det____spsd___sisd_0"]),
        ("fgc", "generated", ["bas_0", "fgc_0", "random_neighbours_0", "self_only_0", "start_0"]),
        ("beyond_masking", "generated", ["mask_only__m__0", "zoomed_in___mask__a___m__0", "zoomed_in__a__0"]),
        (
            "itpn",
            "shapes",
            [
                *("backbone_and_pyramid_pre_trained__itpn__0", "backbone_pre_trained_0"),
                *("from_scratch_0", "pretrain_0"),
            ],
        ),
        (
            "dqnet",
            "generated",
            [
                *("dqnet_0", "dqnet__summed_0", "resnet_0", "start_0"),
                *("transformer_0", "transformer_and_resnet_0"),
            ],
        ),
        ("p2p_loc", "bccd", ["true_boxes_0", "true_centres_0", "uniform_points_0"]),
        (
            "if_nas",
            "generated",
            [
                *("dnas__every_node__0", "if__period_l___1_0"),
                *(f"keep_{k}_{name}_0" for k in (1, 2) for name in ("dnas__every_node_", "if__period_l___1")),
                *("random_0", *(f"random_{number}_0" for number in range(3))),
            ],
        ),
        ("dqnet", "scratch", ["dqnet_0", "resnet_0", "transformer_0"]),
        ("dqnet", "sod", ["dqnet_0", "start_0", "transformer_0", "transformer_and_resnet_0"]),
        (
            "g2sd",
            "generated",
            [
                *("distill_0", "from_scratch_0", "from_scratch__sd_0", "gd_0", "gd__sd__g2sd__0", "mae_0"),
                *("own_mae_0", "own_mae__sd_0", "task_teacher_0", "teacher_0"),
            ],
        ),
        (
            "beyond_masking",
            "cifar10_gpu",
            [
                *("de_colorized__e__0", "de_colorized__e__0_finetuned", "mask_only__m__0", "mask_only__m__0_finetuned"),
                *("scratch_0", "zoomed_in___mask__a___m__0", "zoomed_in___mask__a___m__0_finetuned"),
                *("zoomed_in__a__0", "zoomed_in__a__0_finetuned"),
            ],
        ),
    ],
)
def test_runs_have_their_folders_and_go_on_in_them(
    paper: str,
    data: str,
    expected: list[str],
    run: Callable[..., tuple[int, dict[str, Any]]],
    processes: Processes,
    tmp_path: Path,
) -> None:
    _, first = run(paper, data, "--seeds", "0", "--jobs", "1")
    before = list(processes.commands)
    consoles = {path: path.read_text() for path in tmp_path.glob("runs/*/*/console.txt")}
    assert folders(tmp_path, data) == sorted(expected)
    assert all("seed=0" in settings for entry, settings in before if not entry.endswith(("eval", "derive")))
    _, second = run(paper, data, "--seeds", "0", "--jobs", "1")
    assert processes.commands == [*before, *before]
    assert second["arms"] == first["arms"]
    for path, text in consoles.items():
        assert path.read_text() == 2 * text


def test_only_training_images_of_a_voc_set_are_pre_trained_on(
    run: Callable[..., tuple[int, dict[str, Any]]], processes: Processes, tmp_path: Path
) -> None:
    run("itpn", "bccd", "--seeds", "0")
    images = tmp_path / "runs" / "bccd" / "images"
    entry, settings = processes.commands[0]
    assert entry == "itpn.pretrain"
    assert f"data.root={images}" in settings
    assert sorted(path.name for path in (images / "train").iterdir()) == ["train_0.jpg", "train_1.jpg"]
    assert (images / "train" / "train_0.jpg").readlink() == tmp_path / "data" / "JPEGImages" / "train_0.jpg"


def test_threads_are_limited_except_on_a_gpu(
    run: Callable[..., tuple[int, dict[str, Any]]], processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    run("ssd_det", "shapes", "--seeds", "0")
    assert processes.environment["OMP_NUM_THREADS"] == "1"
    run("ssd_det", "bccd_r50", "--seeds", "0")
    assert processes.environment["OMP_NUM_THREADS"] == "5"


def test_metrics_are_in_the_order_of_the_seeds(
    run: Callable[..., tuple[int, dict[str, Any]]], processes: Processes
) -> None:
    def slower_first(folder: str) -> dict[str, Any]:
        seed = seed_of(folder)
        time.sleep(0.05 * (seed == 5))
        return some_metrics(folder)

    processes.metrics = slower_first
    _, result = run("ssd_det", "shapes", "--seeds", "5", "3", "4", "--jobs", "3", "--override", "optim.lr=0.1")
    assert result["seeds"] == [5, 3, 4]
    assert [arm["name"] for arm in result["arms"]] == [
        "plain detector",
        "SSD-Det (+ SPSD + SISD)",
        "plain detector, clean boxes",
    ]
    for arm in result["arms"]:
        assert arm["metrics"] == {"AP": [5.0, 3.0, 4.0]}
        assert arm["train_seconds"] == [2.5] * 3
    assert result["columns"] == {"AP": "AP"}
    assert (result["steps"], result["overrides"]) == (7, ["optim.lr=0.1"])
    assert all("optim.lr=0.1" in settings for _, settings in processes.commands)


def test_failure_names_the_console_and_the_other_runs_are_done(
    run: Callable[..., tuple[int, dict[str, Any]]],
    processes: Processes,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    processes.failing = {"plain_detector_1"}
    status, result = run("ssd_det", "shapes", "--seeds", "0", "1", "--jobs", "1")
    assert status == 1
    assert not result
    printed = capsys.readouterr()
    assert f"error: plain_detector_1, ssd_det.train: {tmp_path / 'runs/shapes/plain_detector_1/console.txt'} says" in (
        printed.err
    )
    assert "plain_detector_1, ssd_det.train: status 2" in printed.out
    assert len(processes.commands) == 6
    processes.failing = set()
    assert run("ssd_det", "shapes", "--seeds", "0", "1")[0] == 0


def test_failure_of_the_common_start_ends_the_claim(
    run: Callable[..., tuple[int, dict[str, Any]]], processes: Processes, capsys: pytest.CaptureFixture[str]
) -> None:
    processes.failing = {"start_0"}
    assert run("fgc", "generated", "--seeds", "0") == (1, {})
    assert [entry for entry, _ in processes.commands] == ["fgc.train"]
    assert "start_0" in capsys.readouterr().err


def test_checks_are_stored_and_printed(
    run: Callable[..., tuple[int, dict[str, Any]]], processes: Processes, capsys: pytest.CaptureFixture[str]
) -> None:
    def coupled_is_better(folder: str) -> dict[str, Any]:
        better, error = 0.2 * folder.startswith("fgc"), 4.0 * folder.startswith("fgc")
        blocks = {"7": 0.3 + better, "8": 0.3 + better}
        return {"top1_error": 10.0 + error, "pruning": 0.5, "overlap": blocks, "purity": blocks}

    processes.metrics = coupled_is_better
    _, result = run("fgc", "generated", "--seeds", "0", "1")
    checks = result["checks"]
    assert checks["overlap of block 7: FGC at least 0.05 above BAS on every seed"] is True
    assert checks["overlap of block 8: FGC above 'self only' in the mean"] is True
    assert checks["error: FGC at most 3.0 points above BAS in the mean"] is False
    assert sum(not holds for holds in checks.values()) == 1
    printed = capsys.readouterr().out
    assert "DOES NOT HOLD: error: FGC" in printed
    assert "\nholds: pruning: FGC and BAS within 2 points on every seed\n" in printed
    assert result["arms"][0]["metrics"]["pruning_percent"] == [50.0, 50.0]


def test_weight_of_l0_is_looked_for(run: Callable[..., tuple[int, dict[str, Any]]], processes: Processes) -> None:
    def prunes_late(folder: str) -> dict[str, Any]:
        return {**some_metrics("bas_0"), "pruning": 0.3 if folder == "rho_1" else 0.55}

    processes.metrics = prunes_late
    _, result = run("fgc", "cifar10_gpu", "--seeds", "0", "1")
    assert result["rho"] == ["recipe.rho=3.162"]
    arms = [settings for _, settings in processes.commands if re.search(r"/(bas|fgc)_\d$", settings[-1])]
    assert len(arms) == 4
    assert all("recipe.rho=3.162" in settings for settings in arms)


def test_untrained_network_is_judged_beside_the_first_arm(
    run: Callable[..., tuple[int, dict[str, Any]]], processes: Processes
) -> None:
    _, result = run("beyond_masking", "cifar10_gpu", "--seeds", "2", "3", "--arms", "zoomed-in (a)", "blurred (d)")
    rows = {arm["name"]: arm for arm in result["arms"]}
    assert list(rows) == ["untrained", "zoomed-in (a)", "blurred (d)"]
    assert list(result["columns"]) == ["linear_top1", "knn_top1", "finetuned_top1"]
    assert all(arm["metrics"]["finetuned_top1"] == [98.0, 97.0] for arm in rows.values())
    assert [len(arm["train_seconds"]) for arm in rows.values()] == [0, 2, 2]
    assert sum("untrained=true" in settings for _, settings in processes.commands) == 2
    assert result["checks"] == {
        "zoomed-in (a) above untrained in the mean": False,
        "every spatial task above every style task in the mean": False,
    }


def test_arms_of_dqnet_start_with_one_transformer(
    run: Callable[..., tuple[int, dict[str, Any]]], processes: Processes
) -> None:
    def querying_is_better(folder: str) -> dict[str, Any]:
        return some_metrics(folder) | {"wFmeasure": 0.52 if folder.startswith("dqnet") else 0.5}

    processes.metrics = querying_is_better
    _, result = run("dqnet", "generated", "--all", "--seeds", "4")
    commands = {Path(settings[-1].partition("=")[2]).name: settings for _, settings in processes.commands}
    starts = {
        name: [Path(s).name if "=" in s else s for s in settings if s.startswith("init.")]
        for name, settings in commands.items()
    }
    assert starts.pop("start_4") == []
    assert starts.pop("resnet_4") == []
    assert set(map(tuple, starts.values())) == {("start_4",)}
    assert any(setting.startswith("init.model=") for setting in commands["transformer_4"])
    assert any(setting.startswith("init.vit=") for setting in commands["dqnet_4"])
    assert "model.resnet.width=24" in commands["transformer_and_wider_resnet_4"]
    assert all("data.seed=4" in settings for settings in commands.values())
    assert result["start"]["wFmeasure"] == [0.5]
    assert len(result["checks"]) == 4
    assert all(result["checks"].values())


def test_rows_of_p2p_loc_are_its_rounds(run: Callable[..., tuple[int, dict[str, Any]]], processes: Processes) -> None:
    """The arms share the first round; equal numbers are no gain."""
    status, result = run("p2p_loc", "people", "--seeds", "4")
    names = [row["name"] for row in result["arms"]]
    assert status == 0
    assert names[:3] == [f"uniform points, round {t}" for t in range(3)]
    assert "score cut 0, round 0" not in names
    assert names[-1] == "true boxes"
    assert len(result["checks"]) == 7
    assert not result["checks"]["round 1 above round 0 by 0.1 of AP at 0.25, each seed"]  # all numbers are alike
    commands = {Path(settings[-1].partition("=")[2]).name: settings for _, settings in processes.commands}
    assert "refine.score_thr=0" in commands["score_cut_0_4"]
    assert all("data.seed=4" in settings and "data.points.seed=4" in settings for settings in commands.values())


def test_searches_of_if_nas_are_derived_trained_and_ranked(
    run: Callable[..., tuple[int, dict[str, Any]]], processes: Processes, tmp_path: Path
) -> None:
    def sampled_is_better(folder: str) -> dict[str, Any]:
        gain = 0.05 * folder.startswith("if")
        return some_metrics(folder) | {"preference": 0.01 + gain, "top1": 90.0}

    processes.metrics = sampled_is_better
    status, result = run("if_nas", "cifar10_gpu", "--seeds", "4")
    assert status == 0
    rows = {arm["name"]: arm["metrics"] for arm in result["arms"]}
    assert rows["IF, period L + 1"]["preference"] == [pytest.approx(0.06)]
    assert rows["DNAS (every node)"]["tau"] == [0.5]
    assert set(rows["random networks"]) == {"depth_1", "top1_1"}
    checks = result["checks"]
    assert checks["short-edge preference: IF above DNAS by 0.03"] is True
    assert checks["Kendall tau: IF above DNAS"] is False  # both are alike
    assert checks["accuracy with one input kept: IF not below random networks"] is True
    entries = [entry for entry, _ in processes.commands]
    commands = {Path(settings[-1].partition("=")[2]).name: settings for _, settings in processes.commands}
    first = [settings for entry, settings in processes.commands if entry == "if_nas.search"]
    assert len(first) == 6  # the first is asked for twice: others draw from its space
    assert "schedule.period=${space.length}" in commands["if__period_l_4"]
    alone = tmp_path / "runs" / "cifar10_gpu" / "subnets_4" / "subnets" / "11.json"
    assert f"genotype={alone}" in commands["alone_11_4"]
    assert {"model.max_macs=null", "model.width=16"} <= set(commands["alone_11_4"])
    assert entries.count("if_nas.train") == 12 + 5 * 2 + 5
    assert entries.count("if_nas.rank") == 1 + 5


def test_students_start_and_learn_as_their_arms_say(
    run: Callable[..., tuple[int, dict[str, Any]]], processes: Processes
) -> None:
    def distilled_is_better(folder: str) -> dict[str, Any]:
        gained = 5.0 * folder.startswith(("gd", "distill")) + 1.0 * ("sd" in folder) + 0.5 * folder.startswith("mae")
        errors = {"top1_error": 50.0 - gained}
        return {**errors, "loss": 0.1, "linear": errors, "knn": errors}

    processes.metrics = distilled_is_better
    _, result = run("g2sd", "generated", "--seeds", "4")
    commands = {Path(settings[-1].partition("=")[2]).name: settings for entry, settings in processes.commands}
    of_start = [
        [s for s in commands[name] if s.startswith(("init=", "teacher."))] for name in ("gd_4", "gd__sd__g2sd__4")
    ]
    assert [[Path(setting).name for setting in settings] for settings in of_start] == [
        ["distill_4"],
        ["distill_4", "task_teacher_4"],
    ]
    assert any(Path(setting).name == "teacher_4" for setting in commands["distill_4"])
    assert sum("untrained=true" in settings for _, settings in processes.commands) == 1
    assert result["distillation_loss"] == {"distill": [0.1]}
    assert result["checks"]["GD, SD (G2SD): above from scratch, SD"] is True
    assert result["checks"]["linear probe: GD above own MAE above fresh weights"] is False  # the last two are alike


def test_arms_are_a_choice(
    run: Callable[..., tuple[int, dict[str, Any]]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, result = run("fgc", "generated", "--seeds", "0", "--arms", "FGC")
    assert [arm["name"] for arm in result["arms"]] == ["FGC"]
    assert folders(tmp_path, "generated") == ["fgc_0", "start_0"]
    assert result["checks"] == {}
    with pytest.raises(SystemExit, match="2"):
        run("fgc", "generated", "--arms", "nothing")
    assert "choose from" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("paper", "data", "holds"),
    [("ssd_det", "bccd", "Annotations/, JPEGImages/"), ("fgc", "cifar10", "train/<class>/ and test/<class>/")],
)
def test_missing_root_is_asked_for(
    paper: str,
    data: str,
    holds: str,
    module: Callable[[str], ModuleType],
    processes: Processes,
    capsys: pytest.CaptureFixture[str],
) -> None:
    script = module(f"claims/{paper}.py")
    with pytest.raises(SystemExit, match="2"):
        script.main(script.PAPER, [data])
    assert f"{data} needs --root, the folder that holds {holds}" in capsys.readouterr().err
    assert not processes.commands


@pytest.mark.parametrize("name", SPEED + [f"claims/{paper}" for paper in PAPERS])
def test_help_opens_with_the_docstring(
    name: str, module: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        script = module(f"{name}.py")
    except ModuleNotFoundError as missing:
        if missing.name not in (*PAPERS, "scipy"):
            raise
        pytest.skip(f"{missing.name} is not installed")
    with pytest.raises(SystemExit, match="0"):
        script.main(*([script.PAPER] if name.startswith("claims/") else []), ["--help"])
    printed = capsys.readouterr().out
    assert script.__doc__
    assert script.__doc__.splitlines()[0] in printed
    assert name in ("tables", "run") or "--seeds" in printed or "--gpu" in printed


def test_sides_take_turns(module: object) -> None:
    timing = importlib.import_module("timing")
    calls: list[str] = []

    def side(name: str, seconds: float) -> None:
        calls.append(name)
        time.sleep(seconds)

    sides = {"one": partial(side, "one", 0), "other": partial(side, "other", 0.01)}
    seconds = timing.alternate(sides, 3, warm_up=2)
    assert calls == ["one", "other"] * 5
    assert [len(values) for values in seconds.values()] == [3, 3]
    assert timing.medians(seconds)["other"] >= 0.01 > timing.medians(seconds)["one"]


def test_speed_on_a_device_is_of_counted_operations(module: object, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    timing = importlib.import_module("timing")
    layer = torch.nn.Linear(8, 4)
    flops = timing.flops_of(lambda: layer(torch.zeros(16, 8)))
    assert flops == 2 * 16 * 8 * 4
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: None)
    monkeypatch.setattr("torch.cuda.reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda: 3 * 2**30)
    calls: list[float] = []

    def step() -> None:
        calls.append(flops)
        time.sleep(0.01)

    found = timing.gpu_speed(step, 16, flops=989e10, rounds=3)  # a hundredth of what the device does in a second
    assert len(calls) == 5 + 3
    assert found["peak_memory_gb"] == 3
    assert 10 <= found["ms"] < 1000
    assert found["images_per_s"] == pytest.approx(16_000 / found["ms"], rel=0.01)
    assert found["utilisation"] == pytest.approx(10 / found["ms"], rel=0.01)


def test_wait_is_a_share_of_the_step_over_several_epochs(module: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.current_stream", lambda: SimpleNamespace(synchronize=lambda: None))
    seen: list[tuple[int, int]] = []

    def batches(epoch: int) -> Iterator[tuple[int, int]]:
        for number in range(2):
            time.sleep(0.01)
            yield epoch, number

    def step(epoch: int, number: int) -> None:
        seen.append((epoch, number))
        time.sleep(0.05)

    share = importlib.import_module("timing").wait_share(SimpleNamespace(batches=batches), step, steps=4, warm_up=1)
    assert seen == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]
    assert 0.02 < share < 0.5


def test_gpu_is_refused_where_there_is_none(
    module: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    common = importlib.import_module("common")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert common.parse_speed(common.speed_parser("speed", images=3), ["--images", "4"]).images == 4
    with pytest.raises(SystemExit, match="2"):
        common.parse_speed(common.speed_parser("speed"), ["--gpu"])
    assert "no CUDA device" in capsys.readouterr().err


def test_speed_result_has_ratios_and_their_targets(
    module: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = importlib.import_module("common")
    row = common.ratio("evaluation", "pycocotools", 6.5, 5.0, "min")
    common.write_speed("thing", {"ratios": [row], "images": 3}, gpu=True)
    written = json.loads((tmp_path / "results" / "speed_thing_gpu.json").read_text())
    assert (written["ratios"], written["images"], written["seed"]) == ([row], 3, 0)
    assert row == {"name": "evaluation", "against": "pycocotools", "value": 6.5, "target": 5.0, "bound": "min"}
    assert "evaluation against pycocotools: 6.500 (at least 5)" in capsys.readouterr().out
