"""The local branch: a ResNet whose stages see what a global map asks for (section 3.2 of the notes)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

from vireo.errors import InputError

from .rbq import Fusion, RelationBasedQuery
from .sizes import BASIC_DEPTHS, BOTTLENECK_DEPTHS

STEM_CHANNELS = 64  # of timm's plain stem, whatever the widths of the stages


class StageQuery(nn.Module):
    """What enters a stage, brought onto the grid of the query map, queried there, and brought back.

    Args:
        channels: of the stage's input.
        dim: of the query map.
        factor: how many times finer than the grid the stage's input is: 1, 2 or 4.
        window, heads, fusion, mask_padding: see :class:`~dqnet.RelationBasedQuery`.

    Raises:
        InputError: another factor, or as there.
    """

    def __init__(
        self, channels: int, dim: int, factor: int, window: int, heads: int, fusion: Fusion, mask_padding: bool
    ) -> None:
        super().__init__()
        if factor not in (1, 2, 4):
            what = f"a stage's input is {factor} times as fine as the query map"
            remedy = "choose patch size and stem so that the factors are 4, 4, 2 and 1"
            raise InputError(what, type(self).__name__, remedy)
        pool: list[nn.Module] = [nn.MaxPool2d(factor)] if factor > 1 else []
        self.to_grid = nn.Sequential(*pool, nn.Conv2d(channels, dim, 1))
        self.norm = nn.LayerNorm(dim)  # its eps, 1e-5, is not the transformer's
        self.query = RelationBasedQuery(dim, window, heads, fusion, mask_padding)

        def up(width: int) -> nn.Module:
            return nn.ConvTranspose2d(width, channels, 2, stride=2)

        back: dict[int, list[nn.Module]] = {
            1: [nn.Conv2d(dim, channels, 1)],
            2: [up(dim)],
            4: [up(dim), nn.BatchNorm2d(channels), nn.ReLU(), up(channels)],
        }
        self.from_grid = nn.Sequential(*back[factor])
        self.stage_norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor, query_map: Tensor) -> Tensor:
        """Stage input ``(B, C, f h, f w)`` and query map ``(B, D, h, w)`` to what replaces the input."""
        detail = self.norm(self.to_grid(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return F.relu(self.stage_norm(self.from_grid(self.query(query_map, detail))))


class QueriedResNet(nn.Module):
    """ResNet (timm's, the 3x3 convolution strided) with a :class:`StageQuery` before each of its four stages.

    There is no way around the query: a stage sees its predecessor only through the answers.

    Args:
        depth: 18, 34, 50, 101 or 152.
        query_dim: channels of the query map; None for a plain ResNet without any further parameters.
        window, heads, fusion, mask_padding: of the queries, see :class:`~dqnet.RelationBasedQuery`.
        patch_size: pixels from one place of the query map to the next.
        layers: blocks of each stage, in place of those of the depth.
        width: channels of the stem and inside the first stage's blocks; the other stages have 2, 4 and 8 times as many.
        stem_pool: the maximum pooling after the stem; without it all maps are twice as fine.

    Attributes:
        depth: as given.
        standard: whether blocks and widths are those of the depth.
        strides, channels: of the four maps, finest first.

    Raises:
        InputError: an unknown depth, a query map that no stage's input is an integral multiple of, or as in the query.
    """

    def __init__(
        self,
        depth: int = 50,
        query_dim: int | None = 768,
        window: int = 10,
        heads: int = 8,
        fusion: Fusion = "gate",
        mask_padding: bool = False,
        *,
        patch_size: int = 16,
        layers: Sequence[int] | None = None,
        width: int = 64,
        stem_pool: bool = True,
    ) -> None:
        super().__init__()
        where = type(self).__name__
        blocks = {**BASIC_DEPTHS, **BOTTLENECK_DEPTHS}
        if depth not in blocks:
            raise InputError(f"depth {depth!r}", where, f"use one of {', '.join(map(str, sorted(blocks)))}")
        number = tuple(layers or blocks[depth])
        if len(number) != 4 or min(number) < 1 or width < 1:
            raise InputError(
                f"layers {list(number)}, width {width}", where, "give four numbers of blocks, all positive"
            )
        block: Any = Bottleneck if depth in BOTTLENECK_DEPTHS else BasicBlock
        widths = tuple(width * 2**i for i in range(4))
        self.depth, self.standard = depth, number == blocks[depth] and width == STEM_CHANNELS
        self.trunk: Any = ResNet(block, number, num_classes=0, channels=widths)
        if width != STEM_CHANNELS:
            _set_stem(self.trunk, width)
        if not stem_pool:
            self.trunk.maxpool = nn.Sequential()  # which does nothing
        stem = 4 if stem_pool else 2
        self.channels = tuple(width * block.expansion for width in widths)
        self.strides = (stem, 2 * stem, 4 * stem, 8 * stem)
        self.queries: nn.ModuleList | None = None
        if query_dim is not None:
            inputs = zip((width, *self.channels[:3]), (stem, *self.strides[:3]))
            self.queries = nn.ModuleList(
                StageQuery(channels, query_dim, _factor(patch_size, stride), window, heads, fusion, mask_padding)
                for channels, stride in inputs
            )

    def forward(self, images: Tensor, query_map: Tensor | None = None) -> list[Tensor]:
        """Maps of the four stages, finest first.

        Args:
            images: normalised, ``(B, 3, H, W)``.
            query_map: ``(B, D, H / p, W / p)``; None: the plain ResNet.

        Raises:
            InputError: a query map for a network that was made without queries.
        """
        if query_map is not None and self.queries is None:
            raise InputError("a query map for a plain ResNet", type(self).__name__, "give query_dim when making it")
        trunk = self.trunk
        x = trunk.maxpool(trunk.act1(trunk.bn1(trunk.conv1(images))))
        maps = []
        for n, stage in enumerate((trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4)):
            if query_map is not None and self.queries is not None:
                x = self.queries[n](x, query_map)
            x = stage(x)
            maps.append(x)
        return maps


def _set_stem(trunk: Any, channels: int) -> None:
    """Give a ResNet a stem of another width, in place."""
    trunk.conv1 = _with_channels(trunk.conv1, out_channels=channels)
    trunk.bn1 = nn.BatchNorm2d(channels)
    first = trunk.layer1[0]
    first.conv1 = _with_channels(first.conv1, in_channels=channels)
    if first.downsample is None:  # timm's stem had the width of the stage
        width = trunk.feature_info[1]["num_chs"]
        first.downsample = nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width))
        nn.init.kaiming_normal_(first.downsample[0].weight, mode="fan_out", nonlinearity="relu")
    else:
        first.downsample[0] = _with_channels(first.downsample[0], in_channels=channels)


def _with_channels(conv: Any, **channels: int) -> nn.Conv2d:
    """A convolution like ``conv``, without bias and drawn as timm's ResNet draws them."""
    widths = {"in_channels": conv.in_channels, "out_channels": conv.out_channels, **channels}
    other = nn.Conv2d(**widths, kernel_size=conv.kernel_size, stride=conv.stride, padding=conv.padding, bias=False)
    nn.init.kaiming_normal_(other.weight, mode="fan_out", nonlinearity="relu")
    return other


def _factor(patch_size: int, stride: int) -> int:
    return patch_size // stride if patch_size % stride == 0 else 0
