"""The authors' layout of derived networks: prefixes, heads, and what does not fit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from if_nas.derived import DerivedNetwork
from if_nas.official import from_official, to_official
from if_nas.published import GENOTYPES
from if_nas.space import LChainSpace
from if_nas.supernet import LChainSupernet
from vireo.errors import InputError


def network(seed: int, auxiliary: bool = True) -> DerivedNetwork:
    torch.manual_seed(seed)
    return DerivedNetwork(GENOTYPES["geno_cosine_similarity"], 4, 3, "cifar", auxiliary)


def same(one: nn.Module, other: nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[key]) for key, value in one.state_dict().items())


def test_there_and_back_from_data_parallel() -> None:
    source, target = network(0), network(1)
    assert not same(source, target)
    state = {f"module.{key}": value for key, value in to_official(source).items()}
    assert from_official(target, {"state_dict": state, "epoch": 3, "best_acc_top1": 71.0}) == []
    assert same(source, target)


def test_a_head_without_place_is_left_out() -> None:
    source, target = network(0), network(1, auxiliary=False)
    left_out = from_official(target, to_official(source))
    assert left_out == [key for key in to_official(source) if key.startswith("auxiliary_head.")]
    assert same(target, source)


def test_what_does_not_fit() -> None:
    state = to_official(network(0))
    state["stage4.pre.op.1.weight"] = state.pop("stage2.pre.op.1.weight")
    state["classifier.weight"] = torch.zeros(5, 1024)
    with pytest.raises(InputError, match=r"(?s)stages\.1\.entry\.merge.*stage4.*classifier\.weight"):
        from_official(network(1), state, "model.pt")


def test_super_networks() -> None:
    space = LChainSpace((2, 2, 2), 2)
    source, target = (LChainSupernet(space, 4, 3, stem="cifar") for _ in range(2))
    assert from_official(target, to_official(source)) == []
    assert all(torch.equal(a, b) for a, b in zip(source.weight_parameters(), target.weight_parameters()))


def test_other_networks() -> None:
    for function in (to_official, lambda model: from_official(model, {})):
        with pytest.raises(InputError, match="Linear has no counterpart"):
            function(nn.Linear(2, 2))
