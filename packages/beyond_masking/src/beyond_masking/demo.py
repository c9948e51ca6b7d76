"""``make demo PAPER=beyond_masking``: encoders that recovered what masks and zooming took, probed against a fresh one.

python -m beyond_masking.demo                        # outputs/demo/report.html, minutes on two cores
python -m beyond_masking.demo --output DIR --seed 1
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

ARMS = {  # the longest first, for two at a time
    "zoomed_in": ("zoomed-in", ["degradation.name=zoomed_in", "mask_ratio=0"]),
    "integrated": ("zoomed-in + mask", ["degradation.name=zoomed_in", "mask_ratio=0.75"]),
    "mask": ("mask only (MAE)", ["degradation.name=none", "mask_ratio=0.75"]),
}
UNTRAINED = "untrained"
PICTURES = 4  # images in the figure


def main(argv: Sequence[str] | None = None) -> int:
    """Pre-train the arms side by side, probe them, print the table, write the page; 0, or a failed status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/demo"), help="folder of the demo")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("overrides", nargs="*", help="further settings of the pre-training, e.g. data.train_images=500")
    arguments = parser.parse_args(argv)
    started = time.perf_counter()
    jobs = min(len(ARMS), os.cpu_count() or 1)
    environment = {**os.environ, "OMP_NUM_THREADS": "1" if jobs > 1 else str(os.cpu_count())}

    def call(module: str, *settings: object) -> int:
        command = [sys.executable, "-m", f"beyond_masking.{module}", *map(str, settings)]
        return subprocess.run(command, env=environment).returncode

    def arm(name: str) -> int:
        folder = arguments.output / name
        fixed = ["+experiment=demo", *ARMS[name][1], f"seed={arguments.seed}", f"output_dir={folder}"]
        status = call("pretrain", *fixed, *arguments.overrides) or call("eval", f"run={folder}", "protocol=features")
        if status or name != "mask":
            return status
        return call("eval", f"run={folder}", "protocol=features", "untrained=true")

    print(f"== {', '.join(title for title, _ in ARMS.values())}: {jobs} at a time", flush=True)
    with ThreadPoolExecutor(jobs) as pool:
        statuses = list(pool.map(arm, ARMS))
    if any(statuses):
        return max(statuses)
    rows = table_rows(arguments.output)
    write_figure(arguments.output, arguments.seed)
    page = write_page(arguments.output, rows)
    show(rows)
    print(f"\n{(time.perf_counter() - started) / 60:.1f} minutes. Report: {page}")
    return 0


def table_rows(folder: Path) -> list[tuple[str, ...]]:
    """A line per arm: pre-training loss, linear probe and neighbours in percent correct, seconds."""

    def read(path: Path) -> dict[str, Any]:
        return json.loads(path.read_text())

    rows: list[tuple[str, ...]] = [
        (UNTRAINED, "", *_correct(read(folder / "mask" / "eval_untrained.json")["metrics"]), "")
    ]
    for name in ("mask", "zoomed_in", "integrated"):
        run = read(folder / name / "metrics.json")
        correct = _correct(read(folder / name / "eval.json")["metrics"])
        rows.append((ARMS[name][0], f"{run['metrics']['loss']:.3f}", *correct, f"{run['wall_s']:.0f}"))
    return rows


def _correct(metrics: dict[str, Any]) -> tuple[str, str]:
    linear, neighbours = (100 - metrics[name]["top1_error"] for name in ("linear", "knn"))
    return f"{linear:.1f}", f"{neighbours:.1f}"


HEAD = ("pre-training", "its loss", "linear probe, % correct", "20 neighbours, % correct", "seconds")


def show(rows: Sequence[tuple[str, ...]]) -> None:
    """Print the comparison."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*HEAD, title="Frozen features of a small ViT on generated pictures")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def write_figure(folder: Path, seed: int) -> Path:
    """``picture.png``: original, input and prediction of some evaluation images for every arm."""
    import torch

    from vireo.data import build_dataset, pretraining_loader
    from vireo.report import side_by_side, write_picture

    from .draws import GeneratorDraws
    from .load import load_run
    from .report import recovery_grid

    sheets = []
    for name in ("mask", "zoomed_in", "integrated"):
        run = load_run(folder / name, kind="pretraining")
        config, network = run.config, run.pretraining
        pictures = build_dataset(config.data, train=False, labels=False)
        loader = pretraining_loader(pictures, config.data, config.augmentation, network.crop_size, train=False)
        images, _ = next(iter(loader.batches(0)))
        draws = GeneratorDraws(PICTURES, generator=torch.Generator().manual_seed(seed))
        sheets.append(recovery_grid(network, images[:PICTURES], draws))
    target = folder / "integrated" / "gallery" / "all_arms.png"
    picture = side_by_side(sheets)
    write_picture(target, picture)
    write_picture(folder / "picture.png", picture)
    return folder / "picture.png"


def write_page(folder: Path, rows: Sequence[tuple[str, ...]]) -> Path:
    """``report.html`` of the demo: the comparison, and the pictures, curves and settings of the integrated arm."""
    from vireo.report.html import Table

    from .report import write_run_report

    comparison = Table("The same start, the same number of steps", HEAD, rows)
    page = write_run_report(folder / "integrated", "Beyond masking: the demo", tables=[comparison])
    target = folder / "report.html"
    target.write_bytes(page.read_bytes())
    return target


if __name__ == "__main__":
    sys.exit(main())
