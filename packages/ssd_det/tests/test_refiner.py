"""The refiner's options, degenerate inputs and properties; the authors' numbers are in the tests named golden."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectors import CLASSES, maps, random_batch, small_refiner
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssd_det.bags import neighborhood_proposals, normalized_iou_scores, random_negatives, select_and_merge
from ssd_det.boxes import decode_boxes, decode_corners, elementwise_iou, encode_boxes, encode_corners, pairwise_iou
from ssd_det.draws import KeyedDraws, TorchDraws
from ssd_det.refiner import BoxRefiner, Refinement
from vireo.data.random import counter_key
from vireo.errors import InputError

BASIC = {"spsd": False, "sisd": False}
LOSSES = {"loss_spsd1", "loss_mil1", "loss_spsd2", "loss_mil2", "loss_negatives", "loss_sisd"}


def draws(images: int = 2) -> KeyedDraws:
    return KeyedDraws(torch.tensor([counter_key(0, 0, i) for i in range(images)]))


def run(refiner: BoxRefiner, counts: tuple[int, ...] = (3, 2), **options: Any) -> tuple[Refinement, dict[str, Tensor]]:
    _, boxes, labels, sizes = random_batch(0, counts)
    pyramid = [m.requires_grad_() for m in maps(batch=len(counts))]
    return refiner.run(pyramid, boxes, labels, sizes, draws(len(counts)), **options)


def total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


MODES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "full": ({}, LOSSES),
    "spsd": ({"sisd": False}, LOSSES - {"loss_sisd"}),
    "sisd": ({"spsd": False}, LOSSES - {"loss_spsd1", "loss_spsd2"}),
    "basic": (BASIC, {"loss_mil1", "loss_mil2", "loss_negatives"}),
    "one_stage": ({**BASIC, "stages": 1}, {"loss_mil1"}),
    "one_stage_spsd": ({"stages": 1}, {"loss_spsd1", "loss_mil1"}),
    "spsd_second": ({"spsd_first": False}, LOSSES - {"loss_spsd1"}),
    "spsd_second_unweighted": ({"spsd_first": False, "spsd_weighted": False}, LOSSES - {"loss_spsd1"}),
    "spsd_unweighted": ({"spsd_weighted": False}, LOSSES),
    "fresh_bag": ({"spsd_fresh_bag": True}, LOSSES),
    "no_relevance": ({"object_relevance": "none"}, LOSSES),
    "subtract": ({"object_relevance": "subtract"}, LOSSES),
    "concat": ({"object_relevance": "concat"}, LOSSES),
    "shared": ({"share_sisd_mlp": True}, LOSSES),
    "instance_score": ({"instance_score_with_iou": True}, LOSSES),
    "sisd_weight": ({"sisd_weight": 0.25}, LOSSES),
    "negatives": ({"negative_iou": 0.05}, LOSSES),
    "top_k": ({"top_k": 2}, LOSSES),
}


def copied(source: BoxRefiner, target: BoxRefiner) -> BoxRefiner:
    """``target`` with the source's weights wherever both have them."""
    own = target.state_dict()
    shared = {k: v for k, v in source.state_dict().items() if k in own and own[k].shape == v.shape}
    target.load_state_dict(shared, strict=False)
    return target


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_trains_all_its_parameters_and_differs_from_the_default(mode: str) -> None:
    options, names = MODES[mode]
    default = small_refiner()
    refiner = copied(default, small_refiner(**options))
    found, losses = run(refiner)
    assert set(losses) == names
    assert all(value.isfinite() and value.requires_grad for value in losses.values())
    total(losses).backward()
    without = [name for name, p in refiner.named_parameters() if p.grad is None]
    assert not without
    assert found.boxes.shape == (5, 4)
    if mode == "full":
        return
    expected, default_losses = run(default)
    same_boxes = torch.allclose(found.boxes, expected.boxes)
    same_losses = names == LOSSES and all(torch.allclose(losses[n], default_losses[n]) for n in names)
    assert not (same_boxes and same_losses)


