"""The claim of P2P-Loc at small scale: do labels, refined by the detector that was trained on them, train a better one?

    python benchmarks/claims/p2p_loc.py people                    # generated tiny people, CPU
    python benchmarks/claims/p2p_loc.py bccd --root data/BCCD     # blood cells at a quarter of their size, CPU
    python benchmarks/claims/p2p_loc.py people_gpu                # RepPoints with ResNet-50, for a GPU
    python benchmarks/claims/p2p_loc.py bccd_r50 --root data/BCCD # the same on blood cells, for a GPU

An annotator clicks anywhere on an object. Round 0 is trained on these points, each later round on labels refined by the
round before; all rounds have the same steps. Other arms refine in other ways, click otherwise, or are upper bounds: the
true centres with boxes of one size, and the true boxes. Runs go on where they stopped if the script is started again.
Results: `benchmarks/results/p2p_loc_<data>.json`; what is expected of them is checked and stored too.
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import mean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from claim import Claim, Metrics, Paper, Runs, folder_of, main

UNIFORM, CUT_0, FIXED, FREE = "uniform points", "score cut 0", "boxes of one size", "point not contained"
GAUSSIAN, CENTRES, BOXES = "points about the centre", "true centres", "true boxes"
ARMS = {
    UNIFORM: [],
    CUT_0: ["refine.score_thr=0"],
    FIXED: ["refine.label=point"],
    FREE: ["refine.include_point=false"],
    GAUSSIAN: ["data.points.dist=rg", "data.points.sigma=0.25"],
    CENTRES: ["data.points.dist=fixed", "rounds=0"],
    BOXES: ["data.labels=boxes", "rounds=0"],
}
COLUMNS = {
    "error": "label error",
    "AP@0.25": "AP at 0.25",
    "AP@0.5": "AP at 0.5",
    "AP@1": "AP at 1",
    "AP@2": "AP at 2",
}
GAIN, LESS, LOSS = 0.10, 0.30, 0.02
VOC = "Annotations/, JPEGImages/ and ImageSets/"
_QUIET = ["gallery_images=0"]
_SCRATCH = ["model=adap_reppoints", "model.pretrained=false", "model.norm=gn", "model.frozen_stages=0"]
_SCRATCH += ["optim.lr=1e-4", "optim.warmup_steps=100", "optim.grad_clip=35", "run.precision=bf16-mixed"]
_CROPS = ["data.image_size=[256,256]", "data.train_images=400", "epochs=12", "eval_every=12"]
CLAIMS = {
    "people": Claim(
        title="Generated tiny people, 96x96, small network from scratch",
        settings=["+experiment=demo", *_QUIET],
        arms=list(ARMS),
    ),
    "bccd": Claim(
        title="Blood cells (BCCD) at 160x120, small network from scratch",
        settings=["+experiment=bccd", *_QUIET],
        arms=[UNIFORM, CENTRES, BOXES],
        root=VOC,
    ),
    "people_gpu": Claim(
        title="Generated tiny people, 256x256, RepPoints with ResNet-50 from scratch",
        settings=["+experiment=demo", *_SCRATCH, *_CROPS, *_QUIET],
        arms=[UNIFORM, CENTRES, BOXES],
        gpu=True,
    ),
    "bccd_r50": Claim(
        title="Blood cells (BCCD), RepPoints with ResNet-50 from scratch",
        settings=["+experiment=bccd_r50", *_QUIET],
        arms=[UNIFORM, CENTRES, BOXES],
        root=VOC,
        gpu=True,
    ),
}


def row_of(arm: str, number: int) -> str:
    """Name of the row of a round."""
    return arm if arm in (CENTRES, BOXES) else f"{arm}, round {number}"


def measure(runs: Runs, seed: int, arm: str) -> dict[str, dict[str, Any]]:
    """A row for each round; of ways to refine without round 0, which they share."""
    pictures = [] if runs.root else [f"data.seed={seed}"]
    settings = [*ARMS[arm], *pictures, f"data.points.seed={seed}"]
    trained = runs.train("p2p_loc.train", folder_of(arm, seed), seed, settings)
    rows = {}
    for row in trained["rounds"]:
        if row["round"] or arm not in (CUT_0, FIXED, FREE):
            metrics = {name: row["metrics"].get(name, row["labels"].get(name)) for name in COLUMNS}
            name = row_of(arm, row["round"])
            rows[name] = {"metrics": metrics, "wall_s": row["train_s"], "steps": trained["steps"]}
    return rows


def check(rows: Metrics, claim: Claim) -> dict[str, bool]:
    """What is expected and whether it holds: of the gains for every seed, else in the mean."""
    first, second, third = (rows.get(row_of(UNIFORM, t)) for t in range(3))
    if first is None or second is None:
        return {}
    ap = {name: mean(metrics["AP@0.25"]) for name, metrics in rows.items()}
    gains = [b - a for a, b in zip(first["AP@0.25"], second["AP@0.25"])]
    better = all(b <= (1 - LESS) * a for a, b in zip(first["error"], second["error"]))
    found = {
        f"round 1 above round 0 by {GAIN} of AP at 0.25, each seed": min(gains) >= GAIN,
        f"label error falls by {LESS:.0%} in the first refinement, each seed": better,
    }
    if third is not None:
        kept = mean(third["AP@0.5"]) >= mean(second["AP@0.5"]) - LOSS
        found[f"round 2 not below round 1 by more than {LOSS} of AP at 0.5"] = kept
    for bound in (CENTRES, BOXES):
        if bound in rows:
            found[f"{bound}: above round 1 at 0.25"] = ap[bound] > ap[row_of(UNIFORM, 1)]
    if row_of(CUT_0, 2) in rows:
        falls_back = ap[row_of(CUT_0, 2)] < ap[row_of(CUT_0, 1)]
        found["with score cut 0, round 2 falls behind round 1 at 0.25"] = falls_back
    if row_of(GAUSSIAN, 1) in rows:
        start, end = (mean(rows[row_of(GAUSSIAN, t)]["AP@0.5"]) for t in (0, 1))
        found["points about the centre: round 1 not below round 0 at 0.5"] = end >= start
    return found


PAPER = Paper(
    name="p2p_loc",
    description=__doc__,
    columns=COLUMNS,
    arms=ARMS,
    claims=CLAIMS,
    measure=measure,
    check=check,
    output=Path("outputs/claims/p2p_loc"),
)

if __name__ == "__main__":
    sys.exit(main(PAPER))
