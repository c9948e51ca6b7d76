"""From configuration to objects: architecture, network and optimizer of a training."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD

from vireo.errors import InputError

from .cost import Cost, count_cost, largest_width
from .derived import DerivedNetwork
from .genotype import Genotype, prune_dead_nodes
from .learning_rates import SCHEDULES
from .micro_genotype import MicroGenotype
from .micro_network import MicroNetwork
from .settings import Settings

Architecture = Genotype | MicroGenotype
VARIANTS = ("imagenet", "cifar")
CELLS = {"cifar": 20, "imagenet": 14}  # of DARTS and its successors


def has_dead_nodes(architecture: Architecture) -> bool:
    """Whether there may be nodes that nothing reads: their parameters never get a gradient. Some released ones have.

    Cells count always: their first inputs may be unread too.
    """
    return isinstance(architecture, MicroGenotype) or prune_dead_nodes(architecture) != architecture


def check_settings(config: Any) -> None:
    """Look for values of a training that would fail late, or not at all.

    Raises:
        InputError: naming the first, and what it may be.
    """
    general = Settings(config)
    general.text("genotype", "if_l8_keep1")
    general.whole("epochs", 1)
    general.whole("eval_every", 1)
    general.whole("seed")
    general.flag("compile")
    general.number("label_smoothing", 0, 1)
    general.number("auxiliary_weight")
    general.mapping("paper_metrics")
    model = Settings(config.model, "model")
    model.whole("width", 1, optional=True)
    model.number("max_macs", above=True, optional=True)
    model.choice("variant", VARIANTS)
    model.whole("cells", 1, optional=True)
    model.flag("auxiliary", "channels_last")
    model.number("drop_path", 0, 1)
    if (config.model.width is None) == (config.model.max_macs is None):
        what = "give exactly one of model.width and model.max_macs"
        raise InputError(what, "model", "with a budget, set model.width=null: the widest network within it is built")
    if config.compile and config.model.drop_path:
        what = "drop path changes at every epoch, and each change would compile the network anew"
        raise InputError(what, "compile", "leave it out, or set model.drop_path=0")
    optim = Settings(config.optim, "optim")
    optim.number("lr", above=True)
    optim.number("momentum", 0, 1, below=True)
    optim.number("weight_decay")
    optim.choice("schedule", SCHEDULES)
    optim.number("min_lr", 0, config.optim.lr)
    optim.whole("warmup_epochs")
    if config.optim.warmup_epochs >= config.epochs:
        what = f"{config.optim.warmup_epochs} of {config.epochs} epochs: the rate would not be reached in time"
        raise InputError(what, "optim.warmup_epochs", "give fewer than epochs")


def check_eval_settings(config: Any) -> None:
    """:func:`check_settings` of an evaluation.

    Raises:
        InputError: naming the first, and what it may be.
    """
    settings = Settings(config)
    settings.text("run", "run=outputs/if_nas_train")
    settings.text("weights", "weights=checkpoints/best.pt", optional=True)
    settings.text("out", "out=eval.json", optional=True)
    settings.text("precision", "32-true")
    if config.out is not None and Path(config.out).is_dir():
        raise InputError("is a folder", f"out={config.out}", "give the name of a file, such as eval.json")


def build_network(model: Any, architecture: Architecture, num_classes: int, width: int | None = None) -> nn.Module:
    """The network of a ``model`` configuration.

    Args:
        model: its ``variant``, ``cells``, ``auxiliary``, ``drop_path`` and ``channels_last``.
        architecture: of stages (:class:`DerivedNetwork`) or of cells (:class:`MicroNetwork`).
        num_classes: K.
        width: C; None for that of the configuration.

    Raises:
        InputError: a genotype that cannot be built, or a number of cells for one that has none.
    """
    common: dict[str, Any] = {name: model[name] for name in ("variant", "auxiliary", "drop_path")}
    width = model.width if width is None else width
    network: nn.Module
    if isinstance(architecture, MicroGenotype):
        cells = CELLS[model.variant] if model.cells is None else model.cells
        network = MicroNetwork(architecture, width, num_classes, cells=cells, **common)
    elif model.cells is not None:
        raise InputError("this genotype is of stages, not of cells", "model.cells", "leave it out")
    else:
        network = DerivedNetwork(architecture, width, num_classes, **common)
    return network.to(memory_format=torch.channels_last) if model.channels_last else network


def network_width(model: Any, architecture: Architecture, num_classes: int, image_size: tuple[int, int]) -> int:
    """``model.width``, or the largest even width within ``model.max_macs`` multiply-adds.

    Raises:
        InputError: no width fits the budget.
    """
    if model.width is not None:
        return int(model.width)
    return largest_width(partial(build_network, model, architecture, num_classes), model.max_macs, image_size)


def network_cost(
    model: Any, architecture: Architecture, num_classes: int, width: int, image_size: tuple[int, int]
) -> Cost:
    """What the network costs for images of this size; nothing is computed.

    Raises:
        InputError: with an auxiliary head, images of another size than it needs.
    """
    with torch.device("meta"):
        network = build_network(model, architecture, num_classes, width)
        if model.auxiliary:
            network.train()(torch.zeros(2, 3, *image_size))
        return count_cost(network, image_size)


def describe(architecture: Architecture, width: int, cost: Cost) -> dict[str, int]:
    """Width, longest path (cells: of one of each kind), parameters and multiply-adds, as results list them."""
    return {"width": width, "depth": architecture.depth, **asdict(cost)}


def build_optimizer(network: nn.Module, optim: Any) -> SGD:
    """SGD over all parameters, with one weight decay for weights, norms and biases (section 4)."""
    return SGD(network.parameters(), lr=optim.lr, momentum=optim.momentum, weight_decay=optim.weight_decay)


def training_losses(
    output: Tensor | tuple[Tensor, Tensor], labels: Tensor, label_smoothing: float, auxiliary_weight: float
) -> dict[str, Tensor]:
    """Cross-entropy of the logits and, weighted, of those of an auxiliary head (section 4).

    Args:
        output: of a network in training mode: logits ``(B, K)``, or logits and auxiliary logits.
        labels: int64 ``(B,)``.
        label_smoothing: s; the target is (1 - s) for the label plus s / K for every class.
        auxiliary_weight: of the auxiliary loss.
    """
    logits, *auxiliary = output if isinstance(output, tuple) else (output,)
    losses = {"loss_ce": F.cross_entropy(logits, labels, label_smoothing=label_smoothing)}
    for extra in auxiliary:
        losses["loss_aux"] = auxiliary_weight * F.cross_entropy(extra, labels, label_smoothing=label_smoothing)
    return losses
