"""The claim of Beyond Masking at small scale: what encoders learn from recovering what different degradations took.

    python benchmarks/claims/beyond_masking.py generated                        # generated pictures, CPU
    python benchmarks/claims/beyond_masking.py cifar10 --root data/cifar10      # CIFAR-10 as JPEG, CPU
    python benchmarks/claims/beyond_masking.py cifar10_gpu --root data/cifar10  # larger networks, fine-tuned, for a GPU

Every arm pre-trains the same network from the same start for the same number of steps. Frozen features (mean and
maximum of the tokens) are then judged by a linear probe, whose penalty is chosen on a part of the training images, and
by k nearest neighbours; `untrained` is the network before its first step. `cifar10_gpu` also fine-tunes on a tenth of
the labels. Runs go on where they stopped if the script is started again. Results:
`benchmarks/results/beyond_masking_<data>.json`; what the paper's claim predicts is checked and stored with them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from claim import CLASS_FOLDERS, Claim, Metrics, Paper, Runs, folder_of, main

UNTRAINED, MASK, INTEGRATED = "untrained", "mask only (m)", "zoomed-in + mask (a)+(m)"
ZOOM_IN, ZOOM_OUT, DISTORTED = "zoomed-in (a)", "zoomed-out (b)", "distorted (c)"
BLURRED, GRAY = "blurred (d)", "de-colorized (e)"
SPATIAL, STYLE = (ZOOM_IN, ZOOM_OUT, DISTORTED), (BLURRED, GRAY)
ARMS = {
    MASK: ["degradation.name=none", "mask_ratio=0.75"],
    INTEGRATED: ["degradation.name=zoomed_in", "mask_ratio=0.75"],
    ZOOM_IN: ["degradation.name=zoomed_in", "mask_ratio=0"],
    ZOOM_OUT: ["degradation.name=zoomed_out", "mask_ratio=0"],
    DISTORTED: ["degradation.name=distorted", "mask_ratio=0"],
    # 7x7 is too strong at an eighth of the size
    BLURRED: ["degradation.name=blurred", "+degradation.kernel=3", "+degradation.std=0.1", "mask_ratio=0"],
    GRAY: ["degradation.name=decolorized", "mask_ratio=0"],
}
COLUMNS = {
    "linear_top1": "linear probe, % correct",
    "knn_top1": "20 nearest neighbours, % correct",
    "finetuned_top1": "fine-tuned on a tenth of the labels, % correct",
}


@dataclass(frozen=True, kw_only=True)
class PretrainingClaim(Claim):
    """A claim whose encoders are also fine-tuned, where ``finetune`` has the settings of that."""

    finetune: Sequence[str] = ()


_GPU_MODEL = [
    "model.embed_dim=192",
    "model.depth=6",
    "model.num_heads=3",
    "model.decoder_dim=96",
    "model.decoder_depth=2",
    "model.decoder_heads=3",
]
_GPU = ["data=folder", "data.batch_size=1024", *_GPU_MODEL, "run.precision=bf16-mixed", "compile=true"]
CLAIMS = {
    "generated": PretrainingClaim(
        title="Generated pictures, a ViT of 3 blocks with 7x7 tokens",
        settings=["+experiment=demo", "eval_every=16", "gallery_images=0"],
        arms=[MASK, ZOOM_IN, INTEGRATED],
    ),
    "cifar10": PretrainingClaim(
        title="CIFAR-10 as JPEG, a ViT of 3 blocks with 7x7 tokens",
        settings=["data=folder", "+experiment=demo", "epochs=4", "eval_every=4", "gallery_images=0"],
        arms=[MASK, INTEGRATED],
        root=CLASS_FOLDERS,
    ),
    "cifar10_gpu": PretrainingClaim(
        title="CIFAR-10 as JPEG, a ViT of 6 blocks with 7x7 tokens",
        settings=[*_GPU, "optim.lr=3.75e-4", "epochs=50", "optim.warmup_epochs=5", "eval_every=50", "gallery_images=0"],
        arms=[MASK, ZOOM_IN, GRAY, INTEGRATED],
        root=CLASS_FOLDERS,
        gpu=True,
        finetune=[
            *_GPU,
            "data.batch_size=256",
            "data.train_per_class=500",
            "epochs=100",
            "eval_every=100",
            "mixing.mixup=0",
            "mixing.cutmix=0",
        ],
    ),
}


def measure(runs: Runs, seed: int, arm: str) -> dict[str, dict[str, Any]]:
    """Metrics of an arm; with the first arm also of the network before its first step."""
    folder = folder_of(arm, seed)
    pictures = [] if runs.root else [f"data.seed={seed}"]  # other pictures for each seed
    trained = runs.train("beyond_masking.pretrain", folder, seed, [*ARMS[arm], *pictures])
    start = [f"init={runs.output / folder}", *(["patch_embed=replicate"] if arm == GRAY else [])]
    metrics = features(runs, folder, "eval.json") | finetuned(runs, f"{folder}_finetuned", seed, start)
    rows = {arm: {**trained, "metrics": metrics}}
    if arm != runs.arms[0]:
        return rows
    before = features(runs, folder, "eval_untrained.json", "untrained=true")
    return {UNTRAINED: {"metrics": before | finetuned(runs, f"scratch_{seed}", seed, [])}, **rows}


def features(runs: Runs, folder: str, file: str, *settings: str) -> dict[str, float]:
    """Linear probe and neighbours of a run's encoder."""
    target = runs.output / folder
    judged = [f"run={target}", "protocol=features", f"out={target / file}", *settings]
    metrics = runs("beyond_masking.eval", folder, judged, file)["metrics"]
    return {f"{name}_top1": 100 - metrics[name]["top1_error"] for name in ("linear", "knn")}


