"""Detectors in the layout of the authors and of detectron2's model zoo, both ways (section 7 of the notes).

Each of our parameters is one of theirs under another name, of the same shape and order.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torchvision.models.detection import FasterRCNN

from vireo.engine.checkpoint import fit_state_dict, read, state_dict_in
from vireo.engine.finished import initial_weights
from vireo.errors import InputError

from .detector import vitdet_rcnn
from .distilled_detector import DistilledDetector
from .vitdet import ViTDet

# The beginnings of names, ours and theirs; the longest that fits counts, the rest of a name stays.
_NAMES = (
    ("detector.backbone.body.", "backbone.net."),
    ("detector.backbone.pyramid.branches.0.0.", "backbone.simfp_2."),
    ("detector.backbone.pyramid.branches.0.1.", "backbone.simfp_2.4."),
    ("detector.backbone.pyramid.branches.0.2.", "backbone.simfp_2.4.norm."),
    ("detector.backbone.pyramid.branches.0.3.", "backbone.simfp_2.5."),
    ("detector.backbone.pyramid.branches.0.4.", "backbone.simfp_2.5.norm."),
    ("detector.backbone.pyramid.branches.1.0.", "backbone.simfp_3.0."),
    *(
        (f"detector.backbone.pyramid.branches.{level - 2}.{own}.", f"backbone.simfp_{level}.{theirs}.")
        for level, first in ((3, 1), (4, 0), (5, 1))
        for own, theirs in (
            (1, f"{first}"),
            (2, f"{first}.norm"),
            (3, f"{first + 1}"),
            (4, f"{first + 1}.norm"),
        )
    ),
    *((f"detector.rpn.head.conv.{i}.0.", f"proposal_generator.rpn_head.conv.conv{i}.") for i in range(2)),
    ("detector.rpn.head.cls_logits.", "proposal_generator.rpn_head.objectness_logits."),
    ("detector.rpn.head.bbox_pred.", "proposal_generator.rpn_head.anchor_deltas."),
    *((f"detector.roi_heads.box_head.{i}.0.", f"roi_heads.box_head.conv{i + 1}.") for i in range(4)),
    *((f"detector.roi_heads.box_head.{i}.1.", f"roi_heads.box_head.conv{i + 1}.norm.") for i in range(4)),
    ("detector.roi_heads.box_head.5.", "roi_heads.box_head.fc1."),
    ("detector.roi_heads.box_predictor.", "roi_heads.box_predictor."),
    *((f"detector.roi_heads.mask_head.{i}.0.", f"roi_heads.mask_head.mask_fcn{i + 1}.") for i in range(4)),
    *((f"detector.roi_heads.mask_head.{i}.1.", f"roi_heads.mask_head.mask_fcn{i + 1}.norm.") for i in range(4)),
    ("detector.roi_heads.mask_predictor.conv5_mask.", "roi_heads.mask_head.deconv."),
    ("detector.roi_heads.mask_predictor.mask_fcn_logits.", "roi_heads.mask_head.predictor."),
    ("imitation.conv.", "stu_adapter.conv."),
)
_THEIRS = dict(_NAMES)
_OURS = {theirs: ours for ours, theirs in _NAMES}
_LEFT_OUT = ("pixel_mean", "pixel_std", "proposal_generator.anchor_generator.")  # constants that older files hold
_CONVERT = (
    "load it with detectron2 where you trust its origin, and save its weights with "
    "safetensors.torch.save_file({key: torch.as_tensor(value) for key, value in model.items()}, 'detector.safetensors')"
)


def official_name(key: str) -> str:
    """The authors' name of a parameter of :class:`~g2sd.distilled_detector.DistilledDetector`.

    Raises:
        KeyError: it has none.
    """
    return _renamed(key, _THEIRS)


def own_name(key: str) -> str:
    """The inverse of :func:`official_name`."""
    return _renamed(key, _OURS)


def _renamed(key: str, names: Mapping[str, str]) -> str:
    end = len(key)
    while (end := key.rfind(".", 0, end)) > 0:
        if (new := names.get(key[: end + 1])) is not None:
            return new + key[end + 1 :]
    raise KeyError(key)


def to_official(model: FasterRCNN | DistilledDetector) -> dict[str, Tensor]:
    """The state dict under the authors' names, with the convolutions of the imitation if they are there."""
    prefix = "" if isinstance(model, DistilledDetector) else "detector."
    return {official_name(prefix + key): value for key, value in model.state_dict().items()}


