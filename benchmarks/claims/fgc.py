"""The claim of FGC at small scale: from one start, gates that are coupled to features against gates that are not.

    python benchmarks/claims/fgc.py generated                            # generated pictures, CPU, minutes a seed
    python benchmarks/claims/fgc.py cifar10 --root data/cifar10          # 8,000 images of CIFAR-10 at 16x16, CPU
    python benchmarks/claims/fgc.py cifar10_gpu --root data/cifar10      # all of CIFAR-10, for a GPU

Per seed, batch shaping trains the common start; every arm then goes on from it with the same schedule: BAS (no
coupling), FGC, and two controls, coupling of each image to itself alone and to as many random images. `cifar10_gpu`
first looks for the L0 weight at which BAS prunes 50 to 60 %. Runs go on where they stopped if the script is started
again. Results: `benchmarks/results/fgc_<data>.json`; what the paper's claim predicts is checked and stored with them.
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
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import write_result

COLUMNS = {
    "top1_error": "error, %",
    "pruning_percent": "pruning, %",
    "overlap_7": "overlap@20, block 7",
    "overlap_8": "overlap@20, block 8",
    "purity_7": "gate purity@20, block 7",
    "purity_8": "gate purity@20, block 8",
}
BAS, SELF, RANDOM, FGC = "BAS", "self only", "random neighbours", "FGC"
ARMS = {
    BAS: ["recipe.kappa=0"],
    SELF: ["coupling.num_neighbors=0"],
    RANDOM: ["coupling.random_neighbors=true"],
    FGC: [],
}


@dataclass(frozen=True)
class Claim:
    """A data set, the settings of its two stages, and how much FGC's overlap must exceed that of BAS."""

    title: str
    common: list[str]
    first: list[str]
    second: list[str]
    margin: float
    error_margin: float
    arms: tuple[str, ...] = tuple(ARMS)
    rho_for_pruning: tuple[float, float] | None = None
    needs_root: bool = field(default=True)


_GPU = ["recipe.shaping_epochs=15", "recipe.rho_epochs=20", "coupling.num_neighbors=200", "coupling.warmup_epochs=3"]
CLAIMS = {
    "generated": Claim(
        "Generated pictures, gated ResNet-20, 16x16",
        ["+experiment=demo", "gallery_images=0", "eval_every=15"],
        ["stage=bas", "epochs=5"],
        ["stage=fgc", "epochs=10"],
        margin=0.05,
        error_margin=3.0,
        needs_root=False,
    ),
    "cifar10": Claim(
        "CIFAR-10 as JPEG, 8,000 images at 16x16, gated ResNet-20",
        ["+experiment=cifar10_small"],
        ["stage=bas", "epochs=5"],
        ["stage=fgc", "epochs=10"],
        margin=0.08,
        error_margin=3.0,
    ),
    "cifar10_gpu": Claim(
        "CIFAR-10 as JPEG, all images, gated ResNet-20",
        ["data=folder", *_GPU, "optim.milestones=[39,49]", "eval_every=40", "gallery_images=0"],
        ["stage=bas", "epochs=15"],
        ["stage=fgc", "epochs=40"],
        margin=0.0,
        error_margin=0.5,
        arms=(BAS, FGC),
        rho_for_pruning=(0.5, 0.6),
    ),
}


@dataclass(frozen=True)
class Runner:
    """Starts ``fgc-train`` as processes of ``threads`` threads each, in folders below ``output``."""

    output: Path
    common: list[str]
    threads: int | None

    def __call__(self, name: str, settings: Sequence[str]) -> dict[str, Any]:
        """The content of the run's ``metrics.json``.

        Raises:
            RuntimeError: the run failed; its console.txt says why.
        """
        folder = self.output / name
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "fgc.train", *self.common, *settings, f"output_dir={folder}"]
        limited = {} if self.threads is None else {"OMP_NUM_THREADS": str(self.threads)}
        began = time.perf_counter()
        with open(folder / "console.txt", "a") as console:
            status = subprocess.run(command, stdout=console, stderr=console, env={**os.environ, **limited}).returncode
        print(f"{name}: status {status}, {time.perf_counter() - began:.0f} s", flush=True)
        if status:
            raise RuntimeError(f"{folder / 'console.txt'} says why")
        return json.loads((folder / "metrics.json").read_text())


