"""``dqnet-score``: score saved maps of any method against masks, as the field does.

dqnet-score --pred maps/COD10K --mask COD10K/GT
dqnet-score --set CAMO maps/CAMO CAMO/GT --set NC4K maps/NC4K NC4K/GT --csv scores.csv --latex scores.tex

Maps and masks are paired by name. Maps: grey, 255 for the surest foreground, of the size of their mask. Masks: grey,
foreground above 128. The numbers are those of pysodmetrics.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vireo.engine.cli import reporting
from vireo.engine.folder import require_writable
from vireo.errors import InputError

if TYPE_CHECKING:
    from .scoring import ScoredFolder

PER_IMAGE = ("Smeasure", "wFmeasure", "MAE", "adpEm", "adpFm", "IoU")


def _parser() -> argparse.ArgumentParser:
    text = (__doc__ or "").split("\n\n", 1)
    parser = argparse.ArgumentParser(
        "dqnet-score", description=text[1], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pred", metavar="DIR", help="folder of maps")
    parser.add_argument("--mask", metavar="DIR", help="folder of masks")
    parser.add_argument(
        "--set",
        nargs=3,
        action="append",
        default=[],
        metavar=("NAME", "PRED", "MASK"),
        dest="sets",
        help="one of several data sets",
    )
    parser.add_argument("--resize", action="store_true", help="maps of another size to that of their mask")
    parser.add_argument("--on-error", choices=("raise", "skip"), default="raise", help="skip: leave out bad files")
    parser.add_argument("--csv", metavar="FILE", help="also write the table as CSV")
    parser.add_argument("--latex", metavar="FILE", help="also write the table for LaTeX")
    parser.add_argument("--json", metavar="FILE", help="also write the table, curves and what was skipped as JSON")
    parser.add_argument("--per-image", metavar="FILE", help="also write the scores of each image as CSV")
    parser.add_argument("--workers", type=int, help="threads (default: one for each processor)")
    return parser


def _score(arguments: argparse.Namespace) -> int:
    folders = {name: (pred, mask) for name, pred, mask in arguments.sets}
    if len(folders) < len(arguments.sets):
        raise InputError("two sets have one name", "--set", "give each another")
    if (arguments.pred is None) != (arguments.mask is None) or not (folders or arguments.pred):
        raise InputError("nothing to score", "--pred, --mask", "give both folders, or --set NAME PRED MASK")
    if arguments.pred is not None:
        folders = {Path(arguments.pred).resolve().name: (arguments.pred, arguments.mask), **folders}
    for option in ("csv", "latex", "json", "per_image"):
        if path := getattr(arguments, option):
            require_writable(Path(path).parent, f"--{option.replace('_', '-')}")

    from .score_tables import show
    from .scoring import score_folder

    options = {"resize": arguments.resize, "on_error": arguments.on_error, "workers": arguments.workers}
    terminal = sys.stderr.isatty()
    scored = {name: score_folder(*places, **options, progress=terminal) for name, places in folders.items()}
    for line in (line for found in scored.values() for line in found.skipped):
        print(f"skipped: {line}", file=sys.stderr)
    show({name: found.metrics for name, found in scored.items()}, _numbers(scored))
    _write(arguments, scored)
    return 0


def _write(arguments: argparse.Namespace, scored: dict[str, ScoredFolder]) -> None:
    """The files that are asked for."""
    import csv
    import io

    from vireo.engine.folder import write_atomically
    from vireo.engine.logs import write_json

    from .score_tables import as_csv, as_latex

    def write(path: str, text: str) -> None:
        write_atomically(Path(path), lambda file: file.write(text.encode()))

    metrics = {name: found.metrics for name, found in scored.items()}
    if arguments.csv:
        write(arguments.csv, as_csv(metrics, _numbers(scored)))
    if arguments.latex:
        write(arguments.latex, as_latex(metrics))
    if arguments.per_image:
        text = io.StringIO(newline="")
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["set", "image", *PER_IMAGE])
        for name, found in scored.items():
            for image, scores in found.images.items():
                table.writerow([name, image, *(getattr(scores, column) for column in PER_IMAGE)])
        write(arguments.per_image, text.getvalue())
    if arguments.json:
        write_json(Path(arguments.json), {name: _as_json(found) for name, found in scored.items()})


def _as_json(found: ScoredFolder) -> dict[str, Any]:
    import numpy as np

    curves = {name: np.mean([getattr(s, name) for s in found.images.values()], 0) for name in ("em_curve", "fm_curve")}
    return {"images": len(found.images), "metrics": found.metrics, **curves, "skipped": found.skipped}


def _numbers(scored: dict[str, ScoredFolder]) -> dict[str, int]:
    return {name: len(found.images) for name, found in scored.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``dqnet-score``."""
    return reporting(_score, _parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
