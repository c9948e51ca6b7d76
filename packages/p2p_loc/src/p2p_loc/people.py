"""Generated tiny people: pictures for the demo, the claim and the tests, with the true box of every person.

A person is three soft ellipses, legs, torso and head, each of a colour of its own, on a background of slow waves and
noise; bars of one colour distract. Which pixel of a person is its centre shows only from the whole, so a detector can
learn it from points that lie anywhere on the body (section 10 of the notes).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vireo.data import DetectionDataset, DetectionRecord
from vireo.errors import InputError

_LAYOUT, _PIXELS = 0, 1
_ASPECT = (0.35, 0.6)  # width of a person in heights
_PARTS = {  # centre (x, y) and half axes (x, y) in widths and heights of the person
    "legs": ((0.5, 0.76), (0.36, 0.24)),
    "torso": ((0.5, 0.43), (0.5, 0.25)),
    "head": ((0.5, 0.12), (0.30, 0.12)),
}
_EDGE = 0.8  # pixels over which an outline fades
_NOISE = 0.04  # of the range of a pixel
_BARS = (2, 5)
_TRIES = 200  # to find room for a person


class GeneratedPeople(DetectionDataset):
    """Pictures of people that do not overlap, each a function of (seed, index) alone; one class, ``person``.

    Args:
        length: number of pictures.
        image_size: ``(H, W)`` in pixels.
        seed: another seed gives other pictures.
        num_people: least and most of a picture.
        height: range of a person's height in pixels.

    Raises:
        InputError: no picture, a range that is empty, a negative seed, or people that do not fit into the picture.
    """

    def __init__(
        self,
        length: int,
        image_size: tuple[int, int] = (96, 96),
        seed: int = 0,
        *,
        num_people: tuple[int, int] = (3, 7),
        height: tuple[float, float] = (10.0, 26.0),
    ) -> None:
        where = type(self).__name__
        if length < 1:
            raise InputError(f"length {length} is not positive", where, "ask for at least one picture")
        if seed < 0:
            raise InputError(f"seed {seed} is negative", where, "use 0 or more")
        if not 1 <= num_people[0] <= num_people[1]:
            raise InputError(f"num_people {tuple(num_people)} is no range from 1", where, "use e.g. (3, 7)")
        if not 4 <= height[0] <= height[1] <= min(image_size):
            what = f"height {tuple(height)} is no range from 4 to the shorter side of the picture ({min(image_size)})"
            raise InputError(what, where, "use smaller people or a larger image_size")
        self.seed, self.num_people, self.height_range = seed, num_people, height
        self.height, self.width = image_size
        records, first_id = [], 1
        for index in range(length):
            records.append(self._record(index, first_id))
            first_id += len(records[-1])
        super().__init__(("person",), (1,), records)

    def load_image(self, index: int) -> Tensor:
        """``uint8 (3, H, W)`` RGB."""
        record = self.records[index]
        rng = self._rng(record.image_id - 1, _PIXELS)
        picture = _background(rng, self.height, self.width)
        for _ in range(rng.integers(_BARS[0], _BARS[1] + 1)):
            _draw_bar(rng, picture)
        for box in record.boxes.astype(np.float64):
            _draw_person(rng, picture, box)
        picture += _NOISE * rng.standard_normal(picture.shape)
        return torch.from_numpy((255 * picture.clip(0, 1)).round().astype(np.uint8)).permute(2, 0, 1).contiguous()

    def _rng(self, picture: int, stream: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, picture, stream))

    def _record(self, picture: int, first_id: int) -> DetectionRecord:
        rng = self._rng(picture, _LAYOUT)
        boxes = np.zeros((0, 4))
        for _ in range(rng.integers(self.num_people[0], self.num_people[1] + 1)):
            for _ in range(_TRIES):
                tall = rng.uniform(*self.height_range)
                wide = tall * rng.uniform(*_ASPECT)
                x, y = rng.uniform(0, self.width - wide), rng.uniform(0, self.height - tall)
                box = np.array([x, y, x + wide, y + tall])
                if not ((boxes[:, :2] < box[2:]) & (boxes[:, 2:] > box[:2])).all(1).any():
                    boxes = np.vstack([boxes, box])
                    break
        count = len(boxes)
        sides = boxes[:, 2:] - boxes[:, :2]
        return DetectionRecord(
            f"{picture:06d}.png",
            self.width,
            self.height,
            picture + 1,
            boxes=boxes.astype(np.float32),
            labels=np.zeros(count, np.int64),
            ids=np.arange(first_id, first_id + count),
            iscrowd=np.zeros(count, np.bool_),
            area=sides.prod(1).astype(np.float32),
        )


def _background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """``(H, W, 3)`` of slow waves in [0.2, 0.8]; one wave in each direction for each colour."""
    y, x = np.mgrid[:height, :width]
    periods = rng.uniform(20, 60, (2, 3))
    phases = rng.uniform(0, 2 * np.pi, (2, 3))
    base, depth = rng.uniform(0.35, 0.65, 3), rng.uniform(0.03, 0.08, (2, 3))
    across = depth[0] * np.sin(2 * np.pi * x[..., None] / periods[0] + phases[0])
    down = depth[1] * np.sin(2 * np.pi * y[..., None] / periods[1] + phases[1])
    return base + across + down


def _draw_bar(rng: np.random.Generator, picture: np.ndarray) -> None:
    """Paint an upright or lying bar of one colour into the picture."""
    height, width = picture.shape[:2]
    long, thick = int(rng.integers(8, 27)), int(rng.integers(2, 6))
    tall, wide = (long, thick) if rng.random() < 0.5 else (thick, long)
    top, left = rng.integers(0, height), rng.integers(0, width)
    picture[top : top + tall, left : left + wide] = rng.uniform(0, 1, 3)


def _draw_person(rng: np.random.Generator, picture: np.ndarray, box: np.ndarray) -> None:
    """Paint a person into its box ``(4,)`` xyxy."""
    x1, y1, x2, y2 = box
    left, top = int(x1), int(y1)
    window = picture[top : int(np.ceil(y2)) + 1, left : int(np.ceil(x2)) + 1]
    y, x = np.mgrid[: window.shape[0], : window.shape[1]]
    x, y = x + left + 0.5, y + top + 0.5  # centres of the pixels
    for (cx, cy), (rx, ry) in _PARTS.values():
        half = np.array([rx * (x2 - x1), ry * (y2 - y1)])
        radius = np.hypot((x - x1 - cx * (x2 - x1)) / half[0], (y - y1 - cy * (y2 - y1)) / half[1])
        cover = np.clip(0.5 + (1 - radius) * half.min() / _EDGE, 0, 1)[..., None]
        window[...] = (1 - cover) * window + cover * rng.uniform(0, 1, 3)
