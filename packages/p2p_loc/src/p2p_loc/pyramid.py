"""Backbone and feature pyramid that the networks of the paper stand on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from vireo.backbones import FPN, pyramid_backbone
from vireo.backbones.pyramid import BackboneNorm
from vireo.engine.hub import Pretrained
from vireo.errors import InputError

from .localizer import Localizer

BACKBONE_STRIDES = (4, 8, 16, 32)
SIZE_DIVISOR = 32  # images are padded to a multiple of it; locations beyond an image's own padding are not used


class PyramidLocalizer(Localizer, Pretrained):
    """Base of the networks over a pyramid: any timm backbone, and an FPN with GroupNorm and no activation.

    Args:
        num_classes: C.
        backbone: timm name, or one that a Vireo package registers.
        strides: of the levels that are returned, each twice the one before. All maps of the backbone from the first
            of these strides on enter the pyramid. Levels beyond stride 32 are made by 3x3
            convolutions of stride 2, the first from the backbone's last map.
        channels: of the pyramid.
        pretrained, norm, frozen_stages: of :func:`vireo.backbones.pyramid_backbone`. By default stem and first stage
            are frozen and BatchNorm statistics fixed, as published.
        backbone_weights: a local file in place of the download.
        backbone_options: further ones of ``pyramid_backbone``, e.g. ``{"channels": [32, 64, 96, 128]}``.
        score_threshold, nms_iou, max_detections: of :func:`~p2p_loc.nms.multiclass_nms`.

    Raises:
        InputError: strides that are not consecutive powers of two or begin off the backbone's, and what
            ``pyramid_backbone`` raises.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str = "resnet50",
        *,
        strides: Sequence[int],
        channels: int = 256,
        pretrained: bool = False,
        norm: BackboneNorm = "fixed_bn",
        frozen_stages: int = 1,
        backbone_weights: str | None = None,
        backbone_options: dict[str, Any] | None = None,
        score_threshold: float = 0.05,
        nms_iou: float = 0.5,
        max_detections: int = 1000,
    ) -> None:
        super().__init__(num_classes, score_threshold=score_threshold, nms_iou=nms_iou, max_detections=max_detections)
        if strides[0] not in BACKBONE_STRIDES or list(strides) != [strides[0] << i for i in range(len(strides))]:
            remedy = f"begin with one of {', '.join(map(str, BACKBONE_STRIDES))} and double it level by level"
            raise InputError(f"no pyramid has the strides {list(strides)}", "model.strides", remedy)
        self.backbone: nn.Module = pyramid_backbone(
            backbone,
            pretrained=pretrained,
            norm=norm,
            frozen_stages=frozen_stages,
            strides=BACKBONE_STRIDES,
            weights=backbone_weights,
            **(backbone_options or {}),
        )
        self.skipped = BACKBONE_STRIDES.index(strides[0])  # finest maps of the backbone that the pyramid does not use
        inputs: list[int] = self.backbone.feature_info.channels()[self.skipped :]  # type: ignore[operator, union-attr]
        extra = max(0, len(strides) - len(inputs))
        self.neck = FPN(
            inputs,
            channels,
            extra="conv" if extra else "none",
            extra_levels=extra,
            outputs=min(len(strides), len(inputs)),
        )

    def extract(self, images: Tensor) -> list[Tensor]:
        """Pyramid maps ``(B, channels, H / s, W / s)`` of normalised images, finest first."""
        return self.neck(self.backbone(images)[self.skipped :])


def padded_area(size: Any) -> tuple[int, int]:
    """``(h, w)`` of an image with its own padding, from that without."""
    height, width = (-(-int(length) // SIZE_DIVISOR) * SIZE_DIVISOR for length in size)
    return height, width


def in_padded_area(locations: Tensor, size: Any) -> Tensor:
    """bool ``(N,)``: which locations ``(N, 2)``, x and y in pixels, an image of ``(h, w)`` has with its own padding."""
    height, width = padded_area(size)
    return (locations[:, 0] < width) & (locations[:, 1] < height)
