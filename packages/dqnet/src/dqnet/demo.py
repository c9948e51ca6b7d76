"""``make demo PAPER=dqnet``: the method and its controls on generated camouflage.

python -m dqnet.demo                                 # outputs/demo/report.html, minutes on two cores
python -m dqnet.demo --output DIR --seeds 0 1 2
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

ARMS = {  # in the order of the picture
    "resnet": "ResNet alone",
    "vit": "transformer alone",
    "concat": "both side by side",
    "gate": "DQnet",
}
METRICS = {"wFmeasure": "weighted F", "maxEm": "max E", "Smeasure": "S", "MAE": "MAE", "IoU": "IoU at 0.5"}
PICTURES = 6  # rows of the figure


def main(argv: Sequence[str] | None = None) -> int:
    """Train a transformer and the four arms of each seed, print the table, write the page; 0 or the status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/demo"), help="folder of the demo")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--override", nargs="*", default=[], help="further settings of every run, e.g. epochs=1")
    arguments = parser.parse_args(argv)
    started = time.perf_counter()
    jobs = min(2 * len(arguments.seeds), os.cpu_count() or 1)
    environment = {**os.environ, "OMP_NUM_THREADS": "1" if jobs > 1 else str(os.cpu_count())}

    def run(name: str, seed: int, experiment: str, before: Future[int] | None, *settings: str) -> int:
        if before is not None and before.result():
            return before.result()
        given = [f"+experiment={experiment}", f"seed={seed}", f"data.seed={seed}", *settings, *arguments.override]
        target = f"output_dir={folder_of(arguments.output, name, seed)}"
        return subprocess.run([sys.executable, "-m", "dqnet.train", *given, target], env=environment).returncode

    print(f"== {len(ARMS)} arms, {len(arguments.seeds)} seeds: {jobs} at a time", flush=True)
    with ThreadPoolExecutor(jobs) as pool:  # a run is submitted behind the one it waits for
        starts = {seed: pool.submit(run, "start", seed, "demo_vit", None) for seed in arguments.seeds}
        every = list(starts.values())
        for seed, start in starts.items():
            trained = folder_of(arguments.output, "start", seed)
            every.append(pool.submit(run, "resnet", seed, "demo_resnet", None))
            for arm in ("gate", "concat", "vit"):  # the longest first
                # the control goes on with its decoder too
                init = "model" if arm == "vit" else "vit"
                every.append(pool.submit(run, arm, seed, "demo", start, f"model.arm={arm}", f"init.{init}={trained}"))
        statuses = [future.result() for future in every]
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
    """A line per arm, and one of the transformer that three of them start from: means and deviations over the seeds."""
    from vireo.report.html import Table

    def line(arm: str) -> list[str]:
        runs = [json.loads((folder_of(output, arm, seed) / "metrics.json").read_text())["metrics"] for seed in seeds]
        found = [[run[name] for run in runs] for name in METRICS]
        return [f"{mean(v):.3f}" + (f" ± {stdev(v):.3f}" if len(v) > 1 else "") for v in found]

    rows = [(title, *line(arm)) for arm, title in ARMS.items()]
    rows.append(("transformer, first stage", *line("start")))
    return Table("Generated camouflage, pictures that were not trained on", ("arm", *METRICS.values()), rows)


def write_figure(output: Path, seed: int) -> Path:
    """``picture.png``: evaluation pictures, their masks, and what each arm makes of them."""
    import numpy as np
    import torch

    from vireo.report import as_picture, grid, write_picture

    from .data import build_dataset, build_loader
    from .evaluation import probability_maps
    from .load import load_run

    runs = {arm: load_run(folder_of(output, arm, seed)) for arm in ARMS}
    config = runs["gate"].config
    dataset = build_dataset(config.data, train=False)
    chosen = dataset.with_indices(np.linspace(0, len(dataset) - 1, PICTURES).astype(int))
    here = {"device": torch.device("cpu"), "rank": 0, "world_size": 1, "seed": 0}
    loader = build_loader(chosen, config.data, config.model.image_size, train=False, **here)
    columns: dict[str, list[np.ndarray]] = {"image": [], "mask": [], **{arm: [] for arm in ARMS}}
    for images, targets in loader.batches(0):
        sizes = [tuple(target["mask"].shape) for target in targets]
        columns["mask"] += [_grey(target["mask"].numpy()) for target in targets]
        for arm, run in runs.items():
            columns[arm] += [_grey(found) for found in probability_maps(run.network, images, sizes)]
    columns["image"] = [as_picture(chosen[i][0] / 255) for i in range(len(chosen))]
    cells = [column[row] for row in range(len(chosen)) for column in columns.values()]
    captions = ["image", "mask", "ResNet", "transformer", "side by side", "DQnet"]
    sheet = grid(cells, len(columns), captions + [""] * (len(cells) - len(captions)))
    write_picture(folder_of(output, "gate", seed) / "gallery" / "arms.png", sheet)
    write_picture(output / "picture.png", sheet)
    return output / "picture.png"


def _grey(found: Any) -> np.ndarray:
    """A uint8 map ``(H, W)`` as a picture."""
    import torch

    from vireo.report import as_picture

    return as_picture(torch.as_tensor(found)[None].expand(3, -1, -1) / 255)


def write_page(output: Path, seed: int, table: Table) -> Path:
    """``report.html`` of the demo: the comparison, and the pictures, curves and settings of one run of the method."""
    from vireo.report import write_run_report

    pictures = {"Evaluation pictures: masks and what the arms find": "arms.png"}
    page = write_run_report(folder_of(output, "gate", seed), "DQnet: the demo", pictures, tables=[table])
    target = output / "report.html"
    target.write_bytes(page.read_bytes())
    return target


if __name__ == "__main__":
    sys.exit(main())
