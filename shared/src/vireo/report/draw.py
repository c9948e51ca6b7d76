"""Boxes, masks, points and label maps drawn on pictures, legible on small images and on any background."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vireo.engine.folder import write_atomically

if TYPE_CHECKING:
    from torch import Tensor

Colour = tuple[int, int, int]
Rectangle = tuple[float, float, float, float]

# Told apart by most kinds of colour blindness in this order; further classes get hues by the golden angle.
_PALETTE: tuple[Colour, ...] = (
    (255, 176, 0),
    (54, 137, 255),
    (244, 67, 108),
    (0, 190, 150),
    (176, 110, 255),
    (255, 111, 40),
    (70, 205, 240),
    (170, 205, 50),
)
_PAPER: Colour = (246, 247, 249)
_INK: Colour = (31, 35, 40)
_JPEG_QUALITY = 92


def class_colour(index: int) -> Colour:
    """RGB 0..255 of class ``index``: the same in every picture, and bright enough to stand out."""
    if index < len(_PALETTE):
        return _PALETTE[index]
    hue = (0.11 + index * 0.6180339887) % 1.0
    red, green, blue = colorsys.hls_to_rgb(hue, 0.62 if index % 2 else 0.48, 0.85)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_detections(
    image: Any,
    boxes: Any,
    labels: Any,
    scores: Any = None,
    *,
    classes: Sequence[str] = (),
    masks: Any = None,
    points: Any = None,
    min_side: int = 448,
) -> np.ndarray:
    """Draw objects on a copy of ``image``; arrays may be torch CPU tensors or numpy arrays.

    Args:
        image: uint8 RGB, (3, H, W) or (H, W, 3).
        boxes: (n, 4) xyxy in pixels of ``image``; parts outside it are cut off.
        labels: (n,) class indices; they choose colour and name.
        scores: (n,) shown as two decimals, or None. Better ones are drawn over worse ones.
        classes: names by class index; an index beyond them is shown as a number.
        masks: (n, H, W), nonzero on the object, blended in, or None.
        points: (n, 2) xy in pixels of ``image``, one per object, or None.
        min_side: images whose longer side is shorter are enlarged by a whole factor until it is not, so that names
            stay legible.

    Returns:
        uint8 (H', W', 3), a whole multiple of the size of ``image``.

    Raises:
        ValueError: ``image`` is not an RGB uint8 image, or the numbers of objects differ.
    """
    pixels = _as_hwc(image)
    boxes, labels = np.asarray(boxes, dtype=np.float64).reshape(-1, 4), np.asarray(labels, dtype=np.int64).reshape(-1)
    for name, entries in (("boxes", boxes), ("scores", scores), ("masks", masks), ("points", points)):
        if entries is not None and len(entries) != len(labels):
            raise ValueError(f"{len(entries)} {name} for {len(labels)} labels")
    factor = max(1, math.ceil(min_side / max(pixels.shape[:2])))
    canvas = Image.fromarray(pixels)
    if factor > 1:
        canvas = canvas.resize((canvas.width * factor, canvas.height * factor), Image.Resampling.BICUBIC)
    order = (
        np.arange(len(labels)) if scores is None else np.argsort(np.asarray(scores, dtype=np.float64), kind="stable")
    )
    if masks is not None:
        canvas = _blend_masks(canvas, np.asarray(masks)[order], labels[order])
    draw = ImageDraw.Draw(canvas)
    width = max(2, round(max(canvas.size) / 280))
    font = _font(max(12, round(max(canvas.size) / 42)))
    # All boxes before all names: no name is crossed by a later box.
    for i in order:
        _draw_box(draw, boxes[i] * factor, class_colour(int(labels[i])), width)
    if points is not None:
        centres = np.asarray(points, dtype=np.float64).reshape(-1, 2) * factor
        for i in order:
            _draw_point(draw, centres[i], class_colour(int(labels[i])), 2 * width)
    taken: list[Rectangle] = []
    for i in order[::-1]:  # the best choose their place first
        label = int(labels[i])
        name = classes[label] if label < len(classes) else str(label)
        text = name if scores is None else f"{name} {float(scores[i]):.2f}"
        taken.append(_draw_name(draw, boxes[i] * factor, text, class_colour(label), font, canvas.size, taken))
    return np.array(canvas)


def draw_segmentation(
    image: Any,
    labels: Any,
    *,
    palette: Sequence[Colour] = (),
    opacity: float = 0.6,
    ignore: int = 255,
    min_side: int = 224,
) -> np.ndarray:
    """Tint the pixels of a copy of ``image`` by their class; arrays may be torch CPU tensors or numpy arrays.

    Args:
        image: uint8 RGB, (3, H, W) or (H, W, 3).
        labels: (H, W) class indices.
        palette: RGB 0..255 by class; classes beyond it have :func:`class_colour`.
        opacity: of the colours, in [0, 1].
        ignore: label of pixels that stay as they are.
        min_side: images whose longer side is shorter are enlarged by a whole factor until it is not.

    Returns:
        uint8 (H', W', 3), a whole multiple of the size of ``image``.

    Raises:
        ValueError: ``image`` is not an RGB uint8 image, or ``labels`` have another size.
    """
    pixels, classes = _as_hwc(image), np.asarray(labels).astype(np.int64)
    if classes.shape != pixels.shape[:2]:
        raise ValueError(f"labels {classes.shape} for an image of {pixels.shape[:2]}")
    shown = classes != ignore
    known, place = np.unique(classes[shown], return_inverse=True)
    colours = [palette[k] if k < len(palette) else class_colour(int(k)) for k in known]
    tint = np.array(colours, dtype=np.float32).reshape(-1, 3)[place.reshape(-1)]
    tinted = pixels.copy()
    tinted[shown] = np.rint((1 - opacity) * pixels[shown] + opacity * tint).astype(np.uint8)
    factor = max(1, math.ceil(min_side / max(pixels.shape[:2])))
    return tinted.repeat(factor, 0).repeat(factor, 1)


def grid(images: Sequence[np.ndarray], columns: int, captions: Sequence[str] = ()) -> np.ndarray:
    """Pictures side by side in rows of ``columns``, each centred in a cell of the largest size, captions above.

    Args:
        images: uint8 (h, w, 3) RGB, sizes may differ.
        columns: pictures a row.
        captions: one per image, or empty.

    Returns:
        uint8 (H, W, 3).
    """
    if not images or columns < 1:
        raise ValueError("grid needs at least one image and one column")
    if captions and len(captions) != len(images):
        raise ValueError(f"{len(captions)} captions for {len(images)} images")
    height, width = max(i.shape[0] for i in images), max(i.shape[1] for i in images)
    gap = max(6, width // 50)
    size = max(12, width // 26)
    font, above = _font(size), (round(size * 1.7) if captions else 0)
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    sheet = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + above + gap) + gap), color=_PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, picture in enumerate(images):
        left = gap + (i % columns) * (width + gap)
        top = gap + (i // columns) * (height + above + gap)
        if captions:
            draw.text((left + 1, top + above / 2), captions[i], fill=_INK, font=font, anchor="lm")
        h, w = picture.shape[:2]
        sheet.paste(Image.fromarray(picture), (left + (width - w) // 2, top + above + (height - h) // 2))
    return np.array(sheet)


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Write uint8 ``(H, W, 3)`` RGB as PNG or JPEG, by the name of the file, with its folder.

    Raises:
        InputError: the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(picture)
    kind: dict[str, Any] = {"format": "PNG"} if path.suffix == ".png" else {"format": "JPEG", "quality": _JPEG_QUALITY}
    write_atomically(path, lambda file: image.save(file, **kind))


def stacked(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures below each other, at the left, on the ground of the first (the colour of its corner).

    Args:
        pictures: uint8 (h, w, 3) RGB, sizes may differ; at least one.

    Returns:
        uint8 (sum of h, greatest w, 3).
    """
    width = max(picture.shape[1] for picture in pictures)
    canvas = np.full((sum(len(picture) for picture in pictures), width, 3), pictures[0][0, 0], np.uint8)
    top = 0
    for picture in pictures:
        canvas[top : top + len(picture), : picture.shape[1]] = picture
        top += len(picture)
    return canvas


