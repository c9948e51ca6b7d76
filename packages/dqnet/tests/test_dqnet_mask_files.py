"""Folders of images and masks: what is a pair, and what is said of the rest."""

from __future__ import annotations

from pathlib import Path

import dqnet_trees as trees
import pytest
import torch

from dqnet.mask_files import MaskFolders, pair_folders
from vireo.errors import InputError


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    images, masks = tmp_path / "images", tmp_path / "masks"
    trees.write_pairs(images, masks, ["c", "a", "b"])
    return images, masks


def stems(dataset: MaskFolders) -> list[str]:
    return [dataset.name(index) for index in range(len(dataset))]


def test_pairs_are_the_sorted_names(folders: tuple[Path, Path]) -> None:
    dataset = MaskFolders.of(*folders)
    assert stems(dataset) == ["a", "b", "c"]
    assert dataset.skipped == dataset.notes == []
    image, target = dataset[1]
    assert image.dtype == target["mask"].dtype == torch.uint8
    assert image.shape == (3, *target["mask"].shape)
    assert int(target["index"]) == 1
    assert dataset.mask_path(1) == folders[1] / "b.png"


def test_subsets_number_their_samples_anew(folders: tuple[Path, Path]) -> None:
    dataset = MaskFolders.of(*folders).with_indices([2, 0])
    assert stems(dataset) == ["c", "a"]
    assert int(dataset[1][1]["index"]) == 1


def test_suffixes_in_any_case_and_of_any_known_kind(tmp_path: Path) -> None:
    for number, (image, mask) in enumerate(
        ((".JPG", ".PNG"), (".jpeg", ".png"), (".Png", ".bmp"), (".bmp", ".jpg"), (".webp", ".webp"))
    ):
        trees.write_image(tmp_path / "images" / f"{number}{image}", seed=number)
        trees.write_image(tmp_path / "masks" / f"{number}{mask}", trees.square_mask())
    dataset = MaskFolders.of(tmp_path / "images", tmp_path / "masks")
    assert stems(dataset) == ["0", "1", "2", "3", "4"]
    assert all(dataset[index][0].shape == (3, *trees.SIDES) for index in range(5))


def test_a_name_with_dots_keeps_them(tmp_path: Path) -> None:
    trees.write_pairs(tmp_path / "images", tmp_path / "masks", ["a.b", "a.c"])
    assert stems(MaskFolders.of(tmp_path / "images", tmp_path / "masks")) == ["a.b", "a.c"]


def test_one_folder_may_hold_both(tmp_path: Path) -> None:
    trees.write_pairs(tmp_path, tmp_path, ["a", "b"])
    dataset = MaskFolders.of(tmp_path, tmp_path)
    assert [dataset.image_path(0).name, dataset.mask_path(0).name] == ["a.jpg", "a.png"]
    assert len(dataset) == 2


@pytest.mark.parametrize("lost", ["mask", "image"])
def test_a_missing_partner_is_refused_or_listed(lost: str, folders: tuple[Path, Path]) -> None:
    images, masks = folders
    kept = images / "b.jpg" if lost == "mask" else masks / "b.png"
    (masks / "b.png" if lost == "mask" else images / "b.jpg").unlink()
    with pytest.raises(InputError, match=rf"{kept.name}: there is no {lost} b\..*data\.on_error=skip"):
        MaskFolders.of(images, masks)
    dataset = MaskFolders.of(images, masks, on_error="skip")
    assert stems(dataset) == ["a", "c"]
    (line,) = dataset.skipped
    assert f"there is no {lost} b." in line


def test_masks_to_spare_can_be_noted_instead(folders: tuple[Path, Path]) -> None:
    (folders[0] / "b.jpg").unlink()
    pairs = pair_folders(*folders, spare_masks=True)
    assert len(pairs.files) == 2
    assert pairs.skipped == []
    assert "have no image" in pairs.notes[0]


def test_two_files_of_one_name_are_refused_or_listed(folders: tuple[Path, Path]) -> None:
    trees.write_image(folders[0] / "b.png")
    with pytest.raises(InputError, match=r"b\.png: b\.jpg has the same name"):
        MaskFolders.of(*folders)
    dataset = MaskFolders.of(*folders, on_error="skip")
    assert dataset.image_path(1).name == "b.jpg"
    assert len(dataset.skipped) == 1


def test_other_files_are_noted_and_hidden_ones_are_not(folders: tuple[Path, Path]) -> None:
    (folders[0] / "readme.txt").write_text("")
    (folders[0] / ".DS_Store").write_text("")
    dataset = MaskFolders.of(*folders)
    assert dataset.notes == [f"1 entries of {folders[0]} are no images and were left alone (first: readme.txt)"]


def test_a_list_chooses_pairs(folders: tuple[Path, Path], tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("c\n\n a \n")
    pairs = pair_folders(*folders, names=names)
    assert [image.stem for image, _ in pairs.files] == ["a", "c"]
    names.write_text("c\nd\n")
    with pytest.raises(InputError, match=r"neither image nor mask d\."):
        pair_folders(*folders, names=names)
    assert len(pair_folders(*folders, names=names, on_error="skip").skipped) == 1
    with pytest.raises(InputError, match="list cannot be read"):
        pair_folders(*folders, names=tmp_path / "none.txt")


def test_a_mask_of_another_size_is_refused_or_listed(folders: tuple[Path, Path]) -> None:
    trees.write_image(folders[1] / "b.png", trees.square_mask(size=(12, 15)))
    message = r"b\.png: mask is 15x12 pixels, its image 16x12"
    dataset = MaskFolders.of(*folders)
    with pytest.raises(InputError, match=message):
        dataset.check_images()
    with pytest.raises(InputError, match=message):
        dataset[1]
    dataset = MaskFolders.of(*folders, on_error="skip")
    dataset.check_images()
    assert stems(dataset) == ["a", "c"]
    assert len(dataset.skipped) == 1


def test_only_decoding_finds_what_is_wrong_inside(folders: tuple[Path, Path]) -> None:
    trees.write_image(folders[1] / "b.png", trees.square_mask() // 255)
    path = folders[0] / "c.jpg"
    path.write_bytes(path.read_bytes()[:-60])
    dataset = MaskFolders.of(*folders, on_error="skip")
    dataset.check_images()
    assert len(dataset) == 3
    dataset.check_images(decode=True)
    assert stems(dataset) == ["a"]
    assert [Path(line.split(":")[0]).name for line in dataset.skipped] == ["b.png", "c.jpg"]


def test_nothing_to_read_is_an_error(folders: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        MaskFolders.of(folders[0], tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no image has a mask"):
        MaskFolders.of(folders[0], tmp_path / "empty", on_error="skip")
    for path in folders[1].iterdir():
        path.write_bytes(b"")
    with pytest.raises(InputError, match="no pair can be read"):
        MaskFolders.of(*folders, on_error="skip").check_images()
    with pytest.raises(InputError, match=r"data\.on_error"):
        MaskFolders.of(*folders, on_error="never")  # type: ignore[arg-type]
