"""``itpn-predict``: what a finished run makes of images: classes, recovered pictures, label maps or boxes.

itpn-predict cat.jpg holiday/ --run outputs/finetune --json classes.json      # the five most probable classes
itpn-predict cat.jpg --run outputs/pretrain                                   # what a pre-training recovers
itpn-predict street/ --run outputs/segment --out labels                       # label maps, and pictures of them
itpn-predict street/ --run outputs/detect --threshold 0.3 --csv boxes.csv     # boxes and masks
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vireo.engine.cli import reporting
from vireo.engine.folder import require_writable
from vireo.engine.image_script import for_each_image, named_images, prediction_parser

if TYPE_CHECKING:
    from .prediction import Prediction


def _parser() -> argparse.ArgumentParser:
    what = "Classify, segment or search images, or show what a pre-training recovers of them, by the kind of the run."
    parser = prediction_parser("itpn-predict", what, run="outputs/finetune", json="a list with what was found")
    parser.add_argument("--csv", metavar="FILE", help="also write the same as a table")
    parser.add_argument("--top", type=int, default=5, help="classes named for an image (default: %(default)s)")
    parser.add_argument("--threshold", type=float, default=0.5, help="least score of a box (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the masks that a pre-training recovers")
    return parser


def _predict(arguments: argparse.Namespace) -> int:
    images = named_images(arguments, as_png=True)
    if arguments.csv:
        require_writable(Path(arguments.csv).parent, "--csv")

    from vireo.engine.logs import write_json
    from vireo.report import write_picture

    from .prediction import predictor, write_labels, write_table

    options = {"top": arguments.top, "threshold": arguments.threshold, "seed": arguments.seed}
    predict = predictor(arguments.run, arguments.weights, device=arguments.device, **options)
    rows: list[dict[str, Any]] = []

    def write(path: Path, target: Path, found: Prediction) -> None:
        write_picture(target, found.picture)
        if found.labels is not None:
            write_labels(target.with_name(f"{target.stem}_labels.png"), found.labels)
        rows.extend(found.rows)
        print(f"{path}: {found.summary}, {target}")

    status = for_each_image(images, predict, write)
    if arguments.json:
        write_json(Path(arguments.json), rows)
    if arguments.csv:
        write_table(Path(arguments.csv), rows)
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``itpn-predict``; 2 if an image could not be read: the others are written all the same."""
    return reporting(_predict, _parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