def side_by_side(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures beside each other, at the top, on the ground of the first; see :func:`stacked`."""
    return stacked([picture.transpose(1, 0, 2) for picture in pictures]).transpose(1, 0, 2)


def as_picture(image: Tensor, least: int = 224) -> np.ndarray:
    """An image in [0, 1], ``(3, H, W)``, as uint8 ``(H', W', 3)``: enlarged by a whole factor to about ``least``."""
    factor = max(1, round(least / image.shape[-1]))
    pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    return np.ascontiguousarray(pixels.repeat(factor, 0).repeat(factor, 1))


def _as_hwc(image: Any) -> np.ndarray:
    pixels = np.asarray(image)
    if pixels.ndim == 3 and pixels.shape[0] == 3 and pixels.shape[2] != 3:
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"image must be uint8 RGB, (3, H, W) or (H, W, 3), not {pixels.dtype} {pixels.shape}")
    return np.ascontiguousarray(pixels)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    # matplotlib brings DejaVu Sans: the same face on every machine, and more alphabets than Pillow's own.
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)


def _blend_masks(canvas: Image.Image, masks: np.ndarray, labels: np.ndarray) -> Image.Image:
    for mask, label in zip(masks, labels):
        cover = Image.fromarray((np.asarray(mask) != 0).astype(np.uint8) * 115).resize(canvas.size)
        canvas.paste(Image.new("RGB", canvas.size, class_colour(int(label))), mask=cover)
    return canvas


def _draw_box(draw: ImageDraw.ImageDraw, box: np.ndarray, colour: Colour, width: int) -> None:
    x1, y1, x2, y2 = box.tolist()
    x2, y2 = max(x1, x2 - 1), max(y1, y2 - 1)  # the last pixel inside
    draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=(0, 0, 0), width=1)  # keeps bright lines visible on bright
    draw.rectangle((x1, y1, x2, y2), outline=colour, width=width)


def _draw_point(draw: ImageDraw.ImageDraw, centre: np.ndarray, colour: Colour, radius: int) -> None:
    x, y = centre.tolist()
    draw.ellipse((x - radius - 1, y - radius - 1, x + radius + 1, y + radius + 1), fill=(0, 0, 0))
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _draw_name(
    draw: ImageDraw.ImageDraw,
    box: np.ndarray,
    text: str,
    colour: Colour,
    font: ImageFont.FreeTypeFont,
    size: tuple[int, int],
    taken: Sequence[Rectangle],
) -> Rectangle:
    """A tag above the box, else inside or below it, where it hides no other and stays in the picture; its place."""
    margin = max(2, int(font.size) // 5)
    width = draw.textlength(text, font=font) + 2 * margin
    height = font.size + 2 * margin
    x1, y1, x2, y2 = box.tolist()
    right, bottom = max(0.0, size[0] - width), max(0.0, size[1] - height)
    corners = [(x1, y1 - height), (x1, y1), (x1, y2), (x1, y2 - height), (x2 - width, y1 - height), (x2 - width, y2)]
    inside = [(x, y) for x, y in corners if 0 <= y <= bottom] or [(x1, min(max(y1, 0.0), bottom))]
    places = [(min(max(x, 0.0), right), y) for x, y in inside]
    x, y = next(
        (p for p in places if not any(_overlap((*p, p[0] + width, p[1] + height), t) for t in taken)), places[0]
    )
    place = (x, y, x + width, y + height)
    draw.rectangle(place, fill=colour)
    luminance = (0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]) / 255
    ink = (0, 0, 0) if luminance > 0.45 else (255, 255, 255)
    draw.text((x + margin, y + height / 2), text, fill=ink, font=font, anchor="lm")
    return place


def _overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
