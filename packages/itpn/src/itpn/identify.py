"""What a checkpoint holds: which family of models it is of, and their sizes, read from names and shapes alone."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from vireo.engine.checkpoint import LoadReport
from vireo.errors import InputError

from .fast import FastITPN
from .hivit import HiViT
from .official import Parts, fit_backbone, fit_classifier, infer_fpn_depth, read_state, split_official
from .sizes import SIZES

HEAD_WIDTH = 64  # channels of an attention head in all published sizes

_GROUPS = (  # what keys belong to, by what their name holds; the first that fits
    ("relative position tables", ("relative_position_bias_table", "rel_pos_h", "rel_pos_w")),
    ("pyramid", ("align_dim_", "split_", "block_16to8.", "block_8to4.", "fpn_modules.")),
    ("decoder of pixels", ("decoder_blocks.", "decoder_pred.", "decoder_norm.", "decoder_pos_embed")),
    ("heads of feature pre-training", ("lm_head.", "lm_cls_head.", "cls_pt_layers.", "norm_cls.")),
    ("embedding of levels", ("decoder_embed.",)),
    ("mask token", ("mask_token",)),
    ("moving-average teacher", ("teacher.",)),
    ("classifier", ("fc_norm.", "head.", "norm.")),
)


class Identity(NamedTuple):
    """What a checkpoint is of.

    Attributes:
        family: in words.
        size: name of :data:`~itpn.sizes.SIZES`; None for sizes of one's own.
        options: arguments that build its backbone, ``img_size`` that of a square grid.
        fast: whether the backbone is a Fast-iTPN.
        fpn_depth: of its pyramid; 0 for none.
        num_classes: of its classifier; 0 for none.
    """

    family: str
    size: str | None
    options: dict[str, Any]
    fast: bool
    fpn_depth: int
    num_classes: int

    def build(self, **options: Any) -> HiViT | FastITPN:
        """The backbone; ``options`` come before its own."""
        network: Any = FastITPN if self.fast else HiViT
        built: HiViT | FastITPN = network(**{**self.options, **options})
        return built


def identify(state: Mapping[str, Tensor], where: str) -> Identity:
    """Identify a state dict of any layout.

    Raises:
        InputError: it holds no backbone of ours or the authors'.
    """
    parts = split_official(state)
    backbone = parts.backbone
    kernel = backbone.get("patch_embed.proj.weight")
    merges = sorted(int(key.split(".")[1]) for key in backbone if key.endswith(".reduction.weight"))
    blocks = {int(key.split(".")[1]) for key in backbone if key.startswith("blocks.")}
    if kernel is None or len(merges) != 2 or kernel.ndim != 4:
        what = "holds no backbone of iTPN: three stages with two merges between them"
        raise InputError(what, where, "give a checkpoint of iTPN, Fast-iTPN or of one of our runs")
    depths = (merges[0], merges[1] - merges[0] - 1, max(blocks) - merges[1])
    dim, fast = 4 * len(kernel), "absolute_pos_embed" not in backbone
    table = next((value for key, value in backbone.items() if key.endswith("relative_position_bias_table")), None)
    options: dict[str, Any] = {"embed_dim": dim, "depths": depths, "patch_size": 4 * kernel.shape[2]}
    options["num_heads"] = table.shape[1] if table is not None else max(1, dim // HEAD_WIDTH)
    options["in_chans"] = kernel.shape[1]
    options["init_values"] = 0.1 if any(".gamma_" in key for key in backbone) else None
    if not fast:
        decomposed = any(key.endswith("rel_pos_h") for key in backbone)
        options["rel_pos"] = "bias" if table is not None else "decomposed" if decomposed else None
    positions = backbone.get("pos_embed" if fast else "absolute_pos_embed")
    if positions is not None:
        options["img_size"] = int(positions.shape[1] ** 0.5) * options["patch_size"]
    head = parts.heads.get("head.weight")
    return Identity(
        family=_family(parts, fast),
        size=_size_name(dim, depths, fast),
        options=options,
        fast=fast,
        fpn_depth=infer_fpn_depth(state) if parts.neck and not fast else 0,
        num_classes=0 if head is None else len(head),
    )


def from_official(path: str | os.PathLike[str], **options: Any) -> HiViT | FastITPN:
    """A backbone with the weights of a checkpoint, built to its sizes; with its classifier if it has one.

    Args:
        path: a run's folder or a file, ours or the authors': of pre-training, of a classifier or a detector.
        **options: of the backbone, before those read from the file: ``img_size=384`` resizes the tables,
            ``num_classes=0`` leaves the classifier out.

    Raises:
        InputError: an unreadable file, or one that does not fit.
    """
    state = read_state(path)
    identity = identify(state, str(path))
    network = identity.build(**{"num_classes": identity.num_classes, **options})
    entries, _ = fit_backbone(network, state, str(path))
    network.load_state_dict({**entries, **fit_classifier(network, state)}, strict=False)
    return network


def summary(report: LoadReport) -> str:
    """A report of loading in a line by kinds of entries: what stayed fresh, and what was not used."""
    fresh, unused = groups_of(report.missing), groups_of(report.unexpected)
    return f"fresh: {fresh or 'nothing'}; not used: {unused or 'nothing'}"


def groups_of(keys: Iterable[str]) -> str:
    """Keys by what they belong to, with their numbers: ``pyramid (24), classifier (4)``."""
    counted = Counter(
        next((group for group, marks in _GROUPS if any(mark in key for mark in marks)), "others") for key in keys
    )
    return ", ".join(f"{group} ({count})" for group, count in counted.items())


def _family(parts: Parts, fast: bool) -> str:
    heads = {key.split(".")[0] for key in parts.heads}
    name = "Fast-iTPN" if fast else "iTPN"
    if "decoder_pred" in heads:
        return f"{name}, pre-training with pixels"
    if "lm_head" in heads:
        return f"{name}, pre-training with a teacher's features"
    if "head" in heads:
        return f"{name}, classifier"
    if parts.neck and not fast:
        return f"{name}, backbone and pyramid (detector or segmenter)"
    return f"{name}, backbone"


def _size_name(dim: int, depths: tuple[int, int, int], fast: bool) -> str | None:
    """The published size; of two that are alike, the first."""
    for name, size in SIZES.items():
        if (size["embed_dim"], size["depths"], name.startswith("fast_")) == (dim, depths, fast):
            return name
    return None