def test_weights_of_second_regression_are_the_bag_scores() -> None:
    weighted = small_refiner(spsd_first=False)
    unweighted = copied(weighted, small_refiner(spsd_first=False, spsd_weighted=False))
    found, a = run(weighted)
    _, b = run(unweighted)
    assert (found.stage1_scores < 1).all()
    assert float(a["loss_spsd2"].detach()) < float(b["loss_spsd2"].detach())
    assert torch.equal(a["loss_mil1"], b["loss_mil1"])


@pytest.mark.parametrize("options", [{}, BASIC, {"share_sisd_mlp": True}, {"spsd_fresh_bag": True}])
def test_chunks_give_the_same_losses_and_gradients(options: dict[str, Any]) -> None:
    refiner = small_refiner(**options)
    chunked = copied(refiner, small_refiner(**options, row_limit=37))  # does not divide the bag
    pyramids, results = [], []
    for module in (refiner, chunked):
        _, boxes, labels, sizes = random_batch()
        pyramid = [m.requires_grad_() for m in maps()]
        found, losses = module.run(pyramid, boxes, labels, sizes, draws())
        total(losses).backward()
        pyramids.append(pyramid)
        results.append((found, losses))
    for name, value in results[0][1].items():
        assert torch.allclose(value, results[1][1][name], rtol=1e-5)
    assert torch.allclose(results[0][0].boxes, results[1][0].boxes, atol=1e-3)
    for a, b in zip([*refiner.parameters(), *pyramids[0][:4]], [*chunked.parameters(), *pyramids[1][:4]]):
        assert a.grad is not None
        assert b.grad is not None
        assert torch.allclose(a.grad, b.grad, rtol=1e-3, atol=max(1e-8, 1e-5 * float(a.grad.abs().max())))


def test_bag_without_valid_candidate_falls_back_to_the_given_box() -> None:
    outside = torch.tensor([[-60.0, -60, -30, -30]])
    for options in ({}, BASIC):
        refiner = small_refiner(**options)
        found, losses = refiner.run(maps(batch=1), [outside], [torch.tensor([1])], [(96, 96)], draws(1))
        assert torch.equal(found.stage1_boxes, outside)
        assert float(found.stage1_scores) == 0
        assert found.boxes.isfinite().all()
        assert all(value.isfinite() for value in losses.values())
        total(losses).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in refiner.parameters())
        if options:
            assert torch.equal(found.boxes, outside)


def test_identical_iou_logits_give_the_stage_one_box() -> None:
    assert torch.equal(normalized_iou_scores(torch.full((2, 5), 0.3)), torch.zeros(2, 5))
    refiner = small_refiner()
    torch.nn.init.zeros_(refiner.iou.weight)
    found, losses = run(refiner)
    assert torch.equal(found.boxes, found.stage1_boxes)
    assert torch.equal(found.scores, torch.zeros(5))
    assert all(value.isfinite() for value in losses.values())


def test_batch_without_boxes_has_zero_losses_that_still_reach_every_parameter() -> None:
    for options, names in MODES.values():
        refiner = small_refiner(**options)
        found, losses = run(refiner, (0, 0))
        assert found.boxes.shape == (0, 4)
        assert set(losses) == names
        assert all(float(value.detach()) == 0 for value in losses.values())
        total(losses).backward()
        assert all(p.grad is not None and not p.grad.any() for p in refiner.parameters())


