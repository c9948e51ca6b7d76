"""The claim of SSD-Det at small scale: detectors trained on boxes with 40 % noise, tested on clean ones.

    python benchmarks/claims/ssd_det.py shapes                     # generated shapes: both ends of the claim
    python benchmarks/claims/ssd_det.py bccd --root data/BCCD      # blood cells: all arms
    python benchmarks/claims/ssd_det.py bccd_r50 --root data/BCCD  # the same with ResNet-50, for a GPU

Every arm starts from the same random initialisation and sees the same batches for the same number of steps. Runs go on
where they stopped if the script is started again. Results: ``benchmarks/results/ssd_det_<data>.json``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from claim import Claim, Paper, Runs, folder_of, main

COLUMNS = {
    "AP": "AP",
    "AP50": "AP50",
    "AP75": "AP75",
    "iou_given": "IoU given boxes",
    "iou_refined": "IoU refined boxes",
    "above_half_refined": "refined with IoU > 0.5",
}
PLAIN, FULL, CLEAN = "plain detector", "SSD-Det (+ SPSD + SISD)", "plain detector, clean boxes"
ARMS = {
    PLAIN: ["refiner=none"],
    "basic refiner": ["refiner=basic"],
    "+ SPSD": ["refiner=spsd"],
    FULL: ["refiner=full"],
    CLEAN: ["refiner=none", "data.noise=0"],
}
VOC = "Annotations/, JPEGImages/ and ImageSets/"
CLAIMS = {
    "shapes": Claim(
        title="Generated shapes, 40 % noise, from scratch",
        settings=["+experiment=demo"],
        arms=[PLAIN, FULL, CLEAN],
    ),
    "bccd": Claim(
        title="Blood cells (BCCD), 40 % noise, from scratch",
        settings=["+experiment=bccd"],
        arms=list(ARMS),
        root=VOC,
    ),
    "bccd_r50": Claim(
        title="Blood cells (BCCD), 40 % noise, ResNet-50 from scratch",
        settings=["+experiment=bccd_r50"],
        arms=list(ARMS),
        root=VOC,
        gpu=True,
    ),
}


def measure(runs: Runs, seed: int, arm: str) -> dict[str, dict[str, Any]]:
    """The metrics that training ends with."""
    return {arm: runs.train("ssd_det.train", folder_of(arm.strip("+ )"), seed), seed, ARMS[arm])}


PAPER = Paper(name="ssd_det", description=__doc__, columns=COLUMNS, arms=ARMS, claims=CLAIMS, measure=measure)

if __name__ == "__main__":
    sys.exit(main(PAPER))
