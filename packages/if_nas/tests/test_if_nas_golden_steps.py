"""Five steps of the one-level search against the authors' numbers, in both variants of operator indexing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from if_nas_golden import close, load
from if_nas_supernets import PUBLISHED_PENALTIES, SMALL, filled, official_state
from torch.nn import functional as F

from if_nas.official_supernet import supernet_to_official
from if_nas.optim import search_optimizer
from if_nas.schedule import InterleavingFreeSchedule
from if_nas.search_build import penalty_weights
from vireo.testing import tensor

EPOCHS = (49, 50, 66, 67, 99)


@pytest.mark.parametrize("variant", ["fixed", "legacy"])
def test_search_steps(variant: str) -> None:
    golden = {name: value for name, value in load("search_steps").items() if name.startswith(variant)}
    compared = set()
    network = filled(SMALL, 4, legacy_op_indexing=variant == "legacy", dense=True, train_op_weights=False)
    network.double().train()
    optimizer = search_optimizer(network)
    schedule = InterleavingFreeSchedule(SMALL.length)

    def check(name: str, value: Any) -> None:
        close(value, golden[f"{variant}.{name}"], 1e-8, name)
        compared.add(f"{variant}.{name}")

    for number, epoch in enumerate(EPOCHS):
        active = schedule.active(epoch, SMALL.nodes)
        logits = network(tensor(f"input.step{number}", (6, 3, 64, 64), 4).double(), active)
        edge_penalty, op_penalty = network.penalties(active)
        edge_weight, op_weight = penalty_weights(PUBLISHED_PENALTIES, epoch)
        losses = [
            F.cross_entropy(logits, (7 * torch.arange(6) + number) % 10),
            edge_weight * edge_penalty,
            op_weight * op_penalty,
        ]
        torch.stack(losses).sum().backward()
        norm = torch.nn.utils.clip_grad_norm_(network.weight_parameters(), 5)
        assert network.arch.beta.grad is not None
        prefix = f"step{number}"
        check(f"{prefix}.logits", logits)
        check(f"{prefix}.losses", torch.stack(losses))
        check(f"{prefix}.grad_norm", norm.reshape(golden[f"{variant}.{prefix}.grad_norm"].shape))
        check(f"{prefix}.beta_grads", network.arch.beta.grad.flatten())
        weights, architecture = optimizer.param_groups
        weights["lr"], architecture["lr"] = 0.1 * (100 - epoch) / 100, 0.1 if epoch >= 50 else 0.0
        optimizer.step()
        optimizer.zero_grad()
        check(f"{prefix}.betas", network.arch.beta.flatten())

    complete = {**official_state(network, 4), **supernet_to_official(network)}  # those without use stay as they are
    state = {key: value.double() for key, value in complete.items() if value.is_floating_point()}
    names = sorted(state)[::9]
    assert names == [str(name) for name in golden[f"{variant}.after.names"]]
    compared.add(f"{variant}.after.names")
    check("after.sums", np.array([state[name].sum().item() for name in names]))
    check("after.abs_sums", np.array([state[name].abs().sum().item() for name in names]))
    assert compared == set(golden)


def test_the_two_variants_are_all_there_is() -> None:
    assert {name.partition(".")[0] for name in load("search_steps")} == {"fixed", "legacy"}
