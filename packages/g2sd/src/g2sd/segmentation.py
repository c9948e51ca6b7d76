"""From configuration to objects: segmenters, what they start from, and their teachers."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from vireo.engine import plain
from vireo.engine.finished import load_finished, require_classes, require_same_sizes
from vireo.errors import InputError
from vireo.report import write_run_report
from vireo.segmentation.gallery import PICTURES

from .build import encoder_of, sizes_of
from .divergence import ChannelWiseDivergence, PixelDivergence
from .kinds import SCRIPTS
from .official import EncoderReport, load_encoder
from .official_segmenter import from_official
from .segmentation_vit import FRESH, SegmentationViT
from .segmenter import Segmenter
from .teacher import FrozenTeacher

SCRIPT = SCRIPTS["segmentation"]
SIZES = ("patch_size", "embed_dim", "depth", "num_heads")  # positions of another image size are interpolated


def build_segmenter(
    config: Any, num_classes: int, divergence: ChannelWiseDivergence | PixelDivergence | None = None
) -> Segmenter:
    """The network of a configuration.

    Args:
        config: ``model``, name and arguments of the encoder, also those of a masked autoencoder; ``segmenter``:
            ``channels``, ``auxiliary_channels`` and ``dropout``; ``grad_checkpointing``.
        num_classes: of the scores.
        divergence: to a teacher's scores; None without a teacher.

    Raises:
        InputError: an unknown name or argument, or sizes that do not fit each other.
    """
    encoder, head = encoder_of(config.model), config.segmenter
    if unknown := sorted(encoder.keys() - inspect.signature(SegmentationViT).parameters.keys()):
        raise InputError(f"has no argument {', '.join(unknown)}", "model", "see the arguments of SegmentationViT")
    return Segmenter(
        num_classes,
        **{**encoder, "grad_checkpointing": config.grad_checkpointing},
        channels=head.channels,
        auxiliary_channels=head.auxiliary_channels,
        dropout=head.dropout,
        divergence=divergence,
    )


def load_start(segmenter: Segmenter, path: str, model: Any) -> EncoderReport:
    """Start a segmenter's encoder from a run's folder or a checkpoint of any layout; what it has not stays fresh.

    Args:
        segmenter: changed in place.
        path: the folder or file.
        model: the configuration of the network, compared with that of the run.

    Raises:
        InputError: no such checkpoint, or one of another network.
    """
    from .load import model_of

    if (theirs := model_of(path)) is not None:
        require_same_sizes(sizes_of(model), sizes_of(theirs), SIZES, path)
    return load_encoder(segmenter.backbone, path, FRESH)


def load_segmenter(
    folder: str | os.PathLike[str], weights: str | os.PathLike[str] | None = None, *, untrained: bool = False
) -> tuple[Segmenter, DictConfig, tuple[str, ...]]:
    """Network, configuration and classes of a run of ``g2sd-segment``; in evaluation mode, on the CPU.

    Args:
        folder: of the run.
        weights: others of the same network.
        untrained: the weights with which a run of this configuration and seed starts where it has no ``init``.

    Raises:
        InputError: no such run, no weights in it, or weights that do not fit.
    """
    return load_finished(folder, SCRIPT, "segmenter", build_segmenter, weights, untrained)


def load_teacher_segmenter(
    weights: str, student: Segmenter, classes: tuple[str, ...], normalize: str = "imagenet", precision: str = "auto"
) -> FrozenTeacher:
    """The teacher of specific distillation: a segmenter that answers with :meth:`~g2sd.Segmenter.scores`.

    Args:
        weights: the folder of a run of ``g2sd-segment``, or a segmenter in the authors' layout; of their distiller's
            checkpoint its teacher.
        student: that it teaches.
        classes: of the student's data; a run's must be the same, a file's as many.
        normalize: how the student's images are normalised.
        precision: see :class:`~g2sd.FrozenTeacher`.

    Raises:
        InputError: no such checkpoint, no segmenter in it, or one of other classes, crops, patches or normalisation.
    """
    if Path(weights).is_dir():
        network, config, theirs = load_segmenter(weights)
        require_classes(classes, theirs, f"data of a student of {weights}")
        if (other := config.data.normalize) != normalize:
            what = f"the teacher was trained with data.normalize={other}, the student has {normalize}"
            raise InputError(what, weights, f"train the student so too: data.normalize={other}")
    else:
        network = from_official(weights, "teacher")
    _require_pair(network, student, weights)
    return FrozenTeacher(network, precision)


def _require_pair(teacher: Segmenter, student: Segmenter, where: str) -> None:
    def told(network: Any) -> list[tuple[str, str]]:
        height, width = network.backbone.patch_embed.img_size
        patch, classes = network.backbone.patch_embed.patch_size[0], network.decode_head.conv_seg.out_channels
        return [("crops", f"{height}x{width}"), ("patches", f"{patch} pixels"), ("classes", f"{classes}")]

    for (name, theirs), (_, own) in zip(told(teacher), told(student)):
        if theirs != own:
            what = f"the teacher has {name} of {theirs}, the student of {own}"
            what = f"the teacher tells {theirs} classes apart, the student {own}" if name == "classes" else what
            raise InputError(what, where, f"give a teacher of the same {name}, or train such a student")


def require_crop(config: Any) -> None:
    """Check that training crops have the size that the network is for.

    Raises:
        InputError: they have not.
    """
    if tuple(config.data.crop) != _side(config):
        height, width = _side(config)
        what = f"crops of {config.data.crop[0]}x{config.data.crop[1]} for a network of {height}x{width}"
        raise InputError(what, "data.crop", f"use data.crop=[{height},{width}], or another model.img_size")


def windows_of(config: Any) -> dict[str, Any]:
    """``window`` and ``stride`` of evaluation, as :func:`~vireo.segmentation.evaluate_segmenter` takes them.

    Windows have the size of the network; the stride is the configuration's, by default two thirds of it.
    """
    window, stride = _side(config), config.segmenter.stride
    return {"window": window, "stride": tuple(side * 2 // 3 for side in window) if stride is None else tuple(stride)}


def _side(config: Any) -> tuple[int, int]:
    side = plain(config.model).get("img_size", inspect.signature(SegmentationViT).parameters["img_size"].default)
    return (side, side) if isinstance(side, int) else (side[0], side[1])


def write_segmentation_report(folder: Path, paper_metrics: Mapping[str, float] | None = None) -> Path:
    """``report.html`` of a run from the files in its folder."""
    return write_run_report(folder, "Segmentation for G2SD", PICTURES, paper_metrics=paper_metrics)