def main(argv: Sequence[str] | None = None) -> int:
    """Train all arms for all seeds, write the result and say what of the claim's predictions holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=sorted(CLAIMS), nargs="?", default="generated")
    parser.add_argument("--root", type=Path, help="folder with train/<class>/ and test/<class>/ of CIFAR-10")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=ARMS, help="default: those of the claim")
    parser.add_argument("--jobs", type=int, help="runs at a time, one thread each; default: a core each, 1 with a GPU")
    parser.add_argument("--output", type=Path, default=Path("outputs/claims"))
    parser.add_argument("--override", action="append", default=[], help="further settings of fgc-train")
    arguments = parser.parse_args(argv)
    claim = CLAIMS[arguments.data]
    arms = arguments.arms or claim.arms
    common = [*claim.common, *arguments.override]
    if claim.needs_root:
        if arguments.root is None:
            parser.error(f"{arguments.data} needs --root, the folder that holds train/ and test/")
        common.append(f"data.root={arguments.root}")
    jobs = arguments.jobs or (1 if claim.rho_for_pruning else os.cpu_count() or 1)
    run = Runner(arguments.output / arguments.data, common, None if claim.rho_for_pruning else 1)
    started = time.perf_counter()

    def start(seed: int) -> dict[str, Any]:
        return run(f"start_{seed}", [*claim.first, f"seed={seed}"])

    def arm(job: tuple[int, str], *more: str, folder: str = "") -> dict[str, Any]:
        seed, name = job
        slug = "".join(c if c.isalnum() else "_" for c in name).lower()
        settings = [*claim.second, *ARMS[name], *more, f"seed={seed}", f"init={run.output / f'start_{seed}'}"]
        return run(folder or f"{slug}_{seed}", settings)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(start, arguments.seeds))
        rho = find_rho(arm, arguments.seeds[0], claim.rho_for_pruning) if claim.rho_for_pruning else []
        pairs = [(seed, name) for seed in arguments.seeds for name in arms]
        results = dict(zip(pairs, pool.map(lambda pair: arm(pair, *rho), pairs)))
    rows = []
    for name in arms:
        runs = [results[seed, name] for seed in arguments.seeds]
        rows.append(
            {
                "name": name,
                "metrics": {column: [flat(run["metrics"])[column] for run in runs] for column in COLUMNS},
                "train_seconds": [run["wall_s"] for run in runs],
            }
        )
    checks = check(rows, claim)
    write_result(
        f"fgc_{arguments.data}",
        {
            "title": claim.title,
            "seeds": arguments.seeds,
            "columns": COLUMNS,
            "arms": rows,
            "checks": checks,
            "steps": next(iter(results.values()))["steps"],
            "rho": rho,
            "overrides": arguments.override,
            "wall_s": round(time.perf_counter() - started, 1),
        },
    )
    for line, holds in checks.items():
        print(f"{'holds' if holds else 'DOES NOT HOLD'}: {line}")
    return 0


def flat(metrics: dict[str, Any]) -> dict[str, float]:
    """The metrics of the table by the names of its columns."""
    by_block = {f"{name}_{block}": metrics[name][block] for name in ("overlap", "purity") for block in ("7", "8")}
    return {**by_block, "top1_error": metrics["top1_error"], "pruning_percent": 100 * metrics["pruning"]}


def find_rho(arm: Any, seed: int, wanted: tuple[float, float], tries: int = 4) -> list[str]:
    """The L0 weight at which BAS prunes as much as ``wanted``, from 1 by bisection of its logarithm."""
    low, high, rho = 0.1, 10.0, 1.0
    for _ in range(tries):
        setting = f"recipe.rho={rho:.4g}"
        pruning = arm((seed, BAS), setting, folder=f"rho_{rho:.4g}")["metrics"]["pruning"]
        print(f"rho {rho:.4g}: BAS prunes {100 * pruning:.1f} %", flush=True)
        if wanted[0] <= pruning <= wanted[1]:
            return [setting]
        low, high = (rho, high) if pruning < wanted[0] else (low, rho)
        rho = (low * high) ** 0.5
    return [f"recipe.rho={rho:.4g}"]


def check(rows: Sequence[dict[str, Any]], claim: Claim) -> dict[str, bool]:
    """What the claim predicts (section 10 of the notes), and whether it holds."""
    arms = {row["name"]: row["metrics"] for row in rows}
    if not {BAS, FGC} <= set(arms):
        return {}
    bas, fgc = arms[BAS], arms[FGC]
    found = {}
    for block in (7, 8):
        pairs = list(zip(fgc[f"overlap_{block}"], bas[f"overlap_{block}"]))
        text = f"overlap of block {block}: FGC at least {claim.margin} above BAS on every seed"
        found[text] = all(ours >= theirs + claim.margin and ours > theirs for ours, theirs in pairs)
        for control in (SELF, RANDOM):
            if control in arms:
                text = f"overlap of block {block}: FGC above '{control}' in the mean"
                found[text] = mean(fgc[f"overlap_{block}"]) > mean(arms[control][f"overlap_{block}"])
        text = f"gate purity of block {block}: FGC above BAS in the mean"
        found[text] = mean(fgc[f"purity_{block}"]) > mean(bas[f"purity_{block}"])
    gaps = [abs(ours - theirs) for ours, theirs in zip(fgc["pruning_percent"], bas["pruning_percent"])]
    found["pruning: FGC and BAS within 2 points on every seed"] = max(gaps) <= 2
    text = f"error: FGC at most {claim.error_margin} points above BAS in the mean"
    found[text] = mean(fgc["top1_error"]) <= mean(bas["top1_error"]) + claim.error_margin
    return found


if __name__ == "__main__":
    sys.exit(main())
