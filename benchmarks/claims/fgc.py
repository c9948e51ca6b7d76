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

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from claim import CLASS_FOLDERS, Claim, Metrics, Paper, Runs, folder_of, main

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


@dataclass(frozen=True, kw_only=True)
class TwoStages(Claim):
    """A claim whose arms go on from a common start.

    Attributes:
        epochs: of the start, by batch shaping, and of every arm.
        margin: how much FGC's overlap must exceed that of BAS.
        error_margin: how many points FGC's error may exceed that of BAS.
        pruning: of BAS, from and to, for which the L0 weight is looked for; None: it is that of the settings.
    """

    epochs: tuple[int, int]
    margin: float
    error_margin: float
    pruning: tuple[float, float] | None = None


_GPU = ["recipe.shaping_epochs=15", "recipe.rho_epochs=20", "coupling.num_neighbors=200", "coupling.warmup_epochs=3"]
CLAIMS = {
    "generated": TwoStages(
        title="Generated pictures, gated ResNet-20, 16x16",
        settings=["+experiment=demo", "gallery_images=0", "eval_every=15"],
        arms=list(ARMS),
        epochs=(5, 10),
        margin=0.05,
        error_margin=3.0,
    ),
    "cifar10": TwoStages(
        title="CIFAR-10 as JPEG, 8,000 images at 16x16, gated ResNet-20",
        settings=["+experiment=cifar10_small"],
        arms=list(ARMS),
        root=CLASS_FOLDERS,
        epochs=(5, 10),
        margin=0.08,
        error_margin=3.0,
    ),
    "cifar10_gpu": TwoStages(
        title="CIFAR-10 as JPEG, all images, gated ResNet-20",
        settings=["data=folder", *_GPU, "optim.milestones=[39,49]", "eval_every=40", "gallery_images=0"],
        arms=[BAS, FGC],
        root=CLASS_FOLDERS,
        gpu=True,
        epochs=(15, 40),
        margin=0.0,
        error_margin=0.5,
        pruning=(0.5, 0.6),
    ),
}


def prepare(runs: Runs) -> dict[str, list[str]]:
    """Batch shaping of every seed's start, then the L0 weight as a setting, where it is looked for."""
    first = ["stage=bas", f"epochs={runs.claim.epochs[0]}"]
    runs.each(lambda seed: runs.train("fgc.train", f"start_{seed}", seed, first), runs.seeds)
    return {"rho": find_rho(runs, *runs.claim.pruning) if runs.claim.pruning else []}


def second_stage(runs: Runs, folder: str, seed: int, settings: Sequence[str]) -> dict[str, Any]:
    """A run that goes on from the start of its seed."""
    stage = ["stage=fgc", f"epochs={runs.claim.epochs[1]}", f"init={runs.output / f'start_{seed}'}"]
    return runs.train("fgc.train", folder, seed, [*stage, *settings])


def measure(runs: Runs, seed: int, arm: str, rho: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The metrics that training ends with, by the names of the columns."""
    result = second_stage(runs, folder_of(arm, seed), seed, [*ARMS[arm], *rho])
    metrics = result["metrics"]
    blocks = {f"{name}_{block}": metrics[name][block] for name in ("overlap", "purity") for block in ("7", "8")}
    error = {"top1_error": metrics["top1_error"], "pruning_percent": 100 * metrics["pruning"]}
    return {arm: {**result, "metrics": {**error, **blocks}}}


def find_rho(runs: Runs, least: float, most: float, tries: int = 4) -> list[str]:
    """The L0 weight at which BAS prunes from ``least`` to ``most``, from 1 by bisection of its logarithm."""
    low, high, rho = 0.1, 10.0, 1.0
    for _ in range(tries):
        setting = f"recipe.rho={rho:.4g}"
        result = second_stage(runs, f"rho_{rho:.4g}", runs.seeds[0], [*ARMS[BAS], setting])
        pruning = result["metrics"]["pruning"]
        print(f"rho {rho:.4g}: BAS prunes {100 * pruning:.1f} %", flush=True)
        if least <= pruning <= most:
            return [setting]
        low, high = (rho, high) if pruning < least else (low, rho)
        rho = (low * high) ** 0.5
    return [f"recipe.rho={rho:.4g}"]


def check(arms: Metrics, claim: TwoStages) -> dict[str, bool]:
    """What the claim predicts (section 10 of the notes), and whether it holds."""
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


PAPER = Paper(
    name="fgc",
    description=__doc__,
    columns=COLUMNS,
    arms=ARMS,
    claims=CLAIMS,
    prepare=prepare,
    measure=measure,
    check=check,
)

if __name__ == "__main__":
    sys.exit(main(PAPER))
