"""The names of parameters in the authors' checkpoints and ours (section 7 of the notes)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

# What the authors' files hold beside the parameters that take part: classifier, maps and a head without a loss.
UNUSED = re.compile(r"space_encoder\.(fc|down\d)\.|aux_head\.")

# (theirs, ours), the first that matches; {n} is the number of a stage
_RULES = (
    ("higher_encoder.", "vit."),
    ("space_encoder.cross{n}.", "resnet.queries.{n}.query."),
    ("space_encoder.proj{n}.", "resnet.queries.{n}.to_grid."),
    ("space_encoder.convert{n}.", "resnet.queries.{n}.from_grid."),
    ("space_encoder.pos_norm{n}.", "resnet.queries.{n}.stage_norm."),
    ("space_encoder.norm{n}.", "resnet.queries.{n}.norm."),
    ("space_encoder.", "resnet.trunk."),
    ("segmentation_head.fuse.c{n}_down.", "head.down.{n}."),
    ("segmentation_head.conv_fusion.", "head.fuse."),
    ("segmentation_head.head.", "head.head."),
)


def official_name(name: str) -> str:
    """The authors' name of one of our parameters or buffers."""
    renamed = _renamed(name, [(ours, theirs) for theirs, ours in _RULES])
    # a single layer has no number there
    return re.sub(r"(space_encoder\.convert[23])\.0\.", r"\1.", renamed)


def own_name(name: str) -> str:
    """Our name of one of the authors' parameters or buffers that take part."""
    return _renamed(re.sub(r"(space_encoder\.convert[23])\.(?=weight|bias)", r"\1.0.", name), _RULES)


def from_official_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' state dict under our names, without what takes no part."""
    return {own_name(name): value for name, value in state.items() if not UNUSED.match(name)}


def to_official_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict under the authors' names."""
    return {official_name(name): value for name, value in state.items()}


def _renamed(name: str, rules: Sequence[tuple[str, str]]) -> str:
    for old, new in rules:
        found = re.match(re.escape(old).replace(r"\{n\}", r"(\d)"), name)
        if found:
            return new.replace("{n}", found[1] if found.groups() else "") + name[found.end() :]
    return name
