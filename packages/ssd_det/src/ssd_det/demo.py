"""``make demo``: a plain Faster R-CNN and SSD-Det on the same noisy boxes of generated pictures, compared on one page.

python -m ssd_det.demo                        # outputs/demo/report.html, a few minutes on two cores
python -m ssd_det.demo --output DIR --seed 1
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ARMS = {"plain": ("plain Faster R-CNN", "none"), "ssd_det": ("SSD-Det", "full")}
PICTURE_WIDTH = 900
SHOWN = {"AP50": "AP50, clean test boxes", "AP": "AP", "AP75": "AP75", "iou_given": "IoU of given boxes with true ones"}
SHOWN["iou_refined"] = "IoU of refined boxes with true ones"


def main(argv: Sequence[str] | None = None) -> int:
    """Train both arms one after another, print the table, write the page; 0, or the status of an arm that failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/demo"), help="folder of the demo")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("overrides", nargs="*", help="further settings of ssd-det-train, e.g. epochs=2")
    arguments = parser.parse_args(argv)
    started = time.perf_counter()
    for arm, (name, refiner) in ARMS.items():
        print(f"== {name}, trained on boxes with 40 % noise", flush=True)
        command = [sys.executable, "-m", "ssd_det.train", "+experiment=demo", f"refiner={refiner}"]
        command += [f"output_dir={arguments.output / arm}"]
        status = subprocess.run([*command, f"seed={arguments.seed}", *arguments.overrides]).returncode
        if status:
            return status
    results = {arm: json.loads((arguments.output / arm / "metrics.json").read_text()) for arm in ARMS}
    page = write_page(arguments.output, results)
    write_picture(arguments.output)
    show(results)
    print(f"\n{(time.perf_counter() - started) / 60:.1f} minutes. Report: {page}")
    return 0


def rows(results: dict[str, dict]) -> list[tuple[str, ...]]:
    """A line per metric: its name, then its value for every arm, empty where an arm does not have it."""
    table = []
    for metric, title in SHOWN.items():
        values = [results[arm]["metrics"].get(metric) for arm in ARMS]
        table.append((title, *("" if value is None else f"{value:.3f}" for value in values)))
    return table


def show(results: dict[str, dict]) -> None:
    """Print the comparison."""
    from rich.console import Console
    from rich.table import Table

    table = Table("", *(name for name, _ in ARMS.values()), title="Trained on boxes with 40 % noise")
    for row in rows(results):
        table.add_row(*row)
    Console().print(table)


def write_page(folder: Path, results: dict[str, dict]) -> Path:
    """``report.html`` of the demo: the comparison, and the pictures, curves and settings of SSD-Det."""
    from vireo.report.html import Table

    from .report import write_run_report

    comparison = Table("Trained on boxes with 40 % noise", ("", *(name for name, _ in ARMS.values())), rows(results))
    page = write_run_report(folder / "ssd_det", "SSD-Det: the demo", tables=[comparison])
    target = folder / "report.html"
    target.write_bytes(page.read_bytes())
    return target


def write_picture(folder: Path, rows: int = 2) -> Path:
    """``picture.png``: some of the refined training pictures, the one that the READMEs show."""
    import cv2
    import numpy as np

    pictures = [
        np.asarray(cv2.imread(str(path))) for path in sorted((folder / "ssd_det" / "gallery").glob("refined_*.png"))
    ]
    target = folder / "picture.png"
    joined = np.concatenate(pictures[-rows:])
    height, width = (round(side * PICTURE_WIDTH / joined.shape[1]) for side in joined.shape[:2])
    cv2.imwrite(str(target), cv2.resize(joined, (width, height), interpolation=cv2.INTER_AREA))
    return target


if __name__ == "__main__":
    sys.exit(main())
