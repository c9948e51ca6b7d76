"""A segmenter: a backbone of feature maps, a head that decides, an auxiliary head that helps training."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from vireo.segmentation.heads import resize_to

IGNORE = 255
AUXILIARY_WEIGHT = 0.4


def segmentation_loss(scores: Tensor, labels: Tensor, ignore: int = IGNORE) -> Tensor:
    """Cross-entropy of scores resized to the size of the labels.

    The mean is over all pixels, ignored ones included, as in mmsegmentation 0.11, with which UPerNet's published
    recipes were run: an image with little annotation counts less.

    Args:
        scores: ``(B, K, h, w)``, any size.
        labels: integers ``(B, H, W)`` in [0, K), or ``ignore``.
    """
    resized = resize_to(scores, labels.shape[-2:])
    return F.cross_entropy(resized.float(), labels.long(), ignore_index=ignore, reduction="sum") / labels.numel()


class SegmentationModel(nn.Module):
    """Backbone and heads; with a :class:`~vireo.segmentation.UPerHead` it is UPerNet.

    Args:
        backbone: images to maps, finest first: a list of them, or a mapping as torchvision's backbones give it.
        decode_head: maps to scores.
        auxiliary_head: another such head, used in training only, or None.
    """

    def __init__(self, backbone: nn.Module, decode_head: nn.Module, auxiliary_head: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone, self.decode_head, self.auxiliary_head = backbone, decode_head, auxiliary_head

    def maps(self, images: Tensor) -> list[Tensor]:
        """The backbone's maps of images ``(B, 3, H, W)``."""
        maps = self.backbone(images)
        return list(maps.values() if isinstance(maps, Mapping) else maps)

    def losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """``loss_decode``, and ``loss_auxiliary`` by its weight 0.4, of labels ``(B, H, W)``."""
        maps = self.maps(images)
        return self.losses_of(self.decode_head(maps), maps, labels)

    def losses_of(self, scores: Tensor, maps: list[Tensor], labels: Tensor) -> dict[str, Tensor]:
        """:meth:`losses` from the scores of :attr:`decode_head`, ``(B, K, h, w)``, and the maps that they are of."""
        losses = {"loss_decode": segmentation_loss(scores, labels)}
        if self.auxiliary_head is not None:
            losses["loss_auxiliary"] = AUXILIARY_WEIGHT * segmentation_loss(self.auxiliary_head(maps), labels)
        return losses

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor | dict[str, Tensor]:
        """Normalised images ``(B, 3, H, W)`` to scores ``(B, K, H, W)``; with labels, to :meth:`losses`."""
        if labels is not None:
            return self.losses(images, labels)
        return resize_to(self.decode_head(self.maps(images)), images.shape[-2:])
