"""Memory banks and the coupling loss away from the reference numbers: the closed form, the search, and the edges."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from fgc_golden import close
from torch import Tensor

from fgc.bank import MemoryBank
from fgc.coupling import FeatureGateCoupling, couple
from fgc.search import _above_threshold, default_chunk, largest_products
from vireo.errors import InputError

SAMPLES, DIM, BATCH = 50, 8, 6


def coupling(**options: object) -> FeatureGateCoupling:
    torch.manual_seed(0)
    return FeatureGateCoupling(SAMPLES, DIM, **{"num_neighbors": 5, "warmup_epochs": 1, **options})  # type: ignore[arg-type]


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    features, logits = torch.randn(2, BATCH, DIM, generator=generator)
    return features.abs(), logits.requires_grad_(), torch.randperm(SAMPLES, generator=generator)[:BATCH]


def plain_loss(module: FeatureGateCoupling, query: Tensor, positives: Tensor) -> Tensor:
    """By autograd, all rows at once."""
    share = torch.softmax(query @ module.gate_bank.memory.clone().float().t() / module.temperature, 1)
    return -torch.log(share.gather(1, positives).sum(1) + 1e-7).mean()


@pytest.mark.parametrize("chunk", [1, 7, 50, 1000, None])
@pytest.mark.parametrize("epoch", [1, 2])
@pytest.mark.parametrize("normalize", [False, True])
def test_loss_and_gradient_are_those_of_autograd(chunk: int | None, epoch: int, normalize: bool) -> None:
    module = coupling(chunk=chunk, normalize_query=normalize)
    features, logits, indices = inputs()
    positives = module.positives(features, indices, epoch)
    expected = plain_loss(module, F.normalize(logits) if normalize else logits, positives)
    (wanted,) = torch.autograd.grad(expected, logits)
    loss = module(features, logits, indices, epoch)
    (3 * loss).backward()
    close(loss, expected.detach())
    assert logits.grad is not None
    close(logits.grad, 3 * wanted, 2e-5)


def test_extreme_logits_stay_finite() -> None:
    module = coupling()
    features, logits, indices = inputs()
    loss = module(features, logits.detach().mul(1e4).requires_grad_(), indices, 2)
    assert loss.isfinite()
    assert loss <= -math.log(1e-7) + 1e-3


@pytest.mark.parametrize("chunk", [1, 7, 50, 1000])
def test_neighbours_are_the_nearest_others_in_order(chunk: int) -> None:
    module = coupling(chunk=chunk)
    features, _, indices = inputs()
    scores = features @ module.feature_bank.memory.t()
    scores[torch.arange(BATCH), indices] = -math.inf
    assert torch.equal(module.nearest(features, indices), scores.topk(5).indices)


def large_bank(rows: int = 20_000) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    centres = 2 * torch.randn(10, DIM, generator=generator)
    memory = centres.repeat_interleave(rows // 10, 0) + torch.randn(rows, DIM, generator=generator)  # class after class
    return centres[:BATCH] + torch.randn(BATCH, DIM, generator=generator), memory


@pytest.mark.parametrize("count", [1, 21, 201, 4000])
def test_search_of_a_large_bank_is_exact(count: int) -> None:
    query, memory = large_bank()
    scores, rows = largest_products(query, memory, count, 2048)
    expected = (query @ memory.t()).topk(count)
    torch.testing.assert_close(scores.sort(descending=True).values, expected.values, rtol=1e-5, atol=1e-5)
    assert all(len(set(row)) == count for row in rows.tolist())
    torch.testing.assert_close((query @ memory.t()).gather(1, rows), scores, rtol=1e-5, atol=1e-5)


def test_a_threshold_selects_from_a_large_bank() -> None:
    query, memory = large_bank()
    assert _above_threshold(query, memory, 200, 2048) is not None


def test_search_falls_back_where_a_threshold_cannot_select() -> None:
    query, memory = large_bank()
    query[1] = 0  # all products equal: none is above the threshold
    assert _above_threshold(query, memory, 200, 2048) is None
    sampled = memory.clone()
    sampled[::5] -= 100 * query[0].sign()  # the sample is far below the others: too many are above the threshold
    assert _above_threshold(query[:1], sampled, 200, 2048) is None
    for q, m in ((query, memory), (query[:1], sampled)):
        scores, rows = largest_products(q, m, 200, 2048)
        expected = (q @ m.t()).topk(200).values
        torch.testing.assert_close(scores.sort(descending=True).values, expected, rtol=1e-5, atol=1e-4)
        assert all(len(set(row)) == 200 for row in rows.tolist())


def test_chunks_are_small_on_a_processor_and_few_on_a_gpu() -> None:
    assert default_chunk(256, torch.device("cpu")) == 2048
    assert default_chunk(256, torch.device("cuda")) > 50_000


def test_warm_up_has_the_image_as_its_only_positive() -> None:
    module = coupling(warmup_epochs=3)
    features, _, indices = inputs()
    assert torch.equal(module.positives(features, indices, 3), indices[:, None])
    after = module.positives(features, indices, 4)
    assert after.shape == (BATCH, 6)
    assert torch.equal(after[:, 0], indices)


def test_without_neighbours_the_image_stays_its_only_positive() -> None:
    features, _, indices = inputs()
    module = coupling(num_neighbors=0)
    assert torch.equal(module.positives(features, indices, 9), indices[:, None])
    assert module.nearest(features, indices).shape == (BATCH, 0)


@pytest.mark.parametrize("neighbors", [SAMPLES - 1, SAMPLES, 1000])
@pytest.mark.parametrize("random", [False, True])
def test_more_neighbours_than_images_are_all_others(neighbors: int, random: bool) -> None:
    module = coupling(num_neighbors=neighbors, random_neighbors=random)
    features, logits, indices = inputs()
    positives = module.positives(features, indices, 2)
    assert torch.equal(positives.sort(1).values, torch.arange(SAMPLES).expand(BATCH, -1))
    loss = module(features, logits, indices, 2)
    assert loss.abs() < 1e-6  # all of the softmax is positive
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-5


def test_random_neighbours() -> None:
    module = coupling(random_neighbors=True)
    indices = torch.arange(SAMPLES)
    drawn = torch.stack([module.strangers(indices, epoch) for epoch in range(400)])
    assert torch.equal(drawn[3], module.strangers(indices, 3))
    assert torch.equal(drawn[3, 10:20], module.strangers(indices[10:20], 3))  # whatever batch and process
    assert not torch.equal(drawn[3], drawn[4])
    assert (drawn != indices[:, None]).all()
    assert (drawn.sort(2).values.diff(dim=2) > 0).all()
    counts = torch.bincount((drawn - indices[:, None]).remainder(SAMPLES).flatten(), minlength=SAMPLES)[1:]
    assert counts.min() > 0.9 * counts.float().mean()
    assert counts.max() < 1.15 * counts.float().mean()


def test_banks_move_only_in_training() -> None:
    features, logits, indices = inputs()

    def moves(module: FeatureGateCoupling, **options: bool) -> bool:
        before = {name: value.clone() for name, value in module.state_dict().items()}
        module(features, logits, indices, 2, **options)
        changed = {not torch.equal(before[name], value) for name, value in module.state_dict().items()}
        assert len(changed) == 1
        return changed.pop()

    assert moves(coupling())
    assert not moves(coupling(), update=False)
    assert not moves(coupling().eval())
    assert moves(coupling().eval(), update=True)
    with torch.no_grad():
        assert not moves(coupling())
        assert moves(coupling(), update=True)


def test_search_and_loss_use_the_rows_from_before_the_update() -> None:
    features, logits, indices = inputs()
    first = coupling()(features, logits, indices, 2).detach()
    module = coupling()
    close(module(features, logits, indices, 2, update=False), first, 0)
    assert module(features, logits, indices, 2) == first
    assert module(features, logits, indices, 2) < first


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("which", ["features", "logits"])
@pytest.mark.parametrize("epoch", [1, 2])
def test_a_number_that_is_not_finite_shows_in_the_loss_and_not_in_the_banks(bad: float, which: str, epoch: int) -> None:
    module = coupling()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    features, logits, indices = inputs()
    broken = (features if which == "features" else logits).detach().clone()
    broken[2, 3] = bad
    features, logits = (broken, logits) if which == "features" else (features, broken.requires_grad_())
    assert module(features, logits, indices, epoch).isnan()
    bank = "feature_bank.memory" if which == "features" else "gate_bank.memory"
    after = module.state_dict()
    assert all(value.isfinite().all() for value in after.values())
    assert torch.equal(after[bank][indices[2]], before[bank][indices[2]])
    assert not torch.equal(after[bank][indices[1]], before[bank][indices[1]])


def test_several_blocks_add_up() -> None:
    features, logits, indices = inputs()
    total = couple([coupling(), coupling()], [features, 2 * features], [logits, 3 * logits], indices, 2)
    parts = [coupling()(features * f, logits * z, indices, 2) for f, z in ((1, 1), (2, 3))]
    close(total, torch.stack(parts).sum().detach(), 1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_banks_in_half_precision(dtype: torch.dtype) -> None:
    module = coupling(bank_dtype=dtype)
    assert module.gate_bank.memory.dtype == module.feature_bank.memory.dtype == dtype
    features, logits, indices = inputs()
    expected = plain_loss(module, logits, module.positives(features, indices, 2)).detach()
    close(module(features, logits, indices, 2), expected)
    norms = module.gate_bank.memory[indices].float().norm(dim=1)
    assert (norms - 1).abs().max() < 0.01


def test_under_autocast_the_loss_is_that_of_float32() -> None:
    features, logits, indices = inputs()
    expected = coupling()(features, logits, indices, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert coupling()(features, logits, indices, 2) == expected


def test_bank_update() -> None:
    bank = MemoryBank(10, 4, momentum=0.75)
    before, queries = bank.memory.clone(), torch.randn(3, 4)
    indices = torch.tensor([7, 0, 3])
    bank.update(indices, queries)
    close(bank.memory[indices], F.normalize(0.75 * before[indices] + 0.25 * queries))
    others = [1, 2, 4, 5, 6, 8, 9]
    assert torch.equal(bank.memory[others], before[others])


def test_the_last_of_repeated_indices_counts() -> None:
    bank, single = MemoryBank(5, 4), MemoryBank(5, 4)
    single.memory.copy_(bank.memory)
    queries = torch.randn(6, 4)
    bank.update(torch.tensor([2, 4, 2, 1, 4, 2]), queries)
    single.update(torch.tensor([2, 4, 1]), queries[[5, 4, 3]])
    assert torch.equal(bank.memory, single.memory)


def test_a_zero_query_on_a_zero_row_leaves_zeros() -> None:
    bank = MemoryBank(3, 4)
    bank.memory.zero_()
    bank.update(torch.tensor([1, 2]), torch.tensor([[0.0] * 4, [0.0, 3.0, 0.0, 4.0]]))
    close(bank.memory, torch.tensor([[0.0] * 4, [0.0] * 4, [0.0, 0.6, 0.0, 0.8]]))


@pytest.mark.parametrize("index", [-1, 10])
def test_an_index_outside_the_bank_is_refused(index: int) -> None:
    bank = MemoryBank(10, 4)
    before = bank.memory.clone()
    with pytest.raises(InputError, match=f"index {index} outside a bank of 10 rows"):
        bank.update(torch.tensor([3, index]), torch.randn(2, 4))
    assert torch.equal(bank.memory, before)
    with pytest.raises(InputError, match="outside"):
        FeatureGateCoupling(10, 4)(torch.randn(2, 4), torch.randn(2, 4), torch.tensor([3, index]), 1)


@pytest.mark.parametrize("options", [{"num_neighbors": -1}, {"temperature": 0.0}, {"chunk": 0}])
def test_impossible_settings_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(InputError, match="FeatureGateCoupling"):
        coupling(**options)


@pytest.mark.parametrize("arguments", [(0, 4), (4, 0), (4, 4, 1.5), (4, 4, math.nan)])
def test_impossible_banks_are_refused(arguments: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="MemoryBank"):
        MemoryBank(*arguments)


def test_shapes_that_do_not_fit_are_refused() -> None:
    features, logits, indices = inputs()
    for wrong in ((features[:, :4], logits, indices), (features, logits[:2], indices), (features, logits, indices[:2])):
        with pytest.raises(InputError, match="not \\("):
            coupling()(*wrong, 1)


def test_checkpoints_have_the_banks() -> None:
    keys = {"feature_bank.memory", "gate_bank.memory"}
    assert set(coupling().state_dict()) == keys
