"""``make demo PAPER=itpn``: segmenters from nothing, from a pre-trained backbone, from backbone and pyramid.

python -m itpn.demo                                  # outputs/demo/report.html, minutes on two cores
python -m itpn.demo --output DIR --seeds 0
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from vireo.report.html import Table

ARMS = {"scratch": "from scratch", "backbone": "backbone pre-trained", "integral": "backbone and pyramid pre-trained"}
PICTURES = 4  # rows of the figure
PALETTE = [(45, 45, 45)]  # the background; shapes have colours of their own


def main(argv: Sequence[str] | None = None) -> int:
    """Pre-train, train the three segmenters of each seed, print the table, write the page; 0, or a failed status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/demo"), help="folder of the demo")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pretrain", nargs="*", default=[], help="further settings of the pre-training, e.g. epochs=2")
    parser.add_argument("--segment", nargs="*", default=[], help="further settings of the segmenters")
    arguments = parser.parse_args(argv)
    started = time.perf_counter()
    jobs = min(len(ARMS) * len(arguments.seeds), os.cpu_count() or 1)
    environment = {**os.environ, "OMP_NUM_THREADS": "1" if jobs > 1 else str(os.cpu_count())}

    def call(module: str, folder: Path, *settings: object) -> int:
        command = [sys.executable, "-m", f"itpn.{module}", *map(str, settings), f"output_dir={folder}"]
        return subprocess.run(command, env=environment).returncode

    def pretrain(seed: int) -> int:
        settings = ["+experiment=demo", f"seed={seed}", f"data.seed={seed}", *arguments.pretrain]
        return call("pretrain", folder_of(arguments.output, "pretrain", seed), *settings)

    def segment(seed: int, arm: str, before: Future[int]) -> int:
        settings = ["+experiment=segment_demo", f"seed={seed}", f"data.seed={seed}", *arguments.segment]
        if arm != "scratch":
            if before.result():
                return before.result()
            start = folder_of(arguments.output, "pretrain", seed)
            settings += [f"init={start}", f"init_parts={'all' if arm == 'integral' else 'backbone'}"]
        return call("segment", folder_of(arguments.output, arm, seed), *settings)

    print(f"== pre-training and {len(ARMS)} segmenters, {len(arguments.seeds)} seeds: {jobs} at a time", flush=True)
    with ThreadPoolExecutor(jobs) as pool:
        first = {seed: pool.submit(pretrain, seed) for seed in arguments.seeds}  # none of these waits for another
        rest = [pool.submit(segment, seed, arm, first[seed]) for arm in ARMS for seed in arguments.seeds]
        statuses = [future.result() for future in (*first.values(), *rest)]
    if any(statuses):
        return max(statuses)
    table = comparison(arguments.output, arguments.seeds)
    write_figure(arguments.output, arguments.seeds[0])
    page = write_page(arguments.output, arguments.seeds[0], table)
    table.show()
    print(f"\n{(time.perf_counter() - started) / 60:.1f} minutes. Report: {page}")
    return 0


def folder_of(output: Path, arm: str, seed: int) -> Path:
    """Folder of a run."""
    return output / f"{arm}_{seed}"


def comparison(output: Path, seeds: Sequence[int]) -> Table:
    """A line per arm: mean IoU of each seed, their mean and deviation, seconds of a run."""
    from vireo.report.html import Table

    rows = []
    for arm, title in ARMS.items():
        runs = [json.loads((folder_of(output, arm, seed) / "metrics.json").read_text()) for seed in seeds]
        found = [100 * run["metrics"]["mIoU"] for run in runs]
        spread = f"{mean(found):.1f}" + (f" ± {stdev(found):.1f}" if len(found) > 1 else "")
        rows.append((title, spread, ", ".join(f"{value:.1f}" for value in found), f"{mean(_seconds(runs)):.0f}"))
    head = ("start", "mean IoU, %", "of each seed", "seconds")
    return Table("The same segmenter, the same labelled pictures, the same steps", head, rows)


def _seconds(runs: Sequence[dict[str, Any]]) -> list[float]:
    return [run["wall_s"] for run in runs]


def write_figure(output: Path, seed: int) -> Path:
    """``picture.png``: some evaluation images, their labels, and what the network of each arm sees."""
    import torch

    from vireo.data import segmentation_set
    from vireo.report import draw_segmentation, grid, stacked, write_picture
    from vireo.segmentation import build_loader
    from vireo.segmentation.evaluate import predict_labels

    from .segmentation import load_segmenter

    loaded = {arm: load_segmenter(folder_of(output, arm, seed)) for arm in ARMS}
    config = loaded["integral"][1]
    dataset = segmentation_set(config.data, train=False).with_indices(range(PICTURES))
    here = {"device": torch.device("cpu"), "rank": 0, "world_size": 1, "seed": 0}
    images, targets = next(iter(build_loader(dataset, config.data, False, **here).batches(0)))
    size = (dataset[0][0].shape[-2], dataset[0][0].shape[-1])
    found = {
        arm: predict_labels(network, torch.stack(list(images)), [size] * PICTURES)
        for arm, (network, _, _) in loaded.items()
    }
    captions = ["image", "labels", *ARMS]
    rows: list[np.ndarray] = []
    for index in range(PICTURES):
        image, labels = dataset[index][0], targets[index]["labels"]
        maps = [labels, *(found[arm][index] for arm in ARMS)]
        cells = [draw_segmentation(image, labels, opacity=0.0)]
        cells += [draw_segmentation(image, drawn, palette=PALETTE, opacity=0.75) for drawn in maps]
        rows.append(grid(cells, len(cells), () if rows else captions))
    sheet = stacked(rows)
    write_picture(folder_of(output, "integral", seed) / "gallery" / "all_arms.png", sheet)
    write_picture(output / "picture.png", sheet)
    return output / "picture.png"


def write_page(output: Path, seed: int, table: Table) -> Path:
    """``report.html`` of the demo: the comparison, and the pictures, curves and settings of one integral run."""
    from vireo.report import write_run_report

    pictures = {"Image, labels and the three segmenters": "all_arms.png"}
    page = write_run_report(folder_of(output, "integral", seed), "iTPN: the demo", pictures, tables=[table])
    target = output / "report.html"
    target.write_bytes(page.read_bytes())
    return target


if __name__ == "__main__":
    sys.exit(main())
