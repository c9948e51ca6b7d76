"""Width, height and orientation of an image file, read from its first bytes without decoding a pixel.

A few hundred bytes can announce a picture of many gigabytes (a decompression bomb), and most annotation mistakes are
size mistakes: both are found here, before memory is spent. JPEG, PNG, WebP and BMP are known; nothing else is opened.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vireo.errors import InputError

MAX_PIXELS = 178_956_970
"""Default limit on width x height: the size at which Pillow, too, refuses to decode."""

_FIRST_READ = 1 << 16
_REMEDY = "Replace the file or remove its record, or set data.on_error=skip"


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What the first bytes of an image file say.

    Attributes:
        format: ``"jpeg"``, ``"png"``, ``"webp"`` or ``"bmp"``.
        height, width: pixels as stored in the file.
        orientation: EXIF orientation, 1 (upright) to 8.
        channels: colour components of a JPEG (1 gray, 3 colour, 4 CMYK), 0 where it is not known.
        frame: where a JPEG's frame header starts, in bytes; the end marker has to come after it.
    """

    format: str
    height: int
    width: int
    orientation: int = 1
    channels: int = 0
    frame: int = 0

    @property
    def size(self) -> tuple[int, int]:
        """``(height, width)`` of the upright picture."""
        return (self.width, self.height) if self.orientation >= 5 else (self.height, self.width)


class _Damaged(Exception):
    """The bytes contradict the format; the argument says how."""


class _CutOff(Exception):
    """The header needs more bytes than were given."""


