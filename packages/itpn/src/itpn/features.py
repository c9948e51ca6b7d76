"""Backbone and pyramid as one network of feature maps, for detectors and segmenters (sections 3.6 and 3.7)."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch
import torch.nn.functional as F
from timm.models import FeatureInfo
from torch import Tensor, nn

from vireo.errors import InputError

from .hivit import HiViT
from .neck import PyramidNeck, units_to_map


class iTPNFeatures(nn.Module):
    """Maps at strides 4, 8, 16 (of the pyramid), 32 and 64 (pooled from there), as torchvision's detectors take them.

    Args:
        backbone: the HiViT.
        neck: the pyramid over it.
        num_outs: how many maps, 3 to 5.
        extra: how the maps beyond stride 16 are made: ``avgpool`` of the released detectors, or ``maxpool`` of the
            segmenters; 2 x 2 either way, a last odd row or column is left out.
        concat_backbone: put the backbone's own map behind the pyramid's at each level, as the segmenters do.

    Attributes:
        channels, strides: of the maps, finest first.
        out_channels: of every map where they are equal (what torchvision asks), else the list of them.
        feature_info: the same as timm's feature extractors give it.

    Raises:
        InputError: an unknown ``extra``, another number of maps, or a neck of other channels.
    """

    def __init__(
        self,
        backbone: HiViT,
        neck: PyramidNeck,
        num_outs: int = 5,
        extra: Literal["avgpool", "maxpool"] = "avgpool",
        concat_backbone: bool = False,
    ) -> None:
        super().__init__()
        if not 3 <= num_outs <= 5:
            raise InputError(f"{num_outs} maps", "num_outs", "use 3, 4 or 5")
        if extra not in ("avgpool", "maxpool"):
            raise InputError(f"unknown pooling {extra!r}", "extra", "use avgpool or maxpool")
        if backbone.dims != neck.dims:
            what = f"a neck over {neck.dims} channels for a backbone of {backbone.dims}"
            raise InputError(what, "neck", "build both with the same dims")
        self.backbone, self.neck = backbone, neck
        self.num_outs, self.extra, self.concat_backbone = num_outs, extra, concat_backbone
        own = [neck.dim + (dim if concat_backbone else 0) for dim in backbone.dims]
        self.channels = tuple(own + [own[-1]] * (num_outs - 3))
        self.strides = tuple(backbone.strides[0] << level for level in range(num_outs))
        equal = len(set(self.channels)) == 1
        self.out_channels: int | list[int] = self.channels[0] if equal else list(self.channels)
        info = [
            {"num_chs": channels, "reduction": stride, "module": f"neck.fpn_modules.{2 - min(level, 2)}"}
            for level, (channels, stride) in enumerate(zip(self.channels, self.strides))
        ]
        self.feature_info = FeatureInfo(info, out_indices=tuple(range(num_outs)))

    def maps(self, images: Tensor) -> list[Tensor]:
        """Images ``(B, 3, H, W)`` to maps ``(B, C_i, H / s_i, W / s_i)``, rounded down, finest first.

        Raises:
            InputError: units do not divide the images.
        """
        inputs = self.backbone.forward_units(images)
        pyramid = self.neck(inputs.f4, inputs.f8, inputs.x16)
        levels = [(pyramid.o4, inputs.f4), (pyramid.o8, inputs.f8), (pyramid.o16, inputs.x16[:, :, None, None])]
        maps = [units_to_map(torch.cat(pair, -1) if self.concat_backbone else pair[0], inputs.grid) for pair in levels]
        pool = F.avg_pool2d if self.extra == "avgpool" else F.max_pool2d
        while len(maps) < self.num_outs:
            maps.append(pool(maps[-1], 2))
        return maps

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """The maps by name, ``0`` the finest."""
        return OrderedDict((str(level), map_) for level, map_ in enumerate(self.maps(images)))
