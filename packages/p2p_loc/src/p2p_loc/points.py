"""Point annotations for training: coarse points of boxes, or given points, with pseudo boxes, as one COCO file.

One seed fixes a whole file: the same input and settings give the same bytes.

    p2p-points --coco instances_train2017.json --classes person --dist rg --out points.json
    p2p-points --voc VOC2007 --split trainval --pseudo-box 64 64 --out points.json
    p2p-points --points ground_truth/ --images images/ --tile 640 512 --crops crops/ --out points.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from vireo.engine.folder import write_reproducibly
from vireo.engine.text import two_columns
from vireo.errors import InputError

from .coco_content import Content, read_content, select_classes
from .point_labels import Labels, LabelStatistics, PointSettings, PseudoBox, TileSettings, make_labels

ORIGIN = "p2p_points"
"""Entry of a written file: settings and statistics."""


def table(statistics: LabelStatistics) -> str:
    """Two aligned columns, one line for each number."""
    return two_columns({name: "unknown" if value is None else value for name, value in asdict(statistics).items()})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="p2p-points",
        description="Write coarse points with pseudo boxes as a COCO file that p2p-train and p2p-refine read.",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--coco", metavar="JSON", help="boxes, or points, in COCO's format")
    source.add_argument("--voc", metavar="ROOT", help="Pascal VOC folder with Annotations/ and ImageSets/Main/")
    source.add_argument(
        "--points",
        metavar="PATH",
        help="points without boxes: a .csv (file_name, x, y), a .json, or a folder of .txt or .mat files",
    )
    parser.add_argument("--out", metavar="JSON", required=True, help="file to write")
    parser.add_argument("--split", default="trainval", help="image list of the VOC folder (default: %(default)s)")
    parser.add_argument("--images", metavar="DIR", help="folder of the images; VOC has its own")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="categories to keep (default: all)")

    points = parser.add_argument_group("points", "how a simulated annotator clicks; given points stay as they are")
    points.add_argument(
        "--dist",
        choices=("uniform", "rg", "fixed", "center_gaussian"),
        default="uniform",
        help="uniform, rectified Gaussian, fixed; with --masks also center_gaussian (default: %(default)s)",
    )
    points.add_argument("--mu", type=float, default=0.0, help="mean, in sides of the box (default: %(default)s)")
    points.add_argument("--sigma", type=float, default=0.25, help="spread, in sides (default: %(default)s)")
    points.add_argument("--size-range", type=float, default=1.0, help="share of the box (default: %(default)s)")
    points.add_argument("--at", type=float, nargs=2, default=(0.5, 0.5), metavar=("X", "Y"), help="of fixed")
    points.add_argument("--masks", action="store_true", help="points lie on the segmentations (COCO)")
    points.add_argument("--seed", type=int, default=0, help="seed of the file (default: %(default)s)")

    labels = parser.add_argument_group("labels")
    labels.add_argument(
        "--pseudo-box",
        nargs="+",
        default=["16", "16"],
        metavar="SIZE",
        help="width and height in pixels, or mean_size or mean_wh of the true boxes of a class (default: 16 16)",
    )
    labels.add_argument(
        "--fully-ratio", type=float, default=0.0, help="share of objects with their true box (default: %(default)s)"
    )
    tiles = parser.add_argument_group("tiles")
    tiles.add_argument("--tile", type=int, nargs=2, metavar=("W", "H"), help="cut the images (default: whole)")
    between = "of tiles (default: 100 100)"
    tiles.add_argument("--overlap", type=int, nargs=2, default=(100, 100), metavar=("X", "Y"), help=between)
    tiles.add_argument(
        "--policy", choices=("slide", "shift", "grid"), default="slide", help="where tiles lie (default: %(default)s)"
    )
    tiles.add_argument("--crops", metavar="DIR", help="also write the tiles as image files, and refer to these")
    parser.add_argument(
        "--on-error", choices=("raise", "skip"), default="raise", help="unusable records (default: %(default)s)"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``p2p-points``; returns the exit status (2 for input the user can mend)."""
    arguments = _parser().parse_args(argv)
    try:
        labels, skipped, digest = _run(arguments)
    except InputError as error:
        message = str(error).replace("data.on_error=skip", "--on-error skip")  # of readers that training shares
        print(f"error: {message}", file=sys.stderr)
        return 2
    print(table(labels.statistics))
    print(f"written  {arguments.out}  sha256 {digest}")
    for line in skipped:
        print(f"skipped  {line}")
    return 0


