"""``dqnet-predict``: find camouflaged objects in images with a trained network.

dqnet-predict frog.jpg holiday/ --run outputs/dqnet --out predictions
dqnet-predict frog.jpg --json shares.json --queries            # also what the query before each stage answers

Of each image: ``maps/*.png``, its probability map as scored by ``dqnet-score``; ``overlays/``; ``queries/``.
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

    from .model import DQnet
    from .querying import QueryingMaps


@dataclass(frozen=True)
class ImagePrediction:
    """One image, uint8 ``(3, H, W)`` RGB, and what was found in it.

    Attributes:
        image: as decoded.
        map: uint8 ``(H, W)``: probability times 255, truncated.
        queries: of each stage, see :class:`~dqnet.querying.QueryingMaps`; none without queries.
    """

    image: Tensor
    map: np.ndarray
    queries: list[QueryingMaps]


def predictor(
    model: DQnet, image_size: int, device: str | torch.device | None = None
) -> Callable[[str | Path], ImagePrediction]:
    """A function that finds objects in an image file.

    Args:
        model: moved to ``device`` and put into evaluation mode.
        image_size: side of the square that images are resized to, as in training.
        device: default: CUDA if there is a device, else the CPU.

    Returns:
        It raises InputError if the file is missing, damaged, too large or no image.
    """
    import torch

    from vireo.data import decode_image

    from .querying import querying_maps
    from .transforms import StackImages, probability_to_uint8

    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model.to(device).eval()
    stack = StackImages(image_size, train=False)

    def predict(path: str | Path) -> ImagePrediction:
        image = decode_image(path)
        batch, _ = stack([image.to(device)], [{}])
        logits, queries = querying_maps(model, batch)
        found = probability_to_uint8(logits[0, 0].float().sigmoid(), (image.shape[1], image.shape[2]))
        return ImagePrediction(image, found, queries)

    return predict


def _parser() -> argparse.ArgumentParser:
    text = "Write probability maps of camouflaged objects, and the images with the objects tinted."
    parser = prediction_parser("dqnet-predict", text, "outputs/dqnet", "the share of foreground of each image")
    parser.add_argument("--queries", action="store_true", help="also draw what the query before each stage answers")
    parser.add_argument("--threshold", type=float, default=0.5, help="least probability shown (default: %(default)s)")
    return parser


def _predict(arguments: argparse.Namespace) -> int:
    images = named_images(arguments, as_png=True)
    if not 0 < arguments.threshold < 1:
        raise InputError(f"a probability of {arguments.threshold}", "--threshold", "use a number between 0 and 1")

    import numpy as np

    from vireo.engine.logs import write_json
    from vireo.report import draw_segmentation, write_picture

    from .load import load_run  # torch, once the rest is known to be right
    from .querying import draw_querying_maps

    loaded = load_run(arguments.run, arguments.weights)
    if arguments.queries and (loaded.network.resnet is None or loaded.network.resnet.queries is None):
        what = f"the arm {loaded.network.arm} has no queries"
        raise InputError(what, str(arguments.run), "leave out --queries, or give a run of the arm gate or sum")
    predict = predictor(loaded.network, loaded.config.model.image_size, arguments.device)
    rows: list[dict[str, Any]] = []

    def write(path: Path, target: Path, found: ImagePrediction) -> None:
        folder, name = target.parent, target.name
        shown = found.map >= arguments.threshold * 255
        write_picture(folder / "maps" / name, found.map)
        overlay = draw_segmentation(found.image, np.where(shown, 0, 255))
        write_picture(folder / "overlays" / name, overlay)
        if arguments.queries:
            write_picture(folder / "queries" / name, draw_querying_maps(found.queries))
        share = float(shown.mean())
        rows.append({"file_name": str(path), "map": str(folder / "maps" / name), "foreground": round(share, 5)})
        print(f"{path}: {100 * share:.1f} % foreground, {folder / 'maps' / name}")

    status = for_each_image(images, predict, write)
    if arguments.json:
        write_json(Path(arguments.json), rows)
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``dqnet-predict``; 2 if an image could not be read: the others are written all the same."""
    return reporting(_predict, _parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
