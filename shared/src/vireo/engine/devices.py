"""Lightning Fabric from a run's settings, and the state of what it wraps."""

from __future__ import annotations

import os
from typing import Any

from lightning.fabric import Fabric
from lightning.fabric.strategies import DDPStrategy, FSDPStrategy, Strategy
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

from vireo.engine.checkpoint import fit_state_dict
from vireo.engine.rendezvous import join_torchrun
from vireo.engine.run_settings import is_whole
from vireo.errors import InputError

_FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)


def launched_processes() -> tuple[int, int] | None:
    """(processes on each node, nodes) that torchrun or SLURM has started this process among; None if plain."""
    env = os.environ
    if "TORCHELASTIC_RUN_ID" in env:
        local = int(env["LOCAL_WORLD_SIZE"])
        return local, int(env["WORLD_SIZE"]) // local
    if "SLURM_NTASKS" in env and env.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        nodes = int(env.get("SLURM_NNODES", "1"))
        return max(1, int(env["SLURM_NTASKS"]) // nodes), nodes
    return None


def build_fabric(
    accelerator: str, devices: int | str, strategy: str, precision: str, find_unused_parameters: bool
) -> Fabric:
    """Fabric for ``auto``, ``ddp`` or ``fsdp``. ``devices="auto"`` follows torchrun or SLURM, else is one device.

    Raises:
        InputError: ``devices`` is no number or disagrees with the launcher, or the machine has no such devices,
            strategy or precision.
    """
    number = int(devices) if isinstance(devices, str) and devices.isdecimal() else devices
    if number != "auto" and number != -1 and not is_whole(number, 1):  # -1 is Fabric's word for all
        raise InputError(f"{devices!r} is no number of devices", "run.devices", "use auto, or a whole number from 1")
    launched = launched_processes()
    if launched is None:
        count, nodes = (1 if devices == "auto" else int(devices)), 1
    else:
        count, nodes = launched
        if devices != "auto" and int(devices) != count:
            raise InputError(
                f"devices={devices}, but the launcher started {count} processes on this node",
                "run.devices",
                "leave it at auto under torchrun and SLURM",
            )
    chosen: str | Strategy
    if strategy == "ddp" or (strategy == "auto" and count * nodes > 1):
        chosen = DDPStrategy(find_unused_parameters=find_unused_parameters)
    elif strategy == "fsdp":
        chosen = FSDPStrategy(state_dict_type="full")
    elif strategy == "auto":
        chosen = "auto"
    else:
        raise InputError(f"unknown strategy '{strategy}'", "run.strategy", "use auto, ddp or fsdp")
    try:
        return Fabric(accelerator=accelerator, devices=count, num_nodes=nodes, strategy=chosen, precision=precision)  # type: ignore[arg-type]
    except (MisconfigurationException, TypeError, ValueError, RuntimeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        where = f"accelerator={accelerator} devices={count} strategy={strategy} precision={precision}"
        raise InputError(
            f"this machine or this combination cannot run ({reason})", where, "change one of them"
        ) from error


def join(fabric: Fabric) -> None:
    """Join the other processes."""
    join_torchrun("nccl" if fabric.device.type == "cuda" else "gloo")
    fabric.launch()


def place_of(fabric: Fabric) -> dict[str, Any]:
    """``device``, ``rank`` and ``world_size`` of this process, as loaders take them."""
    return {"device": fabric.device, "rank": fabric.global_rank, "world_size": fabric.world_size}


def evaluation_fabric(config: Any) -> tuple[Fabric, dict[str, Any]]:
    """Fabric and place of an evaluation, its processes joined; end with :func:`~vireo.engine.rendezvous.leave_group`.

    Args:
        config: with ``accelerator``, ``devices`` and ``precision``, see :class:`vireo.engine.Run`.

    Raises:
        InputError: see :func:`build_fabric`.
    """
    fabric = build_fabric(config.accelerator, config.devices, "auto", config.precision, False)
    join(fabric)
    return fabric, place_of(fabric)


def is_sharded(fabric: Fabric) -> bool:
    """Whether parameters are sharded over processes (FSDP): then taking a state is a collective call."""
    return isinstance(fabric.strategy, FSDPStrategy)


def model_state(fabric: Fabric, wrapped: nn.Module, module: nn.Module) -> dict[str, Any]:
    """The full state dict of the network, with the plain network's keys."""
    return get_model_state_dict(_inner(wrapped), options=_FULL) if is_sharded(fabric) else module.state_dict()


def optimizer_state(fabric: Fabric, wrapped: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """The full state dict of the optimizer."""
    if is_sharded(fabric):
        return get_optimizer_state_dict(_inner(wrapped), _plain(optimizer), options=_FULL)
    return _plain(optimizer).state_dict()


def restore(
    fabric: Fabric, wrapped: nn.Module, module: nn.Module, optimizer: Optimizer, state: dict[str, Any], where: str
) -> None:
    """Put ``state["model"]`` and ``state["optimizer"]`` of the file ``where`` back.

    Raises:
        InputError: the checkpoint is another network's.
    """
    if is_sharded(fabric):
        set_model_state_dict(_inner(wrapped), state["model"], options=_FULL)
        set_optimizer_state_dict(_inner(wrapped), _plain(optimizer), state["optimizer"], options=_FULL)
    else:
        fit_state_dict(module, state["model"], where)
        _plain(optimizer).load_state_dict(state["optimizer"])


def _plain(optimizer: Optimizer) -> Optimizer:
    """The optimizer inside Fabric's wrapper."""
    return getattr(optimizer, "optimizer", optimizer)


def _inner(wrapped: nn.Module) -> nn.Module:
    """The strategy's module inside Fabric's wrapper."""
    return getattr(wrapped, "_forward_module", wrapped)
