"""``ssd-det-predict``: draw the detections of a trained detector on images.

ssd-det-predict street.jpg holiday/ --run outputs/ssd_det --out predictions
ssd-det-predict street.jpg --json predictions.json --threshold 0.3
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vireo.engine.cli import reporting
from vireo.engine.image_script import for_each_image, named_images, prediction_parser

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from .model import SSDDet


@dataclass(frozen=True)
class ImageDetections:
    """One image, uint8 ``(3, H, W)`` RGB, and what was found in it, best first.

    ``boxes`` ``(n, 4)`` xyxy in pixels of the image, ``scores`` ``(n,)``, ``labels`` ``(n,)`` class indices.
    """

    path: Path
    image: Tensor
    boxes: Tensor
    scores: Tensor
    labels: Tensor


def predict_images(
    model: SSDDet,
    paths: Iterable[str | Path],
    *,
    threshold: float = 0.5,
    short_side: int = 800,
    long_side: int = 1333,
    device: str | torch.device | None = None,
) -> list[ImageDetections]:
    """Detections in image files, one image at a time.

    Args:
        model: moved to ``device`` and put into evaluation mode.
        paths: JPEG, PNG, WebP or BMP files.
        threshold: detections below this score are left out.
        short_side, long_side: test size, as in training.
        device: default: CUDA if there is a device, else the CPU.

    Raises:
        InputError: an image is missing, damaged, too large or none.
    """
    import torch

    from vireo.data import NormalizePad, decode_image, detection_transforms

    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    resize, normalize = detection_transforms(False, short_side, long_side), NormalizePad()
    model.to(device).eval()
    found = []
    for path in map(Path, paths):
        image = decode_image(path)
        size = tuple(image.shape[1:])
        resized, target = resize(image, {"orig_size": size, "size": size, "scale": 1.0})
        batch, targets = normalize([resized.to(device)], [target])
        with torch.no_grad():
            result = {name: value.cpu() for name, value in model(batch, targets)[0].items()}
        order = result["scores"].argsort(descending=True, stable=True)
        order = order[result["scores"][order] >= threshold]
        found.append(ImageDetections(path, image, *(result[name][order] for name in ("boxes", "scores", "labels"))))
    return found


def coco_results(found: ImageDetections, image_id: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """Detections in COCO's result format, with the file's name beside the number of the image."""
    rows = zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist())
    return [
        {
            "image_id": image_id,
            "file_name": str(found.path),
            "category_id": category_ids[label],
            "bbox": [round(v, 2) for v in (x1, y1, x2 - x1, y2 - y1)],
            "score": round(score, 5),
        }
        for (x1, y1, x2, y2), score, label in rows
    ]


def _parser() -> argparse.ArgumentParser:
    parser = prediction_parser(
        "ssd-det-predict",
        "Draw the detections of a trained detector on images.",
        run="outputs/ssd_det",
        json="the detections in COCO's result format",
    )
    parser.add_argument("--threshold", type=float, default=0.5, help="least score (default: %(default)s)")
    return parser


def _predict(arguments: argparse.Namespace) -> int:
    images = named_images(arguments)

    from vireo.engine.logs import write_json
    from vireo.report import draw_detections, write_picture

    from .load import load_run  # torch, once the rest is known to be right

    loaded = load_run(arguments.run, arguments.weights)
    data = loaded.config.data
    options = {"short_side": data.short_side, "long_side": data.long_side, "device": arguments.device}
    numbers = {path: number for number, (path, _) in enumerate(images, start=1)}
    results: list[dict[str, Any]] = []

    def detections(path: Path) -> ImageDetections:
        return predict_images(loaded.model, [path], threshold=arguments.threshold, **options)[0]

    def write(path: Path, target: Path, found: ImageDetections) -> None:
        boxes = found.boxes, found.labels, found.scores
        write_picture(target, draw_detections(found.image, *boxes, classes=loaded.classes))
        print(f"{path}: {len(found.scores)} objects, {target}")
        results.extend(coco_results(found, numbers[path], loaded.category_ids))

    status = for_each_image(images, detections, write)
    if arguments.json:
        write_json(Path(arguments.json), results)
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``ssd-det-predict``; 2 if an image could not be read: the others are written all the same."""
    return reporting(_predict, _parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
