"""One training run: devices, gradient step, checkpoints, exact resume and logs around a loop that stays visible."""

from __future__ import annotations

import functools
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from vireo.engine import checkpoint, results
from vireo.engine.devices import build_fabric, is_sharded, model_state, optimizer_state, restore
from vireo.engine.ema import ema_of
from vireo.engine.folder import require_writable
from vireo.engine.guard import NonFinite
from vireo.engine.logs import Console, JsonLines, WandbLog, flatten, memory_mb, plain, write_json
from vireo.engine.rendezvous import join_torchrun
from vireo.engine.rng import preserved_rng, rng_state, seed_all, set_rng_state
from vireo.engine.schedule import Schedule, constant
from vireo.engine.signals import StopRequest
from vireo.engine.window import Window
from vireo.errors import InputError

log = logging.getLogger(__name__)


class EpochLoader(Protocol):
    """What a run needs of a loader."""

    def __len__(self) -> int: ...

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[Any, Any]]:
        """The batches of ``epoch`` from number ``start`` on."""


class Run:
    """A resumable training run in a folder of its own.

    ::

        run = Run("outputs/a", seed=0, epochs=12, monitor="AP50", grad_clip=10.0)
        run.launch()
        model, optimizer = run.setup(model, optimizer, schedule)
        for epoch in run.epochs():
            for images, targets in run.batches(loader):
                run.step(model(images, targets))
            run.record(evaluate(run.evaluated_model))
        run.finish()

    Started again on the same ``output_dir`` it goes on behind the last checkpoint, inside the epoch; on a CPU the final
    weights are then bit-identical to an undisturbed run's. SIGTERM or SIGUSR1 finishes the step, saves and leaves with
    ``SystemExit(0)``; a second signal ends the process at once. The folder must be visible to all processes.

    A step is one optimizer step: ``accumulate`` batches on each process, whose losses are averaged; the last step of an
    epoch takes what is left. Gradients are averaged over processes. The loader's batch size counts all processes, so a
    step sees ``batch_size * accumulate`` images with 1 process or n, and per-sample mean losses give the same gradient.

    Args:
        output_dir: folder of the run.
        seed: seeds initialisation alike on all processes, and training with ``seed + rank``.
        config: plain nested dict, stored as ``config.yaml`` and in ``metrics.json``.
        epochs: length of the run.
        accelerator, precision: as in Lightning Fabric. ``bf16-true`` casts boxes too: prefer ``bf16-mixed``.
        devices: ``auto`` follows torchrun or SLURM and is one device otherwise; a number starts processes itself.
        strategy: ``auto`` (DDP with more than one process), ``ddp`` or ``fsdp``.
        wandb: arguments of ``wandb.init``; ``mode`` is ``online``, ``offline`` or ``disabled`` (default).
        checkpoint_every: steps between checkpoints; 0: only at the end of an epoch and when stopped.
        keep_last: how many checkpoints stay, beside the best.
        monitor: the metric of ``record`` that decides on ``best.pt``; ``mode`` is ``max`` or ``min``.
        ema_decay: average the weights; then evaluate ``evaluated_model``, which ``finish`` writes too.
        grad_clip: greatest L2 norm of the gradient, None for no limit.
        accumulate: batches a step.
        nonfinite: ``raise``, or ``skip`` the update (at most 100 in a row) when a loss or the gradient is not finite.
        log_every: steps between lines of the log; its losses are means over these steps and all processes.
        resume: ``auto``, or ``never``: remove the folder's checkpoints, log and results and start anew.
        find_unused_parameters: for DDP, where some parameters get no gradient in some steps.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        *,
        seed: int = 0,
        config: Mapping[str, Any] | None = None,
        epochs: int = 1,
        accelerator: str = "auto",
        devices: int | str = "auto",
        strategy: str = "auto",
        precision: str = "32-true",
        wandb: Mapping[str, Any] | None = None,
        checkpoint_every: int = 0,
        keep_last: int = 2,
        monitor: str | None = None,
        mode: Literal["max", "min"] = "max",
        ema_decay: float | None = None,
        grad_clip: float | None = None,
        accumulate: int = 1,
        nonfinite: Literal["raise", "skip"] = "raise",
        log_every: int = 50,
        resume: Literal["auto", "never"] = "auto",
        find_unused_parameters: bool = False,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.seed, self.config, self.total_epochs = seed, dict(config or {}), epochs
        self.checkpoint_every, self.keep_last, self.log_every = checkpoint_every, keep_last, max(1, log_every)
        self.monitor, self.mode, self.ema_decay = monitor, mode, ema_decay
        self.grad_clip, self.accumulate = grad_clip, max(1, accumulate)
        # a worker that torchrun restarts must go on, whatever it was first started with
        self.resume = "auto" if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) else resume
        self.fabric = build_fabric(accelerator, devices, strategy, precision, find_unused_parameters)
        self.epoch = self.step_count = 0
        self.best: float | None = None
        self.metrics: dict[str, Any] = {}
        self._wandb_settings = wandb
        self._guard = NonFinite(nonfinite)
        self._stop = StopRequest()
        self._batch = 0  # of the current epoch: the next one, once a step is complete
        self._batches_in_epoch: int | None = None
        self._group, self._completes_step = 1, True
        self._saved_at: tuple[int, int] | None = None
        self._resumed_rng: dict[str, Any] | None = None
        self._ema: AveragedModel | None = None
        self._schedule: Schedule = constant()
        self._window = Window()
        self._pace_from: tuple[int, float] | None = None  # batches done and time when this process began
        self._started = time.perf_counter()
        self._wandb_id: str | None = None
        self.console = Console(enabled=False)

    # ---- where and what ----

    @property
    def rank(self) -> int:
        """Number of this process among all."""
        return self.fabric.global_rank

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return self.fabric.world_size

    @property
    def device(self) -> torch.device:
        """Device of this process."""
        return self.fabric.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    @property
    def skipped_steps(self) -> int:
        """Steps left out by ``nonfinite="skip"``."""
        return self._guard.skipped

    @property
    def evaluated_model(self) -> nn.Module:
        """The network to evaluate and to keep: the average if ``ema_decay`` is set, else the trained one."""
        return self._ema.module if self._ema is not None else self._module

    def steps_per_epoch(self, loader: EpochLoader) -> int:
        """Optimizer steps that an epoch of ``loader`` takes."""
        return math.ceil(len(loader) / self.accumulate)

    # ---- beginning ----

    def launch(self) -> None:
        """Join the other processes, prepare the folder and seed. Leaves with ``SystemExit(0)`` if the run is finished.

        Raises:
            InputError: the folder cannot be written.
        """
        join_torchrun("nccl" if self.device.type == "cuda" else "gloo")
        self.fabric.launch()
        self.console = Console(self.is_main)
        finished = False
        if self.is_main:
            require_writable(self.output_dir / "checkpoints")
            if self.resume == "never":
                results.remove_run(self.output_dir)
            done = results.finished_epochs(self.output_dir)
            finished = done is not None and done >= self.total_epochs
        if self.fabric.broadcast(finished):
            self._say(f"{self.output_dir}: this run is finished; set resume=never, or more epochs, to train again")
            self._leave()
        if self.is_main:
            changed = results.changed_keys(self.output_dir, self.config)
            if changed and checkpoint.checkpoints_in(self.output_dir / "checkpoints"):
                log.warning("%s: resumed with other settings than it was started with: %s", self.output_dir, changed)
            results.write_config(self.output_dir, self.config)
        seed_all(self.seed)

    def setup(
        self, model: nn.Module, optimizer: Optimizer, schedule: Schedule | None = None
    ) -> tuple[nn.Module, Optimizer]:
        """Place and wrap network and optimizer, and restore the newest intact checkpoint of the folder, if any.

        Args:
            model: called as ``model(images, targets)``.
            optimizer: over the parameters of ``model``.
            schedule: factor on each group's learning rate by global step (see ``vireo.engine.schedule``).

        Raises:
            InputError: all checkpoints are damaged, or the newest is another network's.
        """
        self._module = model
        self._schedule = schedule or constant()
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        if self.ema_decay is not None and is_sharded(self.fabric):
            raise InputError("no moving average of sharded weights", "ema_decay", "set ema_decay=null or strategy=ddp")
        self.model, self.optimizer = self.fabric.setup(model, optimizer)
        if self.ema_decay is not None:
            self._ema = ema_of(model, self.ema_decay)
        seed_all(self.seed + self.rank)
        folder = self.output_dir / "checkpoints"
        newest = self.fabric.broadcast(checkpoint.newest_intact(folder) if self.is_main else None)
        if newest is not None:
            self._restore(newest)
        self._open_logs()
        return self.model, self.optimizer

    def _restore(self, path: Path) -> None:
        state = checkpoint.read(path)
        restore(self.fabric, self.model, self._module, self.optimizer, state, str(path))
        if self._ema is not None and "ema" in state:
            self._ema.load_state_dict(state["ema"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        self.epoch, self._batch, self.step_count = state["epoch"], state["batch"], state["step"]
        self._batches_in_epoch = state["batches_in_epoch"]
        self.best, self.metrics, self._guard.skipped = state["best"], state["metrics"], state["skipped"]
        self._started -= state["wall_s"]
        self._wandb_id = state["wandb_id"]
        self._saved_at = (self.epoch, self.step_count)
        if len(state["rng"]) == self.world_size:
            self._resumed_rng = state["rng"][self.rank]
        else:
            log.warning("%s: saved by %d processes: random numbers go on differently", path, len(state["rng"]))
            seed_all(self.seed + self.rank + 1_000_003 * self.step_count)

    def _open_logs(self) -> None:
        if self.is_main:
            self._log = JsonLines(self.output_dir / "log.jsonl")
            self._wandb = WandbLog(self._wandb_settings, self.output_dir, self.config, self._wandb_id)
            self._wandb_id = self._wandb.run_id
            if self.step_count:
                self._log.rewind(self.step_count)
                self._say(f"{self.output_dir}: resumed at epoch {self.epoch + 1}, step {self.step_count}")
            self._event("resumed" if self.step_count else "started", world_size=self.world_size)

    # ---- the loop ----

    def epochs(self) -> Iterator[int]:
        """The epochs still to do, from 0; the first may be one that is partly done."""
        self._stop.install()
        try:
            for epoch in range(self.epoch, self.total_epochs):
                self.epoch = epoch
                yield epoch
                self.epoch, self._batch = epoch + 1, 0
                self._leave_if_asked()
        finally:
            self._stop.remove()
            self.console.stop()

    def batches(self, loader: EpochLoader) -> Iterator[tuple[Any, Any]]:
        """The batches of this epoch still to do; puts the network into training mode and saves at the end.

        Raises:
            InputError: the checkpoint's epoch had another number of batches.
        """
        total, start = len(loader), self._batch
        if start and self._batches_in_epoch != total:
            raise InputError(
                f"the checkpoint was made with {self._batches_in_epoch} batches an epoch, the loader has {total}",
                str(self.output_dir),
                "go on with the same data and batch size, or set resume=never",
            )
        self._batches_in_epoch = total
        self.model.train()
        self.console.start(self.epoch, self.total_epochs, start, total)
        self._window = Window()
        self._pace_from = self._pace_from or (self.epoch * total + start, time.perf_counter())
        fetched = iter(loader.batches(self.epoch, start)) if start < total else iter(())
        for index in range(start, total):
            asked = time.perf_counter()
            with preserved_rng() if index == start else nullcontext():  # a loader draws a base seed when it starts
                images, targets = next(fetched)
            self._window.wait_s += time.perf_counter() - asked
            self._window.images += len(images) * self.world_size
            self._continue_rng()
            self._batch = index
            self._group = min(self.accumulate, total - index + index % self.accumulate)
            self._completes_step = (index + 1) % self.accumulate == 0 or index + 1 == total
            alone = self._completes_step or self.world_size == 1
            with nullcontext() if alone else self.fabric.no_backward_sync(self.model):
                yield images, targets
            self.console.advance()
        self._continue_rng()
        self._batch = total
        self.save()
        self.console.stop()

    def _continue_rng(self) -> None:
        """Put the generators where the checkpoint left them, once the loader has started."""
        if self._resumed_rng is not None:
            set_rng_state(self._resumed_rng, self.device)
            self._resumed_rng = None

    def step(
        self,
        losses: Mapping[str, Tensor],
        image_ids: Sequence[int] | None = None,
        monitors: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Backward of the sum of ``losses``; with the last batch of a step also clip, update, average, log and save.

        Args:
            losses: scalars by name, the same names on all processes.
            image_ids: named if a loss is not finite.
            monitors: scalars to be logged beside the losses, without gradient.

        Raises:
            NonFiniteLoss: a loss or the gradient is not finite and ``nonfinite`` is ``raise``; weights are untouched.
            SystemExit: status 0, SIGTERM or SIGUSR1 arrived (on any process); the step is complete and saved.
        """
        self._guard.note(losses, image_ids)
        self._window.add(losses, monitors)
        self.fabric.backward(functools.reduce(torch.add, losses.values()) / self._group)
        if not self._completes_step:
            return
        lr_factor = self._schedule(self.step_count)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * lr_factor
        stop = self._update()
        self.step_count += 1
        self._batch += 1
        if self.step_count % self.log_every == 0 or self._batch == self._batches_in_epoch:
            self._log_train()
        if stop:
            self.save()
            self._leave_if_asked(now=True)
        if self.checkpoint_every and self.step_count % self.checkpoint_every == 0:
            self.save()

    def _update(self) -> bool:
        """Clip, check and apply the gradient, with one device sync; whether some process was asked to stop."""
        limit = math.inf if self.grad_clip is None else self.grad_clip
        norm = self.fabric.clip_gradients(self.model, self.optimizer, max_norm=limit, error_if_nonfinite=False)
        assert norm is not None  # as max_norm is given
        self._window.add({}, {"grad_norm": norm})
        bad = self._guard.bad()
        if (
            self.fabric.strategy.precision.precision != "16-mixed"
        ):  # its gradient scaler skips what overflowed by itself
            bad = torch.maximum(bad, 1.0 - norm.isfinite().float())
        flags = torch.stack([bad, bad.new_tensor(float(bool(self._stop)))])
        if self.world_size > 1:
            dist.all_reduce(flags, dist.ReduceOp.MAX)
        is_bad, stop = flags.tolist()
        if is_bad:
            where = f"step {self.step_count} (epoch {self.epoch}, batch {self._batch})"
            message = self._guard.judge(where)
            log.warning(message)
            self._event("skipped", message=message)
        else:
            self._guard.clear()
            self.optimizer.step()
            if self._ema is not None:
                self._ema.update_parameters(self._module)
        self.optimizer.zero_grad(set_to_none=True)
        return bool(stop)

    def _log_train(self) -> None:
        losses, monitors = self._window.means(self.world_size)
        window, self._window = self._window, Window()
        if not self.is_main:
            return
        entry = {
            "epoch": self.epoch,
            "step": self.step_count,
            "lr": self.optimizer.param_groups[0]["lr"],
            "losses": losses,
            "monitors": monitors,
            "images_per_s": round(window.images / window.seconds, 2),
            "wait": round(window.wait_s / window.seconds, 4),
            "memory_mb": memory_mb(self.device),
        }
        self._log.write("train", **entry)
        self._wandb.write({"train": entry}, self.step_count)
        done = self.epoch * (self._batches_in_epoch or 1) + self._batch
        self.console.report(entry, self.total_epochs, self._eta_s(done))

    def _eta_s(self, batches_done: int) -> float:
        """Seconds to the end at the pace of this process since it started the loop."""
        if self._pace_from is None:
            return 0.0
        batches, began = self._pace_from
        left = self.total_epochs * (self._batches_in_epoch or 1) - batches_done
        return left * (time.perf_counter() - began) / max(1, batches_done - batches)

    def record(self, metrics: Mapping[str, Any] | None, images: Sequence[str | os.PathLike[str]] = ()) -> None:
        """Log the metrics of an epoch (those of the main process count) and keep ``best.pt`` by ``monitor``.

        Args:
            metrics: numbers, possibly nested; other processes may give None.
            images: picture files for W&B.

        Raises:
            InputError: ``monitor`` is not among the metrics.
        """
        improved = False
        if self.is_main:
            self.metrics = plain(metrics or {})
            self._log.write("eval", epoch=self.epoch, step=self.step_count, metrics=self.metrics)
            self._wandb.write({"eval": self.metrics}, self.step_count)
            self._wandb.images("gallery", [Path(path) for path in images], self.step_count)
            numbers = {name: value for name, value in flatten(self.metrics).items() if isinstance(value, int | float)}
            shown = " ".join(f"{name} {value:.4g}" for name, value in numbers.items() if "." not in name)
            self._say(f"epoch {self.epoch + 1}/{self.total_epochs} evaluated: {shown}")
            if self.monitor is not None:
                if self.monitor not in numbers:
                    known = ", ".join(sorted(numbers)) or "none"
                    raise InputError(f"no number '{self.monitor}' among the metrics", "monitor", f"use one of: {known}")
                value = float(numbers[self.monitor])
                improved = self.best is None or (value > self.best if self.mode == "max" else value < self.best)
                self.best = value if improved else self.best
        if self.fabric.broadcast(improved):
            weights = self._kept_weights()
            if self.is_main:
                content = {"model": weights, "epoch": self.epoch, "step": self.step_count, "metrics": self.metrics}
                checkpoint.save(content, self.output_dir / "checkpoints" / "best.pt")

    # ---- saving and ending ----

    def save(self) -> None:
        """Write a checkpoint of this step unless there is one (a collective call)."""
        if self._saved_at == (self.epoch, self.step_count):
            return
        rng = [rng_state(self.device)] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(rng, rng_state(self.device))
        state = {
            "epoch": self.epoch,
            "batch": self._batch,
            "batches_in_epoch": self._batches_in_epoch,
            "step": self.step_count,
            "model": model_state(self.fabric, self.model, self._module),
            "optimizer": optimizer_state(self.fabric, self.model, self.optimizer),
            "precision": self.fabric.strategy.precision.state_dict(),
            "rng": rng,
            "best": self.best,
            "metrics": self.metrics,
            "skipped": self.skipped_steps,
            "wall_s": self.wall_s,
            "wandb_id": self._wandb_id,
        }
        if self._ema is not None:
            state["ema"] = self._ema.state_dict()
        if self.is_main:
            folder = self.output_dir / "checkpoints"
            checkpoint.save(state, folder / f"step_{self.step_count:08d}.pt")
            checkpoint.keep_newest(folder, self.keep_last)
        self._saved_at = (self.epoch, self.step_count)

    @property
    def wall_s(self) -> float:
        """Seconds spent on this run, over all its starts."""
        return time.perf_counter() - self._started

    def _kept_weights(self) -> dict[str, Any]:
        if self._ema is not None:
            return self._ema.module.state_dict()
        return model_state(self.fabric, self.model, self._module)

    def finish(self, report: Callable[[Path], object] | None = None) -> dict[str, Any]:
        """Write ``model.safetensors``, ``config.json`` and ``metrics.json``, and call ``report(output_dir)``.

        Returns:
            The content of ``metrics.json``: ``metrics`` (last recorded), ``best``, ``epochs``, ``steps``, ``wall_s``,
            ``versions``, ``config``; ``finished`` turns true once the report is written.
        """
        weights = self._kept_weights()
        content = {
            "finished": False,
            "metrics": self.metrics,
            "best": {"monitor": self.monitor, "value": self.best},
            "epochs": self.total_epochs,
            "steps": self.step_count,
            "skipped_steps": self.skipped_steps,
            "wall_s": round(self.wall_s, 2),
            "device": str(self.device) if self.device.type == "cpu" else torch.cuda.get_device_name(self.device),
            "world_size": self.world_size,
            "seed": self.seed,
            "versions": results.versions(),
            "config": plain(self.config),
        }
        if self.is_main:
            results.write_weights(self.output_dir, self._module, weights, self.config)
            write_json(self.output_dir / "metrics.json", content)
            if report is not None:
                report(self.output_dir)
            content["finished"] = True
            write_json(self.output_dir / "metrics.json", content)
            self._event("finished")
            self._say(f"{self.output_dir}: finished")
            self._wandb.close()
        self.fabric.barrier()
        self._close_group()
        return content

    def _leave_if_asked(self, now: bool = False) -> None:
        if now or (self._stop and self.world_size == 1):
            self._say(f"{self.output_dir}: asked to stop; saved at step {self.step_count}, start again to go on")
            self._event("stopped")
            self._leave()

    def _leave(self) -> None:
        """End this process well, together with the others."""
        self.fabric.barrier()
        self._close_group()
        raise SystemExit(0)

    def _close_group(self) -> None:
        if self.world_size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def _event(self, name: str, **fields: Any) -> None:
        if self.is_main:
            self._log.write("event", event=name, epoch=self.epoch, step=self.step_count, **fields)

    def _say(self, message: str) -> None:
        self.console.say(message)
