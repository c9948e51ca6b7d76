"""What runs in a phase, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from if_nas.genotype import Connection, Genotype
from if_nas.plan import phase_plan, subnet_plan, swapped_rows
from if_nas.schedule import InterleavingFreeSchedule
from if_nas.space import LChainSpace

SPACE = LChainSpace((5, 4), 3)


def test_phase_by_hand() -> None:
    first, second = phase_plan(SPACE, ((4,), ()))
    spans = [step.calls[0].span for step in first.steps]
    assert spans == [(0, 1), (2, 1), (5, 1), (6, 3), (11, 1)]
    assert [step.calls[0].sources for step in first.steps] == [(0,), (1,), (2,), (1, 2, 3), (4,)]
    assert [step.row for step in first.steps] == [None, None, None, 3, None]
    assert [step.scale for step in first.steps] == [2, 1, 2 / 3, 2 / 3, 2 / 3]
    assert all(step.row is None for step in second.steps)
    assert first.spans(0) == first.spans(1) == spans


def test_features_are_freed_behind_their_last_reader() -> None:
    for turn in range(4):
        for stage in phase_plan(SPACE, InterleavingFreeSchedule(3).active(turn, SPACE.nodes)):
            alive = {0}
            for step in stage.steps:
                assert {source for call in step.calls for source in call.sources} <= alive
                alive = (alive | {step.node}) - set(step.frees)
            assert alive == {len(stage.steps)}


def test_authors_numbering_shares_edges_and_swaps_operators() -> None:
    (stage, _) = phase_plan(SPACE, ((1, 2, 3, 4, 5), ()), legacy=True)
    assert [step.calls[0].span for step in stage.steps] == [(0, 1), (0, 2), (1, 3), (3, 3), (4, 3)]
    assert swapped_rows(SPACE) == [False, True, True, False, True, False, True, True, False]


def test_dense_phase_runs_all_edges() -> None:
    (stage, _) = phase_plan(SPACE, ((4,), ()), dense=True)
    assert sum(step.calls[0].span[1] for step in stage.steps) == len(SPACE.edges(0))
    assert [step.row for step in stage.steps] == [0, 1, 2, 3, 4]


def test_subnet_groups_operators_of_an_edge() -> None:
    chain: dict[int, tuple[Connection, ...]] = {1: (Connection("conv3", 0),)}
    genotype = Genotype(({**chain, 3: (Connection("conv3", 0), Connection("skip", 0), Connection("skip", 1))}, chain))
    step = subnet_plan(SPACE, genotype)[0].steps[1]
    assert [(call.ops, call.span, call.sources) for call in step.calls] == [
        ((1, 0), (3, 1), (0,)),
        ((0,), (4, 1), (1,)),
    ]
    assert step.scale == 2 / 3


@pytest.mark.parametrize(
    ("active", "message"),
    [(((1,),), "active nodes of 1 stages"), (((6,), ()), "no node 6 in stage 1"), (((0,), ()), "nodes are 1 to 5")],
)
def test_active_nodes_that_do_not_exist(active: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        phase_plan(SPACE, active)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (({1: (Connection("conv3", 0),)},), "1 stages, the search space has 2"),
        (({1: (Connection("sconv3", 0),)},) * 2, "no sconv3 from 0"),
        (({4: (Connection("conv3", 0),)},) * 2, "stage 1, node 4: no conv3 from 0"),
        (({9: (Connection("conv3", 0),)},) * 2, "stage 1, node 9: no conv3 from 0"),
    ],
)
def test_subnet_of_another_space(stages: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        subnet_plan(SPACE, Genotype(stages))
