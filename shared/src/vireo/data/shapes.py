"""Geometry and pixels of the generated pictures: convex shapes on textured backgrounds, drawn with numpy and OpenCV."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

KINDS = ("ellipse", "rectangle", "triangle")
_KIND_COLOURS = np.array([(205, 70, 60), (75, 180, 80), (70, 95, 210)], np.float32)  # red, green and blue in the mean


@dataclass(frozen=True, slots=True)
class Shape:
    """A convex shape in continuous pixel coordinates (pixel (0, 0) covers [0, 1] x [0, 1]).

    Attributes:
        kind: index into :data:`KINDS`.
        box: xyxy bounds of the outline.
        centre: ``(2,)``, the centroid.
        outline: of a polygon its corners ``(k, 2)`` in order; of an ellipse its half axes as vectors ``(2, 2)``.
    """

    kind: int
    box: tuple[float, float, float, float]
    centre: np.ndarray
    outline: np.ndarray

    @property
    def area(self) -> float:
        """Pixels inside the outline."""
        if self.kind == 0:
            (ax, ay), (bx, by) = self.outline
            return float(np.pi * abs(ax * by - ay * bx))
        following = np.roll(self.outline, -1, axis=0)
        return float(abs(_cross(self.outline, following).sum()) / 2)

    def polygon(self, points: int = 48) -> np.ndarray:
        """The outline as corners ``(k, 2)``; an ellipse gets ``points`` of them."""
        if self.kind != 0:
            return self.outline
        turn = np.linspace(0, 2 * np.pi, points, endpoint=False)
        corners: np.ndarray = self.centre + np.stack([np.cos(turn), np.sin(turn)], axis=1) @ self.outline
        return corners

    def distance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Signed distance to the outline in pixels, negative inside; columns ``x (w,)``, rows ``y (h,)``: ``(h, w)``.

        Exact near the sides of a polygon, to first order near an ellipse's outline: enough for smooth edges.
        """
        dx, dy = x[None, :] - self.centre[0], y[:, None] - self.centre[1]
        if self.kind == 0:
            inverse = np.linalg.inv(self.outline).astype(np.float32)  # rows are the axes: (u, v) = (dx, dy) @ inverse
            u = dx * inverse[0, 0] + dy * inverse[1, 0]
            v = dx * inverse[0, 1] + dy * inverse[1, 1]
            level = u * u + v * v
            slope_x = u * inverse[0, 0] + v * inverse[0, 1]
            slope_y = u * inverse[1, 0] + v * inverse[1, 1]
            distance: np.ndarray = (level - 1) / (2 * np.sqrt(slope_x * slope_x + slope_y * slope_y) + 1e-6)
            return distance
        corners = (self.outline - self.centre).astype(np.float32)
        sides = np.roll(corners, -1, axis=0) - corners
        if _cross(corners[0], corners[1]) > 0:
            sides = -sides
        distance = np.full((len(y), len(x)), -np.inf, np.float32)
        for (cx, cy), (sx, sy) in zip(corners, sides / np.linalg.norm(sides, axis=1, keepdims=True)):
            np.maximum(distance, (dx - cx) * -sy + (dy - cy) * sx, out=distance)
        return distance


def draw_layout(
    rng: np.random.Generator,
    height: int,
    width: int,
    num_objects: tuple[int, int],
    object_size: tuple[float, float],
    max_iou: float,
) -> list[Shape]:
    """Place shapes that lie wholly inside the image, the largest first (so that none is hidden under a larger one).

    An object that finds no free place in 40 tries is left out; the first always has one.
    """
    shapes: list[Shape] = []
    for _ in range(int(rng.integers(num_objects[0], num_objects[1] + 1))):
        kind = int(rng.integers(len(KINDS)))
        form = _draw_form(rng, kind, float(rng.uniform(*object_size)))
        extent = form.max(axis=0) - form.min(axis=0) if kind else 2 * np.sqrt((form**2).sum(axis=0))
        low = -form.min(axis=0) if kind else extent / 2  # of the centre, for a shape that touches the left and top side
        for x, y in rng.uniform(size=(40, 2)):
            corner = np.array([x * (width - extent[0]), y * (height - extent[1])])
            box = (float(corner[0]), float(corner[1]), float(corner[0] + extent[0]), float(corner[1] + extent[1]))
            if all(_iou(box, other.box) <= max_iou for other in shapes):
                centre = corner + low
                shapes.append(Shape(kind, box, centre, form + centre if kind else form))
                break
    return sorted(shapes, key=lambda shape: -shape.area)


