"""Image files to uint8 RGB tensors: torchvision's decoders for JPEG and WebP, nvJPEG on CUDA, OpenCV for the rest.

PNG goes to OpenCV because torchvision 0.29 ends the whole process on some damaged files.

Whatever the file holds (gray, CMYK, palette, 16 bits, alpha), the result is ``uint8 (3, H, W)`` RGB, upright by its
EXIF orientation. Alpha is dropped, not blended. 16-bit samples keep their upper byte.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
import torchvision.io as tvio
from torch import Tensor

from vireo.data.header import MAX_PIXELS, ImageHeader, damaged, parse_header, unreadable


def read_encoded(path: str | Path) -> bytes:
    """The bytes of an image file.

    Raises:
        InputError: the file is missing or unreadable.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error


def decode_image(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Decode an image file on the CPU.

    Args:
        path: JPEG, PNG, WebP or BMP file.
        max_pixels: limit on width x height, checked in the header before anything is decoded.

    Returns:
        ``uint8 (3, H, W)`` RGB, upright; usually channels-last in memory, as the decoders write it.

    Raises:
        InputError: the file is missing, no image, cut off, damaged or too large.
    """
    return decode_bytes(read_encoded(path), str(path), max_pixels=max_pixels)


def decode_bytes(data: bytes, where: str = "image", *, max_pixels: int = MAX_PIXELS) -> Tensor:
    """:func:`decode_image` for an encoded image in memory; ``where`` names it in errors."""
    header = parse_header(data, where, max_pixels=max_pixels)
    if header.format in ("jpeg", "webp") and has_torchvision_decoder():
        image = _decode_torchvision(data, where)
    elif _is_whole(header, data):
        image = _decode_opencv(data, where)
    else:
        raise damaged(where, f"{header.format.upper()} is cut off or damaged")
    if tuple(image.shape[1:]) != (header.height, header.width):
        raise damaged(where, f"image decodes to {tuple(image.shape)}, its header says {header.width}x{header.height}")
    return _upright(image, header.orientation)


def decode_jpeg_batch(
    encoded: Sequence[bytes],
    device: torch.device | str = "cuda",
    *,
    names: Sequence[str] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> list[Tensor]:
    """Decode a batch of encoded images onto ``device``, the JPEGs among them by nvJPEG when that is a CUDA device.

    CMYK JPEGs, other formats, and any batch that nvJPEG refuses are decoded on the CPU and copied. nvJPEG and libjpeg
    round differently: pixels agree to a few levels, not bit for bit.

    Args:
        encoded: contents of image files.
        names: one name per image for errors.

    Returns:
        ``uint8 (3, H_i, W_i)`` RGB tensors on ``device``, in order.

    Raises:
        InputError: an image is damaged or too large; nothing is decoded where a header shows it.
    """
    device = torch.device(device)
    names = [f"image {i} of the batch" for i in range(len(encoded))] if names is None else names
    headers = [parse_header(data, name, max_pixels=max_pixels) for data, name in zip(encoded, names, strict=True)]
    images: list[Tensor | None] = [None] * len(encoded)
    if device.type == "cuda":
        chosen = [i for i, header in enumerate(headers) if _nvjpeg_takes(header, encoded[i])]
        for i, image in zip(chosen, _decode_nvjpeg([encoded[i] for i in chosen], device)):
            if tuple(image.shape[1:]) == (headers[i].height, headers[i].width):
                images[i] = _upright(image, headers[i].orientation)
    return [
        decode_bytes(data, name, max_pixels=max_pixels).to(device) if image is None else image
        for image, data, name in zip(images, encoded, names)
    ]


def has_torchvision_decoder() -> bool:
    """Whether the installed torchvision was built with its image decoders."""
    try:
        return hasattr(tvio, "decode_image") and bool(torch.ops.image.decode_image)
    except (AttributeError, RuntimeError):
        return False


def _nvjpeg_takes(header: ImageHeader, data: bytes) -> bool:
    return header.format == "jpeg" and header.channels in (1, 3) and _is_whole(header, data)


def _decode_nvjpeg(encoded: list[bytes], device: torch.device) -> list[Tensor]:
    """One image per input, or an empty list where the batch has to go to the CPU."""
    if not encoded or not hasattr(tvio, "decode_jpeg"):
        return []
    try:
        tensors = [_as_tensor(data) for data in encoded]
        images: list[Tensor] = tvio.decode_jpeg(tensors, mode=tvio.ImageReadMode.RGB, device=device)
        return images
    except RuntimeError:  # no nvJPEG in this build, or a file it cannot read: the CPU decoder names the culprit
        return []


def _decode_torchvision(data: bytes, where: str) -> Tensor:
    try:
        image: Tensor = tvio.decode_image(_as_tensor(data), mode=tvio.ImageReadMode.RGB)
        return image
    except RuntimeError as error:
        raise damaged(where, f"image cannot be decoded ({_reason(error)})") from error


def _decode_opencv(data: bytes, where: str) -> Tensor:
    try:
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise damaged(where, f"image cannot be decoded ({_reason(error)})") from error
    if image is None:
        raise damaged(where, "image cannot be decoded")
    return torch.from_numpy(cv2.cvtColor(image, cv2.COLOR_BGR2RGB)).permute(2, 0, 1)


def _as_tensor(data: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(data, np.uint8).copy())  # the copy makes it writable, as torch wants it


def _is_whole(header: ImageHeader, data: bytes) -> bool:
    """False for a JPEG without end marker and a PNG with a wrong checksum: decoders fill the missing part, silently."""
    if header.format == "jpeg":
        return data.find(b"\xff\xd9", header.frame) >= 0
    return header.format != "png" or _png_is_whole(data)


def _png_is_whole(data: bytes) -> bool:
    offset, view = 8, memoryview(data)
    while offset + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, offset)
        end = offset + 8 + length
        if end + 4 > len(data) or zlib.crc32(view[offset + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            return False
        if kind == b"IEND":
            return True
        offset = end + 4
    return False


def _reason(error: Exception) -> str:
    """The decoder's own words without its source path and line."""
    return str(error).splitlines()[0].rpartition(", ")[2].strip().rstrip(".")


def _upright(image: Tensor, orientation: int) -> Tensor:
    """Undo an EXIF orientation on ``(3, H, W)``."""
    if orientation == 1:
        return image
    if orientation >= 5:
        image = image.transpose(1, 2)
    flipped = {2: (2,), 3: (1, 2), 4: (1,), 5: (), 6: (2,), 7: (1, 2), 8: (1,)}[orientation]
    return image.flip(flipped) if flipped else image