def finetuned(runs: Runs, folder: str, seed: int, start: Sequence[str]) -> dict[str, float]:
    """A classifier on few labels; nothing where the claim has none."""
    if not runs.claim.finetune:
        return {}
    settings = [*runs.claim.finetune, *runs.root, *start, f"seed={seed}", f"output_dir={runs.output / folder}"]
    return {"finetuned_top1": 100 - runs("beyond_masking.finetune", folder, settings)["metrics"]["top1_error"]}


def check(arms: Metrics, claim: Claim) -> dict[str, bool]:
    """What the paper predicts (section 10 of the notes), by linear probe, and whether it holds."""
    probe = {name: metrics["linear_top1"] for name, metrics in arms.items()}
    found = {}
    if {UNTRAINED, INTEGRATED} <= set(probe) and len(probe[UNTRAINED]) > 1:
        gain = mean(probe[INTEGRATED]) - mean(probe[UNTRAINED])
        found["integrated above untrained by more than two standard errors"] = gain > 2 * difference_error(
            probe[INTEGRATED], probe[UNTRAINED]
        )
    for name in (MASK, *SPATIAL):
        if {UNTRAINED, name} <= set(probe):
            found[f"{name} above untrained in the mean"] = mean(probe[name]) > mean(probe[UNTRAINED])
    if {MASK, INTEGRATED} <= set(probe):
        found["integrated at least mask only in the mean"] = mean(probe[INTEGRATED]) >= mean(probe[MASK])
    spatial, style = ([mean(probe[name]) for name in kind if name in probe] for kind in (SPATIAL, STYLE))
    if spatial and style:
        found["every spatial task above every style task in the mean"] = min(spatial) > max(style)
    return found


def difference_error(one: Sequence[float], other: Sequence[float]) -> float:
    """Standard error of the difference of two means."""
    return (stdev(one) ** 2 / len(one) + stdev(other) ** 2 / len(other)) ** 0.5


PAPER = Paper(
    name="beyond_masking",
    description=__doc__,
    columns=COLUMNS,
    arms=ARMS,
    claims=CLAIMS,
    measure=measure,
    check=check,
    output=Path("outputs/claims/beyond_masking"),
)

if __name__ == "__main__":
    sys.exit(main(PAPER))
