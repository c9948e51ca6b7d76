"""The claim of SSD-Det at small scale: detectors trained on boxes with 40 % noise, tested on clean ones.

    python benchmarks/claims/ssd_det.py shapes                     # generated shapes: both ends of the claim
    python benchmarks/claims/ssd_det.py bccd --root data/BCCD      # blood cells: all arms
    python benchmarks/claims/ssd_det.py bccd_r50 --root data/BCCD --jobs 1   # the same with ResNet-50, for a GPU

Every arm starts from the same random initialisation and sees the same batches for the same number of steps. Runs go on
where they stopped if the script is started again. Results: ``benchmarks/results/ssd_det_<data>.json``.
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
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import write_result

COLUMNS = {
    "AP": "AP",
    "AP50": "AP50",
    "AP75": "AP75",
    "iou_given": "IoU given boxes",
    "iou_refined": "IoU refined boxes",
    "above_half_refined": "refined with IoU > 0.5",
}
NOISY = {
    "plain detector": ["refiner=none"],
    "basic refiner": ["refiner=basic"],
    "+ SPSD": ["refiner=spsd"],
    "SSD-Det (+ SPSD + SISD)": ["refiner=full"],
}
CLEAN = {"plain detector, clean boxes": ["refiner=none", "data.noise=0"]}
ENDS = {name: overrides for name, overrides in NOISY.items() if name.startswith(("plain", "SSD-Det"))}


@dataclass(frozen=True)
class Claim:
    """A data set, the arms compared on it and what each is trained with."""

    title: str
    experiment: str
    arms: dict[str, list[str]]


CLAIMS = {
    "shapes": Claim("Generated shapes, 40 % noise, from scratch", "demo", ENDS | CLEAN),
    "bccd": Claim("Blood cells (BCCD), 40 % noise, from scratch", "bccd", NOISY | CLEAN),
    "bccd_r50": Claim("Blood cells (BCCD), 40 % noise, ResNet-50 from scratch", "bccd_r50", NOISY | CLEAN),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Train all arms for all seeds and write the result; 1 if a run failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=sorted(CLAIMS), nargs="?", default="shapes")
    parser.add_argument("--root", type=Path, help="folder of the blood cells")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", help="names of arms; default: all")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time, one thread each")
    parser.add_argument("--output", type=Path, default=Path("outputs/claims"))
    parser.add_argument("--override", action="append", default=[], help="further settings of ssd-det-train")
    arguments = parser.parse_args(argv)
    claim = CLAIMS[arguments.data]
    arms = {name: claim.arms[name] for name in arguments.arms or claim.arms}
    common = [f"+experiment={claim.experiment}", *arguments.override]
    if arguments.data.startswith("bccd"):
        if arguments.root is None:
            parser.error("bccd needs --root, the folder that holds Annotations/, JPEGImages/ and ImageSets/")
        common.append(f"data.root={arguments.root}")

    def run(job: tuple[int, str]) -> dict | None:
        seed, arm = job
        slug = "".join(c if c.isalnum() else "_" for c in arm).strip("_").lower()
        folder = arguments.output / arguments.data / f"{slug}_{seed}"
        started = time.perf_counter()
        command = [sys.executable, "-m", "ssd_det.train", *common, *arms[arm], f"seed={seed}", f"output_dir={folder}"]
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "console.txt", "a") as console:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            status = subprocess.run(command, stdout=console, stderr=console, env=environment).returncode
        print(f"{arm}, seed {seed}: status {status}, {time.perf_counter() - started:.0f} s", flush=True)
        return json.loads((folder / "metrics.json").read_text()) if status == 0 else None

    jobs = [(seed, arm) for seed in arguments.seeds for arm in arms]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        results = dict(zip(jobs, pool.map(run, jobs)))
    if any(result is None for result in results.values()):
        return 1
    rows = []
    for arm in arms:
        runs = [results[seed, arm] for seed in arguments.seeds]
        metrics = {
            name: [run["metrics"][name] for run in runs if run]
            for name in COLUMNS
            if runs[0] and name in runs[0]["metrics"]
        }
        rows.append({"name": arm, "metrics": metrics, "train_seconds": [run["wall_s"] for run in runs if run]})
    first = next(result for result in results.values() if result)
    write_result(
        f"ssd_det_{arguments.data}",
        {
            "title": claim.title,
            "seeds": arguments.seeds,
            "columns": COLUMNS,
            "arms": rows,
            "steps": first["steps"],
            "overrides": arguments.override,
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