def _draw_form(rng: np.random.Generator, kind: int, size: float) -> np.ndarray:
    """A turned shape whose longer box side is ``size``: corners around the centroid, or an ellipse's half axes."""
    ratio, angle = rng.uniform(0.5, 1.0), rng.uniform(0, 2 * np.pi)
    lean = rng.uniform(-0.6, 0.6)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    form: np.ndarray
    if kind == 0:
        form = np.array([[1.0, 0.0], [0.0, ratio]]) @ turn
        form = form * (size / (2 * np.sqrt((form**2).sum(axis=0)).max()))
        return form
    if kind == 1:
        form = np.array([[-1, -ratio], [1, -ratio], [1, ratio], [-1, ratio]]) @ turn
    else:
        form = np.array([[-1, ratio], [1, ratio], [lean, -ratio]])
        form = (form - form.mean(axis=0)) @ turn
    form = form * (size / (form.max(axis=0) - form.min(axis=0)).max())
    return form


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    product: np.ndarray = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    return product


def _iou(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    shared = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def render(
    rng: np.random.Generator, height: int, width: int, shapes: list[Shape], kind_colours: bool = False
) -> np.ndarray:
    """Paint a background with clutter, then the shapes in order; ``uint8 (height, width, 3)`` RGB.

    With ``kind_colours`` each kind varies about a colour of its own, on backgrounds that are nearly grey.
    """
    base = rng.uniform(40, 215, 3).astype(np.float32)
    if kind_colours:
        base = base.mean() + (base - base.mean()) * np.float32(0.35)
    canvas = _texture(rng, (height, width), base, strength=34)
    _draw_clutter(rng, canvas, base)
    for shape in shapes:
        drawn = _contrasting(rng, base)
        _paint(rng, canvas, shape, _KIND_COLOURS[shape.kind] + (drawn - 128) * 0.25 if kind_colours else drawn)
    canvas = cv2.GaussianBlur(canvas, (3, 3), float(rng.uniform(0.3, 0.8)))
    grain = _grain(rng, height, width, float(rng.uniform(2, 7)))
    return cv2.add(canvas, grain, dtype=cv2.CV_8U)  # rounds and saturates


def window(shape: Shape, height: int, width: int, margin: int = 0) -> tuple[slice, slice]:
    """Rows and columns that ``shape`` touches, widened by ``margin`` and cut at the border."""
    x1, y1, x2, y2 = shape.box
    rows = slice(max(int(y1) - margin, 0), min(int(np.ceil(y2)) + margin, height))
    return rows, slice(max(int(x1) - margin, 0), min(int(np.ceil(x2)) + margin, width))


def pixel_distance(shape: Shape, rows: slice, columns: slice) -> np.ndarray:
    """:meth:`Shape.distance` at the pixel centres of a window."""
    x = np.arange(columns.start, columns.stop, dtype=np.float32) + 0.5
    y = np.arange(rows.start, rows.stop, dtype=np.float32) + 0.5
    return shape.distance(x, y)


def _paint(rng: np.random.Generator, canvas: np.ndarray, shape: Shape, colour: np.ndarray) -> None:
    """Blend one shape into ``canvas``: a soft shadow, then its own texture with smooth edges."""
    height, width = canvas.shape[:2]
    rows, columns = window(shape, height, width, margin=6)
    distance = pixel_distance(shape, rows, columns)
    patch = canvas[rows, columns]
    shadow = np.clip(1 - (distance + 1) / 6, 0, 1) * float(rng.uniform(0.1, 0.45))
    patch *= (1 - shadow)[..., None]
    fill = _texture(rng, (len(distance), distance.shape[1]), colour, strength=float(rng.uniform(4, 26)))
    if rng.random() < 0.4:
        fill += _stripes(rng, len(distance), distance.shape[1])[..., None]
    cover = np.clip(0.5 - distance, 0, 1)[..., None]
    patch += cover * (fill - patch)


def _texture(rng: np.random.Generator, size: tuple[int, int], base: np.ndarray, strength: float) -> np.ndarray:
    """Smooth variation of three scales around ``base``; float32 ``(height, width, 3)``."""
    fine = int(rng.integers(14, 40))
    grid = rng.uniform(-0.35 * strength, 0.35 * strength, (fine, fine, 3)).astype(np.float32)
    for cells, share in ((7, 0.6), (2, 1.0)):
        coarse = rng.uniform(-share * strength, share * strength, (cells, cells, 3)).astype(np.float32)
        grid += cv2.resize(coarse, (fine, fine), interpolation=cv2.INTER_CUBIC)
    texture: np.ndarray = cv2.resize(grid + base, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)
    return texture


def _stripes(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Light and dark bands; float32 ``(height, width)``."""
    angle, period = rng.uniform(0, np.pi), rng.uniform(5, 14)
    x = np.arange(width, dtype=np.float32) * np.float32(np.cos(angle) * 2 * np.pi / period)
    y = np.arange(height, dtype=np.float32) * np.float32(np.sin(angle) * 2 * np.pi / period)
    return np.sin(x[None, :] + y[:, None]) * np.float32(rng.uniform(8, 24))


def _draw_clutter(rng: np.random.Generator, canvas: np.ndarray, base: np.ndarray) -> None:
    """Thin lines and faint spots in colours near the background's: edges that belong to no object."""
    height, width = canvas.shape[:2]
    for _ in range(int(rng.integers(2, 7))):
        colour = (base + rng.uniform(-45, 45, 3)).tolist()
        ends = (rng.uniform(-0.1, 1.1, (2, 2)) * (width, height) * 16).astype(int).tolist()
        cv2.line(canvas, ends[0], ends[1], colour, int(rng.integers(1, 4)), cv2.LINE_AA, shift=4)
    for _ in range(int(rng.integers(0, 5))):
        colour = (base + rng.uniform(-40, 40, 3)).tolist()
        centre = (rng.uniform(0, 1, 2) * (width, height) * 16).astype(int).tolist()
        cv2.circle(canvas, centre, int(rng.uniform(1.5, 5) * 16), colour, -1, cv2.LINE_AA, shift=4)


def _contrasting(rng: np.random.Generator, base: np.ndarray) -> np.ndarray:
    """The first of 16 random colours at least 100 levels from ``base`` (Euclidean), or the farthest."""
    colours = rng.uniform(15, 240, (16, 3)).astype(np.float32)
    distance = np.linalg.norm(colours - base, axis=1)
    chosen: np.ndarray = colours[np.argmax(distance >= 100) if distance.max() >= 100 else distance.argmax()]
    return chosen


def _grain(rng: np.random.Generator, height: int, width: int, sigma: float) -> np.ndarray:
    """Sensor noise: the sum of two uniform bytes is near enough to a normal value, and much faster to draw."""
    bits = np.frombuffer(rng.bytes(height * width * 3 * 2), np.uint8).reshape(2, height, width, 3)
    scale = sigma / 104.5  # the standard deviation of the sum
    grain: np.ndarray = cv2.addWeighted(bits[0], scale, bits[1], scale, -255 * scale, dtype=cv2.CV_32F)
    return grain
