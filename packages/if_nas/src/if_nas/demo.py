"""``make demo PAPER=if_nas``: a search free of interleaving, one with every node at once, and what both find.

python -m if_nas.demo                                 # outputs/demo/report.html, minutes on two cores
python -m if_nas.demo --output DIR --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vireo.report.html import Table

SEARCHES = {"if": ("IF-NAS", []), "dnas": ("DNAS", ["schedule.name=dnas"])}
RANDOM = "drawn at random"
KEEP = 1  # inputs of a node
DISTANCES = ("1", "2", "3", "4")
COLUMNS = {  # heading to digits behind the point
    "preference": 3,
    **{f"w{distance}": 3 for distance in DISTANCES},
    "search, s": 0,
    "depth": 1,
    "width": 1,
    "% correct": 1,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Search twice, train what was found and a network drawn at random, write the page; 0 or the status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/demo"), help="folder of the demo")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--override", nargs="*", default=[], help="further settings of every run, e.g. epochs=1")
    arguments = parser.parse_args(argv)
    started = time.perf_counter()
    jobs = min(len(SEARCHES) * len(arguments.seeds), os.cpu_count() or 1)
    environment = {**os.environ, "OMP_NUM_THREADS": "1" if jobs > 1 else str(os.cpu_count())}

    def call(script: str, *given: str) -> int:
        return subprocess.run([sys.executable, "-m", f"if_nas.{script}", *given], env=environment).returncode

    def train(name: str, seed: int, genotype: str) -> int:
        folder = folder_of(arguments.output, name, seed)
        given = [f"genotype={folder / genotype}", f"seed={seed}", f"data.seed={seed}"]
        given += [*arguments.override, f"output_dir={folder / 'alone'}"]
        return call("train", "+experiment=demo", *given)

    def searched(job: tuple[int, str]) -> int:
        seed, name = job
        folder = folder_of(arguments.output, name, seed)
        given = [f"seed={seed}", f"data.seed={seed}", *arguments.override, f"output_dir={folder}"]
        steps: list[Callable[[], int]] = [
            lambda: call("search", "+experiment=search_demo", *SEARCHES[name][1], *given),
            lambda: call("derive", f"--run={folder}", f"--keep={KEEP}", f"--output={folder / 'derived.json'}"),
            lambda: train(name, seed, "derived.json"),
        ]
        return next((status for status in (step() for step in steps) if status), 0)

    def drawn(seed: int) -> int:
        space = folder_of(arguments.output, "if", seed)
        folder = folder_of(arguments.output, "random", seed)
        given = [f"--run={space}", "--random=1", f"--seed={seed}", f"--output={folder}"]
        return call("derive", *given) or train("random", seed, f"random_{seed}_00.json")

    print(f"== {len(SEARCHES)} searches, {len(arguments.seeds)} seeds: {jobs} at a time", flush=True)
    with ThreadPoolExecutor(jobs) as pool:
        statuses = list(pool.map(searched, [(seed, name) for seed in arguments.seeds for name in SEARCHES]))
        if not any(statuses):
            print("== a network drawn from the same space", flush=True)
            statuses = list(pool.map(drawn, arguments.seeds))
    if any(statuses):
        return max(statuses)
    table = comparison(arguments.output, arguments.seeds)
    write_figure(arguments.output, arguments.seeds[0])
    page = write_page(arguments.output, arguments.seeds[0], table)
    table.show()
    print(f"\n{(time.perf_counter() - started) / 60:.1f} minutes. Report: {page}")
    return 0


def folder_of(output: Path, name: str, seed: int) -> Path:
    """Folder of a search, or of a network drawn at random."""
    return output / f"{name}_{seed}"


def comparison(output: Path, seeds: Sequence[int]) -> Table:
    """A line for each way to find a network: means and deviations over the seeds."""
    from vireo.report.html import Table

    rows = []
    for name, title in [*((name, title) for name, (title, _) in SEARCHES.items()), ("random", RANDOM)]:
        found = [_numbers(folder_of(output, name, seed)) for seed in seeds]
        rows.append((title, *(_text(values, digits) for values, digits in zip(zip(*found), COLUMNS.values()))))
    title = "Generated pictures, three stages of six nodes; w1 to w4: mean weight of connections by distance"
    return Table(title, ("network", *COLUMNS), rows)


def _numbers(folder: Path) -> list[float | None]:
    """What the columns of a line show, of one seed; None where there was no search."""
    alone = json.loads((folder / "alone" / "metrics.json").read_text())["metrics"]
    trained = [alone["depth"], alone["width"], alone["top1"]]
    if not (folder / "metrics.json").exists():
        return [*[None] * (2 + len(DISTANCES)), *trained]
    search = json.loads((folder / "metrics.json").read_text())
    weights = [search["metrics"]["edge_weight"][distance] for distance in DISTANCES]
    return [search["metrics"]["preference"], *weights, search["wall_s"], *trained]


def _text(values: Sequence[Any], digits: int) -> str:
    if values[0] is None:
        return ""
    return f"{mean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


def write_figure(output: Path, seed: int) -> Path:
    """``picture.png``: the networks of both searches with one and with two inputs of every node kept."""
    import cv2
    import numpy as np

    from vireo.report import grid, write_picture

    from .drawing import write_drawing
    from .genotype import Genotype
    from .search_load import load_search

    pictures = []
    for kept in (1, 2):
        for name, (title, _) in SEARCHES.items():
            folder = folder_of(output, name, seed)
            network = load_search(folder).network
            genotype, file = network.derive(keep=kept), folder / f"keep_{kept}.png"
            assert isinstance(genotype, Genotype)  # of an L-chain space
            caption = f"{title}: {kept} kept, depth {genotype.depth}"
            write_drawing(file, genotype, caption, edge_weights=network.edge_weights())
            pictures.append(cv2.cvtColor(np.asarray(cv2.imread(str(file))), cv2.COLOR_BGR2RGB))
    target = output / "picture.png"
    write_picture(target, grid(pictures, len(SEARCHES)))
    return target


def write_page(output: Path, seed: int, table: Table) -> Path:
    """``report.html`` of the demo: the comparison, the networks, and the curves of the interleaving-free search."""
    from vireo.report import write_run_report

    from .search_report import search_curves

    folder = folder_of(output, "if", seed)
    (folder / "gallery").mkdir(exist_ok=True)
    (folder / "gallery" / "comparison.png").write_bytes((output / "picture.png").read_bytes())
    pictures = {"What both searches find": "comparison.png"}
    page = write_run_report(folder, "IF-NAS: the demo", pictures, tables=[table], own_curves=search_curves)
    target = output / "report.html"
    target.write_bytes(page.read_bytes())
    return target


if __name__ == "__main__":
    sys.exit(main())
