"""``make demo PAPER=p2p_loc``: coarse points, refined twice, and the true boxes as the upper bound.

python -m p2p_loc.demo                                 # outputs/demo/report.html, minutes on two cores
python -m p2p_loc.demo --output DIR --seeds 0 1 2
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
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vireo.report.html import Table

RUNS = {"points": "demo", "boxes": "demo_boxes"}  # experiments
ROUNDS = ("coarse points, round 0", "round 1", "round 2")
BOXES = "true boxes"
METRICS = {f"AP@{tau}": f"AP at {tau}" for tau in ("0.25", "0.5", "1", "2")}


def main(argv: Sequence[str] | None = None) -> int:
    """Train all rounds and the upper bound of each seed, print the table, write the page; 0 or the status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/demo"), help="folder of the demo")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--override", nargs="*", default=[], help="further settings of every run, e.g. epochs=1")
    arguments = parser.parse_args(argv)
    started = time.perf_counter()
    jobs = min(len(RUNS) * len(arguments.seeds), os.cpu_count() or 1)
    environment = {**os.environ, "OMP_NUM_THREADS": "1" if jobs > 1 else str(os.cpu_count())}

    def run(job: tuple[int, str]) -> int:
        seed, name = job
        given = [f"+experiment={RUNS[name]}", f"seed={seed}", f"data.seed={seed}", f"data.points.seed={seed}"]
        given += [*arguments.override, f"output_dir={folder_of(arguments.output, name, seed)}"]
        return subprocess.run([sys.executable, "-m", "p2p_loc.train", *given], env=environment).returncode

    print(f"== {len(ROUNDS)} rounds and the upper bound, {len(arguments.seeds)} seeds: {jobs} at a time", flush=True)
    with ThreadPoolExecutor(jobs) as pool:
        statuses = list(pool.map(run, [(seed, name) for seed in arguments.seeds for name in RUNS]))
    if any(statuses):
        return max(statuses)
    table = comparison(arguments.output, arguments.seeds)
    page = write_page(arguments.output, arguments.seeds[0], table)
    table.show()
    print(f"\n{(time.perf_counter() - started) / 60:.1f} minutes. Report: {page}")
    return 0


def folder_of(output: Path, name: str, seed: int) -> Path:
    """Folder of a run."""
    return output / f"{name}_{seed}"


def comparison(output: Path, seeds: Sequence[int]) -> Table:
    """A line for each round and one for the true boxes: means and deviations over the seeds."""
    from vireo.report.html import Table

    runs = {name: [_rounds(folder_of(output, name, seed)) for seed in seeds] for name in RUNS}
    rows = [(title, *_line([run[t] for run in runs["points"]])) for t, title in enumerate(ROUNDS)]
    rows.append((BOXES, *_line([run[0] for run in runs["boxes"]])))
    return Table("Generated tiny people", ("labels", "label error", *METRICS.values()), rows)


def _rounds(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((folder / "rounds.json").read_text())
    return rows


def _line(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Label error and average precisions of one row of ``rounds.json`` for each seed."""
    columns = [[row["labels"]["error"] for row in rows]]
    columns += [[row["metrics"][name] for row in rows] for name in METRICS]
    return [f"{mean(v):.3f}" + (f" ± {stdev(v):.3f}" if len(v) > 1 else "") for v in columns]


def write_page(output: Path, seed: int, table: Table) -> Path:
    """``report.html`` and ``picture.png`` of the demo: the comparison, and the pages of one run of all rounds."""
    import numpy as np

    from vireo.report import stacked, write_picture

    from .report import write_report

    folder = folder_of(output, "points", seed)
    page = write_report(folder, title="P2P-Loc: the demo", tables=[table])
    target = output / "report.html"
    target.write_bytes(page.read_bytes())
    pictures = [np.asarray(_read(path)) for path in sorted((folder / "gallery").glob("labels_*.png"))[:2]]
    if pictures:
        write_picture(output / "picture.png", stacked(pictures))
    return target


def _read(path: Path) -> Any:
    from PIL import Image

    return Image.open(path).convert("RGB")


if __name__ == "__main__":
    sys.exit(main())
