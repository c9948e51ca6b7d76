"""The claim of G2SD at small scale: a small student, distilled in general, then for a task, against other starts.

    python benchmarks/claims/g2sd.py generated                          # generated pictures, CPU
    python benchmarks/claims/g2sd.py cifar10_gpu --root data/cifar10    # CIFAR-10, a tenth of the labels, for a GPU
    python benchmarks/claims/g2sd.py camvid --root data/camvid          # segmentation of road scenes, CPU
    python benchmarks/claims/g2sd.py bccd --root data/BCCD              # detection of blood cells, CPU

For each seed a masked autoencoder is trained on unlabelled pictures and fine-tuned for the task; it is the teacher. The
student starts from nothing, from its own pre-training on pixels (MAE), or from generic distillation (GD), and learns
the task from labels alone or from labels and the teacher (specific distillation, SD), always with the same labels and
steps. The frozen encoders are also judged by a linear probe and by k nearest neighbours. `cifar10_gpu` adds students
distilled from a teacher whose decoder was never trained (what an encoder-only checkpoint gives), from the teacher's
encoder, and on masked patches alone. Runs go on where they stopped if the script is started again. Results:
`benchmarks/results/g2sd_<data>.json`; what the paper's claim predicts is checked and stored with them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from claim import CLASS_FOLDERS, Claim, Metrics, Paper, Runs, folder_of, images_of_camvid, images_of_voc, main

SCRATCH, SCRATCH_SD = "from scratch", "from scratch, SD"
MAE, MAE_SD = "own MAE", "own MAE, SD"
GD, GD_SD = "GD", "GD, SD (G2SD)"
RANDOM_SD, ENCODER_SD, MASKED_SD = "GD of an untrained decoder, SD", "GD of the encoder, SD", "GD of masked patches, SD"
# of each arm: the run that it starts from, and whether the teacher takes part
ARMS: dict[str, tuple[str | None, bool]] = {
    SCRATCH: (None, False),
    SCRATCH_SD: (None, True),
    MAE: ("mae", False),
    MAE_SD: ("mae", True),
    GD: ("distill", False),
    GD_SD: ("distill", True),
    RANDOM_SD: ("distill_random", True),
    ENCODER_SD: ("distill_encoder", True),
    MASKED_SD: ("distill_masked", True),
}
PAPERS = [SCRATCH, SCRATCH_SD, MAE, MAE_SD, GD, GD_SD]
STARTS = {  # of a start: the script, and what it changes
    "mae": ("g2sd.pretrain", []),
    "distill": ("g2sd.distill", []),
    "distill_random": ("g2sd.distill", ["teacher.random_decoder=true"]),
    "distill_encoder": ("g2sd.distill", ["decoder_weight=0", "encoder_weight=1"]),
    "distill_masked": ("g2sd.distill", ["tokens=masked"]),
}
COLUMNS = {
    "top1": "% correct",
    "linear_top1": "linear probe of the frozen start, % correct",
    "knn_top1": "20 nearest neighbours, % correct",
    "mIoU": "mean IoU",
    "mAcc": "mean class accuracy",
    "aAcc": "pixel accuracy",
    "box_AP": "AP of boxes",
    "box_AP50": "AP50 of boxes",
}


@dataclass(frozen=True, kw_only=True)
class DistillationClaim(Claim):
    """A claim with a teacher. ``settings`` are those of the student's task.

    Attributes:
        teacher: settings of its pre-training.
        task_teacher: of its training for the task.
        fresh_teacher: that training starts from nothing, and the pre-training is for generic distillation alone.
        mae, distill: of the student's two starts.
        task: the script of the task.
        metrics: of it; the first is compared.
        images: folder with unlabelled images, from the data's and the one of the runs.
        probe: judge the frozen starts too.
    """

    teacher: Sequence[str]
    task_teacher: Sequence[str]
    mae: Sequence[str]
    distill: Sequence[str]
    fresh_teacher: bool = False
    task: str = "g2sd.finetune"
    metrics: Sequence[str] = ("top1",)
    images: Callable[[Path, Path], Path] = lambda root, output: root
    probe: bool = False


_QUIET = ["gallery_images=0"]
_GPU = ["data=folder", "model.img_size=32", "model.patch_size=4", "run.precision=bf16-mixed", "compile=true"]
_GPU_TEACHER = [*_GPU, "model=cpu_teacher", "model.embed_dim=384", "model.depth=8", "model.num_heads=6"]
_GPU_STUDENT = [*_GPU, "model=cpu_student", "model.embed_dim=96", "model.depth=6", "model.num_heads=3"]
_GPU_STUDENT_DECODER = ["model.decoder_dim=96", "model.decoder_depth=2", "model.decoder_heads=3"]
_GPU_UNLABELLED = ["data.batch_size=1024", "augmentation.scale=[0.2,1.0]", "optim.warmup_epochs=10"]
_GPU_LABELLED = ["data.train_per_class=500", "data.batch_size=256", "augmentation.scale=[0.35,1.0]"]
_GPU_LABELLED += ["augmentation.rand_augment=null", "optim.lr=1.5e-3", "optim.layer_decay=0.8", "optim.warmup_epochs=5"]
_GPU_LABELLED += ["epochs=60", "eval_every=60"]
_FOLDER = ["data=folder", "data.val_split=val", "data.batch_size=32", "data.eval_batch_size=32", "data.workers=0"]
_FOLDER += ["epochs=100", "eval_every=100", "optim.warmup_epochs=5"]
_CAMVID = ["model.img_size=128", "model.patch_size=16"]
_BCCD = ["model.img_size=128", "model.patch_size=8"]
_LARGE = ["model=cpu_teacher", "model.embed_dim=128", "model.num_heads=4"]
_LITTLE = ["model=cpu_student", "model.embed_dim=64", "model.depth=4", "model.num_heads=4"]
CLAIMS = {
    "generated": DistillationClaim(
        title="Generated pictures, ten classes, 300 labels",
        teacher=["+experiment=demo_teacher", *_QUIET],
        task_teacher=["+experiment=demo_teacher_classifier"],
        mae=["+experiment=demo_mae", *_QUIET],
        distill=["+experiment=demo_distill"],
        settings=["+experiment=demo_finetune"],
        arms=PAPERS,
        probe=True,
    ),
    "cifar10_gpu": DistillationClaim(
        title="CIFAR-10 as JPEG, 8x8 tokens, a tenth of the labels",
        teacher=[
            *_GPU_TEACHER,
            *("model.decoder_dim=192", "model.decoder_depth=4", "model.decoder_heads=6"),
            *_GPU_UNLABELLED,
            *("optim.lr=3.75e-4", "epochs=150", "eval_every=150"),
            *_QUIET,
        ],
        task_teacher=[*_GPU_TEACHER, *_GPU_LABELLED, "readout=mean"],
        mae=[
            *_GPU_STUDENT,
            *_GPU_STUDENT_DECODER,
            *_GPU_UNLABELLED,
            *("optim.lr=5e-4", "epochs=100", "eval_every=100"),
            *_QUIET,
        ],
        distill=[
            *_GPU_STUDENT,
            *_GPU_STUDENT_DECODER,
            *_GPU_UNLABELLED,
            *("optim.lr=5e-4", "epochs=100", "eval_every=100", "target_block=2"),
        ],
        settings=[*_GPU_STUDENT, *_GPU_LABELLED],
        arms=[*PAPERS, RANDOM_SD],
        root=CLASS_FOLDERS,
        gpu=True,
        probe=True,
    ),
    "camvid": DistillationClaim(
        title="CamVid road scenes at 171x128, UPerNet",
        teacher=[*_FOLDER, "data.image_size=[144,192]", *_CAMVID, *_LARGE, "model.depth=5", *_QUIET],
        mae=[*_FOLDER, "data.image_size=[144,192]", *_CAMVID, *_LITTLE, *_QUIET],
        distill=[*_FOLDER, "data.image_size=[144,192]", *_CAMVID, *_LITTLE],
        fresh_teacher=True,
        task_teacher=["+experiment=camvid_teacher", *_QUIET],
        settings=["+experiment=camvid_sd", "teacher.weights=null", *_QUIET],
        arms=[SCRATCH, SCRATCH_SD],
        root="images/<split>/*.jpg and labels/<split>/*.png",
        task="g2sd.segment",
        metrics=("mIoU", "mAcc", "aAcc"),
        images=images_of_camvid,
    ),
    "bccd": DistillationClaim(
        title="Blood cells at 128x96, Faster R-CNN over ViTDet",
        teacher=[*_FOLDER, "data.image_size=[128,171]", *_BCCD, *_LARGE, "model.depth=4", *_QUIET],
        mae=[*_FOLDER, "data.image_size=[128,171]", *_BCCD, *_LITTLE, "model.num_heads=2", *_QUIET],
        distill=[*_FOLDER, "data.image_size=[128,171]", *_BCCD, *_LITTLE, "model.num_heads=2"],
        fresh_teacher=True,
        task_teacher=["+experiment=bccd_teacher", *_QUIET],
        settings=["+experiment=bccd", "teacher.weights=null", *_QUIET],
        arms=[SCRATCH, SCRATCH_SD],
        root="JPEGImages, Annotations and ImageSets",
        task="g2sd.detect",
        metrics=("box_AP", "box_AP50"),
        images=images_of_voc,
    ),
}


def prepare(runs: Runs) -> dict[str, Any]:
    """Teachers and starts of each seed; the losses of generic distillation go into the result."""
    starts = {start for arm in runs.arms if (start := ARMS[arm][0]) is not None}

    def teacher(seed: int) -> None:
        if starts or not runs.claim.fresh_teacher:
            train(runs, "g2sd.pretrain", "teacher", seed, runs.claim.teacher, unlabelled(runs))

    def follower(job: tuple[int, str]) -> dict[str, Any]:
        seed, name = job
        if name == "task_teacher":
            start = [] if runs.claim.fresh_teacher else [f"init={folder(runs, 'teacher', seed)}"]
            return train(runs, runs.claim.task, name, seed, [*runs.claim.task_teacher, *start], runs.root)
        module, changes = STARTS[name]
        settings = runs.claim.mae if name == "mae" else runs.claim.distill
        taught = [] if name == "mae" else [f"teacher.weights={folder(runs, 'teacher', seed)}"]
        return train(runs, module, name, seed, [*settings, *changes, *taught], unlabelled(runs))

    runs.each(teacher, runs.seeds)
    jobs = [(seed, name) for seed in runs.seeds for name in ("task_teacher", *sorted(starts))]
    found = dict(zip(jobs, runs.each(follower, jobs)))
    losses = {
        name: [found[seed, name]["metrics"]["loss"] for seed in runs.seeds]
        for name in sorted(starts)
        if name.startswith("distill")
    }
    taught = [scores(found[seed, "task_teacher"], runs) for seed in runs.seeds]
    return {
        "teacher": {name: [scored[name] for scored in taught] for name in runs.claim.metrics},
        "distillation_loss": losses,
    }


def measure(runs: Runs, seed: int, arm: str, **found: Any) -> dict[str, dict[str, Any]]:
    """A student of an arm, and where it is the first of its start the frozen start."""
    start, taught = ARMS[arm]
    settings = [f"init={folder(runs, start, seed)}"] if start else []
    settings += [f"teacher.weights={folder(runs, 'task_teacher', seed)}"] if taught else []
    trained = train(runs, runs.claim.task, arm, seed, [*runs.claim.settings, *settings], runs.root)
    metrics = scores(trained, runs)
    if runs.claim.probe and not taught and (start or {MAE, MAE_SD} & set(runs.arms)):
        # fresh weights are those with which the student's own pre-training starts
        source, untrained = (start, []) if start else ("mae", ["untrained=true"])
        target = folder(runs, source, seed)
        out = target / ("eval_untrained.json" if untrained else "eval.json")
        judged = [f"run={target}", "protocol=features", f"out={out}", *untrained]
        features = runs("g2sd.eval", folder_of(source, seed), judged, out.name)["metrics"]
        metrics |= {f"{name}_top1": 100 - features[name]["top1_error"] for name in ("linear", "knn")}
    return {arm: {**trained, "metrics": metrics}}


def train(
    runs: Runs, module: str, name: str, seed: int, settings: Sequence[str], root: Sequence[str]
) -> dict[str, Any]:
    """``metrics.json`` of a run; other pictures for each seed, where they are generated."""
    pictures = [] if runs.root else [f"data.seed={seed}"]
    given = [*root, *pictures, f"seed={seed}", *runs.overrides, f"output_dir={folder(runs, name, seed)}"]
    return runs(module, folder_of(name, seed), [*settings, *given])


def folder(runs: Runs, name: str, seed: int) -> Path:
    """Folder of a run."""
    return runs.output / folder_of(name, seed)


def unlabelled(runs: Runs) -> list[str]:
    """The setting that names the folder of images without labels."""
    return [f"data.root={runs.claim.images(Path(runs.root[0].partition('=')[2]), runs.output)}"] if runs.root else []


def scores(result: dict[str, Any], runs: Runs) -> dict[str, float]:
    """The metrics of the task of a run."""
    found = result["metrics"]
    return {name: 100 - found["top1_error"] if name == "top1" else found[name] for name in runs.claim.metrics}


def check(arms: Metrics, claim: DistillationClaim) -> dict[str, bool]:
    """What the paper predicts (section 10 of the notes) and whether it holds, in the mean over the seeds."""
    score = {name: mean(metrics[claim.metrics[0]]) for name, metrics in arms.items()}
    pairs = [(GD_SD, SCRATCH_SD), (GD, SCRATCH), (GD_SD, GD), (GD_SD, MAE_SD), (GD, MAE), (GD_SD, RANDOM_SD)]
    found = {f"{one}: above {other}": score[one] > score[other] for one, other in pairs if {one, other} <= set(score)}
    for column in ("linear_top1", "knn_top1"):
        probe = {name: mean(metrics[column]) for name, metrics in arms.items() if column in metrics}
        if {GD, MAE, SCRATCH} <= set(probe):
            name = "linear probe" if column == "linear_top1" else "nearest neighbours"
            found[f"{name}: GD above own MAE above fresh weights"] = probe[GD] > probe[MAE] > probe[SCRATCH]
    return found


PAPER = Paper(
    name="g2sd",
    description=__doc__,
    columns=COLUMNS,
    arms={name: [] for name in ARMS},
    claims=CLAIMS,
    measure=measure,
    prepare=prepare,
    check=check,
    output=Path("outputs/claims/g2sd"),
)

if __name__ == "__main__":
    sys.exit(main(PAPER))
