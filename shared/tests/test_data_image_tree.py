"""Images without labels: every layout, every format, damaged files on every path, and a thousand mutated JPEGs."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from vireo.data import Compose, ImageFolder, ImageTree, Loader, stack_classification
from vireo.data.decode import decode_bytes
from vireo.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")

HEIGHT, WIDTH = 24, 40


def picture(seed: int = 0) -> np.ndarray:
    """Smooth colours, so that JPEG and WebP change them little."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] / max(HEIGHT, WIDTH)
    waves = [np.sin(3 * x + seed), np.cos(4 * y + seed), np.sin(2 * (x + y))]
    return np.rint(127.5 + 120 * np.stack(waves, -1)).astype(np.uint8)


def save(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(seed)).save(path)
    return path


def mixed_formats(root: Path) -> dict[str, np.ndarray]:
    """Files of every kind in nested folders, and what each shows, ``(H, W, 3)``."""
    colour = picture()
    grey = np.repeat(np.asarray(Image.fromarray(colour).convert("L"))[..., None], 3, -1)
    (root / "a" / "b" / "c").mkdir(parents=True)
    image = Image.fromarray(colour)
    turned = Image.Exif()
    turned[0x0112] = 6  # stored a quarter turn to the left
    image.save(root / "a" / "colour.JPEG", quality=95, subsampling=0)
    image.rotate(90, expand=True).save(root / "a" / "turned.jpg", quality=95, subsampling=0, exif=turned)
    image.convert("L").save(root / "a" / "b" / "grey.jpg", quality=95)
    image.convert("CMYK").save(root / "a" / "b" / "c" / "cmyk.jpg", quality=95)
    image.save(root / "a" / "b" / "colour.png")
    Image.fromarray(grey[..., 0].astype(np.uint16) << 8).save(root / "deep.png")
    image.save(root / "alpha.WebP", lossless=True)
    image.save(root / "plain.bmp")
    shows = dict.fromkeys(("a/colour.JPEG", "a/turned.jpg", "a/b/c/cmyk.jpg", "a/b/colour.png"), colour)
    shows |= {"alpha.WebP": colour, "plain.bmp": colour, "a/b/grey.jpg": grey, "deep.png": grey}
    return shows


def by_index(data: ImageTree) -> Tensor:
    return torch.stack([data[index][0] for index in range(len(data))])


def by_loader(workers: int, on_error: Any = "raise") -> Callable[[ImageTree], Tensor]:
    def read(data: ImageTree) -> Tensor:
        transform = Compose(stack_classification)
        loader = Loader(
            data, batch_size=4, shuffle=False, device_transform=transform, workers=workers, on_error=on_error
        )
        return torch.cat([images for images, _ in loader])

    return read


PATHS: dict[str, Callable[[ImageTree], Tensor]] = {
    "index": by_index,
    "arrays": ImageTree.arrays,
    "loader": by_loader(0),
    "workers": by_loader(2),
}


# layouts


