"""Super-networks filled with the reference numbers' parameters."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from if_nas.arch import ArchWeights
from if_nas.official_supernet import supernet_from_official, supernet_to_official
from if_nas.space import LChainSpace
from if_nas.supernet import LChainSupernet
from vireo.testing import fill_state_dict, tensor

SMALL = LChainSpace((5, 6, 5), 3)
PUBLISHED_PENALTIES = SimpleNamespace(start_epoch=65, edge_weight=1 / 60 / 40, op_weight=1 / 60 / 30)


def fill_arch(arch: ArchWeights, seed: int) -> None:
    """Both kinds of architecture parameters from the authors' names; what no edge uses of ``alpha`` stays."""
    space = arch.space
    with torch.no_grad():
        for stage, count in enumerate(space.nodes):
            for node in range(1, count + 1):
                row, name, m = arch.row(stage, node), f"stage{stage + 1}.node{node}", len(space.sources(stage, node))
                arch.beta[row] = tensor(f"input.betas.{name}", (1, space.length), seed)[0]
                arch.alpha[row, :m] = tensor(f"input.alphas.{name}", (m, len(space.ops)), seed)


def filled(space: LChainSpace, seed: int, width: int = 8, num_classes: int = 10, **options: Any) -> LChainSupernet:
    """A super-network with the parameters of the reference cases."""
    network = LChainSupernet(space, width, num_classes, **options)
    supernet_from_official(network, official_state(network, seed))
    fill_arch(network.arch, seed)
    return network


def official_state(network: LChainSupernet, seed: int) -> dict[str, Tensor]:
    """A state dict of the authors' of this size, with the operators that their indexing leaves unused."""
    complete = LChainSupernet(network.space, network.width, network.num_classes)
    return fill_state_dict(supernet_to_official(complete), seed)


def outputs(network: LChainSupernet, images: Tensor, active: Any) -> dict[str, Tensor]:
    """What comes out of the stem and of each stage, and the logits."""
    found: dict[str, Tensor] = {}
    parts = {"stem": network.stem, **{f"stage{i}": stage for i, stage in enumerate(network.stages, 1)}}

    def keep(name: str) -> Any:
        return lambda module, inputs, output: found.__setitem__(name, output)

    hooks = [part.register_forward_hook(keep(name)) for name, part in parts.items()]
    with torch.no_grad():
        found["logits"] = network(images, active)
    for hook in hooks:
        hook.remove()
    return found
