"""One training run: gradient step, logs and results around a loop that stays visible."""

from __future__ import annotations

import functools
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vireo.engine import checkpoint, results
from vireo.engine.logs import flatten, memory_mb, plain, write_json
from vireo.engine.resumable import ResumableRun
from vireo.engine.rng import preserved_rng
from vireo.engine.window import Window
from vireo.errors import InputError

log = logging.getLogger(__name__)


class EpochLoader(Protocol):
    """What a run needs of a loader."""

    def __len__(self) -> int: ...

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[Any, Any]]:
        """The batches of ``epoch`` from number ``start`` on."""


class Run(ResumableRun):
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
        grad_clip: greatest L2 norm of the gradient, None for no limit. Parameter groups with ``"clip": False`` stay out
            of the norm and are not scaled.
        accumulate: batches a step.
        nonfinite: ``raise``, or ``skip`` the update (at most 100 in a row) when a loss or the gradient is not finite.
        log_every: steps between lines of the log; its losses are means over these steps and all processes.
        resume: ``auto``, or ``never``: remove the folder's checkpoints, log and results and start anew.
        find_unused_parameters: for DDP, where some parameters get no gradient in some steps.
        fabric: where several runs follow one another in a process: one that has joined the others already, in place of
            ``accelerator``, ``devices``, ``strategy`` and ``precision``. The run joins nothing then, and leaves the
            group to the caller (:func:`~vireo.engine.rendezvous.leave_group`).
    """

    def steps_per_epoch(self, loader: EpochLoader) -> int:
        """Optimizer steps that an epoch of ``loader`` takes."""
        return math.ceil(len(loader) / self.accumulate)

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

    def step(
        self,
        losses: Mapping[str, Tensor],
        image_ids: Sequence[int] | Tensor | None = None,
        monitors: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Backward of the sum of ``losses``; with the last batch of a step also clip, update, average, log and save.

        Args:
            losses: scalars by name, the same names on all processes.
            image_ids: named if a loss is not finite; a tensor is read only then.
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
        for group, schedule in zip(self.optimizer.param_groups, self._schedules):
            group["lr"] = group["initial_lr"] * schedule(self.step_count)
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
        norms = self._clip()
        self._window.add({}, {"grad_norm": norms[0]})
        bad = self._guard.bad()
        if (
            self.fabric.strategy.precision.precision != "16-mixed"
        ):  # its gradient scaler skips what overflowed by itself
            bad = torch.maximum(bad, 1.0 - norms.isfinite().all().float())
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

    def _clip(self) -> Tensor:
        """Clip the gradient; its norm before, and behind it that of groups that are not clipped, if there are any."""
        limit = math.inf if self.grad_clip is None else self.grad_clip
        if all(group.get("clip", True) for group in self.optimizer.param_groups):
            norm = self.fabric.clip_gradients(self.model, self.optimizer, max_norm=limit, error_if_nonfinite=False)
            assert norm is not None  # as max_norm is given
            return norm[None]
        self.fabric.strategy.precision.unscale_gradients(getattr(self.optimizer, "optimizer", self.optimizer))
        clipped, free = (
            [p for group in self.optimizer.param_groups if group.get("clip", True) is which for p in group["params"]]
            for which in (True, False)
        )
        norm = nn.utils.clip_grad_norm_(clipped, limit)
        others = nn.utils.get_total_norm([p.grad for p in free if p.grad is not None])
        return torch.stack((norm, others.to(norm)))

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
            defined = {name: value for name, value in numbers.items() if "." not in name and value != -1}
            shown = " ".join(f"{name} {value:.4g}" for name, value in defined.items())
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
