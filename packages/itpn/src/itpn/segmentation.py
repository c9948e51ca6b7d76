"""Segmenters over the maps of iTPN (section 3.7): UPerNet, or a light head that sums the pyramid's levels."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor, nn

from vireo.engine import plain
from vireo.engine.finished import load_finished
from vireo.errors import InputError
from vireo.report import write_run_report
from vireo.segmentation import FCNHead, SegmentationModel, UPerHead
from vireo.segmentation.gallery import PICTURES
from vireo.segmentation.heads import resize_to

from .downstream import build_features, complete_depth

SCRIPT = "itpn-segment"
HEADS = ("upernet", "fusion")
PUBLISHED_DEPTH = 2  # blocks of a top-down step in the released segmenters
AUXILIARY_INDEX = 2  # of the map at stride 16


class FusionHead(nn.Module):
    """The levels of a pyramid, each through a 1x1 convolution, resized to the finest and summed.

    Args:
        in_channels: of the maps, finest first.
        num_classes: of the scores.
        channels: inside the head.
    """

    def __init__(self, in_channels: Sequence[int], num_classes: int, channels: int = 64) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in in_channels)
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps ``(B, C_i, H_i, W_i)``, finest first, to scores ``(B, num_classes, H_0, W_0)``."""
        size = maps[0].shape[-2:]
        levels = torch.stack([resize_to(lateral(x), size) for lateral, x in zip(self.laterals, maps)])
        scores: Tensor = self.conv_seg(F.relu(levels.sum(0)))
        return scores


def build_segmenter(config: Any, num_classes: int, init: str | None = None) -> SegmentationModel:
    """The network of a configuration.

    Args:
        config: ``segmenter``, and what :func:`~itpn.downstream.build_features` takes.
        num_classes: of the scores.
        init: see :func:`build_features`.

    Raises:
        InputError: an unknown head, or what :func:`build_features` raises.
    """
    options = config.segmenter
    if options.head not in HEADS:
        raise InputError(f"unknown head {options.head!r}", "segmenter.head", f"use one of {', '.join(HEADS)}")
    if options.head == "fusion":
        features = build_features(config, init, PUBLISHED_DEPTH, num_outs=3)
        return SegmentationModel(features, FusionHead(features.channels, num_classes, options.channels))
    features = build_features(config, init, PUBLISHED_DEPTH, num_outs=4, extra="maxpool", concat_backbone=True)
    head = UPerHead(features.channels, num_classes, options.channels, options.dropout)
    auxiliary = FCNHead(
        features.channels[AUXILIARY_INDEX],
        num_classes,
        options.auxiliary_channels,
        index=AUXILIARY_INDEX,
        dropout=options.dropout,
    )
    return SegmentationModel(features, head, auxiliary)


def windows_of(config: Any) -> dict[str, Any]:
    """``window`` and ``stride`` of a configuration, as :func:`~vireo.segmentation.evaluate_segmenter` takes them."""
    settings = plain(config.segmenter)
    return {name: None if settings[name] is None else tuple(settings[name]) for name in ("window", "stride")}


def load_segmenter(
    folder: str | os.PathLike[str], weights: str | os.PathLike[str] | None = None, *, untrained: bool = False
) -> tuple[SegmentationModel, DictConfig, tuple[str, ...]]:
    """Network, configuration and classes of a run of ``itpn-segment``; in evaluation mode, on the CPU.

    Args:
        folder: of the run.
        weights: others of the same network.
        untrained: the weights with which a run of this configuration and seed starts where it has no ``init``.

    Raises:
        InputError: no such run, no weights in it, or weights that do not fit.
    """
    return load_finished(folder, SCRIPT, "segmenter", build_segmenter, weights, untrained, complete_depth)


def write_segmentation_report(folder: Path, paper_metrics: Mapping[str, float] | None = None) -> Path:
    """``report.html`` of a run from the files in its folder."""
    return write_run_report(folder, "Segmentation with iTPN", PICTURES, paper_metrics=paper_metrics)
