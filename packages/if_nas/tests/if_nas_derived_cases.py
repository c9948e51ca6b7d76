"""Derived networks filled as the reference numbers were."""

from __future__ import annotations

import torch

from if_nas.derived import DerivedNetwork
from if_nas.official import from_official, to_official
from if_nas.published import GENOTYPES
from vireo.testing import fill_state_dict


def filled(name: str, width: int, num_classes: int, variant: str, seed: int, auxiliary: bool = False) -> DerivedNetwork:
    """A released architecture with the weights of the reference numbers, in evaluation mode."""
    network = DerivedNetwork(GENOTYPES[name], width, num_classes, variant, auxiliary)  # type: ignore[arg-type]
    state = {key: value.clone() for key, value in to_official(network).items()}
    assert from_official(network, fill_state_dict(state, seed)) == []
    return network.eval()


def double(network: DerivedNetwork, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and auxiliary logits in training mode at double precision."""
    logits, auxiliary = network.double().train()(images.double())
    return logits, auxiliary