def test_image_without_boxes_changes_only_the_background() -> None:
    refiner = small_refiner()
    _, boxes, labels, sizes = random_batch()
    pyramid = maps()
    none = (torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    refined, scores, both = refiner(pyramid, [boxes[0], none[0]], [labels[0], none[1]], sizes, draws())
    alone, _, one = refiner([m[:1] for m in pyramid], boxes[:1], labels[:1], sizes[:1], draws(1))
    assert [len(b) for b in refined] == [3, 0]
    assert [len(s) for s in scores] == [3, 0]
    assert torch.allclose(refined[0], alone[0], atol=1e-4)
    for name in LOSSES - {"loss_negatives"}:
        assert torch.allclose(both[name], one[name], rtol=1e-5)
    assert both["loss_negatives"] > one["loss_negatives"]


def test_cap_refines_a_choice_and_leaves_the_others_as_given() -> None:
    refiner = small_refiner()
    capped = copied(refiner, small_refiner(max_boxes_per_image=2))
    _, boxes, _, _ = random_batch(0, (5, 1))
    whole = run(refiner, (5, 1))[0]
    found, losses = run(capped, (5, 1))
    given = torch.cat(boxes)
    kept = (found.boxes == given).all(1)
    assert kept.tolist().count(True) == 3
    assert not kept[5]
    assert torch.allclose(found.boxes[~kept], whole.boxes[~kept], atol=1e-4)
    assert torch.equal(found.scores[kept], torch.zeros(3))
    assert torch.equal(found.stage1_boxes[kept], given[kept])
    assert total(losses).isfinite()
    loose = run(copied(refiner, small_refiner(max_boxes_per_image=9)), (5, 1))[0]
    assert torch.equal(loose.boxes, whole.boxes)


def test_top_k_larger_than_the_bag_takes_all_of_it() -> None:
    options: dict[str, Any] = {"ratios": (1.0,), "shakes": (0.1,)}
    five = small_refiner(**options, top_k=5)
    more = copied(five, small_refiner(**options, top_k=50))
    assert torch.equal(run(five)[0].boxes, run(more)[0].boxes)


def test_single_candidate_is_its_own_average() -> None:
    refiner = small_refiner(ratios=(1.0,), shakes=(), **BASIC)
    _, boxes, _, _ = random_batch()
    assert torch.allclose(run(refiner)[0].boxes, torch.cat(boxes), atol=1e-3)


def test_nothing_the_refiner_found_carries_gradient() -> None:
    found, _ = run(small_refiner())
    values = [found.boxes, found.scores, found.stage1_boxes, found.stage1_scores, *found.bags]
    assert not any(value.requires_grad for value in values)


def test_refine_equals_training_boxes_and_uses_no_random_numbers() -> None:
    refiner = small_refiner()
    _, boxes, labels, sizes = random_batch()
    state = torch.random.get_rng_state()
    refined, scores = refiner.refine(maps(), boxes, labels, sizes)
    assert torch.equal(state, torch.random.get_rng_state())
    found, _ = run(refiner)
    assert torch.allclose(torch.cat(refined), found.boxes, atol=1e-4)
    assert torch.allclose(torch.cat(scores), found.scores, atol=1e-6)


def test_keyed_draws_do_not_depend_on_the_batch_and_torch_draws_on_the_generator() -> None:
    keys = torch.tensor([counter_key(0, 0, i) for i in range(4)])
    whole = KeyedDraws(keys)("negatives", 4, 9, torch.device("cpu"))
    halves = [KeyedDraws(k)("negatives", 2, 9, torch.device("cpu")) for k in keys.split(2)]
    assert torch.equal(whole, torch.cat(halves))
    assert not torch.equal(whole, KeyedDraws(keys)("rpn", 4, 9, torch.device("cpu")))
    a, b = (TorchDraws(torch.Generator().manual_seed(3))("x", 2, 5, torch.device("cpu")) for _ in range(2))
    assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16])
def test_perceptrons_in_bfloat16_stay_close_and_boxes_stay_float32(dtype: Any) -> None:
    refiner = small_refiner()
    low = copied(refiner, small_refiner(mlp_dtype=dtype))
    (found, losses), (found_low, losses_low) = run(refiner), run(low)
    assert found_low.boxes.dtype == found_low.scores.dtype == torch.float32
    assert all(bag.dtype == torch.float32 for bag in found_low.bags)
    assert all(value.dtype == torch.float32 for value in losses_low.values())
    for name, value in losses.items():
        assert float(losses_low[name].detach()) == pytest.approx(float(value.detach()), rel=0.05)
    assert float(elementwise_iou(found.stage1_boxes, found_low.stage1_boxes).min()) > 0.9
    total(losses_low).backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in low.parameters())
    assert not torch.equal(found.boxes, found_low.boxes)  # it did run in the other type


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": 3}, "refiner.stages: 3 stages. use 1 or 2."),
        ({"object_relevance": "multiply"}, "refiner.object_relevance: unknown choice 'multiply'"),
        ({"mlp_dtype": "half_float"}, "refiner.mlp_dtype: no such type: 'half_float'"),
    ],
)
def test_unknown_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        BoxRefiner(3, **options)
    assert message in str(caught.value)


