"""Checkpoints in the authors' key layout (mmdetection 2), both ways (section 7 of the notes).

No weights were released with the paper. The layout matters to owners of own checkpoints, to those of mmdetection's
RepPoints, and to the reference tests.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from vireo.engine.checkpoint import fit_state_dict, read, state_dict_in
from vireo.errors import InputError

from .p2p_head import P2PNet
from .reppoints import RepPoints

State = dict[str, Tensor]
Source = str | os.PathLike[str] | Mapping[str, Any]

_PREFIXED = re.compile(r"head\.((?:cls|pts_init|pts_refine)_(?:conv|out)\.)")  # the authors': reppoints_...


def to_official(model: nn.Module) -> State:
    """The state dict of a :class:`~p2p_loc.RepPoints` or :class:`~p2p_loc.P2PNet` under the authors' names."""
    reppoints = isinstance(model, RepPoints)
    return {official_name(name, reppoints): value for name, value in model.state_dict().items()}


def official_name(name: str, reppoints: bool) -> str:
    """The authors' name of one of our parameters or buffers."""
    if reppoints:
        name = _PREFIXED.sub(r"head.reppoints_\1", name)
    return f"bbox_{name}" if name.startswith("head.") else name


def own_name(name: str) -> str:
    """Our name of one of the authors' parameters or buffers."""
    return name.removeprefix("bbox_").replace("head.reppoints_", "head.", 1) if name.startswith("bbox_head.") else name


def from_official(source: Source, **options: Any) -> RepPoints | P2PNet:
    """The network of a checkpoint in the authors' layout, in evaluation mode.

    Kind of network, depth of the ResNet, number of classes and strides are those of the file. What a file does not
    tell is as published: a base scale of 2 with strides from 4, of 4 with strides from 8.

    Args:
        source: a file, what was read from one, or the state dict itself.
        **options: of the class, which come before those of the file.

    Raises:
        InputError: an unreadable file, one of something else, or one with an entry missing, unknown or misshaped.
    """
    where = "state" if isinstance(source, Mapping) else str(source)
    state = state_dict_in(source if isinstance(source, Mapping) else read(source), where)
    model = _fitting_model(state, where, options)
    fit_state_dict(model, {own_name(name): value for name, value in state.items()}, where)
    return model.eval()


def _fitting_model(state: Mapping[str, Tensor], where: str, options: dict[str, Any]) -> RepPoints | P2PNet:
    """An untrained network of the sizes of a state dict."""
    own: dict[str, Any] = {"backbone": "resnet101" if "backbone.layer3.22.conv1.weight" in state else "resnet50"}
    laterals = sum(bool(re.fullmatch(r"neck\.lateral_convs\.\d+\.conv\.weight", name)) for name in state)
    outputs = sum(bool(re.fullmatch(r"neck\.fpn_convs\.\d+\.conv\.weight", name)) for name in state)
    if laterals not in (3, 4) or outputs == 0:
        raise _foreign(where)
    first = 4 if laterals == 4 else 8
    classes = state.get("bbox_head.reppoints_cls_out.weight")
    if classes is not None:
        own |= {"strides": [first << i for i in range(outputs)], "base_scale": first / 2}
        own["transform"] = "moment" if "bbox_head.moment_transfer" in state else "minmax"
        return RepPoints(**{"num_classes": len(classes), **own, **options})
    classes, shifts = (state.get(f"bbox_head.{name}.weight") for name in ("cls_out", "reg_out"))
    if classes is None or shifts is None:
        raise _foreign(where)
    own |= {"stride": first}
    return P2PNet(**{"num_classes": 2 * len(classes) // len(shifts), **own, **options})


def _foreign(where: str) -> InputError:
    remedy = "give a checkpoint of mmdetection's RepPoints, or of the authors' P2PHead"
    return InputError("holds no RepPoints and no P2PHead over an FPN under the authors' names", where, remedy)