def read_header(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """The header of the image file ``path``, from its first 64 KiB where those suffice.

    Raises:
        InputError: the file is missing or unreadable, no known image, damaged, or larger than ``max_pixels``.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(_FIRST_READ)
            try:
                return parse_header(start, str(path), max_pixels=max_pixels, complete=len(start) < _FIRST_READ)
            except _CutOff:
                return parse_header(start + file.read(), str(path), max_pixels=max_pixels)
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: str | Path, error: OSError) -> InputError:
    """The error for a file that the operating system does not hand over."""
    missing = isinstance(error, FileNotFoundError)
    what = "image file is missing" if missing else f"image file cannot be read ({error.strerror or error})"
    return InputError(what, str(path), _REMEDY)


def damaged(where: str, what: str) -> InputError:
    """The error for a file that is no image, or no longer one."""
    return InputError(what, where, _REMEDY)


def parse_header(data: bytes, where: str, *, max_pixels: int = MAX_PIXELS, complete: bool = True) -> ImageHeader:
    """The header of an encoded image held in memory; ``where`` names it in errors.

    Args:
        complete: ``data`` is the whole file, so a header that runs over its end means a cut-off file.
    """
    if not data:
        raise damaged(where, "image file is empty")
    try:
        header = _parse(data)
    except _Damaged as error:
        raise damaged(where, str(error)) from None
    except _CutOff:
        if complete:
            raise damaged(where, "image file is cut off inside its header") from None
        raise
    if header.height < 1 or header.width < 1:
        raise damaged(where, f"image has no pixels ({header.width}x{header.height})")
    if header.height * header.width > max_pixels:
        what = f"image announces {header.width}x{header.height} pixels, over the limit of {max_pixels:,}"
        raise InputError(what, where, "Shrink the image, or raise max_pixels if you trust the file")
    return header


def _parse(data: bytes) -> ImageHeader:
    if data.startswith(b"\xff\xd8"):
        return _parse_jpeg(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _parse_png(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _parse_webp(data)
    if data.startswith(b"BM"):
        return _parse_bmp(data)
    raise _Damaged("not a JPEG, PNG, WebP or BMP image")


def _unpack(layout: str, data: bytes, offset: int) -> tuple[Any, ...]:
    if offset + struct.calcsize(layout) > len(data):
        raise _CutOff
    return struct.unpack_from(layout, data, offset)


def _parse_jpeg(data: bytes) -> ImageHeader:
    orientation, offset = 1, 2
    while True:
        lead, marker = _unpack(">BB", data, offset)
        if lead != 0xFF:
            raise _Damaged("JPEG header is damaged")
        if marker == 0xFF:  # fill byte
            offset += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:  # markers without a segment
            offset += 2
            continue
        if marker in (0xD9, 0xDA):
            raise _Damaged("JPEG has no frame header")
        (length,) = _unpack(">H", data, offset + 2)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            _, height, width, channels = _unpack(">BHHB", data, offset + 4)
            return ImageHeader("jpeg", height, width, orientation, channels, offset)
        if marker == 0xE1 and data[offset + 4 : offset + 10] == b"Exif\0\0":
            orientation = _exif_orientation(data[offset + 10 : offset + 2 + length])
        offset += 2 + max(length, 2)


def _parse_png(data: bytes) -> ImageHeader:
    length, kind, width, height = _unpack(">I4sII", data, 8)
    if kind != b"IHDR" or length != 13:
        raise _Damaged("PNG header is damaged")
    orientation, offset = 1, 33
    while True:
        length, kind = _unpack(">I4s", data, offset)
        if kind == b"eXIf":
            orientation = _exif_orientation(data[offset + 8 : offset + 8 + length])
        if kind in (b"IDAT", b"eXIf"):  # an orientation after the pixels is ignored, as by libpng's readers
            return ImageHeader("png", height, width, orientation)
        offset += 12 + length


def _parse_webp(data: bytes) -> ImageHeader:
    (kind,) = _unpack("4s", data, 12)
    if kind == b"VP8 ":
        code, width, height = _unpack("<3sHH", data, 23)
        if code != b"\x9d\x01\x2a":
            raise _Damaged("WebP header is damaged")
        return ImageHeader("webp", height & 0x3FFF, width & 0x3FFF)
    if kind == b"VP8L":
        signature, bits = _unpack("<BI", data, 20)
        if signature != 0x2F:
            raise _Damaged("WebP header is damaged")
        return ImageHeader("webp", ((bits >> 14) & 0x3FFF) + 1, (bits & 0x3FFF) + 1)
    if kind != b"VP8X":
        raise _Damaged("WebP header is damaged")
    flags, width_low, width_high, height_low, height_high = _unpack("<B3xHBHB", data, 20)
    if flags & 0x02:
        raise _Damaged("animated WebP is not supported")
    orientation, offset = 1, 30
    while flags & 0x08:  # Exif follows the pixels
        name, length = _unpack("<4sI", data, offset)
        if name == b"EXIF":
            orientation = _exif_orientation(data[offset + 8 : offset + 8 + length].removeprefix(b"Exif\0\0"))
            break
        offset += 8 + length + length % 2
    height, width = height_low + (height_high << 16) + 1, width_low + (width_high << 16) + 1
    return ImageHeader("webp", height, width, orientation)


def _parse_bmp(data: bytes) -> ImageHeader:
    (header_size,) = _unpack("<I", data, 14)
    if header_size == 12:
        width, height = _unpack("<HH", data, 18)
    elif 40 <= header_size <= 124:
        width, height = _unpack("<ii", data, 18)
    else:
        raise _Damaged("BMP header is damaged")
    return ImageHeader("bmp", abs(height), width)  # a negative height means rows from the top


def _exif_orientation(tiff: bytes) -> int:
    """Tag 0x0112 of the first directory of an Exif block; 1 where it is absent or damaged."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (directory,) = _unpack(order + "I", tiff, 4)
        (count,) = _unpack(order + "H", tiff, directory)
        for entry in range(directory + 2, directory + 2 + 12 * count, 12):
            tag, kind, _, value = _unpack(order + "HHIH", tiff, entry)
            if tag == 0x0112 and kind == 3:
                return int(value) if 1 <= value <= 8 else 1
    except _CutOff:
        pass
    return 1
