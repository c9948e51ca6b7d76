"""The run in one process: gradient step, logs, results, and what it says when something is wrong."""

import importlib.util
import io
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch import Tensor, nn

from vireo.engine import Run
from vireo.engine.guard import NonFiniteLoss
from vireo.errors import InputError


def load_script() -> ModuleType:
    """The training script of these tests as a module."""
    path = Path(__file__).parent / "scripts" / "train_tiny.py"
    spec = importlib.util.spec_from_file_location("train_tiny", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tiny = load_script()


def start(folder: Path, network: nn.Module, **settings: Any) -> tuple[Run, nn.Module]:
    """A run that is set up with plain gradient descent at rate 0.1."""
    run = Run(folder, accelerator="cpu", log_every=1, **settings)
    run.launch()
    model, _ = run.setup(network, torch.optim.SGD(network.parameters(), lr=0.1))
    return run, model


def entries(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Lines of the log of one kind."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def weights(folder: Path) -> dict[str, Tensor]:
    """The final weights."""
    return load_file(folder / "model.safetensors")


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two state dicts are equal bit by bit."""
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_folder_of_a_finished_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = {"optim": {"lr": 0.05}, "data": {"root": None}}
    network = tiny.train(str(tmp_path), epochs=3, monitor="AP50", config=config, checkpoint_every=4, seed=1)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == config
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {
        "config.yaml",
        "config.json",
        "log.jsonl",
        "metrics.json",
        "model.safetensors",
        "checkpoints/best.pt",
        "checkpoints/step_00000016.pt",
        "checkpoints/step_00000018.pt",
    }
    assert same(weights(tmp_path), dict(network.state_dict()))
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["metrics"] == {"AP50": 2.0}
    assert metrics["best"] == {"monitor": "AP50", "value": 2.0}
    assert (metrics["steps"], metrics["finished"], metrics["config"]) == (18, True, config)
    train = entries(tmp_path, "train")
    assert [line["step"] for line in train] == list(range(1, 19))
    assert set(train[0]) >= {"epoch", "lr", "losses", "images_per_s", "time", "memory_mb"}
    assert train[0]["lr"] == pytest.approx(0.05 * 0.001)
    assert train[-1]["lr"] == pytest.approx(0.05 * 0.1)
    assert [line["metrics"]["AP50"] for line in entries(tmp_path, "eval")] == [0.0, 1.0, 2.0]
    assert [line["event"] for line in entries(tmp_path, "event")] == ["started", "finished"]
    shown = capsys.readouterr().err
    assert "epoch 3/3 step 18 loss" in shown
    assert "img/s" in shown


def test_a_run_of_a_configuration(tmp_path: Path) -> None:
    common = {"output_dir": str(tmp_path), "seed": 3, "epochs": 2, "resume": "never"}
    rest = {"wandb": {"mode": "disabled"}, "run": {"accelerator": "cpu", "accumulate": "${twice}"}, "twice": 2}
    run = Run.of(OmegaConf.create({**common, **rest}), monitor="loss", mode="min", grad_clip=1.0)
    assert (run.output_dir, run.seed, run.total_epochs, run.resume) == (tmp_path, 3, 2, "never")
    assert (run.monitor, run.mode, run.grad_clip, run.accumulate) == ("loss", "min", 1.0, 2)
    assert run.config == {**common, **rest, "run": {"accelerator": "cpu", "accumulate": 2}}
    assert run.place == {"device": torch.device("cpu"), "rank": 0, "world_size": 1, "seed": 3}


class WithBank(nn.Module):
    """A network with something that only training needs."""

    training_only = ("bank.",)

    def __init__(self) -> None:
        super().__init__()
        self.line, self.bank = nn.Linear(4, 1), nn.Module()
        self.bank.register_buffer("visits", torch.zeros(3))

    def forward(self, images: Tensor, targets: Any) -> dict[str, Tensor]:
        self.bank.get_buffer("visits").add_(1)
        return {"loss": self.line(images).square().mean()}


def test_what_only_training_needs_is_in_checkpoints_alone(tmp_path: Path) -> None:
    run, model = start(tmp_path, WithBank(), epochs=2, monitor="AP50")
    loader = tiny.Loader()
    done = []
    for epoch in run.epochs():
        done.append(run.batches_done)
        for images, targets in run.batches(loader):
            run.step(model(images, targets))
        done.append(run.batches_done)
        run.record({"AP50": float(epoch)})
    run.finish()
    assert done == [0, len(loader)] * 2
    assert set(weights(tmp_path)) == {"line.weight", "line.bias"}
    best = torch.load(tmp_path / "checkpoints" / "best.pt", weights_only=True)
    assert set(best["model"]) == {"line.weight", "line.bias"}
    newest = sorted((tmp_path / "checkpoints").glob("step_*.pt"))[-1]
    saved = torch.load(newest, weights_only=True)["model"]
    assert torch.equal(saved["bank.visits"], torch.full((3,), 2.0 * len(loader)))


def test_finished_run_says_so_and_more_epochs_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.train(str(tmp_path / "a"), epochs=1)
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        tiny.train(str(tmp_path / "a"), epochs=1)
    assert end.value.code == 0
    assert "this run is finished" in capsys.readouterr().err
    assert len(entries(tmp_path / "a", "train")) == 6
    tiny.train(str(tmp_path / "a"), epochs=2)
    tiny.train(str(tmp_path / "b"), epochs=2)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_resume_never_starts_anew(tmp_path: Path) -> None:
    tiny.train(str(tmp_path), epochs=1)
    tiny.train(str(tmp_path), epochs=1, resume="never")
    assert [line["step"] for line in entries(tmp_path, "train")] == list(range(1, 7))


def test_state_of_sharded_weights_goes_the_same_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The calls that gather FSDP's shards, on one process, where they must agree with the plain ones."""
    tiny.train(str(tmp_path / "plain"), epochs=2, noise=0.1)
    monkeypatch.setattr("vireo.engine.devices.is_sharded", lambda fabric: True)
    monkeypatch.setattr("vireo.engine.resumable.is_sharded", lambda fabric: True)
    tiny.train(str(tmp_path / "sharded"), epochs=1, noise=0.1)
    tiny.train(str(tmp_path / "sharded"), epochs=2, noise=0.1)
    assert same(weights(tmp_path / "plain"), weights(tmp_path / "sharded"))
    with pytest.raises(InputError, match="no moving average of sharded weights"):
        tiny.train(str(tmp_path / "average"), epochs=1, ema_decay=0.9)


def damage(path: Path) -> None:
    """Cut the last third off."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def test_torn_checkpoint_falls_back_and_ends_alike(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tiny.train(str(tmp_path / "a"), epochs=3, noise=0.1)
    tiny.train(str(tmp_path / "b"), epochs=2, noise=0.1, checkpoint_every=5, keep_last=3)
    folder = tmp_path / "b" / "checkpoints"
    damage(folder / "step_00000012.pt")
    with caplog.at_level(logging.WARNING):
        tiny.train(str(tmp_path / "b"), epochs=3, noise=0.1)
    assert "step_00000012.pt: torn or damaged checkpoint skipped" in caplog.text
    assert entries(tmp_path / "b", "event")[2]["step"] == 10
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    steps = [line["step"] for line in entries(tmp_path / "b", "train")]
    assert steps == list(range(1, 19))  # the log does not repeat what was done again


def test_half_written_files_are_cleared_away(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / ".step_00000004.pt.tmp").write_bytes(b"PK")
    tiny.train(str(tmp_path), epochs=1)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000006.pt"]


def test_progress_bar_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setattr(sys, "stderr", screen)
    tiny.train(str(tmp_path), epochs=2)
    shown = screen.getvalue()
    assert "epoch 2/2" in shown
    assert "6/6" in shown
    assert "img/s" in shown
    assert "epoch 2/2 evaluated: AP50 1" in shown
    assert "epoch 2/2 step 12 loss" not in shown  # the lines are for files


def test_all_checkpoints_torn(tmp_path: Path) -> None:
    tiny.train(str(tmp_path), epochs=1, checkpoint_every=3)
    for path in (tmp_path / "checkpoints").glob("step_*.pt"):
        damage(path)
    with pytest.raises(InputError, match=r"none of the 2 checkpoints can be read.*resume=never"):
        tiny.train(str(tmp_path), epochs=2)


def test_resuming_with_other_settings_warns_of_the_keys(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tiny.train(str(tmp_path), epochs=1, config={"model": {"depth": 50}, "seed": 0})
    with caplog.at_level(logging.WARNING):
        tiny.train(str(tmp_path), epochs=2, config={"model": {"depth": 101}, "seed": 0})
    assert "other settings than it was started with" in caplog.text
    assert "model.depth" in caplog.text
    assert "seed" not in caplog.text


def test_resuming_another_network_or_another_loader(tmp_path: Path) -> None:
    tiny.train(str(tmp_path), epochs=1)
    (tmp_path / "metrics.json").unlink()
    with pytest.raises(InputError, match=r"step_00000006.pt: the checkpoint does not fit.*missing: layers.1"):
        tiny.train(str(tmp_path), epochs=1, noise=0.1)
    with pytest.raises(InputError, match="6 batches an epoch, the loader has 7"):
        tiny.train(str(tmp_path), epochs=1, batches=7)


def test_a_refused_resume_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    tiny.train(str(tmp_path), epochs=1, config={"noise": 0.0})
    finished = content()
    with pytest.raises(InputError, match="does not fit"):
        tiny.train(str(tmp_path), epochs=2, noise=0.1, config={"noise": 0.1})
    assert content() == finished
    tiny.train(str(tmp_path), epochs=2, config={"noise": 0.0, "epochs": 2})
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == {"noise": 0.0, "epochs": 2}


@pytest.mark.parametrize(("batches", "accumulate"), [(8, 4), (7, 2)])
def test_accumulation_is_a_big_batch(tmp_path: Path, batches: int, accumulate: int) -> None:
    """Also where the epoch's last step has fewer batches."""
    network = tiny.Network()
    small = tiny.Loader(batches, 4)
    run, model = start(tmp_path / "a", network, accumulate=accumulate, grad_clip=0.5)
    assert run.steps_per_epoch(small) == -(-batches // accumulate)
    expected = tiny.Network()
    expected.load_state_dict(network.state_dict())
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1)
    for _ in run.epochs():
        for images, targets in run.batches(small):
            run.step(model(images, targets))
    assert run.step_count == run.steps_per_epoch(small)
    fetched = list(small.batches(0))
    for first in range(0, batches, accumulate):
        group = fetched[first : first + accumulate]
        images, targets = torch.cat([b[0] for b in group]), torch.cat([b[1] for b in group])
        optimizer.zero_grad()
        sum(expected(images, targets).values()).backward()
        torch.nn.utils.clip_grad_norm_(expected.parameters(), 0.5)
        optimizer.step()
    for ours, plain in zip(network.parameters(), expected.parameters()):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6)


class Line(nn.Module):
    """One weight whose loss is its product with the mean image."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return {"good": 0.0 * self.weight.sum(), "product": (self.weight * images.mean()).sum()}


class Given:
    """A loader of the given batches."""

    def __init__(self, *means: float) -> None:
        self.means = means

    def __len__(self) -> int:
        return len(self.means)

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        for mean in self.means[start:]:
            yield torch.full((2, 1), mean), torch.zeros(2, 1)


def test_moving_average_in_closed_form(tmp_path: Path) -> None:
    network = Line()
    run, model = start(tmp_path, network, ema_decay=0.75)
    for _ in run.epochs():
        for images, targets in run.batches(Given(1.0, 1.0, 2.0)):
            run.step(model(images, targets))
    run.finish()
    first, second, third = 0.9, 0.8, 0.6
    average = 0.75 * (0.75 * first + 0.25 * second) + 0.25 * third
    assert network.weight.item() == pytest.approx(third)
    assert next(run.evaluated_model.parameters()).item() == pytest.approx(average)
    assert weights(tmp_path)["weight"].item() == pytest.approx(average)


@pytest.mark.parametrize("image_ids", [[17, 4], torch.tensor([17, 4])])
def test_nonfinite_loss_names_step_entry_and_images(tmp_path: Path, image_ids: Any) -> None:
    network = Line()
    run, model = start(tmp_path, network)
    with pytest.raises(NonFiniteLoss) as caught:  # noqa: PT012
        for _ in run.epochs():
            for images, targets in run.batches(Given(1.0, float("nan"), 1.0)):
                run.step(model(images, targets), image_ids=image_ids)
    assert isinstance(caught.value, InputError)
    message = str(caught.value)
    assert message.startswith("step 1 (epoch 0, batch 1)")
    assert "product = nan (images 17, 4)" in message
    assert "good" not in message
    assert network.weight.item() == pytest.approx(0.9)


def test_nonfinite_gradient_is_noticed_too(tmp_path: Path) -> None:
    class Root(Line):
        def forward(self, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
            return {"root": (self.weight - 1.0).abs().sqrt().sum()}  # 0, with an infinite slope

    network = Root()
    run, model = start(tmp_path, network)
    with pytest.raises(NonFiniteLoss, match="the gradient"):  # noqa: PT012
        for _ in run.epochs():
            for images, targets in run.batches(Given(1.0)):
                run.step(model(images, targets))
    assert network.weight.item() == 1.0


class Pair(nn.Module):
    """Two numbers, each whose slopes are the image times 3 and 4."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = (nn.Parameter(torch.ones(1)) for _ in range(2))

    def forward(self, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return {"sum": (3 * self.one + 4 * self.other).sum() * images.mean()}


def pair_run(folder: Path, network: Pair, schedules: Any = None, **settings: Any) -> tuple[Run, nn.Module]:
    """A run with a parameter group for each of the two; the second is not clipped."""
    run = Run(folder, accelerator="cpu", log_every=1, **settings)
    run.launch()
    groups: list[dict[str, Any]] = [{"params": [network.one]}, {"params": [network.other], "clip": False}]
    return run, run.setup(network, torch.optim.SGD(groups, lr=0.1), schedules)[0]


def test_group_that_is_not_clipped(tmp_path: Path) -> None:
    network = Pair()
    run, model = pair_run(tmp_path, network, grad_clip=1.5)
    for _ in run.epochs():
        for images, targets in run.batches(Given(1.0)):
            run.step(model(images, targets))
    assert network.one.item() == pytest.approx(1 - 0.1 * 1.5)
    assert network.other.item() == pytest.approx(1 - 0.1 * 4)
    assert entries(tmp_path, "train")[0]["monitors"]["grad_norm"] == pytest.approx(3)


def test_group_that_is_not_clipped_is_checked_all_the_same(tmp_path: Path) -> None:
    network = Pair()
    run, model = pair_run(tmp_path, network, grad_clip=1.5)
    network.other.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(NonFiniteLoss, match="the gradient"):  # noqa: PT012
        for _ in run.epochs():
            for images, targets in run.batches(Given(1.0)):
                run.step(model(images, targets))
    assert (network.one.item(), network.other.item()) == (1, 1)


def test_schedule_for_each_parameter_group(tmp_path: Path) -> None:
    network = Pair()
    late = [lambda step: 0.5, lambda step: float(step >= 1)]
    run, model = pair_run(tmp_path, network, late)
    for _ in run.epochs():
        for images, targets in run.batches(Given(1.0, 1.0, 1.0)):
            run.step(model(images, targets))
    assert network.one.item() == pytest.approx(1 - 0.05 * 3 * 3)
    assert network.other.item() == pytest.approx(1 - 0.1 * 4 * 2)


def test_another_number_of_schedules(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="1 schedules for 2 parameter groups"):
        pair_run(tmp_path, Pair(), [lambda step: 1.0])


def test_unclipped_group_of_sharded_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vireo.engine.resumable.is_sharded", lambda fabric: True)
    with pytest.raises(InputError, match=r"clipped as a whole.*strategy=ddp"):
        pair_run(tmp_path, Pair())


def test_nonfinite_steps_are_skipped_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    network = Line()
    run, model = start(tmp_path, network, nonfinite="skip")
    for _ in run.epochs():
        for images, targets in run.batches(Given(1.0, float("inf"), 2.0)):
            run.step(model(images, targets))
    assert (run.skipped_steps, run.step_count) == (1, 3)
    assert network.weight.item() == pytest.approx(1.0 - 0.1 - 0.2)
    assert run.finish()["skipped_steps"] == 1
    assert "product = inf" in caplog.text
    assert [line["event"] for line in entries(tmp_path, "event")] == ["started", "skipped", "finished"]


def test_skipping_forever_is_an_error(tmp_path: Path) -> None:
    run, model = start(tmp_path, Line(), nonfinite="skip")
    with pytest.raises(NonFiniteLoss, match="101 steps in a row"):  # noqa: PT012
        for _ in run.epochs():
            for images, targets in run.batches(Given(*[float("nan")] * 120)):
                run.step(model(images, targets))


@pytest.mark.parametrize(("mode", "best"), [("max", 0.7), ("min", 0.2)])
def test_best_checkpoint_and_report(tmp_path: Path, mode: Any, best: float) -> None:
    network = Line()
    run, model = start(tmp_path, network, epochs=3, monitor="group.score", mode=mode)
    kept = 0.0
    for epoch in run.epochs():
        for images, targets in run.batches(Given(1.0)):
            run.step(model(images, targets))
        score = [0.5, 0.7, 0.2][epoch]
        kept = network.weight.item() if score == best else kept
        run.record({"group": {"score": score}, "bad": float("nan")})
    seen: list[Path] = []
    assert run.finish(report=seen.append)["best"]["value"] == best
    assert seen == [tmp_path]
    saved = torch.load(tmp_path / "checkpoints" / "best.pt", weights_only=True)
    assert saved["model"]["weight"].item() == pytest.approx(kept)
    assert entries(tmp_path, "eval")[0]["metrics"]["bad"] is None


def test_failing_report_leaves_the_run_unfinished(tmp_path: Path) -> None:
    run, _ = start(tmp_path, Line(), epochs=0)

    def fail(folder: Path) -> None:
        raise RuntimeError("no picture")

    with pytest.raises(RuntimeError, match="no picture"):
        run.finish(report=fail)
    assert not json.loads((tmp_path / "metrics.json").read_text())["finished"]


def test_wrong_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = start(tmp_path, Line(), monitor="AP5")
    with pytest.raises(InputError, match=r"monitor: no number 'AP5' among the metrics. use one of: AP, AP50"):
        run.record({"AP": 0.1, "AP50": 0.2})
    with pytest.raises(InputError, match="unknown strategy 'dpp'"):
        Run(tmp_path, accelerator="cpu", strategy="dpp")
    with pytest.raises(InputError, match="unknown policy"):
        Run(tmp_path, accelerator="cpu", nonfinite="ignore")  # type: ignore[arg-type]
    wrong: list[dict[str, Any]] = [{"precision": "33"}, {"strategy": "fsdp"}, {"accelerator": "abacus"}]
    wrong.append({"accelerator": "tpu"})  # a missing package, not a wrong name
    for settings in wrong:
        with pytest.raises(InputError, match="cannot run"):
            Run(tmp_path, **{"accelerator": "cpu", **settings})
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        Run(tmp_path / "file" / "run", accelerator="cpu").launch()
    for name, value in {"TORCHELASTIC_RUN_ID": "a", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="the launcher started 2 processes"):
        Run(tmp_path, accelerator="cpu", devices=3)


WRONG = {
    "seed=1.5": "seed: 1.5 is no whole number",
    "epochs=true": "epochs: True is no whole number from 0",
    "resume=abc": "resume: 'abc' is not a choice. use auto or never",
    "run=null": "run: None is no group of settings. change single ones with run.KEY=...",
    "wandb=abc": "wandb: 'abc' is no group of settings",
    "wandb.mode=abc": "wandb.mode: 'abc' is not a choice",
    "run.checkpoint_every=-1": "run.checkpoint_every: -1 is no whole number from 0",
    "run.keep_last=0": "run.keep_last: 0 is no whole number from 1",
    "run.log_every=abc": "run.log_every: 'abc' is no whole number from 1",
    "run.accumulate=null": "run.accumulate: None is no whole number from 1",
    "run.grad_clip=0": "run.grad_clip: 0 is no positive number",
    "run.grad_clip=[1]": "run.grad_clip: [1] is no positive number",
    "run.ema_decay=1": "run.ema_decay: 1 is no number between 0 and 1",
    "run.nonfinite=abc": "run.nonfinite: unknown policy 'abc'",
    "run.devices=abc": "run.devices: 'abc' is no number of devices",
    "run.devices=[0]": "run.devices: [0] is no number of devices",
    "run.devices=0": "run.devices: 0 is no number of devices",
    "run.accelerator=[cpu]": "cannot run",
    "run.strategy=null": "run.strategy: unknown strategy",
    "run.precision=[32]": "cannot run",
}


@pytest.mark.parametrize("override", WRONG)
def test_wrong_values_are_refused_before_anything_is_written(tmp_path: Path, override: str) -> None:
    common = {"output_dir": str(tmp_path / "run"), "seed": 0, "epochs": 1, "resume": "auto"}
    config = OmegaConf.create({**common, "wandb": {"mode": "disabled"}, "run": {"accelerator": "cpu"}})
    with pytest.raises(InputError) as error:
        Run.of(OmegaConf.merge(config, OmegaConf.from_dotlist([override])))
    assert WRONG[override] in str(error.value)
    assert not list(tmp_path.iterdir())


def test_clipping_beside_the_optimizers_settings_is_named_as_such(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^optim\.grad_clip: -1 is no positive number"):
        Run(tmp_path, accelerator="cpu", grad_clip=-1, config={"optim": {"grad_clip": -1}, "run": {}})


def test_wandb_is_imported_only_on_demand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    class Session:
        id = "abc"

        def log(self, values: dict[str, Any], step: int) -> None:
            calls.append((step, values))

        def finish(self) -> None:
            calls.append("finished")

    def init(**options: Any) -> Session:
        calls.append(options)
        return Session()

    fake = ModuleType("wandb")
    fake.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it would fail
    tiny.train(str(tmp_path / "a"), epochs=1)
    with pytest.raises(InputError, match=r"'onlin' is not a choice\. use one of disabled, offline, online"):
        tiny.train(str(tmp_path / "c"), epochs=1, wandb={"mode": "onlin"})
    monkeypatch.setitem(sys.modules, "wandb", fake)
    tiny.train(str(tmp_path / "b"), epochs=1, wandb={"mode": "offline", "project": "p"})
    assert (calls[0]["mode"], calls[0]["project"], calls[0]["resume"]) == ("offline", "p", "allow")
    assert calls[1][0] == 1
    assert "train/losses/l2" in calls[1][1]
    assert calls[-1] == "finished"


def test_runs_one_after_the_other_share_a_fabric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such runs join nobody and do not end the group, and train what runs of their own would."""
    alone = tiny.train(str(tmp_path / "alone"), epochs=1)
    monkeypatch.setattr("vireo.engine.resumable.dist.is_initialized", lambda: False)
    left: list[str] = []
    monkeypatch.setattr("vireo.engine.resumable.dist.destroy_process_group", lambda: left.append("left"))
    first = Run(tmp_path / "first", accelerator="cpu")
    first.launch()
    monkeypatch.setattr("vireo.engine.resumable.join", lambda _: pytest.fail("joined again"))
    for name in ("second", "third"):
        network = tiny.train(str(tmp_path / name), epochs=1, fabric=first.fabric)
        assert same(dict(network.state_dict()), dict(alone.state_dict()))
    monkeypatch.setattr("vireo.engine.resumable.dist.is_initialized", lambda: True)
    monkeypatch.setattr(Run, "world_size", 2)
    Run(tmp_path / "guest", fabric=first.fabric)._close_group()
    assert left == []
    first._close_group()
    assert left == ["left"]


def test_the_log_of_a_run_killed_before_its_first_checkpoint_is_begun_anew(tmp_path: Path) -> None:
    tiny.train(str(tmp_path), epochs=1)
    whole = [entry["losses"] for entry in entries(tmp_path, "train")]
    for path in [*(tmp_path / "checkpoints").glob("*.pt"), tmp_path / "metrics.json"]:
        path.unlink()
    tiny.train(str(tmp_path), epochs=1)
    assert [entry["losses"] for entry in entries(tmp_path, "train")] == whole
    assert [entry["event"] for entry in entries(tmp_path, "event")] == ["started", "finished"] * 2
