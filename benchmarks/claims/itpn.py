"""The claim of iTPN at small scale: pre-training backbone and pyramid together, the backbone alone, or nothing.

    python benchmarks/claims/itpn.py shapes                                   # generated pictures of shapes, CPU
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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from claim import Claim, Metrics, Paper, Runs, folder_of, images_of_camvid, images_of_voc, main

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
        images: folder with its unlabelled images, from the data's and the one of the runs.
        module: what follows.
        metrics: of that, the first of which is compared.
    """

    pretrain: Sequence[str]
    images: Callable[[Path, Path], Path] = lambda root, output: root
    module: str = "itpn.segment"
    metrics: Sequence[str] = ("mIoU", "mAcc", "aAcc")


_GPU = ["model.embed_dim=256", "model.depths=[2,2,8]", "model.num_heads=4", "model.patch_size=16"]
_GPU += ["model.img_size=224", "run.precision=bf16-mixed", "gallery_images=0"]
_GPU_SEGMENTER = ["segmenter.channels=128", "segmenter.auxiliary_channels=64", "segmenter.window=[224,224]"]
_GPU_SEGMENTER += ["segmenter.stride=[112,112]", "data.crop=[224,224]", "data.short_side=352", "data.long_side=480"]
_GPU_SEGMENTER += ["data.batch_size=16", "data.workers=8", "epochs=200", "eval_every=50"]
_FOLDER = ["data=folder", "data.val_split=val", "data.batch_size=32", "data.eval_batch_size=32", "data.workers=0"]
_FOLDER += ["model.img_size=128", "model.patch_size=16", "optim.warmup_epochs=5", "gallery_images=0"]
CLAIMS = {
    "shapes": TransferClaim(
        title="Generated shapes at 48x48, 100 labelled pictures, a few steps",
        pretrain=["+experiment=demo", "gallery_images=0"],
        settings=["+experiment=segment_demo", "gallery_images=0"],
        arms=list(ARMS),
    ),
    "camvid": TransferClaim(
        title="CamVid road scenes at 171x128, UPerNet",
        pretrain=[*_FOLDER, "data.image_size=[144,192]", "epochs=100", "eval_every=100"],
        images=images_of_camvid,
        settings=["+experiment=camvid", "neck.depth=1", "gallery_images=0", "epochs=16", "eval_every=16"],
        arms=list(ARMS),
        root="images/<split>/*.jpg and labels/<split>/*.png",
    ),
    "bccd": TransferClaim(
        title="Blood cells at 214x160, Faster R-CNN",
        pretrain=[*_FOLDER, "data.image_size=[160,214]", "epochs=50", "eval_every=50"],
        images=images_of_voc,
        settings=["+experiment=bccd", "neck.depth=1", "gallery_images=0", "epochs=8", "eval_every=8"],
        arms=list(ARMS),
        root="JPEGImages, Annotations and ImageSets",
        module="itpn.detect",
        metrics=("box_AP", "box_AP50"),
    ),
    "camvid_gpu": TransferClaim(
        title="CamVid road scenes at 480x352, UPerNet",
        pretrain=[*_GPU, *_FOLDER[:2], "data.image_size=[360,480]", "data.batch_size=128", "epochs=1600"],
        images=images_of_camvid,
        settings=["+experiment=camvid", *_GPU, "neck.depth=1", *_GPU_SEGMENTER],
        arms=list(ARMS),
        root="images/<split>/*.jpg and labels/<split>/*.png",
        gpu=True,
    ),
}


def prepare(runs: Runs) -> dict[str, Any]:
    """The pre-training of each seed; its loss goes into the result."""

    def one(seed: int) -> float:
        folder = folder_of("pretrain", seed)
        found = (
            [f"data.root={runs.claim.images(Path(runs.root[0].partition('=')[2]), runs.output)}"] if runs.root else []
        )
        given = [*found, *pictures(runs, seed), f"seed={seed}", f"output_dir={runs.output / folder}"]
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
