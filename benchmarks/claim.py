"""What every claim shares: command line, runs as processes that go on where they stopped, the result file.

A file under ``claims/`` holds the data of a claim: arms, settings, columns, how the metrics of an arm are had and what
is checked. `benchmarks/README.md` has the format of the result.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import write_result

Metrics = dict[str, dict[str, list[float]]]  # of a row of the table, of a column: one number for each seed
CLASS_FOLDERS = "train/<class>/ and test/<class>/"


class RunFailedError(RuntimeError):
    """A run ended with an error; the message names the file that says why."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A data set, what is trained on it and where.

    Attributes:
        title: of the table.
        settings: of every arm's training.
        arms: what is trained unless the command line says otherwise.
        root: what the folder of ``--root`` must hold; None: the data is generated.
        gpu: one run at a time, with all threads, instead of one run of one thread for each core.
    """

    title: str
    settings: Sequence[str]
    arms: Sequence[str]
    root: str | None = None
    gpu: bool = False


@dataclass(frozen=True)
class Runs:
    """Starts entry points as processes, in folders below ``output``."""

    claim: Claim
    output: Path
    seeds: Sequence[int]
    arms: Sequence[str]
    jobs: int
    root: Sequence[str]
    overrides: Sequence[str]

    def __call__(self, module: str, folder: str, settings: Sequence[str], file: str = "metrics.json") -> dict[str, Any]:
        """Run ``python -m module`` with ``settings``; what it prints is added to console.txt in the folder.

        Returns:
            The content of ``file``, which the run has left in the folder.

        Raises:
            RunFailedError: it ended with another status than 0.
        """
        target = self.output / folder
        target.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, **({} if self.claim.gpu else {"OMP_NUM_THREADS": "1"})}
        began = time.perf_counter()
        with open(target / "console.txt", "a") as console:
            command = [sys.executable, "-m", module, *settings]
            status = subprocess.run(command, stdout=console, stderr=console, env=environment).returncode
        print(f"{folder}, {module}: status {status}, {time.perf_counter() - began:.0f} s", flush=True)
        if status:
            raise RunFailedError(f"{folder}, {module}: {target / 'console.txt'} says why")
        return json.loads((target / file).read_text())

    def train(self, module: str, folder: str, seed: int, settings: Sequence[str]) -> dict[str, Any]:
        """The ``metrics.json`` of a run with the claim's settings, then these, then those of the command line."""
        given = [*self.root, f"seed={seed}", *self.overrides, f"output_dir={self.output / folder}"]
        return self(module, folder, [*self.claim.settings, *settings, *given])

    def each(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """``function`` of every item, ``jobs`` at a time, in the order of the items.

        Raises:
            RunFailedError: the first failure, after all others have run, so that only it is left to repeat.
        """
        pool = ThreadPoolExecutor(self.jobs)
        try:
            futures = [pool.submit(function, item) for item in items]
            wait(futures)
        finally:
            pool.shutdown(cancel_futures=True)  # an interruption starts no further run
        return [future.result() for future in futures]


@dataclass(frozen=True, kw_only=True)
class Paper:
    """What a claim file says.

    Attributes:
        name: of the paper; result files are called ``<name>_<data>.json``.
        description: for ``--help``.
        columns: heading of each metric, in the order of the table; one that no arm has is left out.
        arms: settings of each arm.
        claims: by the name of their data; the first is the default.
        measure: ``measure(runs, seed, arm, **found)`` gives the rows that follow from a job, ``{name: result}``. A
            result has ``metrics``, one number for each column, and after training ``wall_s`` and ``steps``.
        prepare: ``prepare(runs)`` does what comes before all arms; what it has found is stored with the result.
        check: ``check(metrics, claim)`` says of each prediction whether it holds.
        output: folder of the runs, unless ``--output`` is given.
    """

    name: str
    description: str | None
    columns: Mapping[str, str]
    arms: Mapping[str, Sequence[str]]
    claims: Mapping[str, Any]
    measure: Callable[..., dict[str, dict[str, Any]]]
    prepare: Callable[[Runs], dict[str, Any]] = lambda runs: {}
    check: Callable[[Metrics, Any], dict[str, bool]] = lambda metrics, claim: {}
    output: Path = Path("outputs/claims")


def folder_of(arm: str, seed: int) -> str:
    """Folder of an arm's run."""
    return f"{''.join(c if c.isalnum() else '_' for c in arm).lower()}_{seed}"


def images_of_camvid(root: Path, output: Path) -> Path:
    """Folder with the images ``train`` and ``val`` of CamVid, without their labels."""
    return root / "images"


def images_of_voc(root: Path, output: Path) -> Path:
    """Folder below ``output`` whose ``train`` and ``val`` lead to the images of these parts of a VOC data set."""
    folder = output / "images"
    for part in ("train", "val"):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for name in (root / "ImageSets" / "Main" / f"{part}.txt").read_text().split():
            link = folder / part / f"{name}.jpg"
            with suppress(FileExistsError):  # another run was first
                link.symlink_to((root / "JPEGImages" / link.name).resolve())
    return folder


def main(paper: Paper, argv: Sequence[str] | None = None) -> int:
    """Measure all arms for all seeds, write the result and say which predictions hold; 1 if a run failed."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=paper.description, formatter_class=raw)
    parser.add_argument("data", choices=list(paper.claims), nargs="?", default=next(iter(paper.claims)))
    parser.add_argument("--root", type=Path, help="folder of the data, where it is not generated")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=list(paper.arms), help="default: those of the claim")
    parser.add_argument("--all", action="store_true", help="all arms")
    parser.add_argument("--jobs", type=int, help="runs at a time, one thread each; default: a core each, 1 with a GPU")
    parser.add_argument("--output", type=Path, default=paper.output)
    parser.add_argument("--override", action="append", default=[], help="further settings of every arm's training")
    arguments = parser.parse_args(argv)
    claim = paper.claims[arguments.data]
    if claim.root is not None and arguments.root is None:
        parser.error(f"{arguments.data} needs --root, the folder that holds {claim.root}")
    runs = Runs(
        claim,
        arguments.output / arguments.data,
        arguments.seeds,
        list(paper.arms) if arguments.all else arguments.arms or claim.arms,
        arguments.jobs or (1 if claim.gpu else os.cpu_count() or 1),
        [] if claim.root is None else [f"data.root={arguments.root}"],
        arguments.override,
    )
    began = time.perf_counter()
    try:
        found = paper.prepare(runs)
        jobs = [(seed, arm) for seed in runs.seeds for arm in runs.arms]
        measured = runs.each(lambda job: paper.measure(runs, *job, **found), jobs)
    except RunFailedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    rows: dict[str, list[dict[str, Any]]] = {}
    for name, result in (row for results in measured for row in results.items()):
        rows.setdefault(name, []).append(result)
    metrics = {
        name: {c: [run["metrics"][c] for run in results] for c in paper.columns if c in results[0]["metrics"]}
        for name, results in rows.items()
    }
    seconds = {name: [run["wall_s"] for run in results if "wall_s" in run] for name, results in rows.items()}
    checks = paper.check(metrics, claim)
    write_result(
        f"{paper.name}_{arguments.data}",
        {
            "title": claim.title,
            "seeds": runs.seeds,
            "columns": {c: title for c, title in paper.columns.items() if any(c in row for row in metrics.values())},
            "arms": [{"name": name, "metrics": metrics[name], "train_seconds": seconds[name]} for name in rows],
            "checks": checks,
            "steps": next(run["steps"] for results in rows.values() for run in results if "steps" in run),
            **found,
            "overrides": runs.overrides,
            "wall_s": round(time.perf_counter() - began, 1),
        },
    )
    for line, holds in checks.items():
        print(f"{'holds' if holds else 'DOES NOT HOLD'}: {line}")
    return 0
