"""From detections to the labels of the next round: refinement of a COCO dict, with the file rules of the authors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from .annotations import Detections, PointAnnotations, to_xywh, to_xyxy
from .pseudo import clip_boxes, keep_boxes
from .refiner import PointRefiner


def refine_annotations(
    content: Mapping[str, Any], detections: Detections, refiner: PointRefiner, where: str = "annotations"
) -> dict[str, Any]:
    """Labels refined by detections on the same images.

    Always start from the initial annotations, not from refined ones: every round is bound to the annotated points and
    their initial boxes. In the result, ``bbox`` is the refined box, clipped to the image and rounded to three decimals;
    objects whose box is 2 pixels or less wide or high are left out, and objects with ``is_fully`` have their
    ``true_bbox``. Boxes on images (or tiles) without any detection stay as they are. The result has a section
    ``refinement``, the settings, by which refined labels are known; without any detection it is ``content``.

    Args:
        content: COCO dict with ``point`` and the initial ``bbox``; not changed.
        detections: of the training images.
        refiner: how to refine.
        where: names the annotations in messages.

    Raises:
        InputError: annotations that cannot be used, or detections that are not finite.
    """
    initial = PointAnnotations.from_coco(content, where)
    boxes, _ = refiner(
        initial.points,
        initial.boxes,
        initial.classes,
        detections.boxes,
        detections.scores,
        detections.classes,
        images=initial.image_ids,
        det_images=detections.image_ids,
    )
    seen = np.isin(initial.image_ids, detections.image_ids)
    clipped = clip_boxes(to_xywh(boxes), initial.image_sizes)
    kept = ~seen | keep_boxes(clipped)
    boxes = np.where(seen[:, None], to_xyxy(clipped), initial.boxes)
    if initial.true_boxes is not None:
        full = initial.full & np.isfinite(initial.true_boxes).all(1)
        boxes, kept = np.where(full[:, None], initial.true_boxes, boxes), kept | full
    refined = initial.with_boxes(boxes).select(kept).relabel(content)
    return {**refined, "refinement": asdict(refiner)} if len(detections) else refined