def from_official(state: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """A state dict in the authors' names under those of :class:`~g2sd.distilled_detector.DistilledDetector`.

    Raises:
        InputError: names that are none of such a detector's.
    """
    named: dict[str, Tensor] = {}
    unknown: list[str] = []
    for key, value in state.items():
        if key.startswith(_LEFT_OUT):
            continue
        try:
            named[own_name(key)] = value
        except KeyError:
            unknown.append(key)
    if unknown:
        more = f" and {len(unknown) - 4} more" if len(unknown) > 4 else ""
        what = f"is no ViTDet detector: it holds {', '.join(unknown[:4])}{more}"
        raise InputError(what, where, "use a Mask R-CNN over ViTDet, of the authors or of detectron2's model zoo")
    return named


def read_detector(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The weights of a detector, under the names of :class:`~g2sd.distilled_detector.DistilledDetector`.

    Args:
        path: folder of a run of ``g2sd-detect``, or a file, of such a run or in the authors' layout.

    Raises:
        InputError: no such file, one that cannot be read without executing it, or that is no such detector's.
    """
    where, file = str(path), initial_weights(path)
    if Path(file).suffix == ".pkl":
        if not Path(file).is_file():
            raise InputError("no such file", where, "check the path of the checkpoint")
        raise InputError("is a pickle, which could execute code when it is read", where, _CONVERT)
    state = state_dict_in(read(file), where)
    if any(key.startswith("detector.backbone.") for key in state):
        return state
    if not any(key.startswith("backbone.") for key in state):
        held = "an encoder" if any(key.startswith(("blocks.", "patch_embed.")) for key in state) else "no backbone"
        remedy = "give a trained detector; an encoder is given with init=..., and its detector trained first"
        raise InputError(f"is no detector: it holds {held}", where, remedy)
    return from_official(state, where)


def detector_of(state: Mapping[str, Tensor], where: str, num_heads: int | None = None, **options: Any) -> FasterRCNN:
    """A detector whose sizes are read off its weights, with these weights, in evaluation mode.

    Args:
        state: of :func:`read_detector`.
        where: it comes from.
        **options: of :func:`~g2sd.detector.vitdet_rcnn`.

    Raises:
        InputError: parts that are missing or do not fit each other.
    """
    try:
        model = vitdet_rcnn(_body_of(state), **_sizes_of(state), **options)
    except KeyError as error:
        what = f"is no whole detector: it holds no {error.args[0]}"
        raise InputError(what, where, "use the checkpoint of a whole detector") from error
    own = {key.removeprefix("detector."): value for key, value in state.items() if not key.startswith("imitation.")}
    fit_state_dict(model, own, where)
    return model.eval()


def _body_of(state: Mapping[str, Tensor]) -> ViTDet:
    prefix = "detector.backbone.body."
    weight = state[f"{prefix}patch_embed.proj.weight"]
    embed_dim, patch = weight.shape[0], weight.shape[2]
    found = re.compile(re.escape(prefix) + r"blocks\.(\d+)\.attn\.rel_pos_h")
    sides = {int(m[1]): ((len(v) + 1) // 2, v.shape[1]) for k, v in state.items() if (m := found.fullmatch(k))}
    if not sides:
        raise KeyError(f"{prefix}blocks.0.attn.rel_pos_h")
    depth, window = 1 + max(sides), sides[0][0]
    whole = {block: side for block, (side, _) in sides.items() if side != window}
    positions = state[f"{prefix}pos_embed"].shape[1] - 1
    return ViTDet(
        patch * max([window, *whole.values()]),
        patch,
        embed_dim,
        depth,
        embed_dim // sides[0][1],
        window=window,
        global_blocks=set(whole) or None,
        pretrain_size=patch * round(positions**0.5),
    )


def _sizes_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
    heads = "detector.roi_heads."
    return {
        "num_classes": len(state[f"{heads}box_predictor.cls_score.weight"]) - 1,
        "masks": f"{heads}mask_predictor.mask_fcn_logits.weight" in state,
        "channels": len(state["detector.rpn.head.conv.0.0.weight"]),
        "hidden": len(state[f"{heads}box_head.5.weight"]),
    }
