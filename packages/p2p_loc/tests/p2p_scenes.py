"""Random scenes of tiny objects and detections, and slow, plain versions of the metrics to compare with."""

from __future__ import annotations

from typing import Any

import numpy as np

from p2p_loc.annotations import Detections, to_xyxy


def scene(
    seed: int, images: int = 6, objects: int = 12, dets: int = 30, classes: int = 2, ties: bool = True
) -> tuple[dict[str, Any], Detections]:
    """A COCO dict, some of its objects flagged, and detections: most near objects, some anywhere, many of one score."""
    rng = np.random.default_rng(seed)
    truth: dict[str, Any] = {
        "images": [{"id": 10 * i + 3, "width": 120, "height": 90} for i in range(images)],
        "categories": [{"id": 5 * k + 1, "name": f"class {k}"} for k in range(classes)],
        "annotations": [],
    }
    found = []
    for image in truth["images"]:
        for category in truth["categories"]:
            sides = rng.uniform(2, 40, (rng.integers(0, objects), 2))
            corners = rng.uniform(0, 80, sides.shape)
            for box in np.concatenate([corners, sides], 1).tolist():
                flags = {name: int(rng.random() < 0.15) for name in ("iscrowd", "ignore", "uncertain")}
                row = {"id": len(truth["annotations"]), "image_id": image["id"], "category_id": category["id"]}
                truth["annotations"].append({**row, "bbox": box, **flags})
            count = rng.integers(0, dets)
            near = corners[rng.integers(0, len(corners), count)] if len(corners) else np.zeros((count, 2))
            boxes = np.concatenate([near + rng.normal(0, 8, (count, 2)), rng.uniform(2, 40, (count, 2))], 1)
            scores = np.round(rng.random(count), 1) if ties else rng.random(count)
            found += [(image["id"], category["id"], box, score) for box, score in zip(boxes, scores)]
    order = rng.permutation(len(found))
    ids, numbers, corners_and_sides, confidences = (np.array(column) for column in zip(*(found[i] for i in order)))
    return truth, Detections(ids, to_xyxy(corners_and_sides), confidences, numbers)


def plain_match(
    points: np.ndarray, scores: np.ndarray, objects: np.ndarray, ignored: np.ndarray, tau: float
) -> tuple[list[int], list[bool]]:
    """Section 5, word for word; detections best first, single precision."""

    def nearness(others: np.ndarray) -> np.ndarray:
        d = (points[:, None].astype(np.float32) - others[None, :, :2]) / others[None, :, 2:]
        return 1 / (1 + (d**2).sum(-1))

    least = np.float32(1 / (1 + tau**2))
    matched, neutral = [-1] * len(points), [False] * len(points)
    near = nearness(objects)
    free = set(range(len(objects)))
    start = 0
    while start < len(points):
        end = start
        while end < len(points) and scores[start] - scores[end] < 1e-8:
            end += 1
        waiting = set(range(start, end))
        while waiting and free:
            d, o = max(((d, o) for d in sorted(waiting) for o in sorted(free)), key=lambda pair: near[pair])
            if near[d, o] < least:
                break
            matched[d] = o
            waiting.remove(d)
            free.remove(o)
        start = end
    if len(ignored):
        others = nearness(ignored)
        for d in range(len(points)):
            best = int(others[d].argmax())
            if matched[d] < 0 and others[d, best] >= least:
                matched[d], neutral[d] = len(objects) + best, True
    return matched, neutral


def plain_ap(
    truth: dict[str, Any], detections: Detections, category: int, tau: float, size: tuple[float, float], max_dets: int
) -> tuple[float, float]:
    """AP and AR of one class under one condition, image by image."""
    right, wrong, scores, total = [], [], [], 0
    for image in sorted(image["id"] for image in truth["images"]):
        rows = [r for r in truth["annotations"] if r["image_id"] == image and r["category_id"] == category]
        boxes = np.array([r["bbox"] for r in rows]).reshape(-1, 4)
        given = np.concatenate([boxes[:, :2] + (boxes[:, 2:] - 1) / 2, boxes[:, 2:]], 1).astype(np.float32)
        sides = np.sqrt(given[:, 2] * given[:, 3])
        outside = (sides < size[0]) | (sides >= size[1]) | np.array([r["iscrowd"] > 0 for r in rows], bool)
        chosen = np.flatnonzero((detections.image_ids == image) & (detections.classes == category))
        chosen = chosen[np.argsort(-detections.scores[chosen], kind="stable")][:max_dets]
        found = detections.boxes[chosen]
        points = (found[:, :2] + (found[:, 2:] - found[:, :2] - 1) / 2).astype(np.float32)
        matched, neutral = plain_match(points, detections.scores[chosen], given[~outside], given[outside], tau)
        total += int((~outside).sum())
        for m, n, s in zip(matched, neutral, detections.scores[chosen]):
            if not n:
                right.append(m >= 0)
                wrong.append(m < 0)
                scores.append(s)
    if not scores:
        return float(total == 0), float(total == 0)
    order = np.argsort(-np.array(scores), kind="stable")
    tp = np.cumsum(np.array(right)[order])
    recall, first = np.unique(tp / (total + 1e-12), return_index=True)
    precision = (tp / np.arange(1, len(tp) + 1))[first]
    reached = [precision[recall >= r] for r in np.linspace(0, 1, 101)]
    return float(np.mean([p[0] if len(p) else 0.0 for p in reached])), float(recall[-1])
