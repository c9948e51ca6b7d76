"""``make demo PAPER=g2sd``: a small student from three starts, with and without a teacher of the task.

python -m g2sd.demo                                  # outputs/demo/report.html, minutes on two cores
python -m g2sd.demo --output DIR --seeds 0
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from vireo.report.html import Table

STARTS = {"scratch": "nothing", "mae": "its own pre-training on pixels", "distill": "generic distillation"}
TASKS = {"labels": "labels", "sd": "labels and teacher"}
BEST = ("distill", "sd")  # the paper's
PICTURES = 5  # rows of the figure


def main(argv: Sequence[str] | None = None) -> int:
    """Train teachers, starts and the six students of each seed, print the table, write the page; 0 or the status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/demo"), help="folder of the demo")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pretrain", nargs="*", default=[], help="further settings of all that learns without labels")
    parser.add_argument("--finetune", nargs="*", default=[], help="further settings of all classifiers, e.g. epochs=2")
    arguments = parser.parse_args(argv)
    started = time.perf_counter()
    jobs = min(2 * len(arguments.seeds), os.cpu_count() or 1)
    environment = {**os.environ, "OMP_NUM_THREADS": "1" if jobs > 1 else str(os.cpu_count())}

    def run(module: str, name: str, seed: int, experiment: str, before: Sequence[Future[int]], *settings: str) -> int:
        failed = [future.result() for future in before if future.result()]
        if failed:
            return failed[0]
        extra = arguments.finetune if module == "finetune" else arguments.pretrain
        given = [f"+experiment={experiment}", f"seed={seed}", f"data.seed={seed}", *settings, *extra]
        target = f"output_dir={folder_of(arguments.output, name, seed)}"
        return subprocess.run([sys.executable, "-m", f"g2sd.{module}", *given, target], env=environment).returncode

    def path(name: str, seed: int) -> Path:
        return folder_of(arguments.output, name, seed)

    students = len(STARTS) * len(TASKS)
    print(f"== teachers, starts, {students} students, {len(arguments.seeds)} seeds: {jobs} at a time", flush=True)
    with ThreadPoolExecutor(jobs) as pool:  # a run is submitted behind those it waits for
        every: list[Future[int]] = []

        def submit(*job: Any) -> Future[int]:
            every.append(pool.submit(run, *job))
            return every[-1]

        first = {seed: submit("pretrain", "teacher", seed, "demo_teacher", []) for seed in arguments.seeds}
        for seed, teacher in first.items():
            encoder = f"init={path('teacher', seed)}"
            starts: dict[str, list[Future[int]]] = {"scratch": []}
            starts["mae"] = [submit("pretrain", "mae", seed, "demo_mae", [])]
            taught = f"teacher.weights={path('teacher', seed)}"
            starts["distill"] = [submit("distill", "distill", seed, "demo_distill", [teacher], taught)]
            task = submit("finetune", "task_teacher", seed, "demo_teacher_classifier", [teacher], encoder)
            for start, before in starts.items():
                begin = [] if start == "scratch" else [f"init={path(start, seed)}"]
                submit("finetune", f"{start}_labels", seed, "demo_finetune", before, *begin)
                helped = [*begin, f"teacher.weights={path('task_teacher', seed)}"]
                submit("finetune", f"{start}_sd", seed, "demo_finetune", [*before, task], *helped)
        statuses = [future.result() for future in every]
    if any(statuses):
        return max(statuses)
    table = comparison(arguments.output, arguments.seeds)
    write_figure(arguments.output, arguments.seeds[0])
    page = write_page(arguments.output, arguments.seeds[0], table)
    table.show()
    print(f"\n{(time.perf_counter() - started) / 60:.1f} minutes. Report: {page}")
    return 0


def folder_of(output: Path, name: str, seed: int) -> Path:
    """Folder of a run."""
    return output / f"{name}_{seed}"


def comparison(output: Path, seeds: Sequence[int]) -> Table:
    """A line per student, and one of its teacher: share of correct answers of each seed, their mean and deviation."""
    from vireo.report.html import Table

    def line(name: str) -> tuple[str, str]:
        runs = [json.loads((folder_of(output, name, seed) / "metrics.json").read_text()) for seed in seeds]
        found = [100 - run["metrics"]["top1_error"] for run in runs]
        spread = f"{mean(found):.1f}" + (f" ± {stdev(found):.1f}" if len(found) > 1 else "")
        return spread, ", ".join(f"{value:.1f}" for value in found)

    rows = [(start, task, *line(f"{name}_{kind}")) for name, start in STARTS.items() for kind, task in TASKS.items()]
    rows.append(("the teacher", "labels", *line("task_teacher")))
    head = ("start", "learns from", "% correct", "of each seed")
    return Table("The same student, the same labelled pictures, the same steps", head, rows)


