"""What a run needs before and between its steps: processes, folder, checkpoints, exact resume, leaving."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from vireo.engine import checkpoint, results
from vireo.engine.cli import plain
from vireo.engine.devices import build_fabric, is_sharded, join, model_state, optimizer_state, place_of, restore
from vireo.engine.ema import ema_of
from vireo.engine.folder import remove_unfinished, require_writable
from vireo.engine.guard import NonFinite
from vireo.engine.logs import Console, JsonLines, WandbLog, wandb_settings
from vireo.engine.rng import rng_state, seed_all, set_rng_state
from vireo.engine.run_settings import check_settings, settings_group
from vireo.engine.schedule import Schedule, constant
from vireo.engine.signals import StopRequest
from vireo.engine.window import Window
from vireo.errors import InputError

log = logging.getLogger(__name__)


class ResumableRun:
    """The state of a run and its way to the disk and back; see :class:`vireo.engine.Run` for the arguments."""

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
        fabric: Fabric | None = None,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.seed, self.config, self.total_epochs = seed, dict(config or {}), epochs
        check_settings(
            self.config,
            seed=seed,
            epochs=epochs,
            resume=resume,
            checkpoint_every=checkpoint_every,
            keep_last=keep_last,
            log_every=log_every,
            accumulate=accumulate,
            grad_clip=grad_clip,
            ema_decay=ema_decay,
        )
        self.checkpoint_every, self.keep_last, self.log_every = checkpoint_every, keep_last, log_every
        self.monitor, self.mode, self.ema_decay = monitor, mode, ema_decay
        self.grad_clip, self.accumulate = grad_clip, accumulate
        # a worker that torchrun restarts must go on, whatever it was first started with
        self.resume = "auto" if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) else resume
        self._owns_group = fabric is None
        self.fabric = fabric or build_fabric(accelerator, devices, strategy, precision, find_unused_parameters)
        self.epoch = self.step_count = 0
        self.best: float | None = None
        self.metrics: dict[str, Any] = {}
        self._wandb_settings = wandb_settings(wandb)
        self._guard = NonFinite(nonfinite)
        self._stop = StopRequest()
        self._batch = 0  # of the current epoch: the next one, once a step is complete
        self._batches_in_epoch: int | None = None
        self._group, self._completes_step = 1, True
        self._saved_at: tuple[int, int] | None = None
        self._resumed_rng: dict[str, Any] | None = None
        self._ema: AveragedModel | None = None
        self._schedules: Sequence[Schedule] = ()  # one per parameter group
        self._window = Window()
        self._pace_from: tuple[int, float] | None = None  # batches done and time when this process began
        self._started = time.perf_counter()
        self._wandb_id: str | None = None
        self.console = Console(enabled=False)

    @classmethod
    def of(cls, config: Any, **options: Any) -> Self:
        """The run of a training configuration.

        Args:
            config: its ``output_dir``, ``seed``, ``epochs``, ``resume`` and ``wandb``, and all that stands under
                ``run``, are arguments of those names.
            **options: what the configuration does not decide, such as ``monitor``.

        Raises:
            InputError: a setting is of another type, out of range, or nothing that this machine can do.
        """
        common = {name: config[name] for name in ("seed", "epochs", "resume")}
        wandb, run = settings_group(config, "wandb"), settings_group(config, "run")
        return cls(config.output_dir, config=plain(config), wandb=wandb, **common, **run, **options)

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
    def place(self) -> dict[str, Any]:
        """``device``, ``rank``, ``world_size`` and ``seed``, as loaders take them."""
        return {**place_of(self.fabric), "seed": self.seed}

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    @property
    def batches_done(self) -> int:
        """Batches of the current epoch that are done; not 0 at the start of an epoch that is resumed inside."""
        return self._batch

    @property
    def skipped_steps(self) -> int:
        """Steps left out by ``nonfinite="skip"``."""
        return self._guard.skipped

    @property
    def evaluated_model(self) -> nn.Module:
        """The network to evaluate and to keep: the average if ``ema_decay`` is set, else the trained one."""
        return self._ema.module if self._ema is not None else self._module

    # ---- beginning ----

    def launch(self) -> None:
        """Join the other processes, prepare the folder and seed. Leaves with ``SystemExit(0)`` if the run is finished.

        Raises:
            InputError: the folder cannot be written.
        """
        if self._owns_group:
            join(self.fabric)
        self.console = Console(self.is_main)
        finished = False
        if self.is_main:
            require_writable(self.output_dir / "checkpoints")
            remove_unfinished(self.output_dir)
            remove_unfinished(self.output_dir / "checkpoints")
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
        seed_all(self.seed)

    def setup(
        self, model: nn.Module, optimizer: Optimizer, schedule: Schedule | Sequence[Schedule] | None = None
    ) -> tuple[nn.Module, Optimizer]:
        """Place and wrap network and optimizer, restore the newest intact checkpoint of the folder, if any, and write
        ``config.yaml``.

        Args:
            model: called as the loop likes. Its attribute ``training_only``, if there is one, holds prefixes
                of its state dict (memory banks, say) that checkpoints have and ``best.pt`` and ``model.safetensors``
                do not.
            optimizer: over the parameters of ``model``.
            schedule: factor on each group's learning rate by global step (see ``vireo.engine.schedule``); a sequence
                has one for each parameter group.

        Raises:
            InputError: all checkpoints are damaged, or the newest is another network's; another number of schedules
                than parameter groups; a moving average, or groups that are not clipped, with sharded weights.
        """
        self._module = model
        groups = optimizer.param_groups
        self._schedules = schedule if isinstance(schedule, Sequence) else [schedule or constant()] * len(groups)
        if len(self._schedules) != len(groups):
            what = f"{len(self._schedules)} schedules for {len(groups)} parameter groups"
            raise InputError(what, "Run.setup", "give one schedule, or one for each group")
        if is_sharded(self.fabric) and not all(group.get("clip", True) for group in groups):
            raise InputError("sharded weights are clipped as a whole", "strategy", "set strategy=ddp")
        for group in groups:
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
        if self.is_main:  # not earlier: a checkpoint that is refused leaves the folder as it was
            results.write_config(self.output_dir, self.config)
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
            self._log.rewind(self.step_count)  # also what was killed before its first checkpoint
            if self.step_count:
                self._say(f"{self.output_dir}: resumed at epoch {self.epoch + 1}, step {self.step_count}")
            self._event("resumed" if self.step_count else "started", world_size=self.world_size)

    def _continue_rng(self) -> None:
        """Put the generators where the checkpoint left them, once the loader has started."""
        if self._resumed_rng is not None:
            set_rng_state(self._resumed_rng, self.device)
            self._resumed_rng = None

    # ---- saving ----

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
        """What is worth keeping once training is over: without the network's ``training_only`` entries."""
        if self._ema is not None:
            weights = self._ema.module.state_dict()
        else:
            weights = model_state(self.fabric, self.model, self._module)
        left_out = tuple(getattr(self._module, "training_only", ()))
        return {key: value for key, value in weights.items() if not key.startswith(left_out)} if left_out else weights

    # ---- leaving ----

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
        if self._owns_group and self.world_size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def _event(self, name: str, **fields: Any) -> None:
        if self.is_main:
            self._log.write("event", event=name, epoch=self.epoch, step=self.step_count, **fields)

    def _say(self, message: str) -> None:
        self.console.say(message)
