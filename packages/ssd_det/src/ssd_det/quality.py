"""How near boxes are to the true ones, and in which way they miss them (Table 9 of the paper).

Boxes are (N, 4) xyxy numpy arrays of positive area.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class BoxQuality:
    """Boxes against the true boxes of the same objects; all values are means or shares of all boxes in [0, 1].

    A box is *bad* if its IoU is below ``bad_iou``; a bad box counts in one kind at most, the first that fits:
    *group*: it covers several true boxes of its image; *drift*: its IoU with another object is larger; *part*: it lies
    inside its object. "Covers" and "inside" mean by more than ``high_overlap`` of the covered or the inner box.
    """

    mean_iou: float
    share_iou_above_half: float
    drift: float
    group: float
    part: float


def paired_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU (N,) of boxes a[i] and b[i]."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    shared = _shared(a, b)
    return shared / (_area(a) + _area(b) - shared)


def box_quality(
    boxes: np.ndarray, true_boxes: np.ndarray, image: np.ndarray, bad_iou: float = 0.5, high_overlap: float = 0.7
) -> BoxQuality:
    """The quality of ``boxes`` (N, 4), whose true boxes are the rows of ``true_boxes``.

    Args:
        image: (N,) number or id of each box's image.
        bad_iou: IoU with the own true box below which a box is bad. The paper gives neither threshold.
        high_overlap: share of a box from which it counts as covered.

    Raises:
        ValueError: there is no box.
    """
    if len(boxes) == 0:
        raise ValueError("the quality of no box at all is not defined")
    boxes, true_boxes = boxes.astype(np.float64), true_boxes.astype(np.float64)
    iou = paired_iou(boxes, true_boxes)
    bad = np.flatnonzero(iou < bad_iou)
    row, column = _pairs(image, bad)
    mine, other = boxes[bad][row], true_boxes[column]
    shared = _shared(mine, other)
    covered = np.bincount(row, shared > high_overlap * _area(other), minlength=len(bad))
    foreign = column != bad[row]
    best_foreign = np.zeros(len(bad))
    np.maximum.at(best_foreign, row[foreign], paired_iou(mine, other)[foreign])
    inside = _shared(boxes[bad], true_boxes[bad]) > high_overlap * _area(boxes[bad])

    group = covered >= 2
    drift = ~group & (best_foreign > iou[bad])
    part = ~group & ~drift & inside
    shares = {"drift": drift, "group": group, "part": part}
    return BoxQuality(
        mean_iou=round(float(iou.mean()), 6),
        share_iou_above_half=round(float((iou > 0.5).mean()), 6),
        **{name: round(float(mask.sum()) / len(boxes), 6) for name, mask in shares.items()},
    )


def _pairs(image: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs (position in ``chosen``, box of the same image), the box itself included."""
    order = np.argsort(image, kind="stable")
    first, last = (np.searchsorted(image[order], image[chosen], side) for side in ("left", "right"))
    count = last - first
    row = np.repeat(np.arange(len(chosen)), count)
    within = np.arange(len(row)) - np.repeat(count.cumsum() - count, count)
    return row, order[np.repeat(first, count) + within]


def _shared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection areas (N,) of boxes a[i] and b[i]."""
    return (np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])).clip(min=0).prod(axis=1)


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
