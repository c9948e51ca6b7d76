"""Which nodes are active when, and that no two connections of a sampled graph are interleaved."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from if_nas_golden import load_json

from if_nas import InterleavingFreeSchedule, LChainSpace, RandomSubsetSchedule, are_interleaved, has_interleaving
from if_nas.genotype import Connection, Genotype
from if_nas.schedule import every_node, interleaved_pairs, sampled_edges, sampled_genotype
from vireo.errors import InputError


def as_edges(genotype: Genotype) -> dict[str, dict[str, list[int]]]:
    """Stage, node and what it reads, as the reference file has it."""
    return {
        f"stage{number}": {str(node): [source for _, source in inputs] for node, inputs in stage.items()}
        for number, stage in enumerate(genotype.stages, 1)
    }


@pytest.mark.parametrize("case", sorted(load_json("sampler")))
def test_golden_sampler(case: str) -> None:
    wanted = load_json("sampler")[case]
    nodes, length = wanted["nodes"], wanted["length"]
    schedule = InterleavingFreeSchedule(length)
    for epoch, phase, active in wanted["epochs"]:
        assert schedule.phase(epoch) == phase
        assert schedule.active(epoch, nodes) == tuple(map(tuple, active))
    space = LChainSpace(tuple(nodes), length, ("conv3",)).full()
    for turn, stages in wanted["genotype_sample_one_based"].items():
        assert as_edges(sampled_genotype(space, int(turn), length)) == stages


def test_golden_interleaving() -> None:
    wanted = load_json("interleaving")
    motivation = wanted.pop("motivation")
    pairs = interleaved_pairs([(source, node) for source, node in motivation["edges"]])
    assert sorted(pairs) == sorted((tuple(first), tuple(second)) for first, second in motivation["pairs"])
    for case, phases in wanted.items():
        length, period, nodes = (int(part[1:]) for part in case.split("_"))
        schedule = InterleavingFreeSchedule(length, period)
        for phase, count in phases.items():
            edges = sampled_edges(nodes, length, schedule.active_nodes(int(phase), nodes))
            assert len(interleaved_pairs(edges)) == count, f"{case}, phase {phase}"


@given(st.integers(1, 9), st.integers(0, 4), st.integers(1, 24), st.integers(0, 60))
def test_a_period_of_at_least_the_length_is_free_of_interleaving(length: int, more: int, nodes: int, turn: int) -> None:
    schedule = InterleavingFreeSchedule(length, length + more)
    assert not has_interleaving(sampled_edges(nodes, length, schedule.active(turn, [nodes])[0]))


@given(st.integers(1, 9), st.integers(1, 12), st.integers(1, 24))
def test_every_node_is_active_once_in_a_period(length: int, period: int, nodes: int) -> None:
    schedule = InterleavingFreeSchedule(length, period)
    turns = [schedule.active(turn, [nodes])[0] for turn in range(period)]
    assert sorted(node for turn in turns for node in turn) == list(range(1, nodes + 1))


def test_which_arcs_cross() -> None:
    assert are_interleaved((1, 4), (2, 6))
    assert are_interleaved((2, 6), (1, 4))
    for nested_or_touching in ((1, 6), (2, 4), (4, 6), (0, 1), (2, 3)):
        assert not are_interleaved(nested_or_touching, (2, 4))


def test_period_one_is_the_search_without_sampling() -> None:
    assert (
        InterleavingFreeSchedule(4, 1).active(3, (5, 6)) == every_node((5, 6)) == ((1, 2, 3, 4, 5), (1, 2, 3, 4, 5, 6))
    )


def test_the_published_phases() -> None:
    schedule = InterleavingFreeSchedule(8)
    assert schedule.period == 9
    assert schedule.active(8, (18, 20, 18)) == ((9, 18), (9, 18), (9, 18))
    assert schedule.active(10, (18, 20, 18)) == ((2, 11), (2, 11, 20), (2, 11))


def test_random_subsets_are_as_large_and_follow_seed_and_turn() -> None:
    nodes = (18, 20, 18)
    regular = InterleavingFreeSchedule(8)
    schedule, again, other = (RandomSubsetSchedule(9, seed) for seed in (3, 3, 4))
    crossing = 0
    for turn in range(18):
        active = schedule.active(turn, nodes)
        assert active == again.active(turn, nodes)
        assert list(map(len, active)) == list(map(len, regular.active(turn, nodes)))
        for stage, count in zip(active, nodes):
            assert list(stage) == sorted(set(stage))
            assert all(1 <= node <= count for node in stage)
        crossing += has_interleaving(sampled_edges(20, 8, active[1]))
    assert crossing > 0, "random subsets would be interleaving-free"
    assert any(schedule.active(turn, nodes) != other.active(turn, nodes) for turn in range(9))


def test_an_idle_node_of_a_sampled_genotype_keeps_its_last_connection() -> None:
    line = {node: tuple(Connection(op, node - 1) for op in ("conv3", "skip")) for node in (1, 2, 3)}
    sampled = sampled_genotype(Genotype((line,)), 2, 4)
    assert [len(inputs) for inputs in sampled.stages[0].values()] == [1, 2, 1]
    assert sampled.stages[0][1][0].op == "skip"


@pytest.mark.parametrize("settings", [(0, None), (4, 0), (4, -1)])
def test_lengths_and_periods_that_are_none(settings: tuple[int, int | None]) -> None:
    with pytest.raises(InputError, match="is not positive"):
        InterleavingFreeSchedule(*settings)


def test_random_subsets_need_a_period() -> None:
    with pytest.raises(InputError, match="period 0"):
        RandomSubsetSchedule(0)