@pytest.mark.parametrize(
    "names",
    [
        ("cat/0.jpg", "cat/1.PNG", "dog/0.jpg"),
        ("0.jpg", "1.webp", "2.Bmp"),
        ("a-b/0.jpg", "a.jpg", "a/b/c/d/0.jpg", "a/b/c/z.jpg", "a/c.jpg", "z.jpg"),
    ],
    ids=["class folders", "flat", "nested"],
)
def test_every_layout_is_one_sorted_list(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        save(tmp_path / name)
    data = ImageTree(tmp_path)
    assert [data.image_path(index) for index in range(len(data))] == sorted(tmp_path / name for name in names)
    assert data.name(0) == str(sorted(tmp_path / name for name in names)[0])
    assert data.classes == ("images",)
    assert data.labels.tolist() == [0] * len(names)
    assert data.notes == data.skipped == []
    last = len(names) - 1
    assert data[last][1] == {"label": torch.tensor(0), "index": torch.tensor(last), "image_id": last}


def test_same_pixels_as_an_image_folder(tmp_path: Path) -> None:
    for seed, name in enumerate(("cat/0.jpg", "cat/1.png", "dog/0.jpg")):
        save(tmp_path / "train" / name, seed)
    tree, folder = ImageTree(tmp_path / "train", image_size=(12, 10)), ImageFolder(tmp_path, image_size=(12, 10))
    assert tree.arrays().shape == (3, 3, 12, 10)
    assert torch.equal(tree.arrays(), folder.arrays())
    assert torch.equal(tree.with_indices([2, 0]).arrays(), folder.arrays()[[2, 0]])


def test_other_files_are_noted_and_hidden_ones_ignored(tmp_path: Path) -> None:
    for name in ("a/0.jpg", ".thumbnails/0.jpg", "a/._0.jpg"):
        save(tmp_path / name)
    (tmp_path / "a" / "labels.csv").touch()
    (tmp_path / "readme.txt").touch()
    (tmp_path / ".DS_Store").touch()
    data = ImageTree(tmp_path)
    assert [data.image_path(0)] == [tmp_path / "a" / "0.jpg"]
    assert len(data) == len(data.notes) == 1
    assert data.notes[0].startswith("2 files")
    assert "a/labels.csv" in data.notes[0]


def test_links_are_followed_once(tmp_path: Path) -> None:
    save(tmp_path / "elsewhere" / "0.jpg")
    root = tmp_path / "root"
    save(root / "b" / "1.jpg")
    (root / "a").symlink_to(tmp_path / "elsewhere")
    (root / "b" / "around").symlink_to(root)
    (root / "b" / "self").symlink_to("self")
    (root / "z").symlink_to(root / "b")
    data = ImageTree(root)
    assert [data.image_path(index).relative_to(root).as_posix() for index in range(len(data))] == ["a/0.jpg", "b/1.jpg"]
    assert len(data.notes) == 2
    assert "b/self" in data.notes[0]
    assert data.notes[1].startswith("2 folders")
    assert "b/around" in data.notes[1]


def test_names_of_any_bytes(tmp_path: Path) -> None:
    """Names are kept as the file system has them, whether they are text or not."""
    path = save(tmp_path / "é" / "0.jpg")
    path.rename(os.fsdecode(os.fsencode(path.parent) + b"/\xff.jpg"))
    data = ImageTree(tmp_path)
    assert data.image_path(0).exists()
    assert data[0][0].shape == (3, HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "missing: there is no such folder.*data.root"),
        ("file.jpg", "file.jpg: this is a file, not a folder"),
        ("empty", "empty: no image in this folder or below it.*.webp"),
    ],
)
def test_wrong_root(tmp_path: Path, name: str, message: str) -> None:
    save(tmp_path / "file.jpg")
    (tmp_path / "empty" / "train").mkdir(parents=True)
    (tmp_path / "empty" / "train" / "labels.csv").touch()
    with pytest.raises(InputError, match=message):
        ImageTree(tmp_path / name)


def test_wrong_arguments(tmp_path: Path) -> None:
    save(tmp_path / "0.jpg")
    with pytest.raises(InputError, match=r"image_size \(0, 4\) is not positive"):
        ImageTree(tmp_path, image_size=(0, 4))
    with pytest.raises(InputError, match="'ignore' is not a choice"):
        ImageTree(tmp_path, on_error="ignore")  # type: ignore[arg-type]


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "closed" / "0.jpg")
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if path.endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match=r"closed: folder cannot be read \(Permission denied\)"):
        ImageTree(tmp_path)


# formats


def test_every_format_is_decoded_alike_on_every_path(tmp_path: Path) -> None:
    shows = mixed_formats(tmp_path)
    data = ImageTree(tmp_path)
    names = [data.image_path(index).relative_to(tmp_path).as_posix() for index in range(len(data))]
    assert sorted(names) == sorted(shows)
    expected = by_index(data)
    for name, image in zip(names, expected):
        off = np.abs(image.permute(1, 2, 0).numpy().astype(int) - shows[name])
        assert off.max() <= 12, name  # what JPEG loses; a turned or wrongly converted picture is off by 100 and more
        assert off.mean() <= 2, name
    for path, read in PATHS.items():
        assert torch.equal(read(data), expected), path


