"""Every kind of image file becomes the same upright uint8 RGB tensor, and bombs are refused unopened."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from vireo.data import decode
from vireo.data.decode import decode_image, decode_jpeg_batch
from vireo.data.header import read_header
from vireo.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")


def picture(height: int = 24, width: int = 40) -> np.ndarray:
    ramp = np.linspace(0, 255, height * width).reshape(height, width).astype(np.uint8)
    return np.stack([ramp, ramp[::-1], ramp[:, ::-1]], axis=-1)


@pytest.fixture(params=["torchvision", "opencv"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "opencv":
        monkeypatch.setattr(decode, "has_torchvision_decoder", lambda: False)
    else:
        assert decode.has_torchvision_decoder()
    return request.param


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("colour.jpg", "RGB"),
        ("gray.jpg", "L"),
        ("cmyk.jpg", "CMYK"),
        ("colour.png", "RGB"),
        ("palette.png", "P"),
        ("alpha.png", "RGBA"),
        ("gray_alpha.png", "LA"),
        ("black_white.png", "1"),
        ("colour.webp", "RGB"),
        ("alpha.webp", "RGBA"),
        ("colour.bmp", "RGB"),
    ],
)
def test_any_colour_mode_becomes_rgb(tmp_path: Path, backend: str, name: str, mode: str) -> None:
    Image.fromarray(picture()).convert(mode).save(tmp_path / name)
    image = decode_image(tmp_path / name)
    expected = np.asarray(Image.open(tmp_path / name).convert("RGB")).astype(int)
    assert image.dtype == torch.uint8
    assert image.shape == (3, 24, 40)
    assert np.abs(image.permute(1, 2, 0).numpy() - expected).max() <= 1  # CMYK is rounded differently by OpenCV
    assert read_header(tmp_path / name).size == (24, 40)


def png_16_bit(samples: np.ndarray) -> bytes:
    """A 16-bit RGB PNG, which Pillow cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = samples.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_16_bit_samples_keep_their_upper_byte(tmp_path: Path, backend: str) -> None:
    samples = np.random.default_rng(0).integers(0, 65536, (6, 5, 3), np.uint16)
    (tmp_path / "a.png").write_bytes(png_16_bit(samples))
    image = decode_image(tmp_path / "a.png").permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(image, samples >> 8)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_exif_orientation_is_applied(tmp_path: Path, backend: str, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned{suffix}"
    Image.fromarray(picture()).save(path, exif=exif)
    stored = torch.from_numpy(np.asarray(Image.open(path).convert("RGB")).copy()).permute(2, 0, 1)
    upright = {
        1: stored,
        2: stored.flip(2),
        3: stored.rot90(2, (1, 2)),
        4: stored.flip(1),
        5: stored.transpose(1, 2),
        6: stored.rot90(-1, (1, 2)),
        7: stored.transpose(1, 2).rot90(2, (1, 2)),
        8: stored.rot90(1, (1, 2)),
    }[orientation]
    image = decode_image(path)
    assert torch.equal(image, upright)
    assert read_header(path).size == tuple(image.shape[1:])


def test_header_beyond_the_first_read_is_found(tmp_path: Path) -> None:
    Image.fromarray(picture()).save(tmp_path / "a.jpg", icc_profile=bytes(200_000))
    assert read_header(tmp_path / "a.jpg").size == (24, 40)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_file_cut_off_is_an_error(tmp_path: Path, backend: str, suffix: str) -> None:
    path = tmp_path / f"half{suffix}"
    Image.fromarray(picture(200, 300)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=f"half{suffix}: .*cut off|half{suffix}: image cannot be decoded"):
        decode_image(path)


def test_damaged_png_is_an_error_not_a_crash(tmp_path: Path, backend: str) -> None:
    data = png_16_bit(np.zeros((6, 5, 3), np.uint16))
    start = data.index(b"IDAT")
    (length,) = struct.unpack(">I", data[start - 4 : start])
    body = bytearray(data[start : start + 4 + length])
    body[-1] ^= 0xFF  # the checksum inside the compressed pixels
    resealed = data[:start] + bytes(body) + struct.pack(">I", zlib.crc32(body)) + data[start + 8 + length :]
    damaged = bytearray(data)
    damaged[start + 6] ^= 0xFF
    for content in (bytes(damaged), resealed):
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(InputError, match=r"a\.png: (PNG is cut off or damaged|image cannot be decoded)"):
            decode_image(tmp_path / "a.png")


def test_file_that_is_no_image_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "page.jpg"
    for content, message in [(b"<html></html>", "not a JPEG, PNG"), (b"", "empty"), (b"\xff\xd8\xff", "cut off")]:
        path.write_bytes(content)
        with pytest.raises(InputError, match=message) as caught:
            decode_image(path)
        assert caught.value.where == str(path)
    with pytest.raises(InputError, match="missing"):
        decode_image(tmp_path / "nowhere.jpg")
    with pytest.raises(InputError, match="cannot be read"):
        read_header(tmp_path)


def test_decompression_bomb_is_refused_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("a decoder was called")

    monkeypatch.setattr(decode, "_decode_torchvision", never)
    monkeypatch.setattr(decode, "_decode_opencv", never)
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header + bytes(4) + struct.pack(">I", 4) + b"IDAT"
    jpeg = b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", 17, 8, 60_000, 60_000, 3)
    for name, data in (("bomb.png", png), ("bomb.jpg", jpeg)):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=rf"{name}: image announces 60000x60000 pixels, over the limit"):
            decode_image(tmp_path / name)
    Image.fromarray(picture()).save(tmp_path / "small.png")
    with pytest.raises(InputError, match="over the limit of 959"):
        decode_image(tmp_path / "small.png", max_pixels=959)


