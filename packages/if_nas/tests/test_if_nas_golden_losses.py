"""The discretisation losses and their gradients against the authors' numbers."""

from __future__ import annotations

import pytest
import torch
from if_nas_golden import close, load
from if_nas_supernets import PUBLISHED_PENALTIES, SMALL, fill_arch

from if_nas.arch import ArchWeights
from if_nas.losses import discretization_loss, edge_penalty, op_penalty
from if_nas.schedule import InterleavingFreeSchedule
from if_nas.search_build import penalty_weights
from if_nas.space import LChainSpace


@pytest.mark.parametrize(
    ("name", "space", "seed"),
    [("disc_loss_small", SMALL, 5), ("disc_loss_l8", LChainSpace((18, 20, 18), 8), 6)],
)
def test_penalties_and_gradients(name: str, space: LChainSpace, seed: int) -> None:
    golden = load(name)
    compared = {"rows"}
    arch = ArchWeights(space)
    fill_arch(arch, seed)
    schedule = InterleavingFreeSchedule(space.length)
    last = golden["rows"][:, 0].max()
    for epoch, turn, edge_term, op_term in golden["rows"]:
        active = schedule.active(int(turn), space.nodes)
        weights = penalty_weights(PUBLISHED_PENALTIES, int(epoch))
        terms = weights[0] * edge_penalty(arch, active), weights[1] * op_penalty(arch, active)
        assert [term.item() for term in terms] == pytest.approx([edge_term, op_term], rel=1e-5, abs=0)
        if epoch == last:
            arch.zero_grad()
            loss = discretization_loss(arch, active, *weights)
            assert loss.item() == pytest.approx(edge_term + op_term, rel=1e-5)
            loss.backward()
            names = f"turn{int(turn)}.beta_grads", f"turn{int(turn)}.alpha_grads"
            assert arch.beta.grad is not None
            assert arch.alpha.grad is not None
            close(arch.beta.grad.flatten(), golden[names[0]], 1e-5, names[0])
            close(arch.alpha.grad[arch.valid].flatten(), golden[names[1]], 1e-5, names[1])
            compared |= set(names)
    assert compared == set(golden)


def test_penalty_is_least_for_one_edge_and_greatest_for_equal_ones() -> None:
    arch = ArchWeights(LChainSpace((4,), 4))
    active = ((4,),)
    with torch.no_grad():
        arch.beta.fill_(0.3)
        equal = edge_penalty(arch, active).item()
        arch.beta[3] = torch.tensor([-40.0, 40, -40, -40])
        alone = edge_penalty(arch, active).item()
    assert equal == pytest.approx(4 * torch.tensor(2.0).log().item())
    assert alone == pytest.approx(torch.tensor(5.0).log().item())
