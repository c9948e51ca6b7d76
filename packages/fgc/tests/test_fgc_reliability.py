"""FGC's training is the same run whether it is killed, decoded by workers, or spread over processes.

The engine's and the loaders' own tests cover each mechanism; here they meet the memory banks, the epochs of the
coupling, the controller and the noise of the gates.
"""

from __future__ import annotations

import random
import re
import signal
from pathlib import Path

import pytest
import torch
from fgc_command_line import GENERATED, differing, last_checkpoint, logged, losses, read, train, write_folders

from vireo.testing.series import Task, series, torchrun

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")

PRELOAD = [
    "vireo.engine.run",
    *(
        f"fgc.{module}"
        for module in ("build", "data", "eval", "load", "macs", "meters", "neighborhoods", "report", "train")
    ),
]
WITHOUT = ["fgc.report.write_run_report"]


def arguments(folder: Path, *more: str) -> list[str]:
    return [*GENERATED, "eval_every=9", "gallery_images=0", f"output_dir={folder}", *more]


def differing_entries(one: Path, other: Path) -> list[str]:
    """Tensors in which the last checkpoints of two runs are not bit-identical: network, banks, controller, momenta."""
    states = []
    for folder in (one, other):
        content = last_checkpoint(folder)
        momenta = {
            f"momentum {number}": entry["momentum_buffer"] for number, entry in content["optimizer"]["state"].items()
        }
        states.append({**content["model"], **momenta})
    a, b = states
    assert a.keys() == b.keys()
    return [key for key in a if not torch.equal(a[key], b[key])]


def require_same(whole: Path, other: Path) -> None:
    """Final weights, banks, controller, momenta and log."""
    assert differing(whole, other) == []
    assert differing_entries(whole, other) == []
    assert losses(whole) == losses(other)
    assert [line["monitors"] for line in logged(whole)] == [line["monitors"] for line in logged(other)]


def test_killed_twice_or_stopped_in_the_coupling(tmp_path: Path) -> None:
    """16 steps, 4 an epoch: shaping, warm-up, neighbours, neighbours; checkpoints every 2 steps or only when stopped.

    A counter of coupling epochs that started again with a resumed process would repeat the warm-up: the losses of the
    third and fourth epoch would then not be those of the run that was left alone.
    """
    whole, killed, stopped = (tmp_path / name for name in ("whole", "killed", "stopped"))
    more = ["epochs=4", "run.checkpoint_every=2", "controller.target_pruning=0.5"]
    first, second = sorted(random.Random(4).sample([5, 7, 9, 11, 13, 15], 2))  # not right behind a checkpoint
    to_be_stopped = arguments(stopped, *more, "run.checkpoint_every=0")
    statuses, output = series(
        Task("fgc.train", arguments(whole, *more)),
        Task("fgc.train", arguments(killed, *more), first),
        Task("fgc.train", arguments(killed, *more), second),
        Task("fgc.train", arguments(killed, *more)),
        Task("fgc.train", to_be_stopped, 6, signal.SIGTERM),
        Task("fgc.train", to_be_stopped),
        preload=PRELOAD,
        without=WITHOUT,
    )
    assert statuses == [0, -signal.SIGKILL, -signal.SIGKILL, 0, 0, 0], output
    resumed = [int(step) for step in re.findall(r"resumed at epoch \d, step (\d+)\n", output)]
    assert resumed == [first - 1, second - 1, 7]  # a stopped run ends its step, and saves
    assert len(losses(whole)) == 16
    require_same(whole, killed)
    require_same(whole, stopped)
    names = {name for name in last_checkpoint(killed)["model"] if name.startswith("objective.")}
    assert names == {
        *(f"objective.couplings.{block}.{bank}_bank.memory" for block in (7, 8) for bank in ("feature", "gate")),
        "objective.controller.start",
        "objective.controller.steps",
        "objective.controller.log_rho",
        "objective.controller.error",
    }


def test_workers_see_what_the_main_process_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fgc.report.write_run_report", lambda *_: None)
    root = write_folders(tmp_path / "data", {"train": 8, "val": 2}, vary=True)
    data = ["data=imagenet", f"data.root={root}", "data.crop_size=32", "data.batch_size=8"]
    network = ["model=resnet18", "model.name=resnet10t", "coupling.blocks=[3]"]  # one block a stage
    recipe = ["epochs=2", "recipe.shaping_epochs=1", "recipe.rho_epochs=1", "coupling.warmup_epochs=0"]
    common = [*data, *network, *recipe, "eval_every=9", "gallery_images=0", "run.log_every=1"]
    zero, two = tmp_path / "zero", tmp_path / "two"
    for folder, workers in ((zero, 0), (two, 2)):
        train(folder, *common, f"data.workers={workers}", data=[])
    assert len(losses(zero)) == 6
    assert losses(zero) == losses(two)
    assert differing(zero, two) == []
    assert differing_entries(zero, two) == []


@pytest.mark.slow
def test_two_processes_see_the_losses_of_one(tmp_path: Path) -> None:
    """61 images in batches of 16: the last of an epoch is cut into 7 and 6.

    Sums are rounded in another order, and once a gate's logit with its noise lies that near to 0 it opens on one side
    only; the learning rate and the number of steps are small enough that none does here.
    """
    one, two = tmp_path / "one", tmp_path / "two"
    more = ["data.train_images=61", "data.val_images=41", "optim.lr=0.01", "eval_every=1"]
    train(one, *more, data=arguments(one))
    torchrun("fgc.train", *arguments(two, *more))
    assert len(losses(one)) == len(losses(two)) == 12
    assert {"loss_ce", "loss_bs"} == losses(one)[0].keys()
    assert {"loss_ce", "loss_l0", "loss_fgc"} == losses(one)[-1].keys()
    for step, (a, b) in enumerate(zip(losses(one), losses(two))):
        assert a == pytest.approx(b, rel=1e-5, abs=1e-7), f"step {step + 1}"
    for a, b in zip(logged(one), logged(two)):
        assert a["monitors"]["pruning"] == pytest.approx(b["monitors"]["pruning"], rel=1e-5)
    banks = [last_checkpoint(folder)["model"] for folder in (one, two)]
    for name in (name for name in banks[0] if name.endswith("memory")):
        torch.testing.assert_close(banks[0][name], banks[1][name], rtol=1e-3, atol=1e-4, msg=name)
    torchrun("fgc.eval", f"run={one}", f"out={one}/eval.json")
    of_eval, *of_training = (
        read(path)["metrics"] for path in (one / "eval.json", one / "metrics.json", two / "metrics.json")
    )
    for name in of_eval.keys() - {"pruning_published"}:  # a mean over batches, of which several processes have more
        assert of_eval[name] == pytest.approx(of_training[0][name], rel=1e-6), name
    assert of_training[1]["top1_error"] == pytest.approx(of_training[0]["top1_error"], abs=1e-3)
    assert of_training[1]["pruning"] == pytest.approx(of_training[0]["pruning"], abs=1e-3)
