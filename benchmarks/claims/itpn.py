"""The claim of iTPN at small scale: pre-training backbone and pyramid together, the backbone alone, or nothing.

    python benchmarks/claims/itpn.py digits                                   # generated pictures of digits, CPU
    python benchmarks/claims/itpn.py camvid --root data/camvid                # segmentation of road scenes, CPU
    python benchmarks/claims/itpn.py bccd --root data/BCCD                    # detection of blood cells, CPU
    python benchmarks/claims/itpn.py camvid_gpu --root data/camvid            # a larger network, for a GPU

One pre-training per seed on unlabelled training pictures; then the same segmenter or detector learns from labels for
the same number of steps, from nothing, from the pre-trained backbone with a fresh pyramid, and from both. Runs go on
where they stopped if the script is started again. Results: `benchmarks/results/itpn_<data>.json`; what the paper's
claim predicts is checked and stored with them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from claim import Claim, Metrics, Paper, Runs, folder_of, main

SCRATCH, BACKBONE, INTEGRAL = "from scratch", "backbone pre-trained", "backbone and pyramid pre-trained (iTPN)"
ARMS = {SCRATCH: [], BACKBONE: ["init_parts=backbone"], INTEGRAL: ["init_parts=all"]}
COLUMNS = {
    "mIoU": "mean IoU",
    "mAcc": "mean class accuracy",
    "aAcc": "pixel accuracy",
    "box_AP": "AP of boxes",
    "box_AP50": "AP50 of boxes",
}


@dataclass(frozen=True, kw_only=True)
class TransferClaim(Claim):
    """A claim with a pre-training before its arms.

    Attributes:
        pretrain: settings of the pre-training; ``settings`` are those of what follows.
        module: what follows.
        metrics: of that, the first of which is compared.
    """

    pretrain: Sequence[str]
    module: str = "itpn.segment"
    metrics: Sequence[str] = ("mIoU", "mAcc", "aAcc")


CLAIMS = {
    "digits": TransferClaim(
        title="Generated pictures of digits, 64x64, 200 of them labelled",
        pretrain=["+experiment=demo", "gallery_images=0"],
        settings=["+experiment=segment_demo", "gallery_images=0"],
        arms=list(ARMS),
    ),
}


def prepare(runs: Runs) -> dict[str, Any]:
    """The pre-training of each seed; its loss goes into the result."""

    def one(seed: int) -> float:
        folder = folder_of("pretrain", seed)
        given = [*runs.root, *pictures(runs, seed), f"seed={seed}", f"output_dir={runs.output / folder}"]
        return runs("itpn.pretrain", folder, [*runs.claim.pretrain, *given])["metrics"]["loss"]

    return {"pretraining_loss": runs.each(one, runs.seeds)}


def measure(runs: Runs, seed: int, arm: str, pretraining_loss: Sequence[float]) -> dict[str, dict[str, Any]]:
    """A segmenter or detector of an arm."""
    start = [] if arm == SCRATCH else [f"init={runs.output / folder_of('pretrain', seed)}", *ARMS[arm]]
    trained = runs.train(runs.claim.module, folder_of(arm, seed), seed, [*start, *pictures(runs, seed)])
    return {arm: {**trained, "metrics": {name: trained["metrics"][name] for name in runs.claim.metrics}}}


def pictures(runs: Runs, seed: int) -> list[str]:
    """Other pictures for each seed, where they are generated."""
    return [] if runs.root else [f"data.seed={seed}"]


def check(arms: Metrics, claim: TransferClaim) -> dict[str, bool]:
    """What the paper predicts (section 10 of the notes) of the first metric, and whether it holds."""
    scores = {name: mean(metrics[claim.metrics[0]]) for name, metrics in arms.items()}
    found = {}
    for arm in (BACKBONE, INTEGRAL):
        if {arm, SCRATCH} <= set(scores):
            found[f"{arm}: above {SCRATCH} in the mean"] = scores[arm] > scores[SCRATCH]
    if {BACKBONE, INTEGRAL} <= set(scores):
        found[f"{INTEGRAL}: not below {BACKBONE} in the mean"] = scores[INTEGRAL] >= scores[BACKBONE]
    return found


PAPER = Paper(
    name="itpn",
    description=__doc__,
    columns=COLUMNS,
    arms=ARMS,
    claims=CLAIMS,
    measure=measure,
    prepare=prepare,
    check=check,
    output=Path("outputs/claims/itpn"),
)

if __name__ == "__main__":
    sys.exit(main(PAPER))