def write_figure(output: Path, seed: int) -> Path:
    """``picture.png``: pictures, what both networks see of them, what the teacher makes of it, and what it makes of
    the hidden states that the student predicts in its place.
    """
    import torch

    from vireo.data import counter_uniform, pretraining_set
    from vireo.data.image_sets import normalization
    from vireo.report import as_picture, grid, write_picture

    from .pretraining import build_loader

    teacher, config = _finished(folder_of(output, "teacher", seed))
    student, settings = _finished(folder_of(output, "distill", seed))
    dataset = pretraining_set(config.data, train=False)
    here = {"device": torch.device("cpu"), "rank": 0, "world_size": 1, "seed": 0}
    loader: Any = build_loader(dataset, config, teacher, train=False, **here)
    images, targets = next(iter(loader.batches(0)))
    images, keys = images[:PICTURES], targets["key"][:PICTURES]
    noise = counter_uniform(keys, "mask", teacher.num_patches)
    shown = {"original": images, **teacher.reconstruct(images, noise)}
    shown["student"] = recovered_by_student(teacher, student, images, noise, settings.target_block)
    constants = normalization(config.data)
    cells: list[np.ndarray] = [
        as_picture((shown[name][row] / constants.inverse_std + constants.mean) / 255)
        for row in range(len(images))
        for name in ("original", "input", "prediction", "student")
    ]
    captions = ["image", "both see", "teacher", "student's states"] + [""] * (len(cells) - 4)
    sheet = grid(cells, 4, captions)
    write_picture(folder_of(output, f"{BEST[0]}_{BEST[1]}", seed) / "gallery" / "recovery.png", sheet)
    write_picture(output / "picture.png", sheet)
    return output / "picture.png"


def _finished(folder: Path) -> tuple[Any, Any]:
    """The whole network of a pre-training or distillation, in evaluation mode, and its configuration."""
    from vireo.engine.checkpoint import fit_state_dict, read, state_dict_in
    from vireo.engine.finished import final_weights

    from .load import config_and_kind
    from .pretraining import build_mae, build_student

    config, kind = config_and_kind(folder)
    path = final_weights(folder)
    state = state_dict_in(read(path), str(path))
    network = build_mae(config) if kind == "pretraining" else build_student(config, state=state)
    fit_state_dict(network, state, str(path))
    return network.eval(), config


def recovered_by_student(teacher: Any, student: Any, images: Any, noise: Any, target_block: int) -> Any:
    """Pixels that the rest of the teacher's decoder makes of the states a student predicts.

    The states are predicted normalised; they are given the mean and deviation of the teacher's own.

    Args:
        teacher: :class:`~g2sd.MaskedAutoencoder`.
        student: :class:`~g2sd.GenericStudent`.
        images: normalised ``(B, 3, H, W)``.
        noise: ``(B, N)`` that decides which patches both see.
        target_block: whose output the student predicts.

    Returns:
        ``(B, 3, H, W)`` in the scale of ``images``; patches that were seen as they are.
    """
    import torch

    from vireo.backbones import patchify, unpatchify
    from vireo.backbones.patches import patch_statistics

    from .mae import visible_patches
    from .teacher import MAETeacher

    with torch.no_grad():
        latent, _, mask = teacher.forward_encoder(images, noise)
        hidden = teacher.forward_decoder(latent, mask, target_block)
        patches = visible_patches(student.encoder, images, mask)
        predicted = student(patches, mask, MAETeacher.of(teacher, target_block)(patches, mask)).prediction
        deviation, average = torch.std_mean(hidden, -1, correction=0, keepdim=True)
        decoder = teacher.decoder
        x = decoder.blocks[target_block:](predicted * deviation + average)
        pixels = decoder.head(decoder.norm(x[:, 1:]))
        true = patchify(images, teacher.patch_size)
        if teacher.norm_pix:
            level, spread = patch_statistics(true)
            pixels = pixels * spread + level
        shown = torch.where(mask.mask[:, :, None], pixels, true)
        return unpatchify(shown, teacher.patch_size, teacher.encoder.grid_size)


def write_page(output: Path, seed: int, table: Table) -> Path:
    """``report.html`` of the demo: the comparison, and the picture, curves and settings of one student of the paper."""
    from vireo.report import write_run_report

    pictures = {"What both see, what the teacher recovers, what it recovers from the student's states": "recovery.png"}
    folder = folder_of(output, f"{BEST[0]}_{BEST[1]}", seed)
    page = write_run_report(folder, "G2SD: the demo", pictures, tables=[table])
    target = output / "report.html"
    target.write_bytes(page.read_bytes())
    return target


if __name__ == "__main__":
    sys.exit(main())