def _run(arguments: argparse.Namespace) -> tuple[Labels, Sequence[str], str]:
    out = Path(arguments.out)
    source = next(Path(path) for path in (arguments.coco, arguments.voc, arguments.points) if path is not None)
    if out.resolve() == source.resolve():
        raise InputError("output and input are the same file", str(out), "choose another output name")
    if not 0 <= arguments.seed < 2**32 - 1:
        raise InputError(f"seed {arguments.seed} lies outside [0, 2**32 - 1)", "--seed", "give a small number")
    images = _images(arguments)
    if arguments.crops is not None and images is None:
        raise InputError("the images are not known", "--crops", "give their folder with --images")
    if arguments.crops is not None and arguments.tile is None:
        raise InputError("whole images are no crops", "--crops", "give the size of tiles with --tile")
    size = _pseudo_box(arguments.pseudo_box)
    if isinstance(size, str):
        print(f"warning: {size} looks at the true boxes, which an annotator of points does not draw", file=sys.stderr)
    points = PointSettings(
        arguments.dist,
        arguments.mu,
        arguments.sigma,
        arguments.size_range,
        tuple(arguments.at),
        arguments.masks,
        arguments.seed,
    )
    tiles = None
    if arguments.tile is not None:
        tiles = TileSettings(tuple(arguments.tile), tuple(arguments.overlap), arguments.policy)
    found = _read(arguments, source, images)
    labels = make_labels(
        select_classes(found.content, arguments.classes, "--classes"),
        points=points,
        pseudo_box=size,
        tiles=tiles,
        fully_ratio=arguments.fully_ratio,
        where=str(source),
    )
    content, skipped = labels.content, list(found.skipped)
    if arguments.crops is not None and images is not None:
        from .crops import write_crops

        written = write_crops(content, images, arguments.crops, arguments.on_error)
        content = written.content
        skipped += written.skipped
        counts = {"images": len(content["images"]), "objects": len(content["annotations"])}
        labels = replace(labels, statistics=replace(labels.statistics, **counts))
    origin = {
        "points": asdict(points),
        "pseudo_box": size,
        "tiles": None if tiles is None else asdict(tiles),
        "fully_ratio": arguments.fully_ratio,
        "statistics": asdict(labels.statistics),
    }
    return labels, skipped, write_reproducibly({**content, ORIGIN: origin}, out)


def _read(arguments: argparse.Namespace, source: Path, images: Path | None) -> Content:
    if arguments.coco is not None:
        return read_content(source, arguments.on_error)
    if arguments.points is not None:
        from .point_files import read_points

        return read_points(source, images, arguments.on_error)
    from vireo.data import VocDetection  # imports torch, which annotations themselves do not need

    dataset = VocDetection(source, arguments.split, on_error=arguments.on_error)
    content: Mapping[str, Any] = dataset.coco()
    return Content(dict(content), tuple(dataset.skipped))


def _images(arguments: argparse.Namespace) -> Path | None:
    if arguments.images is not None:
        return Path(arguments.images)
    return None if arguments.voc is None else Path(arguments.voc) / "JPEGImages"


def _pseudo_box(given: Sequence[str]) -> PseudoBox:
    if len(given) == 1 and given[0] in ("mean_size", "mean_wh"):
        return given[0]  # type: ignore[return-value]  # one of the two names
    try:
        width, height = map(float, given)
    except ValueError:
        what = f"{' '.join(given)!r} is no size"
        raise InputError(what, "--pseudo-box", "give width and height, mean_size or mean_wh") from None
    return (width, height)


if __name__ == "__main__":
    sys.exit(main())
