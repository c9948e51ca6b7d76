"""Parameters and multiply-adds of a network, and the width that fits a budget (sections 5 and 6)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from vireo.errors import InputError

from .auxiliary import Variant
from .derived import DerivedNetwork
from .genotype import Genotype

MAX_WIDTH = 4096


@dataclass(frozen=True)
class Cost:
    """What a network costs.

    Attributes:
        params: parameters without the auxiliary head, which only training needs.
        auxiliary_params: parameters of the auxiliary head.
        macs: multiply-adds of one image.
    """

    params: int
    auxiliary_params: int
    macs: int


@torch.no_grad()
def count_cost(
    model: nn.Module,
    image_size: int | tuple[int, int] = 224,
    convention: Literal["macs", "official"] = "macs",
    **inputs: Any,
) -> Cost:
    """Count in one pass over a black image in evaluation mode; without cost for a model on the device ``meta``.

    Args:
        model: in any mode, which it keeps. Parameters under ``auxiliary_head`` are those of the auxiliary head.
        image_size: side, or height and width, in pixels.
        convention: ``"macs"``: convolutions and linear layers, no biases. ``"official"``: the authors' counter adds
            biases of convolutions, twice the input of a batch norm, the output of a ReLU and the input of a pooling, as
            far as they are modules: 2 to 6 % more.
        **inputs: further arguments of ``forward``, such as the ``active`` nodes of a super-network.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    parameter = next(model.parameters())
    image = torch.zeros(1, 3, height, width, device=parameter.device, dtype=parameter.dtype)
    extras: list[int] = []

    def count(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        extras.append(_official_extra(module, arguments[0], output))

    hooks = [module.register_forward_hook(count) for module in model.modules() if isinstance(module, _COUNTED)]
    modes = {module: module.training for module in model.modules()}
    try:
        with _MacCounter() as counter:
            model.eval()(image, **inputs)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    params = {name: parameter.numel() for name, parameter in model.named_parameters()}
    auxiliary = sum(number for name, number in params.items() if name.startswith("auxiliary_head."))
    macs = counter.macs + (sum(extras) if convention == "official" else 0)
    return Cost(sum(params.values()) - auxiliary, auxiliary, macs)


def fit_width(
    genotype: Genotype,
    max_macs: float,
    *,
    variant: Variant = "imagenet",
    image_size: int | tuple[int, int] = 224,
    num_classes: int = 1000,
) -> int:
    """The largest even width at which the derived network stays within ``max_macs`` multiply-adds (section 6).

    Raises:
        InputError: it exceeds them even at width 2, or not at width 4096, or the budget is no positive number.
    """

    def build(width: int) -> nn.Module:
        return DerivedNetwork(genotype, width, num_classes, variant)

    return largest_width(build, max_macs, image_size)


def largest_width(build: Callable[[int], nn.Module], max_macs: float, image_size: int | tuple[int, int]) -> int:
    """The largest even width, below 4096, of a network ``build(width)`` within ``max_macs`` multiply-adds.

    Raises:
        InputError: as :func:`fit_width`.
    """
    if isinstance(max_macs, bool) or not isinstance(max_macs, int | float) or not max_macs > 0:
        raise InputError(f"{max_macs!r} is no budget", "max_macs", "give multiply-adds, e.g. 600e6")

    def macs(width: int) -> int:
        with torch.device("meta"):
            return count_cost(build(width), image_size).macs

    fits, too_wide, width = 0, MAX_WIDTH + 2, 64
    while too_wide - fits > 2:
        count = macs(width)
        fits, too_wide = (width, too_wide) if count <= max_macs else (fits, width)
        scaled = int(width * math.sqrt(max_macs / count)) // 2 * 2  # the cost grows almost with the square
        width = min(max(scaled, fits + 2), too_wide - 2)
    if not fits:
        what = f"no width fits: {macs(2):,} multiply-adds at width 2, the budget is {max_macs:,.0f}"
        raise InputError(what, "max_macs", "raise the budget, or take a smaller genotype or image")
    if fits == MAX_WIDTH:
        what = f"the budget of {max_macs:,.0f} multiply-adds allows {MAX_WIDTH} channels, the most that are tried"
        raise InputError(what, "max_macs", "lower the budget, or give the width")
    return fits


class _MacCounter(TorchDispatchMode):
    """Counts multiply-adds of convolutions and matrix products, also of those that are no modules.

    ``torch.utils.flop_counter`` counts the same, but takes longer than the network itself.
    """

    macs = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is aten.convolution.default:
            self.macs += out.numel() * args[1][0].numel()
        elif func in _PRODUCTS:
            left, right = args[-2:]
            self.macs += left.numel() * right.shape[-1]
        return out


aten = torch.ops.aten
_PRODUCTS = (aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default)
_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
_COUNTED = (nn.Conv2d, nn.BatchNorm2d, nn.ReLU, *_POOLS)


def _official_extra(module: nn.Module, features: Tensor, output: Tensor) -> int:
    """What the authors' counter adds to the multiply-adds of convolutions and linear layers."""
    if isinstance(module, nn.BatchNorm2d):
        return features.numel() * (2 if module.affine else 1)
    if isinstance(module, nn.Conv2d):
        return output.numel() if module.bias is not None else 0
    return output.numel() if isinstance(module, nn.ReLU) else features.numel()