# damaged files


def damage(root: Path, kind: str) -> Path:
    """Whole images a.jpg and c.jpg, and between them a bad one."""
    for name in ("a.jpg", "c.jpg"):
        save(root / name)
    if kind == "not an image":
        path = root / "b.jpg"
        path.write_text("<html>404</html>")
    elif kind == "empty":
        path = root / "b.png"
        path.touch()
    elif kind == "missing":
        path = root / "b.jpg"
        path.symlink_to(root / "gone.jpg")
    else:
        path = save(root / f"b.{kind}")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


KINDS = ["jpg", "png", "webp", "bmp", "empty", "not an image", "missing"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_named_on_every_path(tmp_path: Path, kind: str) -> None:
    path = damage(tmp_path, kind)
    data = ImageTree(tmp_path)
    for read in PATHS.values():
        with pytest.raises(InputError, match=str(path)):
            read(data)
    with pytest.raises(InputError, match=str(path)):
        data.check_images(decode=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_skipped_and_listed_on_every_path(tmp_path: Path, kind: str) -> None:
    path = damage(tmp_path, kind)
    whole = ImageTree(tmp_path).with_indices([0, 2]).arrays()
    checked = ImageTree(tmp_path, on_error="skip")
    checked.check_images(decode=True)
    assert torch.equal(by_index(checked), whole)
    decoded = ImageTree(tmp_path, on_error="skip")
    assert torch.equal(decoded.arrays(), whole)
    skipped = [checked.skipped, decoded.skipped]
    for workers in (0, 2):
        loader = Loader(ImageTree(tmp_path), batch_size=3, shuffle=False, workers=workers, on_error="skip")
        batches: list[Any] = list(loader)
        ((images, _),) = batches
        assert torch.equal(torch.stack(images), whole)
        skipped.append(loader.skipped)
    assert [len(lines) for lines in skipped] == [1] * 4
    assert all(str(path) in lines[0] for lines in skipped)


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """``data`` with some bytes changed, cut out or put in, or its end cut off."""
    changed = bytearray(data)
    for _ in range(rng.integers(1, 9)):
        kind, place = rng.integers(3), int(rng.integers(2, len(changed)))
        length = int(rng.integers(1, 9))
        if kind == 0:
            changed[place] = rng.integers(256)
        elif kind == 1:
            changed[place:place] = rng.bytes(length)
        else:
            del changed[place : place + length]
    return bytes(changed[: rng.integers(len(changed))] if rng.random() < 0.25 else changed)


def test_mutated_jpegs_decode_or_are_refused(tmp_path: Path) -> None:
    """A crash of a decoder would end this process, or the loader's worker and with it the pass."""
    rng = np.random.default_rng(0)
    originals = []
    kinds: list[dict[str, Any]] = [{}, {"progressive": True}, {"subsampling": 0, "quality": 30}]
    for number, settings in enumerate(kinds):
        path = tmp_path / f"{number}.jpg"
        Image.fromarray(picture(number)).save(path, **settings)
        originals.append(path.read_bytes())
        path.unlink()
    for number in range(1000):
        (tmp_path / f"{number:04d}.jpg").write_bytes(mutated(originals[number % 3], rng))
    refusals: dict[str, str | None] = {}
    for path in sorted(tmp_path.iterdir()):
        try:
            image = decode_bytes(path.read_bytes(), str(path))
            assert image.dtype == torch.uint8
            assert image.ndim == 3
            assert len(image) == 3
            refusals[str(path)] = None
        except InputError as error:
            refusals[str(path)] = str(error)
    assert all(message is None or path in message for path, message in refusals.items())
    good = sum(message is None for message in refusals.values())
    assert 100 < good < 900  # both outcomes were put to the test
    loader = Loader(ImageTree(tmp_path), batch_size=50, shuffle=False, workers=1, on_error="skip")
    delivered = [int(target["index"]) for _, targets in loader for target in targets]
    assert delivered == [index for index, message in enumerate(refusals.values()) if message is None]
    assert len(loader.skipped) == 1000 - good
