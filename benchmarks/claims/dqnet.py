"""The claim of DQnet at small scale: does querying a ResNet's details help a transformer that is already trained?

    python benchmarks/claims/dqnet.py generated                  # generated camouflage, CPU
    python benchmarks/claims/dqnet.py scratch                    # the same at another size, everything from scratch
    python benchmarks/claims/dqnet.py sod --root data/sod        # salient objects in photographs, CPU
    python benchmarks/claims/dqnet.py generated_gpu              # larger networks and pictures, for a GPU
    python benchmarks/claims/dqnet.py sod_gpu --root data/sod    # photographs at 224x224, for a GPU

For each seed a transformer with a light decoder is trained. Every arm but the ResNet alone starts from that transformer
and sees the same pictures in the same order: the transformer trained on; the transformer and a plain ResNet decoded
together, also with a wider ResNet, which has more parameters than the method; the method; its answers summed rather
than multiplied; its attention global rather than in windows. The ResNet alone has the steps of both stages. Runs go on
where they stopped if the script is started again. Results: `benchmarks/results/dqnet_<data>.json`; what the notes
predict is checked and stored with them.
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

GATE, SUM, GLOBAL = "DQnet", "DQnet, summed", "DQnet, global attention"
CONCAT, WIDE = "transformer and ResNet", "transformer and wider ResNet"
VIT, RESNET = "transformer", "ResNet"
START = "start"
ARMS: dict[str, list[str]] = {
    GATE: ["model.arm=gate"],
    SUM: ["model.arm=sum"],
    GLOBAL: ["model.arm=gate", "model.window=null"],
    CONCAT: ["model.arm=concat"],
    WIDE: ["model.arm=concat"],
    VIT: ["model.arm=vit"],
    RESNET: ["model.arm=resnet"],
}
COLUMNS = {
    "wFmeasure": "weighted F",
    "IoU": "IoU at 0.5",
    "maxEm": "max E",
    "meanEm": "mean E",
    "Smeasure": "S",
    "MAE": "mean absolute error",
}
MARGIN = 0.015  # weighted F, of the notes


@dataclass(frozen=True, kw_only=True)
class QueryClaim(Claim):
    """A claim of arms that start from one transformer. ``settings`` are those of the arms.

    Attributes:
        start: settings of the transformer's training; None: every arm from scratch.
        alone: of the ResNet alone.
        wide: of the wider ResNet.
    """

    start: Sequence[str] | None
    alone: Sequence[str]
    wide: Sequence[str] = ("model.resnet.width=24",)


_QUIET = ["gallery_images=0"]
_SCRATCH = [
    *("+experiment=demo", "data.image_size=96", "model.image_size=96", "model.vit.patch_size=16", "model.window=3"),
    *("model.resnet.layers=[2,2,2,2]", "model.resnet.stem_pool=true", "epochs=10", "eval_every=10"),
    *("optim.vit_lr=1e-3", *_QUIET),
]
_GPU_DATA = ["model.image_size=224", "data.batch_size=64", "data.eval_batch_size=64", "run.precision=bf16-mixed"]
_GPU_MODEL = ["model.vit.name=vit_small_patch16", "model.vit.patch_size=16", "model.vit.embed_dim=384"]
_GPU_MODEL += ["model.vit.depth=12", "model.vit.num_heads=6", "model.resnet.depth=50", "model.resnet.layers=null"]
_GPU_MODEL += ["model.resnet.width=64", "model.resnet.stem_pool=true", "model.window=7", "model.heads=8"]
_GPU_MODEL += ["model.head_width=128"]
_GPU_RATE = ["optim.lr=5e-4", "schedule.warmup_steps=100"]
_GPU = [*_GPU_DATA, *_GPU_MODEL, *_GPU_RATE, *_QUIET]
_CAMOUFLAGE_GPU = [*_GPU, "data.image_size=224", "data.train_images=4000", "data.val_images=400"]
CLAIMS = {
    "generated": QueryClaim(
        title="Generated camouflage, 64x64, from a trained transformer",
        start=["+experiment=demo_vit", *_QUIET],
        settings=["+experiment=demo", *_QUIET],
        alone=["+experiment=demo_resnet", *_QUIET],
        arms=[GATE, SUM, CONCAT, VIT, RESNET],
    ),
    "scratch": QueryClaim(
        title="Generated camouflage, 96x96, everything from scratch",
        start=None,
        settings=_SCRATCH,
        alone=_SCRATCH,
        arms=[GATE, VIT, RESNET],
    ),
    "sod": QueryClaim(
        title="Salient objects in photographs, 96x96, from scratch",
        start=["+experiment=sod_vit", *_QUIET],
        settings=["+experiment=sod", *_QUIET],
        alone=["+experiment=sod", "epochs=50", "eval_every=50", *_QUIET],
        arms=[GATE, CONCAT, VIT],
        root="train and test, each with images/*.jpg and masks/*.png",
    ),
    "generated_gpu": QueryClaim(
        title="Generated camouflage, 224x224, from a trained transformer",
        start=["+experiment=demo_vit", *_CAMOUFLAGE_GPU, "epochs=32", "eval_every=32"],
        settings=["+experiment=demo", *_CAMOUFLAGE_GPU, "optim.vit_lr=1e-4", "epochs=32", "eval_every=32"],
        alone=["+experiment=demo_resnet", *_CAMOUFLAGE_GPU, "epochs=64", "eval_every=64"],
        arms=[GATE, SUM, GLOBAL, CONCAT, VIT, RESNET],
        gpu=True,
    ),
    "sod_gpu": QueryClaim(
        title="Salient objects in photographs, 224x224, from scratch",
        start=["+experiment=sod_vit", *_GPU, "data.batch_size=24", "epochs=200", "eval_every=200"],
        settings=["+experiment=sod", *_GPU, "data.batch_size=24", "optim.vit_lr=1e-4", "epochs=100", "eval_every=100"],
        alone=["+experiment=sod", *_GPU, "data.batch_size=24", "epochs=300", "eval_every=300"],
        arms=[GATE, CONCAT, VIT, RESNET],
        root="train and test, each with images/*.jpg and masks/*.png",
        gpu=True,
    ),
}


def prepare(runs: Runs) -> dict[str, Any]:
    """The transformer of each seed, with which the other arms start."""
    if runs.claim.start is None or set(runs.arms) <= {RESNET}:
        return {}
    found = runs.each(lambda seed: train(runs, START, seed, runs.claim.start), runs.seeds)
    return {"start": {name: [run["metrics"][name] for run in found] for name in COLUMNS}}


def measure(runs: Runs, seed: int, arm: str, **found: Any) -> dict[str, dict[str, Any]]:
    """One arm."""
    settings = list(runs.claim.alone if arm == RESNET else runs.claim.settings)
    settings += [*ARMS[arm], *(runs.claim.wide if arm == WIDE else [])]
    if runs.claim.start is not None and arm != RESNET:
        init = "model" if arm == VIT else "vit"  # the control goes on with its decoder too
        settings.append(f"init.{init}={runs.output / folder_of(START, seed)}")
    return {arm: train(runs, arm, seed, settings)}


def train(runs: Runs, name: str, seed: int, settings: Sequence[str]) -> dict[str, Any]:
    """``metrics.json`` of a run; other pictures for each seed, where they are generated."""
    pictures = [] if runs.root else [f"data.seed={seed}"]
    given = [
        *runs.root,
        *pictures,
        f"seed={seed}",
        *runs.overrides,
        f"output_dir={runs.output / folder_of(name, seed)}",
    ]
    return runs("dqnet.train", folder_of(name, seed), [*settings, *given])


def check(arms: Metrics, claim: QueryClaim) -> dict[str, bool]:
    """What the notes predict (section 10) and whether it holds, in the mean over the seeds."""
    score = {name: mean(metrics["wFmeasure"]) for name, metrics in arms.items()}
    if claim.start is None:
        pair = {GATE, RESNET} <= set(score)
        return {"from scratch, the ResNet alone is above DQnet": score[RESNET] > score[GATE]} if pair else {}
    found = {
        f"DQnet: above the {other} by {MARGIN} of weighted F": score[GATE] >= score[other] + MARGIN
        for other in (VIT, CONCAT, WIDE)
        if {GATE, other} <= set(score)
    }
    if {GATE, RESNET} <= set(score):
        found["DQnet: above the ResNet"] = score[GATE] > score[RESNET]
    return found


PAPER = Paper(
    name="dqnet",
    description=__doc__,
    columns=COLUMNS,
    arms=ARMS,
    claims=CLAIMS,
    measure=measure,
    prepare=prepare,
    check=check,
    output=Path("outputs/claims/dqnet"),
)

if __name__ == "__main__":
    sys.exit(main(PAPER))
