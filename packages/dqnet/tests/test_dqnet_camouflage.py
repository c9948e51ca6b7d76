"""Generated camouflage: what is promised of the pictures, and that they are a function of seed and index."""

from __future__ import annotations

import dqnet_trees as trees
import numpy as np
import pytest
import torch

from dqnet.camouflage import GeneratedCamouflage, blob, oriented_noise
from dqnet.data import build_dataset
from vireo.errors import InputError


@pytest.fixture(scope="module")
def pictures() -> GeneratedCamouflage:
    return GeneratedCamouflage(24, side=64, seed=1)


def test_a_sample_is_a_picture_and_its_mask(pictures: GeneratedCamouflage) -> None:
    image, target = pictures[3]
    assert image.dtype == target["mask"].dtype == torch.uint8
    assert image.shape == (3, 64, 64)
    assert target["mask"].shape == (64, 64)
    assert set(target["mask"].unique().tolist()) == {0, 255}
    assert int(target["index"]) == 3
    assert pictures.name(3) == "000003"


def test_pictures_are_a_function_of_seed_and_index(pictures: GeneratedCamouflage) -> None:
    again, other = GeneratedCamouflage(5, 64, seed=1), GeneratedCamouflage(5, 64, seed=2)
    torch.manual_seed(7)
    for index in (4, 0):
        assert torch.equal(again[index][0], pictures[index][0])
        assert torch.equal(again[index][1]["mask"], pictures[index][1]["mask"])
        assert not torch.equal(again[index][0], other[index][0])
    subset = pictures.with_indices([7, 2])
    assert len(subset) == 2
    assert subset.name(1) == "000002"
    assert torch.equal(subset[0][0], pictures[7][0])
    assert int(subset[0][1]["index"]) == 0


def test_objects_have_the_stated_area(pictures: GeneratedCamouflage) -> None:
    shares = [float((pictures[i][1]["mask"] == 255).float().mean()) for i in range(len(pictures))]
    assert min(shares) > 0.05
    assert max(shares) < 0.225
    assert max(shares) > 1.5 * min(shares)


def test_brightness_does_not_tell_the_object(pictures: GeneratedCamouflage) -> None:
    differences = []
    for index in range(len(pictures)):
        image, inside = pictures[index][0].float(), pictures[index][1]["mask"] == 255
        differences.append((image[:, inside].mean(1) - image[:, ~inside].mean(1)) / image.std((1, 2)))
    assert float(torch.stack(differences).mean().abs()) < 0.05
    assert float(torch.stack(differences).abs().max()) < 0.5  # of a deviation, in any picture


def test_the_object_runs_in_another_direction(pictures: GeneratedCamouflage) -> None:
    def direction(image: torch.Tensor, where: torch.Tensor) -> tuple[float, float]:
        """Twice the angle of the gradient's main axis, as a vector weighted by how clear it is."""
        dy, dx = image[1:, :-1] - image[:-1, :-1], image[:-1, 1:] - image[:-1, :-1]
        where = where[:-1, :-1]
        c, s = (dx**2 - dy**2)[where].sum(), 2 * (dx * dy)[where].sum()
        return float(c / torch.hypot(c, s)), float(s / torch.hypot(c, s))

    turns = []
    for index in range(len(pictures)):
        image, inside = pictures[index][0].float().mean(0), pictures[index][1]["mask"] == 255
        a, b = direction(image, inside), direction(image, ~inside)
        turns.append(np.degrees(np.arccos(np.clip(a[0] * b[0] + a[1] * b[1], -1, 1))) / 2)
    assert np.median(turns) > 40  # drawn from 45 to 90 degrees


def test_textures_are_band_passed_in_their_direction() -> None:
    textures = oriented_noise(np.random.default_rng(0), [0.0, np.pi / 2], frequency=0.2, side=128)
    assert np.allclose(textures.std((1, 2)), 1, atol=1e-4)
    power = np.abs(np.fft.fft2(textures)) ** 2
    rows, columns = np.abs(np.fft.fftfreq(128))[:, None], np.abs(np.fft.fftfreq(128))[None]
    for spectrum, (fy, fx) in zip(power, ((0, 0.2), (0.2, 0))):
        assert abs((spectrum * columns).sum() / spectrum.sum() - (fx or 0.028)) < 0.02
        assert abs((spectrum * rows).sum() / spectrum.sum() - (fy or 0.028)) < 0.02


def test_blobs_have_the_area_they_are_drawn_with() -> None:
    for seed in range(5):
        filled = blob(np.random.default_rng(seed), 200, (0.08, 0.08))
        assert abs(filled.mean() - 0.08) < 2e-3


@pytest.mark.parametrize(("arguments", "word"), [((0, 64, 0), "length"), ((4, 8, 0), "side"), ((4, 64, -1), "seed")])
def test_wrong_sizes_are_refused(arguments: tuple[int, int, int], word: str) -> None:
    with pytest.raises(InputError, match=word):
        GeneratedCamouflage(*arguments)


def test_the_configuration_numbers_its_generators_as_the_notes_do() -> None:
    data = trees.data_config("generated", seed=2, train_images=3, val_images=2)
    train, val = (build_dataset(data, train=part) for part in (True, False))
    assert (len(train), len(val)) == (3, 2)
    assert torch.equal(train[1][0], GeneratedCamouflage(3, 64, seed=102)[1][0])
    assert torch.equal(val[1][0], GeneratedCamouflage(2, 64, seed=999)[1][0])
    with pytest.raises(InputError, match="would be the same"):
        build_dataset(trees.data_config("generated", seed=899), train=True)
