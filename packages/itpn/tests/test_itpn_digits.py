"""Pictures of digits: the same for the same arguments, labels where the digits are, evaluation digits apart."""

from __future__ import annotations

import pytest
import torch

from itpn.digits import CLASSES, TRAIN_DIGITS, DigitImages, DigitSegmentation, digit_images
from vireo.errors import InputError


def test_pictures_are_functions_of_their_place() -> None:
    one, other = (DigitSegmentation(6, 48, train=True, seed=3) for _ in range(2))
    image, target = one[4]
    assert image.shape == (3, 48, 48)
    assert torch.equal(image, other.with_indices([4])[0][0])
    assert torch.equal(image, DigitImages(6, 48, train=True, seed=3)[4][0])
    assert not torch.equal(image, DigitSegmentation(6, 48, train=True, seed=4)[4][0])
    assert not torch.equal(image, DigitSegmentation(6, 48, train=False, seed=3)[4][0])
    assert target["labels"].shape == (48, 48)
    assert int(target["labels"].max()) < len(CLASSES)


def test_labels_stand_where_ink_is() -> None:
    data = DigitSegmentation(30, 64, train=True)
    kinds = set()
    for index in range(len(data)):
        labels = data.load_labels(index)
        share = float((labels > 0).float().mean())
        assert 0.02 < share < 0.4
        kinds |= set(labels.unique().tolist())
    assert kinds == set(range(11))


def test_every_digit_is_in_both_parts() -> None:
    inks, shown = digit_images()
    assert inks.shape == (1797, 8, 8)
    assert float(inks.max()) == 1.0
    assert set(shown[:TRAIN_DIGITS]) == set(shown[TRAIN_DIGITS:]) == set(range(10))


def test_no_pictures_and_too_small_ones() -> None:
    with pytest.raises(InputError, match="not positive"):
        DigitSegmentation(0, train=True)
    with pytest.raises(InputError, match="no room"):
        DigitImages(3, 16, train=True)
