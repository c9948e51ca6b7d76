"""Entry points: mistakes on the command line are answered with one message and exit status 2."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vireo.engine.cli import entry_point
from vireo.errors import InputError

FILES = {
    "__init__.py": "",
    "conf/__init__.py": "",
    "conf/train.yaml": """
        defaults: [{optim: sgd}, _self_]
        output_dir: outputs/a
        seed: 0
        data: {root: null, image_size: [64, 64]}
    """,
    "conf/optim/sgd.yaml": "{lr: 0.1, momentum: 0.9}",
    "conf/optim/adam.yaml": "{lr: 0.001, betas: [0.9, 0.99]}",
    "conf/experiment/coco_r50.yaml": """
        # @package _global_
        optim: {lr: 0.02}
        seed: 7
    """,
    "train.py": """
        "tiny-train optim.lr=0.1"

        from vireo.engine.cli import entry_point

        @entry_point("tiny_app.conf", "train")
        def main(config):
            import sys
            print("torch" in sys.modules, config.optim.lr)
    """,
}


@pytest.fixture
def application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the package ``tiny_app``, importable; the working directory is beside it."""
    import textwrap

    for name, text in FILES.items():
        path = tmp_path / "site" / "tiny_app" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).strip() + "\n")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    for name in [name for name in sys.modules if name.partition(".")[0] == "tiny_app"]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path / "site"


Call = Callable[..., tuple[int, list[Any]]]


@pytest.fixture
def call(application: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """``call(*arguments, body=None)``: exit status, and the configurations the entry point was given."""

    def run(*arguments: str, body: Callable[[Any], None] | None = None) -> tuple[int, list[Any]]:
        seen: list[Any] = []

        @entry_point("tiny_app.conf", "train")
        def main(config: Any) -> None:
            seen.append(config)
            if body:
                body(config)

        monkeypatch.setattr(sys, "argv", ["tiny-train", *arguments])
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0), seen
        return 0, seen

    return run


def test_experiment_and_overrides_reach_the_body(call: Call) -> None:
    status, seen = call("+experiment=coco_r50", "optim.momentum=0.8")
    assert status == 0
    assert (seen[0].optim.lr, seen[0].optim.momentum, seen[0].seed) == (0.02, 0.8, 7)


def test_no_files_but_the_output_folder(call: Call) -> None:
    assert call("optim=adam")[0] == 0
    assert [str(path) for path in sorted(Path().rglob("*"))] == ["outputs", "outputs/a"]


MISTAKES = {
    "optim.l=0.1": "nearest key is 'optim.lr'",
    "lr=0.1": "nearest key is 'optim.lr'",
    "data.rot=x": "nearest key is 'data.root'",
    "sead=1": "nearest key is 'seed'",
    "~optim.momentun": "nearest key is 'optim.momentum'",
    "something_else=1": "see --help for the keys",
    "+experiment=coco_r5": "nearest is +experiment=coco_r50",
    "+experimnt=coco_r50": "write +experiment=",
    "experiment=coco_r50": "write +experiment=coco_r50",
    "optim=adm": "nearest is optim=adam, all are: adam, sgd",
    "+seed=1": "write seed=1",
    "optim.lr=[1,": "write key=value",
    "seed": "write key=value",
    "optim.lr=0.1,0.2": "add --multirun",
    "output_dir=???": "output_dir: has no value",
    "output_dir=${nothing}": "name an existing key",
}


@pytest.mark.parametrize("argument", MISTAKES)
def test_mistakes_are_told_before_the_body_runs(call: Call, capsys: pytest.CaptureFixture[str], argument: str) -> None:
    status, seen = call("optim.momentum=0.5", argument)
    message = capsys.readouterr().err
    assert (status, seen) == (2, [])
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert MISTAKES[argument] in message


def test_the_key_of_a_chosen_option_is_valid_in_any_order(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    status, seen = call("optim.betas=[0,0]", "optim=adam")
    assert status == 0
    assert seen[0].optim.betas == [0, 0]
    assert call("optim.beta=[0,0]", "optim=adam")[0] == 2
    assert "nearest key is 'optim.betas'" in capsys.readouterr().err


def test_no_or_unwritable_output_folder(call: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("output_dir=null") == (2, [])
    assert capsys.readouterr().err == "error: output_dir: has no value. name the folder of the run.\n"
    (tmp_path / "file").touch()
    status, seen = call(f"output_dir={tmp_path}/file/run")
    assert (status, seen) == (2, [])
    message = capsys.readouterr().err
    assert f"{tmp_path}/file/run" in message
    assert "choose another folder with output_dir=" in message


def test_a_number_is_a_folder_and_a_list_is_none(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("output_dir=0")[1][0].output_dir == "0"
    assert Path("0").is_dir()
    for value in ("[a]", "true", "{a: 1}"):
        assert call(f"output_dir={value}") == (2, [])
        message = capsys.readouterr().err
        assert message.startswith("error: output_dir: ")
        assert "is no folder. name the folder of the run." in message


def test_a_refused_experiment_leaves_no_folder(call: Call) -> None:
    def refused(config: Any) -> None:
        raise InputError("these are the settings of another script", "settings", "run that")

    def begun(config: Any) -> None:
        (Path(config.output_dir) / "log.jsonl").touch()
        refused(config)

    Path("there").mkdir()
    for folder, body, stays in (("a", refused, False), ("b", begun, True), ("there", refused, True)):
        assert call(f"output_dir={folder}", body=body)[0] == 2
        assert Path(folder).exists() is stays


def test_input_errors_of_the_body(
    call: Call, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def body(config: Any) -> None:
        raise InputError("image is missing", "train.json: image 'a.jpg'", "restore it")

    assert call(body=body)[0] == 2
    assert capsys.readouterr().err == "error: train.json: image 'a.jpg': image is missing. restore it.\n"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert call(body=body)[0] == 2
    assert capsys.readouterr().err.startswith("[process 1] error: train.json")
    monkeypatch.delenv("RANK")  # as Fabric's launcher leaves it
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert call(body=body)[0] == 2
    assert capsys.readouterr().err.startswith("[process 3] error: train.json")


def test_a_requested_stop_keeps_its_status(call: Call) -> None:
    def body(config: Any) -> None:
        raise SystemExit(0)

    assert call(body=body)[0] == 0


def test_multirun(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    status, seen = call("--multirun", "optim.lr=1,2", "seed=3")
    assert status == 0
    assert [config.optim.lr for config in seen] == [1, 2]
    assert call("-m", "optim.l=1,2")[0] == 2
    assert "nearest key is 'optim.lr'" in capsys.readouterr().err


def test_help_is_quick_and_loads_nothing_heavy(application: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(application))
    command = [sys.executable, "-c", "from tiny_app.train import main; main()"]
    begin = time.perf_counter()
    shown = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
    assert time.perf_counter() - begin < 5.0  # 0.6 s on an idle machine
    assert shown.startswith("tiny-train optim.lr=0.1\n\n")
    assert "momentum: 0.9" in shown
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "False 0.1\n"
