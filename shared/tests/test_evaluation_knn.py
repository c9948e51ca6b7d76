"""k-NN classification against brute force."""

from __future__ import annotations

import math
from collections import defaultdict
from unittest import mock

import pytest
import torch
from torch import Tensor

from vireo.errors import InputError
from vireo.evaluation import Features, knn, knn_error


def made(features: Tensor, labels: list[int] | Tensor) -> Features:
    labels = torch.as_tensor(labels)
    return Features(features, labels, torch.arange(len(labels)))


def clusters(n: int, classes: int, seed: int, noise: float = 2.0) -> Features:
    centres = torch.randn(classes, 16, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    return made(centres[labels] + noise * torch.randn(n, 16, generator=generator), labels)


def brute_force(
    train: Features, test: Features, k: int, temperature: float | None, tops: tuple[int, ...]
) -> list[float]:
    """Errors in percent, one test sample and one neighbour at a time."""
    wrong = [0] * len(tops)
    for row, label in zip(test.features.double(), test.labels.tolist()):
        similarity = [float(row @ other / (row.norm() * other.norm())) for other in train.features.double()]
        order = sorted(range(len(train)), key=lambda i: (-similarity[i], i))[:k]
        votes: dict[int, float] = defaultdict(float)
        for i in order:
            votes[int(train.labels[i])] += 1.0 if temperature is None else math.exp(similarity[i] / temperature)
        ranking = sorted(votes, key=lambda c: (-votes[c], c))
        for position, top in enumerate(tops):
            wrong[position] += label not in ranking[:top]
    return [100 * count / len(test) for count in wrong]


@pytest.mark.parametrize("temperature", [0.07, 1.0, None])
@pytest.mark.parametrize("k", [1, 7, 20])
def test_against_brute_force(temperature: float | None, k: int) -> None:
    train, test = clusters(90, 9, seed=1), clusters(40, 9, seed=2)
    errors = knn_error(train, test, k, temperature)
    expected = brute_force(train, test, k, temperature, (1, 5))
    assert list(errors.values()) == pytest.approx(expected)
    assert list(errors) == ["top1_error", "top5_error"]
    assert 0 < errors["top1_error"] < 100 * 8 / 9


def test_blocks_change_nothing() -> None:
    train, test = clusters(90, 9, seed=1), clusters(40, 9, seed=2)
    value, position = knn.nearest(train.features, test.features, 12, torch.device("cpu"))
    whole = knn_error(train, test, 12)
    with mock.patch.multiple(knn, _TRAIN_ROWS=7, _TEST_ROWS=11):  # blocks smaller than the number of neighbours
        blocked_value, blocked_position = knn.nearest(train.features, test.features, 12, torch.device("cpu"))
        assert knn_error(train, test, 12) == whole
    assert torch.equal(blocked_position, position)
    torch.testing.assert_close(blocked_value, value, atol=1e-6, rtol=0)


@pytest.mark.parametrize("block", [3, 1000])
def test_equal_neighbours_are_taken_in_their_order(block: int) -> None:
    row = torch.ones(10, 4) * torch.tensor([1.0, 4.0]).repeat(5)[:, None]  # powers of two: exactly the same direction
    with mock.patch.object(knn, "_TRAIN_ROWS", block):
        _, position = knn.nearest(row, torch.ones(2, 4), 5, torch.device("cpu"))
    assert position.tolist() == [[0, 1, 2, 3, 4]] * 2


@pytest.mark.parametrize("temperature", [0.07, None])
def test_equal_votes_go_to_the_lower_class(temperature: float | None) -> None:
    train = made(torch.eye(3)[[0, 0, 1, 1]], [2, 1, 0, 0])
    test = made(torch.eye(3)[[0, 0]], [1, 2])
    assert knn_error(train, test, 2, temperature, ks=(1,)) == {"top1_error": 50.0}


def test_a_class_without_votes_is_not_among_the_first_five() -> None:
    train = made(torch.eye(8), list(range(8)))
    test = made(torch.eye(8)[[7, 7]], [7, 0])
    assert knn_error(train, test, 1) == {"top1_error": 50.0, "top5_error": 50.0}


def test_five_classes_have_no_top5_error() -> None:
    train = made(torch.eye(5), list(range(5)))
    assert knn_error(train, train, 1) == {"top1_error": 0.0}


def test_small_temperature_is_the_nearest_neighbour() -> None:
    train, test = clusters(90, 9, seed=1), clusters(40, 9, seed=2)
    assert knn_error(train, test, 20, 1e-6, ks=(1,)) == knn_error(train, test, 1, ks=(1,))


def changed(name: str, value: Tensor) -> Features:
    parts = {"features": torch.ones(4, 2), "labels": torch.arange(4), "index": torch.arange(4), name: value}
    return Features(**parts)


GOOD = made(torch.ones(4, 2), [0, 1, 2, 3])


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (
            changed("features", torch.tensor([[1.0, 2], [1, torch.inf], [0, 0], [1, 1]])),
            GOOD,
            "row 1 .sample 1. is not",
        ),
        (GOOD, changed("labels", torch.tensor([0, 1, -2, 3])), "label -2 of row 2 is negative"),
        (GOOD, changed("features", torch.ones(4, 3)), "training rows have 2 features, test rows 3"),
        (changed("labels", torch.arange(3)), GOOD, "4 rows with 3 labels"),
        (GOOD, made(torch.ones(0, 2), torch.zeros(0, dtype=torch.int64)), "no samples"),
    ],
)
def test_sets_that_do_not_fit(train: Features, test: Features, message: str) -> None:
    with pytest.raises(InputError, match=message):
        knn_error(train, test, 1)


@pytest.mark.parametrize("k", [0, 5])
def test_k_out_of_range(k: int) -> None:
    with pytest.raises(InputError, match="not between 1 and the 4 training samples"):
        knn_error(GOOD, GOOD, k)


def test_temperature_out_of_range() -> None:
    with pytest.raises(InputError, match="temperature 0 is not positive"):
        knn_error(GOOD, GOOD, 1, temperature=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu() -> None:
    train, test = clusters(900, 9, seed=1), clusters(400, 9, seed=2)
    assert knn_error(train, test, device="cuda") == pytest.approx(knn_error(train, test), abs=0.5)
