"""Starting weights: the transformer, the ResNet or the whole network from the checkpoints that people have."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

import timm
from torch import Tensor, nn

from vireo.engine.checkpoint import LoadReport, fit_state_dict
from vireo.errors import InputError

from .layouts import from_official_names
from .model import DQnet
from .official import State, fit, is_official, placed, read_state
from .queried_resnet import QueriedResNet
from .vit import GlobalViT

# What files of pre-trained branches hold beside them.
_NOT_VIT = re.compile(r"decoder_|mask_token$|head\.|pre_logits\.")
_NOT_RESNET = re.compile(r"fc\.")
_STEP = "num_batches_tracked"  # old files of torchvision have none; nothing depends on it


def load_vit(vit: GlobalViT | None, path: str | os.PathLike[str]) -> str:
    """Start a transformer from a checkpoint; all its entries must be there.

    Args:
        vit: of a :class:`~dqnet.DQnet`; receives the weights in place; positions are resized to its grid.
        path: the transformer of a DQnet, ours (a file, or a run's folder) or the authors'; or an encoder under timm's
            names: of MAE, with or without its decoder, of DINO or of a supervised classifier.

    Returns:
        What was loaded and what was left out, in words.

    Raises:
        InputError: an unreadable file, one without a transformer or that does not fit, or no transformer to load.
    """
    if vit is None:
        raise InputError("the network has no transformer", str(path), "choose another arm, or leave this out")
    state, where = read_state(path)
    given, others = _part(state, "vit.", where)
    table = given.get("pos_embed")
    if table is not None and (own := vit.pos_embed) is not None and table.shape[-1] == own.shape[-1]:
        given["pos_embed"] = placed(table, vit.grid_size, where)
    report = _fit(vit, given, _NOT_VIT, "transformer", where)
    changed = table is not None and given["pos_embed"] is not table
    resized = f", positions resized to {vit.grid_size[0]}x{vit.grid_size[1]} patches" if changed else ""
    return _said(where, "transformer", resized, [*report.unexpected, *others])


def load_resnet(resnet: QueriedResNet | None, path: str | os.PathLike[str]) -> str:
    """Start a ResNet from a checkpoint; all its entries must be there. The queries stay as they are.

    Args:
        resnet: of a :class:`~dqnet.DQnet`; receives the weights in place.
        path: the ResNet of a DQnet, ours (a file, or a run's folder) or the authors'; a classifier of torchvision or
            timm, whose names are the same; or ``timm`` for timm's default weights of that depth, from the hub.

    Returns:
        What was loaded and what was left out, in words.

    Raises:
        InputError: an unreadable file, one without a ResNet or that does not fit, ``timm`` without a connection, or no
            ResNet to load.
    """
    if resnet is None:
        raise InputError("the network has no ResNet", str(path), "choose another arm, or leave this out")
    if str(path) == "timm":
        state, where = _from_timm(resnet), f"timm's {_name(resnet)}"
    else:
        state, where = read_state(path)
    given, others = _part(state, "resnet.trunk.", where)
    counters = {key: value for key, value in resnet.trunk.state_dict().items() if key.endswith(_STEP)}
    given |= {key: value for key, value in counters.items() if key not in given and key.replace(_STEP, "bias") in given}
    report = _fit(resnet.trunk, given, _NOT_RESNET, "ResNet", where)
    return _said(where, "ResNet", "", [*report.unexpected, *others])


def load_model(model: DQnet, path: str | os.PathLike[str]) -> str:
    """Start a whole network from a checkpoint of the same one; its positions are resized to the model's grid.

    Args:
        model: receives the weights in place.
        path: a run's folder, or a file with our names or the authors'.

    Returns:
        What was loaded and what was left out, in words.

    Raises:
        InputError: an unreadable file, or one that does not fit.
    """
    state, where = read_state(path)
    return _said(where, "network", "", fit(model, state, where).unexpected)


def _part(state: State, prefix: str, where: str) -> tuple[State, list[str]]:
    """One branch of a whole network's state, or all of another state; and the entries of the other parts.

    Raises:
        InputError: a whole network without that branch.
    """
    theirs = is_official(state)
    own = from_official_names(state) if theirs else state
    if not theirs and not any(key.startswith(("vit.", "resnet.", "head.down.")) for key in own):
        return dict(own), []
    part = {key.removeprefix(prefix): value for key, value in own.items() if key.startswith(prefix)}
    if not part:
        kind = "transformer" if prefix == "vit." else "ResNet"
        raise InputError(f"a network without a {kind}", where, "give the checkpoint of one that has it")
    return part, [key for key in own if not key.startswith(prefix)]


def _fit(module: nn.Module, given: State, beside: re.Pattern[str], kind: str, where: str) -> LoadReport:
    """Load all of ``module``; what is ``beside`` it is left out and reported."""
    left_out = [key for key in given if beside.match(key)]
    try:
        fit_state_dict(module, {key: value for key, value in given.items() if not beside.match(key)}, where)
    except InputError as error:
        what = error.what.replace("the model;", f"this {kind};")
        raise InputError(what, where, f"{_holds(given, kind)}; give another file or build the network so") from error
    return LoadReport([], left_out, [])


def _holds(state: Mapping[str, Tensor], kind: str) -> str:
    """What a file is of, told by names and shapes."""
    if kind == "transformer" and (kernel := state.get("patch_embed.proj.weight")) is not None and kernel.ndim == 4:
        depth = len({key.split(".")[1] for key in state if key.startswith("blocks.")})
        return f"it holds one of width {len(kernel)}, depth {depth}, patch size {kernel.shape[2]}"
    if kind == "ResNet" and "layer1.0.conv1.weight" in state:
        found = (re.match(r"layer(\d)\.(\d+)\.", key) for key in state)
        blocks = {match[0] for match in found if match}
        numbers = "-".join(str(sum(name.startswith(f"layer{n}.") for name in blocks)) for n in range(1, 5))
        block = "bottlenecks" if "layer1.0.conv3.weight" in state else "basic blocks"
        return f"it holds one of {numbers} {block}"
    return f"it holds no {kind} under timm's names"


def _name(resnet: QueriedResNet) -> str:
    return f"resnet{resnet.depth}"


def _from_timm(resnet: QueriedResNet) -> State:
    """timm's default weights.

    Raises:
        InputError: a ResNet that timm has no weights for, or they cannot be had.
    """
    if not resnet.standard:
        raise InputError("no weights for a ResNet of these sizes", "timm", "leave out layers and width, or init.resnet")
    try:
        return dict(timm.create_model(_name(resnet), pretrained=True).state_dict())
    except Exception as error:  # hub and connection raise many types
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0]
        remedy = "connect to the network, or give a file of torchvision's or timm's weights"
        raise InputError(f"{_name(resnet)} cannot be downloaded ({reason})", "timm", remedy) from error


def _said(where: str, kind: str, more: str, left_out: list[str]) -> str:
    parts: dict[str, int] = {}
    for key in left_out:
        name = ".".join(key.split(".")[:2]) if key.startswith("resnet.") else key.split(".")[0]
        parts[name] = parts.get(name, 0) + 1
    rest = ", ".join(f"{name} ({count})" for name, count in parts.items())
    return f"{where}: {kind} loaded{more}" + (f"; left out: {rest}" if rest else "")
