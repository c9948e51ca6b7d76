"""Metrics against pysodmetrics on maps and masks of every kind, and over data sets, threads and processes."""

from __future__ import annotations

import pickle
from typing import Any

import dqnet_scored_maps as maps
import numpy as np
import pytest
import torch

from dqnet.metric_parts import image_scores
from dqnet.metrics import SegmentationMetrics, dataset_scores
from vireo.errors import InputError

EXACT = 1e-9


def assert_equal(found: Any, expected: dict[str, Any], keys: tuple[str, ...], case: object) -> None:
    for key in keys:
        ours = found[key] if isinstance(found, dict) else getattr(found, key)
        assert np.abs(ours - expected[key]).max() <= EXACT, (case, key, ours, expected[key])


@pytest.mark.parametrize("seed", range(4))
def test_small_and_odd_maps(seed: int) -> None:
    rng = np.random.default_rng(seed)
    undefined = 0
    for case in range(120):
        pair = maps.odd_pair(rng)
        found, expected = image_scores(*pair), maps.reference([pair])
        keys = maps.KEYS
        if np.isnan(expected["Smeasure"]):  # a part of the image has no pixels: see the stored case gt_corner
            undefined, keys = undefined + 1, keys[1:]
            assert 0 <= found.Smeasure <= 1
        assert_equal(found, expected, keys, case)
    assert undefined < 20


@pytest.mark.parametrize("size", [(150, 220), (384, 384)])
def test_maps_of_usual_size(size: tuple[int, int]) -> None:
    for seed in range(3):
        pair = maps.blob(seed, *size)
        assert_equal(image_scores(*pair), maps.reference([pair]), maps.KEYS, seed)


def test_noise_everywhere_and_objects_at_the_edge() -> None:
    rng = np.random.default_rng(5)
    noise = rng.integers(0, 256, (200, 300), dtype=np.uint8)
    edge = np.zeros((200, 300), np.uint8)
    edge[:40, :90], edge[-30:, 100:], edge[90:130, -2:] = 255, 255, 255
    dots = np.where(rng.random((200, 300)) < 0.001, 255, 0).astype(np.uint8)
    for case, mask in enumerate((edge, dots)):
        assert_equal(image_scores(noise, mask), maps.reference([(noise, mask)]), maps.KEYS, case)


def test_masks_of_one_kind() -> None:
    pred, mask = maps.blob(0)
    for value in (0, 128, 129, 255):
        uniform = np.full_like(mask, value)
        assert_equal(image_scores(pred, uniform), maps.reference([(pred, uniform)]), maps.KEYS, value)


def test_any_memory_layout() -> None:
    pred, mask = maps.blob(1)
    turned = image_scores(pred.T, mask[::-1].T)
    straight = image_scores(np.ascontiguousarray(pred.T), np.ascontiguousarray(mask[::-1].T))
    assert np.array_equal(np.hstack(turned), np.hstack(straight))


def test_iou_at_half() -> None:
    pred = np.array([[0, 127, 128, 255]], np.uint8)
    mask = np.array([[0, 255, 255, 128]], np.uint8)
    assert image_scores(pred, mask).IoU == pytest.approx(1 / 3)
    assert image_scores(pred * 0, mask * 0).IoU == 1
    assert image_scores(pred, mask * 0).IoU == 0


def test_a_data_set_has_the_maximum_of_its_mean_curve() -> None:
    pairs = [maps.blob(seed) for seed in range(5)]
    metrics = SegmentationMetrics()
    for pair in pairs:
        metrics.update(*pair)
    found, expected = metrics.compute(), maps.reference(pairs)
    assert_equal(found, expected, maps.TABLE, "five images")
    best_of_each = np.mean([image_scores(*pair).fm_curve.max() for pair in pairs])
    assert best_of_each > found["maxFm"] + 1e-4


def test_threads_and_order_change_nothing() -> None:
    pairs = [maps.blob(seed) for seed in range(20)]
    found = []
    for workers, order in ((0, 1), (3, -1)):
        metrics = SegmentationMetrics(workers)
        for pair in pairs[::order]:
            metrics.update(*(torch.from_numpy(image) for image in pair))
        assert len(metrics) == 20
        found.append(metrics.compute())
    assert found[0] == found[1]


def test_metrics_travel_and_go_on() -> None:
    metrics = SegmentationMetrics(2)
    for seed in range(3):
        metrics.update(*maps.blob(seed))
    again = pickle.loads(pickle.dumps(metrics))
    again.update(*maps.blob(3))
    metrics.update(*maps.blob(3))
    assert again.compute() == metrics.compute()
    assert len(again) == 4


def test_processes_are_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each image counts once, whichever process has it; a process without images takes part too."""
    scores = [image_scores(*maps.blob(seed)) for seed in range(5)]
    shares = [scores[::2], [], scores[1::2]]

    def gather(shards: list[Any], own: Any) -> None:
        assert len(own) == 3
        shards[:] = shares

    for name, value in (("is_initialized", lambda: True), ("get_world_size", lambda: 3), ("all_gather_object", gather)):
        monkeypatch.setattr(torch.distributed, name, value)
    metrics = SegmentationMetrics(0)
    for seed in (0, 2, 4):
        metrics.update(*maps.blob(seed))
    assert metrics.compute() == dataset_scores(scores)


@pytest.mark.parametrize(
    ("pred", "mask", "message"),
    [
        (np.zeros((4, 5)), np.zeros((4, 5), np.uint8), r"image 1: a map of float64 \(4, 5\).*uint8"),
        (np.zeros((4, 5), np.uint8), np.zeros((1, 4, 5), np.uint8), r"image 1: a mask of uint8 \(1, 4, 5\).*uint8"),
        (np.zeros((4, 5), np.uint8), np.zeros((5, 4), np.uint8), "a map of 4 x 5 for a mask of 5 x 4.*resize"),
        (np.zeros((0, 5), np.uint8), np.zeros((0, 5), np.uint8), "a map of 0 x 5"),
    ],
)
def test_what_cannot_be_compared(pred: np.ndarray, mask: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SegmentationMetrics().update(pred, mask)


def test_no_images() -> None:
    with pytest.raises(InputError, match=r"no images were scored.*at least one"):
        SegmentationMetrics().compute()
