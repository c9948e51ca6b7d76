"""The pictures of a run: labels moving from round to round, and predicted beside true locations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vireo.errors import InputError
from vireo.report import grid, write_picture

from .annotations import PointAnnotations, centres
from .draw import draw_points

if TYPE_CHECKING:
    from vireo.data import DetectionDataset

    from .localizer import Localizer

PICTURES = {
    "Labels of training images, round by round (cross: true centre, line: the way from the coarse point)": "labels_*",
    "Evaluation images: true centres, and predicted locations by score": "locations_*",
}
SCORE_SHOWN = 0.2
_LEAST_SIDE = 384  # of a picture; smaller images are enlarged by a whole factor
_TRUE, _LABEL, _WAY = (255, 255, 255), (255, 214, 10), (255, 120, 60)  # RGB


def write_gallery(
    model: Localizer, dataset: DetectionDataset, data: Any, count: int, folder: Path, device: Any
) -> None:
    """``gallery/locations_*.png``: true centres, and the locations of a score of 0.2 or more, side by side.

    An image that cannot be decoded, which a run with ``on_error=skip`` leaves out, has no picture.

    Args:
        model: left in evaluation mode.
        dataset: of which ``count`` images with objects, evenly spaced, are drawn.
        data: its configuration; images are resized and cut as it says.
        count: images.
        folder: of the run.
        device: of the model.
    """
    from .detection import all_detections

    busy = [i for i, record in enumerate(dataset.records) if len(record)]
    chosen = dataset.with_records([dataset.records[i] for i in _spread(busy, count)])
    # only the main process draws: the others wait for the end and take part in nothing
    here: dict[str, Any] = {"device": device, "rank": 0, "world_size": 1, "gather": False}
    found = all_detections(model, chosen, data, tiled=True, **here)
    for number, record in enumerate(chosen.records):
        sample = _decoded(chosen.__getitem__, number)
        if sample is None:
            continue
        image, target = sample
        sure = (found.image_ids == record.image_id) & (found.scores >= SCORE_SHOWN)
        picture, factor = enlarged(image.permute(1, 2, 0).numpy())
        cells = [
            draw_points(picture, factor * centres(target["boxes"].numpy()), colours=_TRUE),
            draw_points(picture, factor * centres(found.boxes[sure]), scores=found.scores[sure]),
        ]
        sheet = grid(cells, 2, ["true centres", f"predicted (score >= {SCORE_SHOWN})"])
        write_picture(folder / "gallery" / f"locations_{number:02d}.png", sheet)


def write_label_pictures(training: Any, labels: Sequence[dict[str, Any]], count: int, folder: Path) -> None:
    """``gallery/labels_*.png``: an image with its labels, once for each round; none of one that cannot be decoded.

    Args:
        training: of :func:`~p2p_loc.data.build_training`.
        labels: the COCO dict of each round.
        count: images, evenly spaced among those with objects.
        folder: of the run.
    """
    first = PointAnnotations.from_coco(labels[0])
    dataset = training.dataset(train=False)
    chosen = set(np.unique(first.image_ids).tolist())
    busy = [i for i, record in enumerate(dataset.records) if record.image_id in chosen]
    for number, index in enumerate(_spread(busy, count)):
        image_id = dataset.records[index].image_id
        image = _decoded(dataset.load_image, index)
        if image is None:
            continue
        picture, factor = enlarged(image.permute(1, 2, 0).numpy())
        shown = [_of_image(content, image_id) for content in labels]
        cells = [draw_labels(picture, found, shown[0], factor) for found in shown]
        names = ["round 0: coarse points", *(f"round {t}: refined" for t in range(1, len(labels)))]
        write_picture(folder / "gallery" / f"labels_{number:02d}.png", grid(cells, len(cells), names))


def draw_labels(picture: np.ndarray, labels: PointAnnotations, first: PointAnnotations, factor: int = 1) -> np.ndarray:
    """Label centres as yellow disks, the way to them from the first labels, and crosses at the true centres.

    A first label's centre is the coarse point, but where its box was cut at the border of the image.

    Args:
        picture: uint8 ``(H, W, 3)`` RGB.
        labels: of the image.
        first: of the first round, of these objects and perhaps others.
        factor: by which the picture is larger than the image.
    """
    import cv2

    canvas = picture.copy()
    reach = max(3, round(max(picture.shape[:2]) / 90))
    places = factor * centres(labels.boxes)
    starts = dict(zip(first.ids.tolist(), factor * centres(first.boxes)))
    for number, place in zip(labels.ids.tolist(), places):
        cv2.line(canvas, _pixel(starts[number]), _pixel(place), _WAY, max(1, reach // 3), cv2.LINE_AA)
    if labels.true_boxes is not None:
        for centre in factor * centres(labels.true_boxes[np.isfinite(labels.true_boxes).all(1)]):
            for colour, width in (((0, 0, 0), 3), (_TRUE, 1)):
                cv2.drawMarker(canvas, _pixel(centre), colour, cv2.MARKER_TILTED_CROSS, 3 * reach, width, cv2.LINE_AA)
    return draw_points(canvas, places, colours=_LABEL)


def enlarged(picture: np.ndarray) -> tuple[np.ndarray, int]:
    """The picture enlarged by a whole factor until its longer side has 384 pixels, and the factor."""
    factor = max(1, -(-_LEAST_SIDE // max(picture.shape[:2])))
    return np.ascontiguousarray(picture.repeat(factor, 0).repeat(factor, 1)), factor


def _of_image(content: dict[str, Any], image_id: int) -> PointAnnotations:
    """The annotations of one image of a COCO dict."""
    rows = [row for row in content["annotations"] if row["image_id"] == image_id]
    return PointAnnotations.from_coco({**content, "annotations": rows})


def _pixel(place: np.ndarray) -> Sequence[int]:
    whole: Sequence[int] = np.rint(place).astype(int).tolist()
    return whole


def _decoded(load: Callable[[int], Any], index: int) -> Any:
    """A sample, or None if its image cannot be decoded: the run has gone on without it, and has listed it."""
    try:
        return load(index)
    except InputError:
        return None


def _spread(places: Sequence[int], count: int) -> list[int]:
    """``count`` of the places, evenly over their range."""
    return [places[i] for i in np.linspace(0, len(places) - 1, min(count, len(places))).astype(int)]
