"""``p2p-train`` from its command line: what a run leaves, how it goes on, and the settings that are not like others."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from p2p_runs import REPORT, TINY, configuration, done, rows, train

from p2p_loc.load import load_run
from vireo.errors import InputError
from vireo.testing.runs import copy_of, differing, logged, losses, read


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rounds, with pictures and report."""
    return done(tmp_path_factory.mktemp("run") / "a", "gallery_images=1", "+paper_metrics.AP=0.5")


@pytest.fixture(autouse=True)
def _without_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than the training; the run above has one."""
    monkeypatch.setattr(REPORT, lambda *_: None)


def test_folder_of_a_run(run: Path) -> None:
    names = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    own = {"config.yaml", "config.json", "log.jsonl", "metrics.json", "model.safetensors", "checkpoints/best.pt"}
    assert {f"round_{t}/{name}" for t in (0, 1) for name in own} <= names
    top = {name for name in names if not name.startswith(("round_", "gallery/"))}
    assert top == {
        *("config.yaml", "config.json", "classes.json", "metrics.json", "model.safetensors", "report.html"),
        *("rounds.json", "labels/round_0.json", "labels/round_1.json", "labels/settings.json"),
        "detections/round_0.json",
    }
    assert {"gallery/labels_00.png", "gallery/locations_00.png"} <= names
    assert read(run / "classes.json") == [{"id": 1, "name": "person"}]
    assert yaml.safe_load((run / "config.yaml").read_text())["rounds"] == 1


def test_results_of_a_run(run: Path) -> None:
    result, last = read(run / "metrics.json"), read(run / "round_1" / "metrics.json")
    assert result["finished"] is True
    assert result["metrics"] == last["metrics"]
    assert {"AP@0.25", "AP@1", "AR@2", "AP_tiny@1"} <= result["metrics"].keys()
    assert result["config"]["output_dir"] == str(run)
    assert [row["round"] for row in result["rounds"]] == [0, 1]
    assert result["rounds"] == read(run / "rounds.json")
    assert result["rounds"][0]["labels"]["moved"] == 0
    assert result["rounds"][1]["labels"]["moved"] > 0
    assert result["rounds"][1]["metrics"] == result["metrics"]
    assert differing(run, run / "round_1") == []
    assert differing(run, run / "round_0") != []


def test_every_round_is_a_new_network_on_other_labels(run: Path) -> None:
    first, second = (read(run / "labels" / f"round_{t}.json") for t in (0, 1))
    assert [row["point"] for row in first["annotations"]] == [row["point"] for row in second["annotations"]]
    assert [row["bbox"] for row in first["annotations"]] != [row["bbox"] for row in second["annotations"]]
    one, other = (logged(run / f"round_{t}") for t in (0, 1))
    assert [line["step"] for line in one] == [line["step"] for line in other] == [1, 2, 3, 4]
    assert one[0]["losses"]["loss_cls"] != other[0]["losses"]["loss_cls"]


def test_round_zero_is_a_training_without_refinement(run: Path, tmp_path: Path) -> None:
    alone = done(tmp_path, "rounds=0")
    assert differing(alone, run / "round_0") == []
    assert read(alone / "metrics.json")["metrics"] == rows(run)[0]["metrics"]


def test_finished_runs_say_so_and_more_rounds_go_on(run: Path, tmp_path: Path) -> None:
    folder = done(tmp_path / "more", "rounds=0")
    before = (folder / "round_0" / "model.safetensors").stat().st_mtime_ns
    again = train(f"output_dir={folder}", "rounds=0")
    assert again.status == 0
    assert "this run is finished; set resume=never, or more rounds" in again.out
    done(folder, "data.workers=1", "eval.max_dets=200")  # what does not decide on the training may change
    assert (folder / "round_0" / "model.safetensors").stat().st_mtime_ns == before
    assert rows(folder) == rows(run)
    assert differing(folder, run) == []


def test_a_run_that_goes_on_has_no_final_network_before_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = done(tmp_path, "rounds=0")
    assert load_run(folder).round == 0

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("p2p_loc.train.train_round", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(f"output_dir={folder}", "rounds=1")
    with pytest.raises(InputError, match=r"holds no model\.safetensors: the run is not finished"):
        load_run(folder)
    assert load_run(folder, round=0).round == 0


def test_other_settings_are_refused_and_never_starts_anew(tmp_path: Path) -> None:
    folder = done(tmp_path / "a", "rounds=0")
    message = train(f"output_dir={folder}", "optim.lr=0.5", "data.points.seed=3", "refine.topk=4", "epochs=3").mistake()
    assert "rounds were trained with other settings: data.points.seed, epochs, optim.lr, refine.topk." in message
    done(folder, "rounds=0", "resume=never", "data.points.seed=3")
    assert differing(folder, done(tmp_path / "b", "rounds=0", "data.points.seed=3")) == []


def test_a_torn_checkpoint_of_a_round_falls_back(run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torn = copy_of(run, tmp_path / "torn")
    for name in ("metrics.json", "round_1/metrics.json", "round_1/model.safetensors"):
        (torn / name).unlink()
    newest = torn / "round_1" / "checkpoints" / "step_00000004.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    done(torn)
    assert "step_00000004.pt" in caplog.text
    assert differing(run, torn) == []
    assert rows(torn) == rows(run)


def test_no_detections_leave_the_labels(tmp_path: Path) -> None:
    folder = done(tmp_path, "model.score_threshold=0.99")
    assert read(folder / "detections" / "round_0.json") == []
    first, second = (read(folder / "labels" / f"round_{t}.json") for t in (0, 1))
    assert first == second
    assert rows(folder)[1]["labels"]["moved"] == 0
    assert read(folder / "metrics.json")["metrics"]["AP@1"] == 0


def test_true_boxes_are_the_upper_bound(tmp_path: Path) -> None:
    folder = done(tmp_path, "data.labels=boxes", "rounds=0")
    labels = read(folder / "labels" / "round_0.json")["annotations"]
    assert all(row["bbox"] == pytest.approx(row["true_bbox"], abs=1e-3) for row in labels)
    assert rows(folder)[0]["labels"]["error"] == pytest.approx(0, abs=1e-3)
    message = train(f"output_dir={tmp_path / 'b'}", "data.labels=boxes", "rounds=1").mistake()
    assert "rounds=1: true boxes are not to be refined" in message


def test_labels_as_points_keep_their_size(tmp_path: Path) -> None:
    folder = done(tmp_path, "refine.label=point", "data.pseudo_box=[8,8]")
    first, second = (read(folder / "labels" / f"round_{t}.json")["annotations"] for t in (0, 1))
    sides = {row["id"]: row["bbox"][2:] for row in first}
    inside = [row for row in second if all(s > 0 and s + w < 48 for s, w in zip(row["bbox"], row["bbox"][2:]))]
    assert len(inside) > 5
    assert all(row["bbox"][2:] == pytest.approx(sides[row["id"]], abs=2e-3) for row in inside)
    assert first != second


def test_mean_weights_are_kept_and_other_metrics_followed(run: Path, tmp_path: Path) -> None:
    folder = done(tmp_path, "run.ema_decay=0.5", "rounds=0", "eval.taus=[2,0.5]", "eval.max_dets=[2,200]")
    best = read(folder / "round_0" / "metrics.json")["best"]
    assert best["monitor"] == "AP@2/200"
    assert best["value"] == read(folder / "metrics.json")["metrics"]["AP@2/200"]
    assert losses(folder / "round_0") == losses(run / "round_0")
    assert differing(folder / "round_0", run / "round_0") != []


def test_report_is_asked_for_the_papers_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(REPORT, lambda *given: seen.append(given))
    done(tmp_path, "rounds=0", "+paper_metrics.AP=0.5")
    assert seen == [(tmp_path, {"AP": 0.5})]


def test_loaded_network_is_that_of_its_round(run: Path) -> None:
    image = torch.rand(1, 3, 48, 48)
    last, first = load_run(run), load_run(run, round=0)
    assert (last.round, first.round, last.classes, last.category_ids) == (1, 0, ("person",), (1,))
    same = load_run(run, weights=run / "round_1" / "checkpoints" / "best.pt")
    assert same.round is None
    scores = [loaded.model.candidates(image, [(48, 48)])[0].scores for loaded in (last, same, first)]
    assert torch.equal(scores[0], scores[1])
    assert not torch.equal(scores[0], scores[2])


def test_help_is_quick_and_needs_no_torch() -> None:
    code = "import sys; sys.argv = ['p2p-train', '--help']\nfrom p2p_loc.{0} import main\ntry: main()\n"
    code += "finally: print('torch' in sys.modules)"
    for script, words in (("train", "+experiment=demo_boxes"), ("refine", "annotations=points.json")):
        started = time.perf_counter()
        command = [sys.executable, "-c", code.format(script)]
        shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
        assert words in shown
        assert shown.endswith("False\n")
        assert time.perf_counter() - started < 10


def test_default_configuration_is_the_demo() -> None:
    default, demo = configuration(), configuration("+experiment=demo")
    for name in ("data", "model", "optim", "refine", "eval", "epochs", "rounds"):
        assert default[name] == demo[name]
    assert [setting.partition("=")[0] for setting in TINY if setting.startswith("model.")]
