"""The claim of IF-NAS at small scale: do interleaving-free searches keep short connections, and find better networks?

    python benchmarks/claims/if_nas.py generated                        # generated pictures, CPU
    python benchmarks/claims/if_nas.py cifar10 --root data/cifar10      # images of CIFAR-10 at 16x16, CPU
    python benchmarks/claims/if_nas.py cifar10_gpu --root data/cifar10  # all of CIFAR-10 at 32x32, for a GPU

For each seed a super-network is searched by every schedule: interleaving-free with period L + 1 and L, every node
always (DNAS), period 2, and random nodes, as many as with L + 1. From each search one and two inputs of every node are
kept; the networks, and networks drawn at random, get the width that brings them to the same multiply-adds, and are
trained alike. `cifar10_gpu` also compares how super-network and training alone rank the same sub-networks. Runs go on
where they stopped. Results: `benchmarks/results/if_nas_<data>.json`, with what is expected and whether it holds.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from claim import CLASS_FOLDERS, Claim, Metrics, Paper, Runs, folder_of, main

IF, IF_L, DNAS = "IF, period L + 1", "IF, period L", "DNAS (every node)"
TWO, SUBSET, RANDOM = "period 2", "random nodes", "random networks"
ARMS: dict[str, list[str]] = {
    IF: [],
    IF_L: ["schedule.period=${space.length}"],
    DNAS: ["schedule.name=dnas"],
    TWO: ["schedule.period=2"],
    SUBSET: ["schedule.name=random_subset"],
    RANDOM: [],
}
KEPT = (1, 2)  # inputs of a node
DISTANCES = (1, 2, 3, 4)
COLUMNS = {
    "preference": "short-edge preference",
    **{f"distance_{d}": f"weight at distance {d}" for d in DISTANCES},
    **{f"depth_{k}": f"depth, {k} kept" for k in KEPT},
    **{f"top1_{k}": f"% correct, {k} kept" for k in KEPT},
    "tau": "Kendall tau",
    "search_seconds": "search, s",
}
MARGIN = 0.03  # of the short-edge preference, section 10 of the notes


@dataclass(frozen=True, kw_only=True)
class SearchClaim(Claim):
    """Searches, and networks trained alone. ``settings`` are those of the searches.

    Attributes:
        training: settings of every network that is trained alone.
        max_macs: its multiply-adds at most.
        networks: drawn at random, for each seed.
        ranked: sub-networks that are ranked, for each seed; 0 for none.
        width: of the ranked ones when they are trained alone, as in the super-network.
    """

    training: Sequence[str]
    max_macs: int
    networks: int
    ranked: int = 0
    width: int = 16


CLAIMS = {
    "generated": SearchClaim(
        title="Generated pictures, 16x16, three stages of six nodes, L = 4",
        settings=["+experiment=search_demo"],
        arms=[IF, DNAS, RANDOM],
        training=["+experiment=demo"],
        max_macs=3_000_000,
        networks=3,
    ),
    "cifar10": SearchClaim(
        title="CIFAR-10 as JPEG, 16x16, three stages of six nodes, L = 4",
        settings=["+experiment=search_cifar10_small"],
        arms=[IF, DNAS, RANDOM],
        root=CLASS_FOLDERS,
        training=["+experiment=cifar10_small"],
        max_macs=3_000_000,
        networks=3,
    ),
    "cifar10_gpu": SearchClaim(
        title="CIFAR-10 as JPEG, 32x32, three stages of eight nodes, L = 4",
        settings=["+experiment=search_cifar10", "data=folder", "data.batch_size=256"],
        arms=[IF, IF_L, DNAS, TWO, SUBSET, RANDOM],
        root=CLASS_FOLDERS,
        gpu=True,
        training=["+experiment=cifar10_gpu", "data=folder", "data.batch_size=256"],
        max_macs=40_000_000,
        networks=5,
        ranked=12,
    ),
}


def prepare(runs: Runs) -> dict[str, Any]:
    """The first search of each seed, whose space others draw from, and the sub-networks that are ranked, trained."""
    if runs.claim.ranked or RANDOM in runs.arms:
        runs.each(lambda seed: search(runs, seed, IF), runs.seeds)
    if runs.claim.ranked:
        runs.each(lambda seed: draw(runs, seed), runs.seeds)
        runs.each(lambda job: train_subnet(runs, *job), [(seed, n) for seed in runs.seeds for n in numbers(runs)])
    return {}


def measure(runs: Runs, seed: int, arm: str) -> dict[str, dict[str, Any]]:
    """Search, what is derived from it, and what that is worth alone."""
    if arm == RANDOM:
        return {arm: random_networks(runs, seed)}
    found = search(runs, seed, arm)
    folder = folder_of(arm, seed)
    metrics = found["metrics"]
    row = {"preference": metrics["preference"], "search_seconds": found["wall_s"]}
    row |= {f"distance_{d}": metrics["edge_weight"][str(d)] for d in DISTANCES}
    for kept in KEPT:
        name = f"keep_{kept}_{folder}"
        genotype = derive(runs, name, [f"--run={runs.output / folder}", f"--keep={kept}"])
        trained = train_found(runs, name, seed, genotype)["metrics"]
        row |= {f"depth_{kept}": trained["depth"], f"top1_{kept}": trained["top1"]}
    if runs.claim.ranked:
        row["tau"] = rank(runs, folder, seed)
    return {arm: {**found, "metrics": row}}


def search(runs: Runs, seed: int, arm: str) -> dict[str, Any]:
    """``metrics.json`` of a search."""
    return runs.train("if_nas.search", folder_of(arm, seed), seed, [*ARMS[arm], *pictures(runs, seed)])


def derive(runs: Runs, name: str, settings: Sequence[str]) -> Path:
    """Write a genotype to a folder of its own."""
    file = runs.output / name / "found.json"
    runs("if_nas.derive", name, [*settings, f"--output={file}"], file.name)
    return file


def train_found(runs: Runs, name: str, seed: int, genotype: Path) -> dict[str, Any]:
    """``metrics.json`` of a network that was found, trained at the width of the budget."""
    return train(runs, name, seed, [f"genotype={genotype}", f"model.max_macs={runs.claim.max_macs}"])


def train(runs: Runs, name: str, seed: int, settings: Sequence[str]) -> dict[str, Any]:
    """``metrics.json`` of a network that is trained alone."""
    given = [*runs.root, f"seed={seed}", *pictures(runs, seed), *runs.overrides, f"output_dir={runs.output / name}"]
    return runs("if_nas.train", name, [*runs.claim.training, *settings, *given])


def pictures(runs: Runs, seed: int) -> list[str]:
    """Other pictures for each seed, where they are generated."""
    return [] if runs.root else [f"data.seed={seed}"]


def random_networks(runs: Runs, seed: int) -> dict[str, Any]:
    """Networks drawn from the space of the searches, trained: means over them."""
    space, folder = runs.output / folder_of(IF, seed), runs.output / f"random_{seed}"
    files = [folder / f"random_{seed}_{number:02d}.json" for number in range(runs.claim.networks)]
    settings = [f"--run={space}", f"--random={len(files)}", f"--seed={seed}", f"--output={folder}"]
    runs("if_nas.derive", folder.name, settings, files[0].name)
    trained = [train_found(runs, f"random_{number}_{seed}", seed, file) for number, file in enumerate(files)]
    metrics = {f"{name}_{KEPT[0]}": mean(run["metrics"][name] for run in trained) for name in ("depth", "top1")}
    return {"metrics": metrics, "wall_s": sum(run["wall_s"] for run in trained), "steps": trained[0]["steps"]}


def numbers(runs: Runs) -> range:
    """Of the sub-networks that are ranked."""
    return range(runs.claim.ranked)


def subnet(runs: Runs, seed: int, number: int) -> Path:
    """File of a sub-network."""
    return runs.output / f"subnets_{seed}" / "subnets" / f"{number:02d}.json"


def draw(runs: Runs, seed: int) -> None:
    """Draw sub-networks from the space of the searches."""
    settings = [f"count={runs.claim.ranked}", f"seed={seed}", f"out={runs.output / f'subnets_{seed}'}"]
    run = runs.output / folder_of(IF, seed)
    runs("if_nas.rank", f"subnets_{seed}", [f"run={run}", *runs.root, *settings], "ranking.json")


def train_subnet(runs: Runs, seed: int, number: int) -> None:
    """Train a sub-network alone, as wide as it is in the super-network."""
    settings = [f"genotype={subnet(runs, seed, number)}", "model.max_macs=null", f"model.width={runs.claim.width}"]
    train(runs, f"alone_{number}_{seed}", seed, settings)


def rank(runs: Runs, folder: str, seed: int) -> float:
    """Kendall's tau between the ranking of the sub-networks by a super-network and by training them alone.

    0 where all accuracies of one side are the same, which ranks nothing.
    """
    subnets = ",".join(str(subnet(runs, seed, number)) for number in numbers(runs))
    alone = ",".join(str(runs.output / f"alone_{number}_{seed}") for number in numbers(runs))
    settings = [f"run={runs.output / folder}", *runs.root, f"seed={seed}", f"subnets=[{subnets}]"]
    settings += [f"standalone=[{alone}]", f"out={runs.output / f'ranking_{folder}'}"]
    return float(runs("if_nas.rank", f"ranking_{folder}", settings, "ranking.json")["kendall_tau"] or 0.0)


def check(arms: Metrics, claim: SearchClaim) -> dict[str, bool]:
    """What is expected (section 10 of the notes) and whether it holds, in the mean over the seeds.

    The bound on the preference is for every claim; depth and accuracy are expected of large spaces only, and recorded
    for small ones.
    """
    if not {IF, DNAS} <= set(arms):
        return {}
    ours = {column: mean(values) for column, values in arms[IF].items()}
    theirs = {column: mean(values) for column, values in arms[DNAS].items()}
    found = {
        f"short-edge preference: IF above DNAS by {MARGIN}": ours["preference"] >= theirs["preference"] + MARGIN,
        "depth of the network with one input kept: IF above DNAS": ours["depth_1"] > theirs["depth_1"],
        "accuracy with one input kept: IF not below DNAS": ours["top1_1"] >= theirs["top1_1"],
    }
    if RANDOM in arms:
        text = "accuracy with one input kept: IF not below random networks"
        found[text] = ours["top1_1"] >= mean(arms[RANDOM]["top1_1"])
    if claim.ranked:
        found["Kendall tau: IF above DNAS"] = ours["tau"] > theirs["tau"]
    return found


PAPER = Paper(
    name="if_nas",
    description=__doc__,
    columns=COLUMNS,
    arms=ARMS,
    claims=CLAIMS,
    measure=measure,
    prepare=prepare,
    check=check,
    output=Path("outputs/claims/if_nas"),
)

if __name__ == "__main__":
    sys.exit(main(PAPER))
