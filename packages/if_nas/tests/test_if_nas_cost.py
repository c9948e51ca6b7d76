"""The cost counter, and widths that fit a budget."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from if_nas.cost import count_cost, fit_width, largest_width
from if_nas.derived import DerivedNetwork
from if_nas.published import GENOTYPES
from vireo.errors import InputError

# section 6: the largest even width within 600 M multiply-adds, parameters (10^6) and multiply-adds (10^6) there
PUBLISHED = {
    "if_l4_keep1": (62, 5.39, 599.5),
    "if_l6_keep1": (68, 5.43, 596.5),
    "if_l8": (56, 4.92, 566.5),
    "if_l8_keep1": (70, 5.51, 575.7),
    "taas_sample_l4": (54, 5.13, 589.1),
    "taas_sample_l4_v2": (56, 5.19, 595.1),
    "taas_no_sample_l4": (56, 5.02, 565.9),
    "taas_no_sample_l8_keep2": (62, 5.45, 598.4),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_widths(name: str) -> None:
    width, params, macs = PUBLISHED[name]
    cost = count_cost(DerivedNetwork(GENOTYPES[name], width, 1000))
    assert (round(cost.params / 1e6, 2), round(cost.macs / 1e6, 1), cost.auxiliary_params) == (params, macs, 0)
    assert cost.macs <= 600e6 < count_cost(DerivedNetwork(GENOTYPES[name], width + 2, 1000)).macs


def test_fit_width() -> None:
    assert fit_width(GENOTYPES["if_l8_keep1"], 600e6) == PUBLISHED["if_l8_keep1"][0]


@pytest.mark.parametrize("width", [2, 4, 62, 64, 66, 4094])
@pytest.mark.parametrize("more", [0, 1, 5])
def test_largest_width_is_exact(width: int, more: int) -> None:
    def build(width: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, width, 1), nn.Conv2d(width, width, 1))

    budget = width * (3 + width)
    assert largest_width(build, budget + more, 1) == width
    if width > 2:
        assert largest_width(build, budget - 1, 1) == width - 2


@pytest.mark.parametrize("budget", [0, -1, True, float("nan"), "600M"])
def test_budgets_that_are_none(budget: Any) -> None:
    with pytest.raises(InputError, match="is no budget"):
        fit_width(GENOTYPES["geno_cosine_similarity"], budget)


def test_impossible_budget() -> None:
    with pytest.raises(InputError, match=r"no width fits: 3\d,\d{3},\d{3} multiply-adds at width 2, .* 1,000,000"):
        fit_width(GENOTYPES["geno_cosine_similarity"], 1e6)


def test_largest_width_has_an_end() -> None:
    assert largest_width(lambda width: nn.Conv2d(3, width, 1), 3 * 4094 * 64, 8) == 4094
    with pytest.raises(InputError, match="allows 4096 channels, the most that are tried"):
        largest_width(lambda width: nn.Conv2d(3, width, 1), 1e18, 8)


def test_a_name_is_no_genotype() -> None:
    with pytest.raises(InputError, match="'if_l8' is no genotype"):
        fit_width("if_l8", 6e8)  # type: ignore[arg-type]


def test_nothing_is_left_behind() -> None:
    network = DerivedNetwork(GENOTYPES["geno_cosine_similarity"], 4, 10, "cifar", auxiliary=True).train()
    network.stages[1].eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    count_cost(network, (32, 32), "official")
    assert [module.training for module in network.modules()] == modes
    assert not any(module._forward_hooks for module in network.modules())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_products_that_are_no_modules_count() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(6, 1, 3, 3))

        def forward(self, images: torch.Tensor, times: int = 1) -> torch.Tensor:
            features = images.repeat(1, 2, 1, 1)
            for _ in range(times):
                features = nn.functional.conv2d(features, self.weight, padding=1, groups=6)
            batched = features.flatten(2) @ features.flatten(2).mT
            return nn.functional.linear(batched[:, 0], torch.ones(5, 6), torch.ones(5)) @ torch.ones(5, 2)

    sizes = 6 * 9 * 20, 6 * 20 * 6, 6 * 5, 5 * 2
    assert count_cost(Bare(), (4, 5)).macs == sum(sizes)
    assert count_cost(Bare(), (4, 5), times=3).macs == sum(sizes) + 2 * sizes[0]
