"""DQnet: a transformer and a ResNet, the one querying the other's details, and a small decoder.

"DQnet: Cross-Model Detail Querying for Camouflaged Object Detection", Sun et al. 2022 (arXiv 2212.08296).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor, nn

from vireo.engine import Pretrained
from vireo.errors import InputError

from .heads import QueryMapHead, SimpleFusionHead
from .queried_resnet import QueriedResNet
from .sizes import vit_options
from .vit import GlobalViT

Arm = Literal["gate", "sum", "concat", "vit", "resnet"]
ARMS: tuple[Arm, ...] = ("gate", "sum", "concat", "vit", "resnet")


class DQnet(nn.Module, Pretrained):
    """Binary segmentation of objects that resemble their surroundings.

    Args:
        arm: ``gate``, the method; ``sum``, its answers added rather than multiplied; and the controls ``concat``, a
            plain ResNet whose maps are decoded beside the transformer's, and ``vit`` and ``resnet``, one branch alone.
        image_size: side of the square images of training; other sizes that patches divide work too.
        vit: size of the transformer by name (:data:`dqnet.sizes.VITS`), and options of :class:`~dqnet.GlobalViT`
            beside it: ``{"name": "vit_base_patch16", "drop_path_rate": 0.1}``.
        resnet: options of :class:`~dqnet.QueriedResNet`: ``depth``, ``layers``, ``width``, ``stem_pool``.
        window: side of the windows of the queries; None: one window, the whole grid of ``image_size``.
        heads, mask_padding: see :class:`~dqnet.RelationBasedQuery`.
        head_width: channels inside the decoder.

    Attributes:
        vit, resnet, head: the parts; a control leaves the one that it lacks at None.

    Raises:
        InputError: an unknown arm or size, or parts that do not fit each other.
    """

    def __init__(
        self,
        arm: Arm = "gate",
        image_size: int = 384,
        vit: str | Mapping[str, Any] = "vit_base_patch16",
        resnet: int | Mapping[str, Any] = 50,
        window: int | None = 10,
        heads: int = 8,
        mask_padding: bool = False,
        head_width: int = 256,
    ) -> None:
        super().__init__()
        if arm not in ARMS:
            raise InputError(f"unknown arm {arm!r}", type(self).__name__, f"use one of {', '.join(ARMS)}")
        self.arm = arm
        vit = {"name": vit} if isinstance(vit, str) else vit
        resnet = {"depth": resnet} if isinstance(resnet, int) else resnet
        self.vit: GlobalViT | None = None
        self.resnet: QueriedResNet | None = None
        self.head: SimpleFusionHead | QueryMapHead
        dims: tuple[int, ...] = ()
        if arm != "resnet":
            self.vit = GlobalViT(image_size, **vit_options(**vit))
            dims = (self.vit.embed_dim,)
        if self.vit is not None and arm == "vit":
            self.head = QueryMapHead(self.vit.embed_dim, head_width, self.vit.patch_size)
            return
        queries: dict[str, Any] = {"query_dim": None}
        if self.vit is not None and (arm == "gate" or arm == "sum"):
            queries = {"query_dim": self.vit.embed_dim, "patch_size": self.vit.patch_size, "fusion": arm}
            side = max(self.vit.grid_size) if window is None else window
            queries |= {"window": side, "heads": heads, "mask_padding": mask_padding}
        self.resnet = QueriedResNet(**queries, **resnet)
        self.head = SimpleFusionHead((*self.resnet.channels, *dims), head_width, self.resnet.strides[0])

    def maps(self, images: Tensor) -> list[Tensor]:
        """What the decoder gets: the maps of the ResNet, finest first, then the transformer's."""
        query_map = None if self.vit is None else self.vit(images)
        if self.resnet is None:
            return [] if query_map is None else [query_map]
        queried = query_map if self.resnet.queries is not None else None
        return [*self.resnet(images, queried), *([] if query_map is None else [query_map])]

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images ``(B, 3, H, W)``, of sides that patches divide, to logits ``(B, 1, H, W)``.

        Raises:
            InputError: other sides.
        """
        logits: Tensor = self.head(self.maps(images))
        return logits

    def load_mae(self, path: str | os.PathLike[str]) -> str:
        """Start the transformer from an encoder of MAE, DINO or timm; see :func:`dqnet.weights.load_vit`."""
        from .weights import load_vit

        return load_vit(self.vit, path)

    def load_resnet(self, path: str | os.PathLike[str]) -> str:
        """Start the ResNet from a classifier of torchvision or timm; see :func:`dqnet.weights.load_resnet`."""
        from .weights import load_resnet

        return load_resnet(self.resnet, path)

    @classmethod
    def from_official(cls, source: str | os.PathLike[str] | Mapping[str, Any], **options: Any) -> DQnet:
        """The network of the authors' checkpoint; see :func:`dqnet.official.from_official`."""
        from .official import from_official

        return from_official(source, **options)
