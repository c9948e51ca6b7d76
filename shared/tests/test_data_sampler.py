"""Order of samples, batches and their slices per process."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vireo.data.sampler import EpochSampler, aspect_ratio_groups
from vireo.errors import InputError


@st.composite
def settings(draw: st.DrawFn) -> dict:
    world_size = draw(st.integers(1, 4))
    length = draw(st.integers(world_size, 60))
    settings: dict = {
        "length": length,
        "batch_size": world_size * draw(st.integers(1, 5)),
        "shuffle": draw(st.booleans()),
        "seed": draw(st.integers(0, 5)),
        "world_size": world_size,
    }
    if draw(st.booleans()):
        settings["groups"] = np.array(draw(st.lists(st.integers(0, 2), min_size=length, max_size=length)))
    return settings


def ranks(settings: dict) -> list[EpochSampler]:
    return [EpochSampler(**settings, rank=rank) for rank in range(settings["world_size"])]


@given(settings(), st.integers(0, 3))
def test_an_epoch_holds_every_sample_once(settings: dict, epoch: int) -> None:
    batches = EpochSampler(**settings).global_batches(epoch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(settings["length"]))
    assert all(len(batch) == settings["batch_size"] for batch in batches[:-1])


@given(settings(), st.integers(0, 3))
def test_the_ranks_slices_concatenate_to_the_batches_of_one_process(settings: dict, epoch: int) -> None:
    alone = EpochSampler(**{**settings, "world_size": 1})
    slices = [sampler.batches(epoch) for sampler in ranks(settings)]
    for number, batch in enumerate(alone.batches(epoch)):
        parts = [part[number] for part in slices if number < len(part)]
        if settings["shuffle"] and len(batch) < settings["world_size"]:
            assert parts == []
        else:
            np.testing.assert_array_equal(np.concatenate(parts), batch)


@given(settings())
def test_length_is_the_number_of_batches_and_no_slice_is_empty(settings: dict) -> None:
    samplers = ranks(settings)
    for sampler in samplers:
        batches = sampler.batches(0)
        assert len(batches) == len(sampler)
        assert all(len(batch) > 0 for batch in batches)
    if settings["shuffle"]:
        assert len({len(sampler) for sampler in samplers}) == 1


@given(settings())
def test_evaluation_shards_share_nothing_and_differ_by_at_most_one(settings: dict) -> None:
    samplers = ranks({**settings, "shuffle": False})
    shards = [[int(i) for batch in sampler.batches(0) for i in batch] for sampler in samplers]
    assert sorted(i for shard in shards for i in shard) == list(range(settings["length"]))
    sizes = [len(shard) for shard in shards]
    assert max(sizes) - min(sizes) <= 1


@given(settings(), st.integers(0, 12))
def test_resuming_gives_the_tail(settings: dict, start: int) -> None:
    sampler = EpochSampler(**settings)
    tail, full = sampler.batches(1, start), sampler.batches(1)[start:]
    assert [batch.tolist() for batch in tail] == [batch.tolist() for batch in full]


def test_epochs_and_seeds_differ_and_repeat() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return EpochSampler(100, 10, shuffle=True, seed=seed).order(epoch).tolist()

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    assert order(0, 0) != list(range(100))


def test_every_place_is_equally_likely() -> None:
    sampler = EpochSampler(10, 1, shuffle=True)
    counts = np.zeros((10, 10))
    for epoch in range(2000):
        counts[np.arange(10), sampler.order(epoch)] += 1
    assert abs(counts / 2000 - 0.1).max() < 0.03


def test_groups_fill_whole_batches_and_keep_their_number() -> None:
    sizes = np.array([(480, 640)] * 23 + [(640, 480)] * 18 + [(500, 500)] * 2)
    groups = aspect_ratio_groups(sizes)
    assert groups.tolist() == [0] * 23 + [1] * 18 + [0] * 2
    sampler = EpochSampler(43, 4, shuffle=True, groups=groups)
    batches = sampler.global_batches(0)
    assert len(batches) == len(sampler) == 11
    pure = [len(set(groups[batch])) == 1 for batch in batches]
    assert pure[:10] == [True] * 10  # 25 // 4 + 18 // 4; what remains is mixed
    assert len({int(groups[batch[0]]) for batch in batches[:5]}) == 2  # both orientations from the start


def test_drop_last() -> None:
    sampler = EpochSampler(11, 4, shuffle=False, drop_last=True)
    assert [batch.tolist() for batch in sampler.batches(0)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert len(sampler) == 2


@pytest.mark.parametrize("batch_size", [0, 3])
def test_a_batch_that_processes_cannot_share_is_refused(batch_size: int) -> None:
    with pytest.raises(InputError, match=r"batch_size: .* 2 processes.*multiple of 2"):
        EpochSampler(10, batch_size, shuffle=True, world_size=2)


@pytest.mark.parametrize("drop_last", [True, False])
def test_a_data_set_smaller_than_one_training_batch_is_refused(drop_last: bool) -> None:
    with pytest.raises(InputError, match="3 samples do not make one training batch of 4 for 4 processes"):
        EpochSampler(3, 4, shuffle=True, drop_last=drop_last, world_size=4)


def test_evaluation_of_fewer_samples_than_processes_leaves_some_without_work() -> None:
    assert [len(EpochSampler(3, 4, shuffle=False, rank=rank, world_size=4)) for rank in range(4)] == [1, 1, 1, 0]
