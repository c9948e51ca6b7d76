"""Mixup and CutMix with draws common to all processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from timm.data import Mixup
from torch import Tensor

from vireo.data import Mixing, counter_key, seeded
from vireo.errors import InputError

KEYS = [counter_key(0, 0, step) for step in range(12)]


def batch(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, 8, 6, generator=generator), torch.randint(5, (n,), generator=generator)


@pytest.mark.parametrize("key", KEYS)
def test_is_timms_under_the_key(key: int) -> None:
    images, labels = batch(6)
    with seeded(key):
        expected = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=0.1, num_classes=5)(images.clone(), labels)
    mixed, soft_label = Mixing(5).mix(images, labels, key)
    assert torch.equal(mixed, expected[0])
    assert torch.equal(soft_label, expected[1])


def test_the_batch_stays_and_so_does_the_generator() -> None:
    images, labels = batch(6)
    copies = images.clone(), labels.clone()
    state = np.random.get_state()[1].copy()  # type: ignore[index] # noqa: NPY002
    outcomes = [Mixing(5).mix(images, labels, key)[0] for key in KEYS]
    assert torch.equal(images, copies[0])
    assert torch.equal(labels, copies[1])
    assert np.array_equal(np.random.get_state()[1], state)  # type: ignore[index] # noqa: NPY002
    assert not any(torch.equal(outcome, images) for outcome in outcomes)


def weight_of_own(images: Tensor, labels: Tensor, key: int) -> float:
    """The weight of the image itself, read off the soft label of two classes."""
    _, soft_label = Mixing(2, label_smoothing=0.0).mix(images, labels, key)
    return float(soft_label[0, 0])


def test_draws_depend_on_the_key_alone() -> None:
    one, other = batch(4), batch(10, seed=1)
    labels = [torch.arange(n).div(n / 2, rounding_mode="floor").long() for n in (4, 10)]  # partners differ
    weights = [(weight_of_own(one[0], labels[0], key), weight_of_own(other[0], labels[1], key)) for key in KEYS]
    assert all(a == b for a, b in weights)
    assert len({a for a, _ in weights}) == len(KEYS)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("n", [1, 5])
def test_odd_batch(n: int, key: int) -> None:
    images, labels = batch(n)
    mixed, soft_label = Mixing(5).mix(images, labels, key)
    middle = n // 2
    torch.testing.assert_close(mixed[middle], images[middle])  # mixed with itself
    smooth = torch.full((5,), 0.02)
    smooth[labels[middle]] = 0.92
    torch.testing.assert_close(soft_label[middle], smooth)
    others = [i for i in range(n) if i != middle]
    if others:
        pairs = Mixing(5).mix(images[others], labels[others], key)
        assert torch.equal(mixed[others], pairs[0])
        assert torch.equal(soft_label[others], pairs[1])


def test_soft_labels_follow_the_share_of_pixels() -> None:
    images = torch.stack([torch.zeros(3, 8, 6), torch.ones(3, 8, 6)])
    for key in KEYS:
        mixed, soft_label = Mixing(2, label_smoothing=0.0).mix(images, torch.tensor([0, 1]), key)
        torch.testing.assert_close(mixed.mean((1, 2, 3)), soft_label[:, 1])
        torch.testing.assert_close(soft_label.sum(1), torch.ones(2))


def test_mixup_or_cutmix_alone_or_neither() -> None:
    images, labels = torch.stack([torch.zeros(3, 8, 6), torch.ones(3, 8, 6)]), torch.tensor([0, 1])
    for key in KEYS:
        mixed, _ = Mixing(2, cutmix=0).mix(images, labels, key)
        assert len(mixed[0].unique()) == 1  # one shade
        mixed, _ = Mixing(2, mixup=0).mix(images, labels, key)
        assert set(mixed.unique().tolist()) == {0.0, 1.0}
        for mixing in (Mixing(2, mixup=0, cutmix=0, label_smoothing=0.2), Mixing(2, prob=0, label_smoothing=0.2)):
            mixed, soft_label = mixing.mix(images, labels, key)
            assert torch.equal(mixed, images)
            torch.testing.assert_close(soft_label, torch.tensor([[0.9, 0.1], [0.1, 0.9]]))


@pytest.mark.parametrize("shape", [(), (4,)])
def test_as_a_transform(shape: tuple[int, ...]) -> None:
    images, labels = batch(4)
    targets = {"label": labels, "index": torch.arange(4), "batch_key": torch.full(shape, KEYS[0])}
    mixed, result = Mixing(5)(images, targets)
    expected = Mixing(5).mix(images, labels, KEYS[0])
    assert torch.equal(mixed, expected[0])
    assert torch.equal(result["soft_label"], expected[1])
    assert list(result) == [*targets, "soft_label"]
    assert "soft_label" not in targets


def test_keys_of_samples_are_refused() -> None:
    images, labels = batch(2)
    with pytest.raises(InputError, match="keys from 3 to 4 in one batch"):
        Mixing(5).mix(images, labels, torch.tensor([4, 3]))


@pytest.mark.parametrize("name", ["mixup", "cutmix", "prob", "switch_prob", "label_smoothing"])
def test_out_of_range(name: str) -> None:
    with pytest.raises(InputError, match=f"Mixing: {name} -0.1 is not between"):
        Mixing(5, **{name: -0.1})
    if name not in ("mixup", "cutmix"):
        with pytest.raises(InputError, match=f"{name} 1.5 is not between 0 and 1"):
            Mixing(5, **{name: 1.5})
