"""Pre-training steps on image files: any layout and format, and a thousand broken JPEGs that must not end a run."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from beyond_masking import TokenPretrainModel
from vireo.data import Compose, ImageTree, Loader, Normalize, RandomResizedCrop, stack_classification
from vireo.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")


def tiny(degradation: str = "zoomed_in") -> TokenPretrainModel:
    sizes: dict[str, Any] = {"embed_dim": 32, "depth": 1, "num_heads": 2}
    decoder: dict[str, Any] = {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}
    torch.manual_seed(0)
    return TokenPretrainModel(degradation, 0.75, img_size=32, patch_size=8, **sizes, **decoder)


def loader_of(root: Path, crop_size: int, batch_size: int = 8, **settings: Any) -> Loader:
    return Loader(
        ImageTree(root),
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        transform=RandomResizedCrop(crop_size),
        device_transform=Compose(stack_classification, Normalize()),
        **settings,
    )


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 56, 3), dtype=np.uint8))


def encoded(seed: int) -> bytes:
    file = io.BytesIO()
    picture(seed).save(file, "JPEG", progressive=bool(seed % 2))
    return file.getvalue()


def save(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def losses_of(model: TokenPretrainModel, loader: Loader) -> Tensor:
    torch.manual_seed(1)
    return torch.stack([model(images).loss.detach() for images, _ in loader])


@pytest.mark.parametrize("degradation", ["zoomed_in", "zoomed_out", "distorted"])
def test_every_layout_trains_alike(tmp_path: Path, degradation: str) -> None:
    layouts = {"flat": "{:02d}.jpg", "classes": "n{:02d}/picture.JPEG", "nested": "{:02d}/deep/er/0.jpeg"}
    model = tiny(degradation)
    losses = {}
    for layout, name in layouts.items():
        for seed in range(16):
            save(tmp_path / layout / name.format(seed), encoded(seed))
        losses[layout] = losses_of(model, loader_of(tmp_path / layout, model.crop_size))
    assert losses["flat"].shape == (2,)
    assert losses["flat"].isfinite().all()
    assert torch.equal(losses["classes"], losses["flat"])
    assert torch.equal(losses["nested"], losses["flat"])


def test_mixed_formats_in_one_batch(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    picture(0).save(tmp_path / "turned.jpg", exif=turned)
    picture(1).convert("L").save(tmp_path / "grey.jpg")
    picture(2).convert("CMYK").save(tmp_path / "cmyk.jpg")
    picture(3).save(tmp_path / "colour.PNG")
    picture(4).convert("RGBA").save(tmp_path / "alpha.png")
    Image.fromarray(np.arange(40 * 56, dtype=np.uint16).reshape(40, 56) * 29).save(tmp_path / "deep.png")
    picture(6).save(tmp_path / "colour.webp")
    picture(7).save(tmp_path / "colour.bmp")
    model = tiny()
    here = loader_of(tmp_path, model.crop_size)
    losses = losses_of(model, here)
    assert losses.shape == (1,)
    assert losses.isfinite().all()
    assert torch.equal(losses_of(model, loader_of(tmp_path, model.crop_size, workers=2)), losses)


def broken_jpegs(root: Path, count: int) -> None:
    """JPEGs with bytes changed, taken out or put in, or cut off, a few of them empty or text."""
    rng = np.random.default_rng(0)
    for number in range(count):
        data = bytearray(encoded(number % 6))
        for _ in range(rng.integers(1, 6)):
            place, length = int(rng.integers(2, len(data))), int(rng.integers(4))
            data[place : place + length] = rng.bytes(int(rng.integers(4)))
        if number % 5 == 0:
            del data[int(rng.integers(len(data))) :]
        save(root / f"{number % 7}" / f"{number:04d}.jpg", {13: b"", 14: b"<html>404</html>"}.get(number, bytes(data)))


def test_a_thousand_broken_jpegs_do_not_end_a_run(tmp_path: Path) -> None:
    """Every batch of the pass is full and its loss finite; what could not be read is listed by name."""
    broken_jpegs(tmp_path, 1000)
    model = tiny()
    loader = loader_of(tmp_path, model.crop_size, batch_size=100, workers=2, on_error="skip")
    sizes = []
    batches: list[Any] = list(loader)
    for images, targets in batches:
        sizes.append(tuple(images.shape))
        assert len(targets["index"]) == len(images)
        assert model(images).loss.isfinite()
    assert sizes == [(100, 3, model.crop_size, model.crop_size)] * 10
    assert 100 < len(loader.skipped) < 900
    assert all(line.startswith(str(tmp_path)) for line in loader.skipped)
    for name in ("6/0013.jpg: image file is empty", "0/0014.jpg: not a JPEG"):
        assert any(name in line for line in loader.skipped)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_named(tmp_path: Path, workers: int) -> None:
    for seed in range(8):
        save(tmp_path / f"{seed}.jpg", encoded(seed))
    path = save(tmp_path / "class" / "cut.jpg", encoded(0)[:-500])
    model = tiny()
    with pytest.raises(InputError, match=str(path)):
        losses_of(model, loader_of(tmp_path, model.crop_size, batch_size=9, workers=workers))
