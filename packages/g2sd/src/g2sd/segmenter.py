"""UPerNet over a vision transformer, taught by labels and by a larger network of its kind (section 3.7)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from vireo.engine import Pretrained
from vireo.errors import InputError
from vireo.segmentation import FCNHead, SegmentationModel, UPerHead

from .divergence import ChannelWiseDivergence, PixelDivergence
from .segmentation_vit import SegmentationViT

AUXILIARY_INDEX = 2  # of the map at the patches' stride


class Segmenter(SegmentationModel, Pretrained):
    """:class:`~g2sd.segmentation_vit.SegmentationViT`, UPerNet's head, and a small one that helps training.

    Parameter names are the authors'.

    Args:
        num_classes: K.
        img_size, patch_size, embed_dim, depth, num_heads, drop_path_rate, out_blocks, grad_checkpointing: of the
            backbone.
        channels: inside the head; None for ``embed_dim``, as published.
        auxiliary_channels: inside the other head; 0 for no such head.
        dropout: of both heads.
        divergence: the distance to a teacher's scores, for training with one.

    Raises:
        InputError: sizes that do not fit each other.
    """

    def __init__(
        self,
        num_classes: int,
        img_size: int | tuple[int, int] = 512,
        patch_size: int = 16,
        embed_dim: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        drop_path_rate: float = 0.0,
        out_blocks: Sequence[int] | None = None,
        grad_checkpointing: bool = False,
        *,
        channels: int | None = None,
        auxiliary_channels: int = 256,
        dropout: float = 0.1,
        divergence: ChannelWiseDivergence | PixelDivergence | None = None,
    ) -> None:
        backbone = SegmentationViT(
            img_size, patch_size, embed_dim, depth, num_heads, drop_path_rate, out_blocks, grad_checkpointing
        )
        auxiliary = None
        if auxiliary_channels:
            auxiliary = FCNHead(embed_dim, num_classes, auxiliary_channels, index=AUXILIARY_INDEX, dropout=dropout)
        head = UPerHead(backbone.channels, num_classes, channels or embed_dim, dropout)
        super().__init__(backbone, head, auxiliary)
        self.divergence = divergence

    def scores(self, images: Tensor) -> Tensor:
        """Scores at the finest map's stride, ``(B, K, H / s, W / s)``: what a teacher answers."""
        scores: Tensor = self.decode_head(self.maps(images))
        return scores

    def forward(
        self, images: Tensor, labels: Tensor | None = None, teacher: Tensor | None = None
    ) -> Tensor | dict[str, Tensor]:
        """Scores, or losses.

        Args:
            images: normalised ``(B, 3, H, W)`` of the network's size.
            labels: ``(B, H, W)``, 255 where they do not count. A batch without any label that counts has a task loss of
                0; the teacher still teaches.
            teacher: :meth:`scores` of the teacher for these images.

        Returns:
            Without labels scores ``(B, K, H, W)``; with them the losses ``loss_decode``, ``loss_auxiliary`` and, with a
            divergence, ``loss_divergence``, each by its weight.

        Raises:
            InputError: images of another size, a divergence without a teacher's scores or the reverse, or scores of
                another shape.
        """
        if labels is None:
            return super().forward(images)
        if (self.divergence is None) is not (teacher is None):
            what = "a divergence needs the scores of a teacher, and these a divergence"
            raise InputError(what, "teacher", "give both or neither")
        maps = self.maps(images)
        scores = self.decode_head(maps)
        losses = self.losses_of(scores, maps, labels)
        if self.divergence is not None and teacher is not None:
            losses["loss_divergence"] = self.divergence(scores, teacher)
        return losses

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """The layers, as timm tells them: what embeds the patches, then the blocks, then all the rest."""
        return {"stem": r"^backbone\.(?:cls_token|pos_embed|patch_embed)", "blocks": r"^backbone\.blocks\.(\d+)"}
