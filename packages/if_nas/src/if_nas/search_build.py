"""From configuration to objects: space, super-network, schedule and optimizer of a search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from vireo.engine.logs import plain
from vireo.engine.schedule import Schedule as RateSchedule
from vireo.errors import InputError

from .build import Architecture
from .derived import DerivedNetwork
from .learning_rates import epoch_schedule
from .micro_genotype import CELL_INPUTS, MICRO_OPERATORS, MicroGenotype
from .micro_network import MicroNetwork
from .micro_space import MicroSpace
from .micro_supernet import MicroSupernet
from .operators import OPERATORS
from .optim import SearchSGD, search_optimizer
from .schedule import InterleavingFreeSchedule, RandomSubsetSchedule, Schedule
from .settings import Settings
from .space import LChainSpace
from .supernet import LChainSupernet

Supernet = LChainSupernet | MicroSupernet
SPACES = ("lchain", "darts")
SCHEDULES = ("interleaving_free", "dnas", "random_subset")
STAGES = 3  # of every super-network: widths C, 2C and 4C


def check_settings(config: Any) -> None:
    """Look for values that would fail late, or not at all.

    Raises:
        InputError: naming the first, and what it may be.
    """
    general = Settings(config)
    general.whole("epochs", 1)
    general.whole("eval_every", 1)
    general.whole("seed")
    general.flag("compile")
    general.mapping("paper_metrics")
    space = Settings(config.space, "space")
    model = Settings(config.model, "model")
    space.choice("name", SPACES)
    require_names(config.space.ops, "space.ops", "skip,conv3")
    known = MICRO_OPERATORS if config.space.name == "darts" else tuple(sorted(OPERATORS))
    unknown = [name for name in config.space.ops if name not in known]
    if unknown:
        what = f"unknown operator {', '.join(map(repr, unknown))}"
        raise InputError(what, "space.ops", f"use {', '.join(known)}")
    if config.space.name == "darts":
        space.whole("nodes", 1)
        model.whole("cells", 3)
    else:
        space.numbers("nodes", STAGES, low=1, whole=True, example=6)
        space.whole("length", 1)
        model.flag("dense", "legacy_op_indexing", "train_op_weights")
    model.whole("width", 1)
    model.flag("channels_last")
    model.choice("stem", ("cifar", "imagenet"))
    schedule = Settings(config.schedule, "schedule")
    schedule.choice("name", SCHEDULES)
    schedule.whole("period", 1, optional=True)
    if config.schedule.turn != "epoch" and not (type(config.schedule.turn) is int and config.schedule.turn > 0):
        what = f"{config.schedule.turn!r} is no length of a turn"
        raise InputError(what, "schedule.turn", "give epoch, or a number of steps from 1")
    if config.schedule.name == "dnas" and config.schedule.period not in (None, 1):
        remedy = "leave the period out, or set schedule.name=interleaving_free"
        raise InputError("dnas has all nodes active, which is a period of 1", "schedule.period", remedy)
    if config.compile and config.schedule.name == "random_subset":
        what = "almost every turn has another random subset, and each would compile the network anew"
        raise InputError(what, "compile", "leave it out, or set schedule.name=interleaving_free")
    optim = Settings(config.optim, "optim")
    optim.number("lr", above=True)
    optim.number("min_lr", 0, config.optim.lr)
    optim.choice("schedule", ("linear", "cosine"))
    arch = Settings(config.arch_optim, "arch_optim")
    arch.number("lr")
    arch.whole("start_epoch")
    arch.choice("idle", ("momentum", "freeze"))
    for group in (optim, arch):
        group.number("momentum", 0, 1, below=True)
        group.number("weight_decay")
    penalties = Settings(config.discretization, "discretization")
    penalties.whole("start_epoch")
    penalties.number("edge_weight")
    penalties.number("op_weight")
    derive = Settings(config.derive, "derive")
    derive.whole("keep", 1, optional=True)
    if config.space.name == "darts" and config.derive.keep not in (None, CELL_INPUTS):
        what = f"{config.derive.keep} inputs of a node, but nodes of a cell keep {CELL_INPUTS}"
        raise InputError(what, "derive.keep", "leave it out: derive.keep=null")
    for name, optional in (("threshold", False), ("op_threshold", True)):
        value = config.derive[name]
        if not (optional and value is None) and not (type(value) in (int, float) and 0 <= value < 1):
            what = f"{value!r} is no threshold of weights between 0 and 1"
            raise InputError(what, f"derive.{name}", "use a number from 0 up to, not including, 1")


def never_reached(config: Any) -> str:
    """What of a search never begins, because its ``start_epoch`` lies at or behind the end; empty if all of it does."""
    arch, penalties = config.arch_optim, config.discretization
    late = []
    if arch.lr > 0 and arch.start_epoch >= config.epochs:
        late.append(f"arch_optim.start_epoch={arch.start_epoch}: the architecture never learns")
    if (penalties.edge_weight > 0 or penalties.op_weight > 0) and penalties.start_epoch >= config.epochs:
        late.append(f"discretization.start_epoch={penalties.start_epoch}: its losses stay 0")
    return f"epochs={config.epochs} ends before {'; before '.join(late)}" if late else ""


def build_search_network(config: Any, num_classes: int) -> Supernet:
    """The super-network of a search.

    Args:
        config: of the search; ``space`` and ``model`` are read. Folders of earlier versions have no
            ``model.channels_last``.
        num_classes: K.

    Raises:
        InputError: an operator that is not registered, or a space that cannot be.
    """
    space, options = build_space(config.space), plain(config.model)
    channels_last = options.pop("channels_last", False)
    network: Supernet
    if isinstance(space, MicroSpace):
        network = MicroSupernet(space, num_classes=num_classes, **options)
    else:
        network = LChainSupernet(space, num_classes=num_classes, **options)
    return network.to(memory_format=torch.channels_last) if channels_last else network


def leaves_unused(config: Any) -> bool:
    """Whether a step of this search may leave parameters without a gradient; known before there is data.

    Raises:
        InputError: see :func:`build_search_network`.
    """
    with torch.device("meta"):
        return build_search_network(config, num_classes=2).has_unused_parameters


def build_space(space: Any) -> LChainSpace | MicroSpace:
    """The search space of a ``space`` configuration."""
    if space.name == "darts":
        return MicroSpace(space.nodes, tuple(space.ops))
    return LChainSpace(tuple(space.nodes), space.length, tuple(space.ops))


def build_derived_network(genotype: Architecture, model: Any, num_classes: int) -> nn.Module:
    """The network of an architecture at the width of the search.

    Args:
        genotype: what the search derived.
        model: the ``model`` configuration of the search.
        num_classes: K.
    """
    if isinstance(genotype, MicroGenotype):
        return MicroNetwork(genotype, model.width, num_classes, model.cells, model.stem)
    return DerivedNetwork(genotype, model.width, num_classes, model.stem)


def build_node_schedule(schedule: Any, network: Supernet, seed: int) -> Schedule:
    """Says which nodes are active, from a ``schedule`` configuration.

    Args:
        schedule: its ``name`` and ``period``.
        network: the super-network.
        seed: of a random subset.
    """
    if schedule.name == "dnas":
        return InterleavingFreeSchedule(network.length, period=1)
    regular = InterleavingFreeSchedule(network.length, schedule.period)
    return RandomSubsetSchedule(regular.period, seed) if schedule.name == "random_subset" else regular


def turn_number(turn: str | int, epoch: int, step: int) -> int:
    """The number of the turn in which optimizer step ``step`` of ``epoch`` lies; all from 0.

    Args:
        turn: ``"epoch"``, or the steps of a turn.
        epoch, step: of the search.
    """
    return epoch if turn == "epoch" else step // int(turn)


def build_optimizer(network: Supernet, config: Any) -> SearchSGD:
    """One optimizer over the network's weights and the architecture's (section 3.6)."""
    weights, arch = config.optim, config.arch_optim
    return search_optimizer(
        network,
        lr=weights.lr,
        momentum=weights.momentum,
        weight_decay=weights.weight_decay,
        arch_lr=arch.lr,
        arch_momentum=arch.momentum,
        arch_weight_decay=arch.weight_decay,
        idle=arch.idle,
    )


def learning_rates(config: Any, steps_per_epoch: int) -> list[RateSchedule]:
    """The factors on the rates of the two groups by step: both change at the start of an epoch only (section 4)."""
    optim, start = config.optim, config.arch_optim.start_epoch * steps_per_epoch
    decay = epoch_schedule(optim.schedule, config.epochs, steps_per_epoch, final=optim.min_lr / optim.lr)
    return [decay, lambda step: float(step >= start)]


def penalty_weights(discretization: Any, epoch: int) -> tuple[float, float]:
    """What multiplies the edge and the operator term of the discretisation loss in ``epoch``, from 0 (section 3.5)."""
    epochs = max(0, epoch - discretization.start_epoch)
    return epochs * discretization.edge_weight, epochs * discretization.op_weight


def require_names(value: Any, where: str, example: str) -> None:
    """Check that a value from the command line is a list of one or more texts.

    Args:
        value: of the key ``where``.
        where: for the message.
        example: what could stand in the brackets.

    Raises:
        InputError: it is none.
    """
    fits = isinstance(value, Sequence) and not isinstance(value, str)
    if not fits or not value or not all(isinstance(name, str) and name for name in value):
        raise InputError(f"{value!r} is no list of names", where, f"write [{example}]")
