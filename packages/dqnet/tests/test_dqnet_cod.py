"""The published sets in the layouts in which they are handed out, in little."""

from __future__ import annotations

import shutil
from pathlib import Path

import dqnet_trees as trees
import pytest

from dqnet import cod
from dqnet.cod import available_test_sets, build_cod_train, cod_test, cod_train, identical_images
from dqnet.data import build_dataset
from dqnet.mask_files import Pairs
from vireo.errors import InputError


@pytest.fixture(autouse=True)
def small_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cod, "TRAIN_COUNTS", trees.TRAIN_COUNTS)
    monkeypatch.setattr(cod, "TEST_COUNTS", trees.TEST_COUNTS)


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    trees.write_authors_archives(tmp_path)
    return tmp_path


@pytest.fixture
def packaged(tmp_path: Path) -> Path:
    trees.write_packaged_archives(tmp_path)
    return tmp_path


def names(pairs: Pairs) -> list[str]:
    assert all(image.stem == mask.stem for image, mask in pairs.files)
    return [image.stem for image, _ in pairs.files]


def test_published_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert sum(cod.TRAIN_COUNTS.values()) == 4040
    assert cod.TEST_COUNTS == {"CAMO": 250, "CHAMELEON": 76, "COD10K": 2026, "NC4K": 4121}
    assert cod.TEST_SETS == ("CAMO", "CHAMELEON", "COD10K", "NC4K")


def test_training_set_of_the_authors_archives(archives: Path) -> None:
    pairs = cod_train(archives)
    assert sorted(names(pairs)) == sorted([*trees.CAMO, *trees.COD10K])
    assert pairs.skipped == []
    (note,) = pairs.notes  # the masks of CAMO's test images
    assert "1 masks" in note
    assert cod_train(archives.parent).files == pairs.files  # one folder further up


def test_training_set_of_the_packaged_archive(packaged: Path) -> None:
    assert sorted(names(cod_train(packaged))) == sorted([*trees.CAMO, *trees.COD10K])
    assert len(cod_train(packaged / "TrainDataset").files) == 5  # the root is the set itself
    trees.write_pairs(packaged / "TrainDataset" / "Imgs", packaged / "TrainDataset" / "GT", trees.NON_CAMOUFLAGED)
    pairs = cod_train(packaged)
    assert len(pairs.files) == 5
    assert "show nothing camouflaged" in pairs.notes[0]


def test_test_sets_of_both_kinds_of_archive(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert available_test_sets(archives) == ["CAMO", "COD10K"]
    assert names(cod_test(archives, "CAMO")) == list(trees.CAMO_TEST)
    assert names(cod_test(archives, "COD10K")) == sorted(trees.COD10K_TEST)
    packaged = tmp_path_factory.mktemp("packaged")
    trees.write_packaged_archives(packaged)
    assert available_test_sets(packaged) == list(cod.TEST_SETS)
    assert {name: len(cod_test(packaged, name).files) for name in cod.TEST_SETS} == trees.TEST_COUNTS


def test_a_training_folder_of_a_sets_name_is_no_test_set(tmp_path: Path) -> None:
    trees.write_pairs(tmp_path / "Train" / "CAMO" / "Imgs", tmp_path / "Train" / "CAMO" / "GT", trees.CAMO)
    assert available_test_sets(tmp_path) == []


def test_what_is_missing_is_named_with_its_source(archives: Path) -> None:
    shutil.rmtree(archives / "COD10K-v3")
    with pytest.raises(InputError, match=r"neither traindataset.* nor cod10k.*is there\. COD10K is published by"):
        cod_train(archives)
    with pytest.raises(InputError, match=r"no test set NC4K.*Rank-Net"):
        cod_test(archives, "NC4K")
    with pytest.raises(InputError, match=r"data\.test_set: unknown test set 'DUTS'"):
        cod_test(archives, "DUTS")
    with pytest.raises(InputError, match="no such folder"):
        cod_train(archives / "none")


def test_other_numbers_are_refused_or_noted(archives: Path) -> None:
    (archives / "COD10K-v3" / "Train" / "Image" / f"{trees.COD10K[0]}.jpg").unlink()
    (archives / "COD10K-v3" / "Test" / "Image" / f"{trees.COD10K_TEST[0]}.jpg").unlink()
    with pytest.raises(InputError, match="2 pairs of COD10K, published are 3"):
        cod_train(archives)
    assert any("published are 3" in line for line in cod_train(archives, "skip").notes)
    with pytest.raises(InputError, match="1 pairs of COD10K, published are 2"):
        cod_test(archives, "COD10K")
    assert any("published are 2" in line for line in cod_test(archives, "COD10K", "skip").notes)


def test_identical_images_are_noted(archives: Path) -> None:
    images = archives / "CAMO-V.1.0-CVIU2019" / "Images" / "Train"
    shutil.copy(images / f"{trees.CAMO[0]}.jpg", images / f"{trees.CAMO[1]}.jpg")
    pairs = cod_train(archives)
    assert len(pairs.files) == 5
    assert any(f"{trees.CAMO[1]}.jpg is {trees.CAMO[0]}.jpg" in line for line in pairs.notes)
    files = [images / f"{stem}.jpg" for stem in trees.CAMO]
    assert identical_images(files) == [(files[0], files[1])]


def test_training_set_of_two_folders(archives: Path) -> None:
    folders = archives / "CAMO-V.1.0-CVIU2019", archives / "COD10K-v3"
    dataset = build_cod_train(*folders)
    assert len(dataset) == 5
    trees.write_image(folders[1] / "Train" / "GT_Object" / f"{trees.COD10K[1]}.png", trees.square_mask(size=(9, 9)))
    with pytest.raises(InputError, match="mask is 9x9 pixels, its image 16x12"):
        build_cod_train(*folders)
    dataset = build_cod_train(*folders, on_error="skip")
    assert len(dataset) == 4
    assert trees.COD10K[1] in dataset.skipped[0]
    with pytest.raises(InputError, match="no COD10K here"):
        build_cod_train(folders[0], folders[0].parent)


def test_training_images_alone_in_two_folders(tmp_path: Path) -> None:
    for name, stems in (("a", trees.CAMO), ("b", [*trees.COD10K, *trees.NON_CAMOUFLAGED])):
        trees.write_pairs(tmp_path / name / "Imgs", tmp_path / name / "GT", stems)
    assert len(build_cod_train(tmp_path / "a", tmp_path / "b")) == 5


def test_the_configuration_reads_them(packaged: Path) -> None:
    data = trees.data_config("cod", root=str(packaged), test_set="CHAMELEON")
    assert len(build_dataset(data, train=True)) == 5
    val = build_dataset(data, train=False)
    assert [val.name(index) for index in range(len(val))] == ["animal-1", "animal-2"]
