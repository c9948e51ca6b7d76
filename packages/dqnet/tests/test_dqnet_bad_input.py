"""What is wrong with the settings of a training is said in one message that names it, before the first step.

One case of each kind: ranges and sizes have their own tests beside what checks them.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from dqnet_runs import REPORT, TINY, done, train

from vireo.engine.checkpoint import save_weights
from vireo.testing import call_script
from vireo.testing.runs import read


@pytest.fixture(autouse=True)
def _without_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(REPORT, lambda *_, **__: None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the transformer alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(REPORT, lambda *_, **__: None)
        return done(tmp_path_factory.mktemp("mistakes") / "run", "model.arm=vit", "epochs=1")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["model.arm=product"], ["unknown arm 'product'", "gate, sum, concat, vit, resnet"]),
        (["model.vit.name=vit_giant"], ["unknown transformer 'vit_giant'", "vit_base_patch16"]),
        (["model.heads=3"], ["16 channels are not divided by 3 heads"]),
        (["model.image_size=36"], ["36"]),
        (["model.vit.patch_size=32"], ["choose patch size and stem so that the factors are 4, 4, 2 and 1"]),
        (["+model.vit.depths=3"], ["no part of the network has an argument 'depths'"]),
        (["modle.arm=vit"], ["modle.arm", "model.arm"]),
        (["optim.lrr=1"], ["nearest key is 'optim.lr'"]),
        (["+experiment=codd"], ["codd"]),
        (["loss.bce=focal"], ["unknown bce 'focal'", "use mean (published) or weighted"]),
        (["optim.lr=0"], ["optim.lr: a rate of 0 trains nothing"]),
        (["schedule.min=3"], ["schedule.min: a factor of 3"]),
        (["data.batch_size=1"], ["data.batch_size: one image has no statistics", "at least 2"]),
        (["data.batch_size=9"], ["8 images do not fill a batch of 9"]),
        (["data=sod", "data.root=null"], ["data.root: has no value"]),
        (["data=sod", "data.root=/nowhere"], ["/nowhere"]),
        (["init.model=/nowhere.pth"], ["/nowhere.pth: no such file"]),
        (["init.model=RUN", "init.vit=RUN"], ["init.model: the whole network and a branch of it"]),
        (["init.vit=RUN", "model.arm=resnet"], ["RUN: the network has no transformer"]),
        (["init.resnet=RUN", "model.arm=vit"], ["RUN: the network has no ResNet"]),
        (["init.resnet=RUN"], ["RUN", "a network without a ResNet"]),
        (["init.model=RUN"], ["RUN", "head."]),
        (["init.vit=RUN", "model.vit.depth=3"], ["RUN", "width 16, depth 2, patch size 8"]),
        (["init.vit=EMPTY"], ["EMPTY", "holds no model.safetensors"]),
        (["init.resnet=OTHER"], ["OTHER", "it holds no ResNet under timm's names"]),
        (["init.resnet=timm"], ["no weights for a ResNet of these sizes"]),
    ],
)
def test_mistakes(trained: Path, tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    (tmp_path / "empty").mkdir()
    save_weights({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    names = {"RUN": str(trained), "EMPTY": str(tmp_path / "empty"), "OTHER": str(tmp_path / "other.safetensors")}

    def named(text: str) -> str:
        for name, path in names.items():
            text = text.replace(name, path)
        return text

    settings = [text for text in TINY if not text.startswith("data.")] if "data=sod" in arguments else TINY
    outcome = train(*(named(text) for text in arguments), f"output_dir={tmp_path / 'run'}", settings=settings)
    message = outcome.mistake()
    for expected in words:
        assert named(expected) in message
    assert "step 1" not in outcome.err  # it is known before training


def test_a_step_that_is_not_finite_names_the_images(tmp_path: Path) -> None:
    outcome = train("optim.lr=1e30", "optim.vit_lr=1e30", "schedule.warmup_steps=0", f"output_dir={tmp_path / 'run'}")
    message = outcome.mistake()
    assert "not finite" in message
    assert "run.nonfinite" in message or "nonfinite" in message


def test_steps_that_are_not_finite_can_be_left_out(tmp_path: Path) -> None:
    settings = ["optim.lr=1e30", "optim.vit_lr=1e30", "schedule.warmup_steps=0", "run.nonfinite=skip", "epochs=1"]
    outcome = train(*settings, "eval_every=9", f"output_dir={tmp_path / 'run'}")
    assert outcome.status == 0, outcome.err
    assert read(tmp_path / "run" / "metrics.json")["skipped_steps"] > 0


def test_a_finished_run_is_not_trained_again(trained: Path) -> None:
    before = (trained / "model.safetensors").stat().st_mtime_ns
    outcome = train("model.arm=vit", "epochs=1", f"output_dir={trained}")
    assert outcome.status == 0
    assert "this run is finished" in outcome.err + outcome.out
    assert (trained / "model.safetensors").stat().st_mtime_ns == before


def test_help_is_quick_and_shows_commands() -> None:
    """Without torch; measured in a process of its own."""
    code = "import sys, dqnet.train; sys.argv = ['dqnet-train', '--help']; dqnet.train.main()"
    check = f"import atexit, sys; atexit.register(lambda: print('torch' in sys.modules))\n{code}"
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=60)
    assert time.perf_counter() - started < 20  # a second and a half on an idle machine
    assert "dqnet-train +experiment=cod" in done.stdout
    assert "layer_decay" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"


def test_scripts_refuse_a_folder_of_something_else(tmp_path: Path) -> None:
    message = call_script("dqnet.eval", f"run={tmp_path}").mistake()
    assert "dqnet-train" in message
