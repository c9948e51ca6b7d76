"""What HiViT and Fast-iTPN have in common: sizes, passes over the whole network, and what timm asks a model."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vireo.errors import InputError

from .attention import init_layers
from .neck import units_to_map
from .relative import Grid

INNER = 4  # side of a unit's inner grid in stage 1


class PyramidInputs(NamedTuple):
    """What a pyramid is built from.

    Attributes:
        f4: ``(B, K, 4, 4, C / 4)``, the output of stage 1.
        f8: ``(B, K, 2, 2, C / 2)``, of stage 2.
        x16: ``(B, K, C)``, of stage 3.
        grid: rows and columns of all units.
    """

    f4: Tensor
    f8: Tensor
    x16: Tensor
    grid: Grid


class UnitBackbone(nn.Module):
    """Three stages at strides p/4, p/2 and p; nothing crosses units of p x p pixels before the last.

    A subclass fills ``blocks`` and calls :meth:`finish`.

    Args:
        img_size: side of the images in pixels, or (height, width).
        patch_size: p, a multiple of 4.
        in_chans: channels of the images.
        embed_dim: C, channels of stage 3; stages 1 and 2 have a quarter and half of it.
        depths: blocks of the stages.
        num_heads: of stage 3.
        norm_eps: of all norms.

    Attributes:
        dims, strides: channels and strides of the stages.
        grid_size: rows and columns of units.
        feature_info: the stages as timm describes them.

    Raises:
        InputError: sizes that do not divide each other.
    """

    head_scale = 1.0  # of a fresh classifier
    blocks: nn.ModuleList

    def __init__(
        self,
        img_size: int | tuple[int, int],
        patch_size: int,
        in_chans: int,
        embed_dim: int,
        depths: tuple[int, int, int],
        num_heads: int,
        norm_eps: float,
    ) -> None:
        super().__init__()
        _require_sizes(patch_size, embed_dim, num_heads)
        self.patch_size, self.in_chans, self.embed_dim, self.norm_eps = patch_size, in_chans, embed_dim, norm_eps
        self.depths, self.num_heads = tuple(depths), num_heads
        self.dims = (embed_dim // 4, embed_dim // 2, embed_dim)
        self.strides = (patch_size // 4, patch_size // 2, patch_size)
        self.grid_size = self.grid_of(img_size)
        self.num_classes, self.num_features, self.head_hidden_size = 0, embed_dim, embed_dim
        self.num_prefix_tokens, self.grad_checkpointing = 0, False
        first, second, third = depths
        names = (f"blocks.{first - 1}", f"blocks.{first + second}", f"blocks.{first + second + third + 1}")
        self.feature_info = [
            {"num_chs": dim, "reduction": stride, "module": name}
            for dim, stride, name in zip(self.dims, self.strides, names)
        ]

    def finish(self, num_classes: int) -> None:
        """Fresh weights of all layers, and a classifier if there are classes."""
        self.fc_norm: nn.Module = nn.Identity()
        self.head: nn.Module = nn.Identity()
        init_layers(self)
        if num_classes:
            self.reset_classifier(num_classes)

    def grid_of(self, size: int | tuple[int, ...]) -> Grid:
        """Rows and columns of units of an image of ``size``, a side or (height, width).

        Raises:
            InputError: units do not divide it.
        """
        height, width = (size, size) if isinstance(size, int) else size
        if min(height, width) < self.patch_size or height % self.patch_size or width % self.patch_size:
            what = f"an image of {height}x{width} is not divided by units of {self.patch_size}x{self.patch_size}"
            raise InputError(what, "images", f"resize or pad them to multiples of {self.patch_size}")
        return height // self.patch_size, width // self.patch_size

    def _run(self, block: nn.Module, x: Tensor, *places: Any) -> Tensor:
        """A block, recomputed in the backward pass where that is asked for."""
        if self.grad_checkpointing and self.training and torch.is_grad_enabled():
            recomputed: Tensor = checkpoint(block, x, *places, use_reentrant=False)
            return recomputed
        computed: Tensor = block(x, *places)
        return computed

    @abstractmethod
    def forward_features(self, images: Tensor) -> Tensor:
        """Tokens of stage 3."""

    @abstractmethod
    def forward_stages(self, images: Tensor, late: bool) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Tokens and the units of the three stages, those of the last only as its input unless ``late``."""

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Tokens ``(B, N, C)`` to logits, or to pooled features where ``pre_logits``."""
        pooled: Tensor = self.fc_norm(x[:, self.num_prefix_tokens :].mean(1))
        return pooled if pre_logits else self.head(pooled)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(B, in_chans, H, W)`` to logits ``(B, num_classes)``; without classes, to pooled features."""
        return self.forward_head(self.forward_features(images))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """timm's interface: maps ``(B, c, H / s, W / s)`` of the stages, finest first.

        Args:
            x: images.
            indices: which of the three, or how many of the last; None for all.
            norm: must be False: the stages have no norms.
            stop_early: leave out what the wanted maps do not need.
            output_fmt: must be ``NCHW``.
            intermediates_only: return the maps alone, else (tokens of the last stage, maps).

        Raises:
            InputError: another format, or units that do not divide the images.
        """
        if output_fmt != "NCHW" or norm:
            raise InputError("the maps are NCHW and not normalised", "forward_intermediates", "leave out the options")
        wanted, last = feature_take_indices(3, indices)
        tokens, units = self.forward_stages(x, late=last == 2 or not stop_early)
        maps = [units_to_map(units[index], self.grid_of(tuple(x.shape[-2:]))) for index in wanted]
        return maps if intermediates_only else (tokens, maps)

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh classifier of ``num_classes``; 0 takes the last layer away.

        Raises:
            InputError: another pooling than the mean.
        """
        if global_pool not in (None, "avg"):
            remedy = "use avg, or forward_features for tokens"
            raise InputError(f"unknown pooling {global_pool!r}", "global_pool", remedy)
        self.num_classes = num_classes
        if num_classes and self.normalizes_mean and isinstance(self.fc_norm, nn.Identity):
            self.fc_norm = nn.LayerNorm(self.embed_dim, eps=self.norm_eps)
        self.head = nn.Identity()
        if num_classes:
            self.head = nn.Linear(self.embed_dim, num_classes)
            init_layers(self.head)
            self.head.weight.data.mul_(self.head_scale)

    @property
    def normalizes_mean(self) -> bool:
        """Whether a classifier has a norm behind the mean of the tokens."""
        return True

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks in the backward pass instead of keeping what is inside them."""
        self.grad_checkpointing = enable


def _require_sizes(patch_size: int, dim: int, heads: int) -> None:
    """Raise InputError unless the sizes divide each other."""
    if patch_size < INNER or patch_size % INNER:
        raise InputError(f"units of {patch_size} pixels have no inner grid of 4x4", "patch_size", "use a multiple of 4")
    if dim % 4 or heads < 1 or dim % heads:
        remedy = "use a multiple of 4 that the heads divide"
        raise InputError(f"{dim} channels do not suit three stages and {heads} heads", "embed_dim", remedy)