def encoded_batch(folder: Path) -> list[bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture()).save(folder / "a.jpg", quality=95)
    Image.fromarray(picture(32, 16)).save(folder / "turned.jpg", quality=95, exif=exif)
    Image.fromarray(picture()).convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    Image.fromarray(picture()).convert("L").save(folder / "gray.jpg", quality=95)
    Image.fromarray(picture()).save(folder / "b.png")
    return [(folder / name).read_bytes() for name in ("a.jpg", "turned.jpg", "cmyk.jpg", "gray.jpg", "b.png")]


def test_batch_on_cpu_equals_single_images(tmp_path: Path) -> None:
    encoded = encoded_batch(tmp_path)
    images = decode_jpeg_batch(encoded, "cpu")
    assert [tuple(image.shape) for image in images] == [(3, 24, 40), (3, 16, 32), (3, 24, 40), (3, 24, 40), (3, 24, 40)]
    assert all(torch.equal(image, decode.decode_bytes(data)) for image, data in zip(images, encoded))
    with pytest.raises(InputError, match="image 1 of the batch"):
        decode_jpeg_batch([encoded[0], b"nothing"], "cpu")
    with pytest.raises(InputError, match=r"x\.jpg"):
        decode_jpeg_batch([encoded[0][:-40]], "cpu", names=["x.jpg"])


def test_batch_falls_back_to_the_cpu_where_nvjpeg_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def broken(data: list[torch.Tensor], **kwargs: object) -> None:
        calls.append(len(data))
        raise RuntimeError("decode_jpegs_cuda: torchvision not compiled with nvJPEG support")

    monkeypatch.setattr(torchvision.io, "decode_jpeg", broken)
    assert decode._decode_nvjpeg(encoded_batch(tmp_path)[:2], torch.device("cpu")) == []
    assert calls == [2]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_nvjpeg_agrees_with_the_cpu(tmp_path: Path) -> None:
    encoded = encoded_batch(tmp_path)
    for image, data in zip(decode_jpeg_batch(encoded, "cuda"), encoded, strict=True):
        assert image.device.type == "cuda"
        difference = (image.cpu().int() - decode.decode_bytes(data).int()).abs()
        assert difference.float().mean() < 2
