"""From configuration to objects of g2sd-detect: detectors, their teachers, optimizer groups, and finished runs."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import nn
from torchvision.models.detection import FasterRCNN

from vireo.detection import GALLERY, has_masks
from vireo.engine import plain
from vireo.engine.finished import CLASSES_FILE, load_finished
from vireo.engine.layer_decay import Groups
from vireo.errors import InputError
from vireo.report import write_run_report

from .build import encoder_of
from .detector import vitdet_rcnn
from .distilled_detector import DetectionTeacher, DistilledDetector, require_pair
from .imitation import ObjectnessWeightedImitation
from .official import load_encoder
from .official_detector import detector_of, read_detector
from .teacher import FrozenTeacher
from .vitdet import ViTDet

SCRIPT = "g2sd-detect"
_BLOCK = re.compile(r"detector\.backbone\.body\.blocks\.(\d+)\.")
_BODY = ("img_size", "window", "global_blocks")  # of the configuration's ``detector``; the rest is the heads'


def build_detector(config: Any, num_classes: int, init: str | None = None) -> DistilledDetector:
    """The network of a configuration: Mask R-CNN, or Faster R-CNN where the data have no masks.

    Where there is a teacher, the convolutions of the imitation are part of it.

    Args:
        config: ``model``, size and arguments of the transformer, ``img_size`` that of its pre-training; ``detector``,
            ``data``, ``teacher``, ``imitation``, ``grad_checkpointing``.
        num_classes: without background.
        init: the encoder: a run's folder or a checkpoint, ours or the authors'; None: fresh.

    Raises:
        InputError: unknown or unfitting sizes, or a checkpoint that does not fit.
    """
    sizes = encoder_of(config.model)
    options: dict[str, Any] = plain(config.detector)
    try:
        body = ViTDet(
            **{name: options.pop(name) for name in _BODY},
            pretrain_size=sizes.pop("img_size", 224),
            grad_checkpointing=config.grad_checkpointing,
            **sizes,
        )
    except TypeError as error:
        what = str(error).partition(") ")[2] or str(error)
        raise InputError(what, f"model {config.model.name}", "see the arguments of ViTDet") from error
    if init is not None:
        load_encoder(body, init, fresh=("rel_pos_",))
    jitter = bool(config.data.get("scale_jitter"))
    detector = vitdet_rcnn(body, num_classes, masks=has_masks(config.data), resize_training=not jitter, **options)
    imitation = None
    if config.teacher.weights is not None:
        imitation = ObjectnessWeightedImitation(detector.backbone.out_channels, **plain(config.imitation))
    return DistilledDetector(detector, imitation)


def build_teacher(config: Any, student: DistilledDetector, classes: tuple[str, ...]) -> FrozenTeacher | None:
    """The teacher of a configuration, without its region heads; None if there is none.

    Raises:
        InputError: weights that are no detector's, or a detector from which the student cannot learn.
    """
    if config.teacher.weights is None:
        return None
    teacher = load_teacher(config.teacher.weights)
    require_pair(teacher, student.detector, classes)
    return FrozenTeacher(teacher, config.teacher.precision)


def load_teacher(weights: str | os.PathLike[str]) -> DetectionTeacher:
    """A teacher, whose sizes are read from its weights.

    Args:
        weights: the folder of a run of ``g2sd-detect``, or a checkpoint in the authors' layout.

    Raises:
        InputError: a file that is no detector's, is not whole, or would have to be executed.
    """
    if (Path(weights) / CLASSES_FILE).is_file():
        detector, _, classes = load_detector(weights)
        return DetectionTeacher(detector, classes)
    return DetectionTeacher(detector_of(read_detector(weights), str(weights)))


def load_detector(
    folder: str | os.PathLike[str], weights: str | os.PathLike[str] | None = None, *, untrained: bool = False
) -> tuple[FasterRCNN, DictConfig, tuple[str, ...]]:
    """Network, configuration and classes of a run of ``g2sd-detect``; in evaluation mode, on the CPU.

    Args:
        folder: of the run.
        weights: others of the same network.
        untrained: the weights with which a run of this configuration and seed starts where it has no ``init``.

    Raises:
        InputError: no such run, no weights in it, or weights that do not fit.
    """
    model, config, classes = load_finished(folder, SCRIPT, "detector", build_detector, weights, untrained)
    return model.detector, config, classes


def detection_groups(model: DistilledDetector, lr: float, layer_decay: float, weight_decay: float) -> Groups:
    """Parameter groups of AdamW, by the authors' rule (section 4.3).

    The transformer's rate falls from block to block towards the input by ``layer_decay``; what comes behind it, and the
    imitation, has the full rate. Norms and positions of the transformer are not decayed; all else is, biases and the
    norms of pyramid and heads included.

    Args:
        model: the detector.
        lr: the full rate.
        layer_decay: in (0, 1]; 1 for none, as in the authors' distilled runs, where the rule did not take effect.
        weight_decay: of what is decayed.

    Returns:
        Groups with ``params``, ``weight_decay`` and ``lr``, those of the full rate first.

    Raises:
        InputError: ``layer_decay`` out of range.
    """
    if not 0 < layer_decay <= 1:
        raise InputError(f"a layer decay of {layer_decay} is not in (0, 1]", "optim.layer_decay", "use e.g. 0.7")
    depth = len(model.detector.backbone.body.blocks)
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        groups.setdefault((_steps_below(name, depth), _is_decayed(name)), []).append(parameter)
    return [
        {"params": groups[key], "weight_decay": weight_decay if key[1] else 0.0, "lr": lr * layer_decay ** key[0]}
        for key in sorted(groups, key=lambda key: (key[0], not key[1]))
    ]


def _steps_below(name: str, depth: int) -> int:
    """How many times the rate of a parameter is multiplied by the decay."""
    if (found := _BLOCK.match(name)) is not None:
        return depth - int(found[1])
    return depth + 1 if name.startswith("detector.backbone.body.") else 0


def _is_decayed(name: str) -> bool:
    body = name.startswith("detector.backbone.body.")
    return not (body and (name.endswith(".pos_embed") or ".norm1." in name or ".norm2." in name))


def write_detection_report(folder: Path, paper_metrics: Mapping[str, float] | None = None) -> Path:
    """``report.html`` of a run from the files in its folder."""
    return write_run_report(folder, "Detection with G2SD", GALLERY, paper_metrics=paper_metrics)
