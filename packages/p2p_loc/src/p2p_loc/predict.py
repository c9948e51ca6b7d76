"""``p2p-predict``: find tiny objects in images of any size with a trained network, and draw a point on each.

p2p-predict beach.jpg holiday/ --run outputs/p2p_loc --out predictions
p2p-predict satellite.png --tile 640 512 --overlap 100 100 --json points.json --threshold 0.3
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vireo.engine.cli import reporting
from vireo.engine.image_script import for_each_image, named_images, prediction_parser
from vireo.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from .localizer import Localizer

LARGE, LARGE_TILE = 2048, (1024, 1024)  # side of an image that is cut into such tiles in any case


@dataclass(frozen=True)
class ImagePoints:
    """One image, uint8 ``(3, H, W)`` RGB, and what was found in it, best first.

    ``points`` ``(n, 2)``, x and y of the boxes' middle pixels; ``boxes`` ``(n, 4)`` xyxy, in pixels of the image;
    ``scores`` ``(n,)`` in [0, 1]; ``labels`` ``(n,)`` class indices.
    """

    image: Tensor
    points: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


def predictor(
    model: Localizer,
    *,
    tile: Sequence[int] | None = None,
    overlap: Sequence[int] = (100, 100),
    sides: tuple[int, int] | None = None,
    threshold: float = 0.5,
    device: str | torch.device | None = None,
) -> Callable[[str | Path], ImagePoints]:
    """A function that finds objects in an image file.

    Args:
        model: moved to ``device`` and put into evaluation mode.
        tile, overlap: see :func:`~p2p_loc.detection.detect`. None: images are looked at whole, but those with a side of
            more than 2,048 pixels, for which memory might not suffice, in tiles of 1,024 x 1,024.
        sides: short and greatest long side that images are resized to first, as in training; None: they are not.
        threshold: detections below this score are left out.
        device: default: CUDA if there is a device, else the CPU.

    Returns:
        It raises InputError if the file is missing, damaged, too large or no image.
    """
    import torch

    from vireo.data import ResizeShortSide, decode_image

    from .detection import detect, in_original_pixels
    from .location_curves import middle_pixels

    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    batch_size = 8 if device.type == "cuda" else 1  # a CPU gains nothing from more

    def predict(path: str | Path) -> ImagePoints:
        image = decode_image(path)
        size = tuple(image.shape[1:])
        target: dict[str, Any] = {"orig_size": size, "size": size}
        resized = image
        if sides is not None:
            resized, target = ResizeShortSide(*sides)(image, target)
        cut = LARGE_TILE if tile is None and max(resized.shape[1:]) > LARGE else tile
        found = detect(model, resized, tile=cut, overlap=overlap, batch_size=batch_size, device=device)
        found = in_original_pixels(found, target)
        kept = found["scores"] >= threshold
        boxes, scores, labels = (found[name][kept].numpy() for name in ("boxes", "scores", "labels"))
        return ImagePoints(image, middle_pixels(boxes)[:, :2], boxes, scores, labels)

    return predict


def point_rows(found: ImagePoints, file_name: str, image_id: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """Records of COCO's result format with ``point`` and ``bbox``, and the file's name beside the image's number."""
    from .annotations import rounded, to_xywh

    columns = (rounded(found.points), rounded(to_xywh(found.boxes)), found.scores.astype(float).round(6), found.labels)
    return [
        {
            "image_id": image_id,
            "file_name": file_name,
            "category_id": category_ids[label],
            "point": point,
            "bbox": box,
            "score": score,
        }
        for point, box, score, label in zip(*(column.tolist() for column in columns))
    ]


def _parser() -> argparse.ArgumentParser:
    text = "Find tiny objects in images of any size, and draw a point on each."
    parser = prediction_parser("p2p-predict", text, "outputs/p2p_loc", "points and boxes in COCO's result format")
    parser.add_argument("--round", type=int, help="round of the run whose network is used (default: the last)")
    tile = f"cut images into tiles (default: as the run evaluates; if that is whole, 1024 1024 above {LARGE} pixels)"
    parser.add_argument("--tile", type=int, nargs=2, metavar=("W", "H"), help=tile)
    parser.add_argument("--overlap", type=int, nargs=2, metavar=("W", "H"), help="of the tiles (default: as the run)")
    parser.add_argument("--threshold", type=float, default=0.5, help="least score (default: %(default)s)")
    return parser


def _predict(arguments: argparse.Namespace) -> int:
    images = named_images(arguments)
    if not 0 <= arguments.threshold <= 1:
        raise InputError(f"a score of {arguments.threshold}", "--threshold", "use a number from 0 to 1")

    from vireo.engine.logs import write_json
    from vireo.report import class_colour, write_picture

    from .draw import draw_points
    from .load import load_run  # torch, once the rest is known to be right
    from .tiles import check_tile

    loaded = load_run(arguments.run, arguments.round, arguments.weights)
    data = loaded.config.data
    tile, overlap = arguments.tile or data.eval_tile, arguments.overlap or data.eval_overlap
    if tile is not None:
        check_tile(tile, overlap)
    sides = None if data.short_side is None else (data.short_side, data.long_side)
    options = {"tile": tile, "overlap": overlap, "sides": sides, "threshold": arguments.threshold}
    predict = predictor(loaded.model, **options, device=arguments.device)
    numbers = {path: number for number, (path, _) in enumerate(images, start=1)}
    rows: list[dict[str, Any]] = []

    def write(path: Path, target: Path, found: ImagePoints) -> None:
        colours = [class_colour(label) for label in found.labels.tolist()] if len(loaded.classes) > 1 else None
        write_picture(target, draw_points(found.image, found.points, scores=found.scores, colours=colours))
        print(f"{path}: {len(found.points)} objects, {target}")
        rows.extend(point_rows(found, str(path), numbers[path], loaded.category_ids))

    status = for_each_image(images, predict, write)
    if arguments.json:
        write_json(Path(arguments.json), rows)
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``p2p-predict``; 2 if an image could not be read: the others are written all the same."""
    return reporting(_predict, _parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
