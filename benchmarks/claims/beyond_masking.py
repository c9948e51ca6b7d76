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
from statistics import mean, stdev
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import write_result

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
COLUMNS = {"linear_top1": "linear probe, % correct", "knn_top1": "20 nearest neighbours, % correct"}
FINETUNED = {"finetuned_top1": "fine-tuned on a tenth of the labels, % correct"}


@dataclass(frozen=True)
class Claim:
    """A data set and the settings of its runs."""

    title: str
    settings: list[str]
    arms: tuple[str, ...]
    finetune: list[str] | None = None
    needs_root: bool = True


_CORE = (MASK, ZOOM_IN, INTEGRATED)
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
    "generated": Claim(
        "Generated pictures, a ViT of 3 blocks with 7x7 tokens",
        ["+experiment=demo", "eval_every=16", "gallery_images=0"],
        _CORE,
        needs_root=False,
    ),
    "cifar10": Claim(
        "CIFAR-10 as JPEG, a ViT of 3 blocks with 7x7 tokens",
        ["data=folder", "+experiment=demo", "epochs=4", "eval_every=4", "gallery_images=0"],
        (MASK, INTEGRATED),
    ),
    "cifar10_gpu": Claim(
        "CIFAR-10 as JPEG, a ViT of 6 blocks with 7x7 tokens",
        [*_GPU, "optim.lr=3.75e-4", "epochs=50", "optim.warmup_epochs=5", "eval_every=50", "gallery_images=0"],
        (MASK, ZOOM_IN, GRAY, INTEGRATED),
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


@dataclass(frozen=True)
class Runner:
    """Starts the package's entry points as processes of ``threads`` threads each, in folders below ``output``."""

    output: Path
    threads: int | None

    def __call__(self, module: str, folder: str, settings: Sequence[str]) -> None:
        """Run ``beyond_masking.<module>``; its words go to console.txt in the folder.

        Raises:
            RuntimeError: it failed.
        """
        target = self.output / folder
        target.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", f"beyond_masking.{module}", *settings]
        limited = {} if self.threads is None else {"OMP_NUM_THREADS": str(self.threads)}
        began = time.perf_counter()
        with open(target / "console.txt", "a") as console:
            status = subprocess.run(command, stdout=console, stderr=console, env={**os.environ, **limited}).returncode
        print(f"{folder}, {module}: status {status}, {time.perf_counter() - began:.0f} s", flush=True)
        if status:
            raise RuntimeError(f"{target / 'console.txt'} says why")

    def result(self, folder: str, file: str) -> dict[str, Any]:
        """A JSON file of a run."""
        return json.loads((self.output / folder / file).read_text())


def main(argv: Sequence[str] | None = None) -> int:
    """Train and judge all arms for all seeds, write the result and say what of the claim's predictions holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=sorted(CLAIMS), nargs="?", default="generated")
    parser.add_argument("--root", type=Path, help="folder with train/<class>/ and test/<class>/ of CIFAR-10")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=ARMS, help="default: those of the claim")
    parser.add_argument("--all", action="store_true", help="all arms")
    parser.add_argument("--jobs", type=int, help="runs at a time, one thread each; default: a core each, 1 with a GPU")
    parser.add_argument("--output", type=Path, default=Path("outputs/claims/beyond_masking"))
    parser.add_argument("--override", action="append", default=[], help="further settings of the pre-training")
    arguments = parser.parse_args(argv)
    claim = CLAIMS[arguments.data]
    arms = list(ARMS) if arguments.all else arguments.arms or list(claim.arms)
    root = []
    if claim.needs_root:
        if arguments.root is None:
            parser.error(f"{arguments.data} needs --root, the folder that holds train/ and test/")
        root = [f"data.root={arguments.root}"]
    jobs = arguments.jobs or (1 if claim.finetune else os.cpu_count() or 1)
    run = Runner(arguments.output / arguments.data, None if claim.finetune else 1)
    started = time.perf_counter()

    def features(folder: str, file: str, *settings: str) -> dict[str, float]:
        """Linear probe and neighbours of a run's encoder."""
        run(
            "eval",
            folder,
            [f"run={run.output / folder}", "protocol=features", f"out={run.output / folder / file}", *settings],
        )
        metrics = run.result(folder, file)["metrics"]
        return {"linear_top1": 100 - metrics["linear"]["top1_error"], "knn_top1": 100 - metrics["knn"]["top1_error"]}

    def finetuned(folder: str, seed: int, *settings: str) -> dict[str, float]:
        """A classifier on few labels; nothing where the claim has none."""
        if claim.finetune is None:
            return {}
        target = f"output_dir={run.output / folder}"
        run("finetune", folder, [*claim.finetune, *root, *settings, f"seed={seed}", target])
        return {"finetuned_top1": 100 - run.result(folder, "metrics.json")["metrics"]["top1_error"]}

    def pretrain_and_judge(job: tuple[int, str]) -> dict[str, dict[str, float]]:
        """Metrics of an arm; with the first arm also of the network before its first step."""
        seed, arm = job
        folder = f"{''.join(c if c.isalnum() else '_' for c in arm).lower()}_{seed}"
        trained = run.output / folder
        pictures = [] if claim.needs_root else [f"data.seed={seed}"]  # other pictures for each seed
        settings = [*claim.settings, *ARMS[arm], *root, *pictures, f"seed={seed}", *arguments.override]
        run("pretrain", folder, [*settings, f"output_dir={trained}"])
        gray = ["patch_embed=replicate"] if arm == GRAY else []
        seconds = {"seconds": run.result(folder, "metrics.json")["wall_s"]}
        found = (
            features(folder, "eval.json") | finetuned(f"{folder}_finetuned", seed, f"init={trained}", *gray) | seconds
        )
        if arm != arms[0]:
            return {arm: found}
        before = features(folder, "eval_untrained.json", "untrained=true") | finetuned(f"scratch_{seed}", seed)
        return {UNTRAINED: before, arm: found}

    pairs = [(seed, name) for seed in arguments.seeds for name in arms]
    results: dict[str, list[dict[str, float]]] = {name: [] for name in (UNTRAINED, *arms)}
    with ThreadPoolExecutor(jobs) as pool:
        for found in pool.map(pretrain_and_judge, pairs):
            for name, metrics in found.items():
                results[name].append(metrics)
    columns = {**COLUMNS, **(FINETUNED if claim.finetune else {})}
    table = {name: {column: [run[column] for run in runs] for column in columns} for name, runs in results.items()}
    seconds = {name: [run["seconds"] for run in runs if "seconds" in run] for name, runs in results.items()}
    rows = [{"name": name, "metrics": table[name], "train_seconds": seconds[name]} for name in table]
    checks = check(table)
    write_result(
        f"beyond_masking_{arguments.data}",
        {
            "title": claim.title,
            "seeds": arguments.seeds,
            "columns": columns,
            "arms": rows,
            "checks": checks,
            "overrides": arguments.override,
            "wall_s": round(time.perf_counter() - started, 1),
        },
    )
    for line, holds in checks.items():
        print(f"{'holds' if holds else 'DOES NOT HOLD'}: {line}")
    return 0


def check(arms: dict[str, dict[str, list[float]]]) -> dict[str, bool]:
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


if __name__ == "__main__":
    sys.exit(main())
