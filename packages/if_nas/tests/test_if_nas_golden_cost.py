"""Parameters and multiply-adds of every released architecture, to the unit."""

from __future__ import annotations

from typing import Any

import pytest
from if_nas_golden import load_json

from if_nas.cost import count_cost
from if_nas.derived import DerivedNetwork
from if_nas.genotype import Connection, Genotype
from if_nas.published import GENOTYPES

SETTINGS: dict[str, tuple[Any, int, int, int]] = {  # variant, width, classes, side
    "imagenet_C64": ("imagenet", 64, 1000, 224),
    "imagenet100_C32": ("imagenet", 32, 100, 224),
    "cifar_C32": ("cifar", 32, 10, 32),
}
FLOPS = load_json("flops")


def chain(*lengths: int) -> Genotype:
    """Both operators from every node to the next."""
    both = ("conv3", "skip")
    stages = [{i: tuple(Connection(op, i - 1) for op in both) for i in range(1, n + 1)} for n in lengths]
    return Genotype(tuple(stages))


# two of the costs are of architectures that the file of released ones lacks; their cost says which chains they are
UNNAMED = {"geno_image_normal_short2": chain(13, 14, 13), "geno_image_normal_short3": chain(7, 8, 8)}


def test_every_architecture_has_its_cost() -> None:
    assert {case.split("/")[0] for case in FLOPS} == {*GENOTYPES, *UNNAMED}
    assert {case.split("/")[1] for case in FLOPS} == set(SETTINGS)


@pytest.mark.parametrize("case", FLOPS)
def test_cost(case: str) -> None:
    name, setting = case.split("/")
    variant, width, num_classes, side = SETTINGS[setting]
    network = DerivedNetwork(UNNAMED.get(name) or GENOTYPES[name], width, num_classes, variant, auxiliary=True)
    cost, official = count_cost(network, side), count_cost(network, side, "official")
    assert {
        "params_without_aux": cost.params,
        "params_with_aux": cost.params + cost.auxiliary_params,
        "conv_linear_macs": cost.macs,
        "official_counter": official.macs,
    } == FLOPS[case]
    assert (official.params, official.auxiliary_params) == (cost.params, cost.auxiliary_params)