coordinate = st.floats(-50, 150, width=32)
side = st.floats(2, 120, width=32)
box = st.tuples(coordinate, coordinate, side, side).map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])
boxes_list = st.lists(box, min_size=1, max_size=6).map(torch.tensor)


@settings(max_examples=60, deadline=None)
@given(boxes_list, box)
def test_decode_inverts_encode(reference: Tensor, target: list[float]) -> None:
    goal = torch.tensor(target).expand_as(reference)
    for stds in ((1.0, 1.0, 1.0, 1.0), (0.1, 0.1, 0.2, 0.2)):
        ratio = ((goal[:, 2:] - goal[:, :2]) / (reference[:, 2:] - reference[:, :2])).log().abs().amax()
        if ratio < 4.1:  # the decoder limits the change of a side
            again = decode_boxes(reference, encode_boxes(reference, goal, stds), stds)
            assert torch.allclose(again, goal, atol=1e-2)
        again = decode_corners(reference, encode_corners(reference, goal, stds), stds)
        assert torch.allclose(again, goal, atol=1e-2)


@settings(max_examples=60, deadline=None)
@given(boxes_list, boxes_list)
def test_iou_is_symmetric_and_between_zero_and_one(a: Tensor, b: Tensor) -> None:
    overlap = pairwise_iou(a, b)
    assert torch.equal(overlap, pairwise_iou(b, a).T)
    assert ((overlap >= 0) & (overlap <= 1 + 1e-6)).all()
    assert torch.allclose(pairwise_iou(a, a).diagonal(), torch.ones(len(a)))


@settings(max_examples=40, deadline=None)
@given(
    boxes_list,
    st.lists(st.floats(0.5, 2, width=32), min_size=1, max_size=4),
    st.lists(st.floats(0, 0.5, width=32), max_size=2),
)
def test_bag_has_its_size_and_holds_the_box_itself(boxes: Tensor, factors: list[float], shakes: list[float]) -> None:
    ratios = [1.0, *factors]
    bag, valid = neighborhood_proposals(boxes, torch.tensor([100.0, 120.0]), ratios, shakes)
    assert bag.shape == (len(boxes), len(ratios) ** 2 * (1 + 4 * len(shakes)), 4)
    assert valid.shape == bag.shape[:2]
    assert valid.dtype == torch.bool
    assert torch.allclose(bag[:, 0], boxes, atol=1e-4)
    assert (bag[..., 2:] > bag[..., :2]).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 3))
def test_kept_negatives_miss_every_candidate_of_their_image(seed: int, images: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    _, boxes, _, sizes = random_batch(seed, tuple(range(images)))
    bags = neighborhood_proposals(torch.cat(boxes), sizes[0])[0]
    image = torch.repeat_interleave(torch.arange(images), torch.arange(images))
    negatives, keep = random_negatives(sizes, bags, image, 30, 0.3, generator=generator)
    assert negatives.shape == (images, 30, 4)
    assert keep[0].all()  # it has no box
    for i in range(images):
        overlap = pairwise_iou(negatives[i], bags[image == i].flatten(0, 1))
        assert torch.equal(keep[i], (overlap < 0.3).all(1))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 9), st.booleans())
def test_merged_box_lies_within_its_candidates(seed: int, top_k: int, sisd: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    bag = neighborhood_proposals(torch.cat(random_batch(seed)[1]), torch.tensor([96.0, 96.0]), (1.0, 0.8), (0.1,))[0]
    shape = bag.shape[:2]
    prob = torch.rand(*shape, CLASSES, generator=generator)
    logits, iou = torch.randn(*shape, CLASSES, generator=generator), torch.randn(shape, generator=generator)
    labels = torch.arange(shape[0]) % CLASSES
    valid = torch.rand(shape, generator=generator) > 0.3
    valid[:, 0] = True
    merged, score = select_and_merge(prob, logits, valid, labels, bag, top_k, iou if sisd else None)
    assert ((merged >= bag.amin(1) - 1e-3) & (merged <= bag.amax(1) + 1e-3)).all()
    assert ((score >= 0) & (score <= 1 + 1e-5)).all()
