"""Operators, stems and the plan of a network of DARTS cells. Experimental: a reconstruction (section 3.9).

Definitions and names of parameters are those of DARTS (arXiv 1806.09055); convolutions have no bias.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from torch import Tensor, nn

from vireo.errors import InputError

from .auxiliary import Variant
from .micro_genotype import MICRO_OPERATORS
from .operators import FactorizedReduce


class Layers(nn.Module):
    """Layers one after the other.

    Args:
        *layers: ReLU never in place, as several edges read the same state.
    """

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.op = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H', W')"""
        out: Tensor = self.op(features)
        return out


class UnbiasedReduce(FactorizedReduce):
    """:class:`~if_nas.operators.FactorizedReduce` without biases. Height and width must be even."""

    def __init__(self, in_channels: int, out_channels: int, affine: bool = True) -> None:
        super().__init__(in_channels, out_channels)
        self.conv_1.register_parameter("bias", None)
        self.conv_2.register_parameter("bias", None)
        self.bn = nn.BatchNorm2d(out_channels, affine=affine)


def project(in_channels: int, out_channels: int, affine: bool = True) -> Layers:
    """ReLU, 1x1 convolution, batch normalisation."""
    conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
    return Layers(nn.ReLU(), conv, nn.BatchNorm2d(out_channels, affine=affine))


def build_micro_operator(name: str, channels: int, stride: int = 1, affine: bool = True) -> nn.Module:
    """An operator of a cell.

    Args:
        name: one of :data:`MICRO_OPERATORS`, ``none`` excepted.
        channels: of input and output.
        stride: 1, or 2 to halve the resolution.
        affine: whether batch normalisations have weights; not in the search.

    Raises:
        InputError: there is none of that name.
    """
    if name == "skip_connect":
        return nn.Identity() if stride == 1 else UnbiasedReduce(channels, channels, affine)
    if name == "max_pool_3x3":
        return nn.MaxPool2d(3, stride, 1)
    if name == "avg_pool_3x3":
        return nn.AvgPool2d(3, stride, 1, count_include_pad=False)
    if name not in MICRO_OPERATORS[1:]:
        raise InputError(f"unknown operator {name!r}", "if_nas.micro_cell", f"use {', '.join(MICRO_OPERATORS[1:])}")
    size = int(name[-1])
    if name.startswith("dil"):
        return Layers(*_separable(channels, size, stride, 2, affine))
    return Layers(*_separable(channels, size, stride, 1, affine), *_separable(channels, size, 1, 1, affine))


def _separable(channels: int, size: int, stride: int, dilation: int, affine: bool) -> list[nn.Module]:
    padding = dilation * (size - 1) // 2
    return [
        nn.ReLU(),
        nn.Conv2d(channels, channels, size, stride, padding, dilation, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels, affine=affine),
    ]


@dataclass(frozen=True)
class CellShape:
    """Channels and resolution of one cell.

    Attributes:
        inputs: channels of the output of the cell before the previous one, and of the previous one.
        channels: of each node.
        reduction: whether it halves the resolution.
        reduce_first: whether its first input has twice the resolution of its second.
    """

    inputs: tuple[int, int]
    channels: int
    reduction: bool
    reduce_first: bool

    def preprocess(self, affine: bool = True) -> tuple[nn.Module, nn.Module]:
        """The layers that bring both inputs to ``channels`` and to the resolution of the second."""
        first = UnbiasedReduce if self.reduce_first else project
        return first(self.inputs[0], self.channels, affine), project(self.inputs[1], self.channels, affine)


def cell_shapes(
    cells: int, width: int, variant: Variant, normal_outputs: int = 4, reduce_outputs: int = 4
) -> list[CellShape]:
    """The cells of a network: those at 1/3 and 2/3 of its depth reduce, and double the channels.

    Args:
        cells: how many.
        width: channels of a node before the first reduction.
        variant: of the stem.
        normal_outputs, reduce_outputs: nodes that make the output of a cell of either kind.

    Raises:
        InputError: fewer than 3 cells, a width below 2, or an unknown variant.
    """
    where = "network of cells"
    if type(cells) is not int or cells < 3:
        raise InputError(f"{cells!r} cells have no place for two reductions", where, "use 3 or more, e.g. 20")
    if type(width) is not int or width < 2:
        raise InputError(f"width {width!r} is no number of channels", where, "use 2 or more, e.g. 36")
    if variant not in get_args(Variant):
        raise InputError(f"unknown variant {variant!r}", where, f"use {' or '.join(get_args(Variant))}")
    shapes, channels, reduced = [], width, variant == "imagenet"
    before, previous = stem_channels(width, variant)
    for index in range(cells):
        reduction = index in (cells // 3, 2 * cells // 3)
        channels *= 2 if reduction else 1
        shapes.append(CellShape((before, previous), channels, reduction, reduced))
        before, previous = previous, channels * (reduce_outputs if reduction else normal_outputs)
        reduced = reduction
    return shapes


def stem_channels(width: int, variant: Variant) -> tuple[int, int]:
    """Channels of the two inputs that :class:`CellNetwork` gives its first cell."""
    return (3 * width, 3 * width) if variant == "cifar" else (width, width)


class CellNetwork(nn.Module):
    """What networks of cells begin with.

    Args:
        width: channels of a node of the first cell.
        variant: ``"cifar"``: one map of three times the width at stride 1; ``"imagenet"``: maps of the width at strides
            4 and 8.
    """

    def __init__(self, width: int, variant: Variant) -> None:
        super().__init__()
        self.width, self.variant = width, variant
        if variant == "cifar":
            self.stem = nn.Sequential(nn.Conv2d(3, 3 * width, 3, 1, 1, bias=False), nn.BatchNorm2d(3 * width))
        else:
            self.stem0 = nn.Sequential(
                nn.Conv2d(3, width // 2, 3, 2, 1, bias=False),
                nn.BatchNorm2d(width // 2),
                nn.ReLU(),
                nn.Conv2d(width // 2, width, 3, 2, 1, bias=False),
                nn.BatchNorm2d(width),
            )
            self.stem1 = nn.Sequential(nn.ReLU(), nn.Conv2d(width, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width))

    def first_inputs(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) to the two inputs of the first cell.

        Raises:
            InputError: an image whose sides cannot be halved as often as the network does.
        """
        factor = 4 if self.variant == "cifar" else 32
        height, width = images.shape[-2:]
        if height % factor or width % factor:
            remedy = f"use images whose sides are multiples of {factor} pixels"
            raise InputError(f"an image of {height}x{width} pixels cannot be halved", "network of cells", remedy)
        if self.variant == "cifar":
            features = self.stem(images)
            return features, features
        features = self.stem0(images)
        return features, self.stem1(features)
