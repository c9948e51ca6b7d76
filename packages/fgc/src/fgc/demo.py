"""``make demo PAPER=fgc``: batch shaping with and without feature-gate coupling on generated pictures, on one page.

python -m fgc.demo                        # outputs/demo/report.html, a few minutes on two cores
python -m fgc.demo --output DIR --seed 1
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

INIT = ["stage=bas", "epochs=5", "gallery_images=0"]
ARMS = {
    "bas": ("BAS", ["stage=fgc", "epochs=10", "recipe.kappa=0"]),
    "fgc": ("FGC", ["stage=fgc", "epochs=10"]),
}
PICTURE_WIDTH = 900


def main(argv: Sequence[str] | None = None) -> int:
    """Train the common start, then both arms side by side, print the table, write the page; 0, or a failed status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/demo"), help="folder of the demo")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("overrides", nargs="*", help="further settings of fgc-train, e.g. data.train_images=500")
    arguments = parser.parse_args(argv)
    started = time.perf_counter()

    def train(folder: str, settings: Sequence[str], threads: int) -> int:
        command = [sys.executable, "-m", "fgc.train", "+experiment=demo", *settings, f"seed={arguments.seed}"]
        command += [f"output_dir={arguments.output / folder}", *arguments.overrides]
        return subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": str(threads)}).returncode

    cores = os.cpu_count() or 1
    print("== BAS: the gates learn to depend on the image (both arms start from here)", flush=True)
    status = train("init", INIT, cores)
    if status:
        return status
    print("== BAS goes on with the L0 loss; FGC with L0 and coupling; side by side", flush=True)
    with ThreadPoolExecutor(len(ARMS)) as pool:
        start, threads = f"init={arguments.output / 'init'}", max(1, cores // len(ARMS))
        statuses = list(pool.map(lambda arm: train(arm, [*ARMS[arm][1], start], threads), ARMS))
    if any(statuses):
        return max(statuses)
    results = {arm: json.loads((arguments.output / arm / "metrics.json").read_text())["metrics"] for arm in ARMS}
    page = write_page(arguments.output, results)
    write_picture(arguments.output)
    show(results)
    print(f"\n{(time.perf_counter() - started) / 60:.1f} minutes. Report: {page}")
    return 0


def rows(results: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    """A line per metric: its name, then its value for every arm."""
    table = [("top-1 error, %", *(f"{metrics['top1_error']:.1f}" for metrics in results.values()))]
    table += [("pruning, % of multiply-adds", *(f"{100 * metrics['pruning']:.1f}" for metrics in results.values()))]
    for metric, title in {
        "overlap": "neighbours shared by features and gates",
        "purity": "gate neighbours of own class",
    }.items():
        for block in next(iter(results.values()))[metric]:
            values = (f"{metrics[metric][block]:.3f}" for metrics in results.values())
            table.append((f"{title}, block {block}", *values))
    return table


def show(results: dict[str, dict[str, Any]]) -> None:
    """Print the comparison."""
    from rich.console import Console
    from rich.table import Table

    table = Table("", *(name for name, _ in ARMS.values()), title="Gated ResNet-20 on generated pictures")
    for row in rows(results):
        table.add_row(*row)
    Console().print(table)


def write_page(folder: Path, results: dict[str, dict[str, Any]]) -> Path:
    """``report.html`` of the demo: the comparison, and the pictures, curves and settings of FGC."""
    from vireo.report.html import Table

    from .report import write_run_report

    columns = ("", *(name for name, _ in ARMS.values()))
    comparison = Table("The same start, the same steps, with and without coupling", columns, rows(results))
    page = write_run_report(folder / "fgc", "FGC: the demo", tables=[comparison])
    target = folder / "report.html"
    target.write_bytes(page.read_bytes())
    return target


def write_picture(folder: Path) -> Path:
    """``picture.png``: gates of the last coupled block by class, BAS beside FGC, and the gates of some images."""
    import cv2
    import numpy as np

    from vireo.report import grid, stacked

    def read(path: Path) -> np.ndarray:
        return cv2.cvtColor(np.asarray(cv2.imread(str(path))), cv2.COLOR_BGR2RGB)

    patterns = [read(sorted((folder / arm / "gallery").glob("block_*.png"))[-1]) for arm in ARMS]
    captions = [f"{name}: gates of the last block, images by class" for name, _ in ARMS.values()]
    examples = [read(path) for path in sorted((folder / "fgc" / "gallery").glob("gates_*.png"))[1:3]]
    canvas = stacked([grid(patterns, 2, captions), *examples])
    target = folder / "picture.png"
    height = round(len(canvas) * PICTURE_WIDTH / canvas.shape[1])
    picture = cv2.resize(canvas, (PICTURE_WIDTH, height), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(target), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    return target


if __name__ == "__main__":
    sys.exit(main())
