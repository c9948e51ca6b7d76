"""``if-nas-rank``: how a super-network ranks sub-networks, and whether training them alone gives the same order.

if-nas-rank run=outputs/if_nas_search                       # draws 12, writes ranking/ in the run's folder
if-nas-train genotype=outputs/if_nas_search/ranking/subnets/00.json output_dir=outputs/alone/00    # for each of them
if-nas-rank run=outputs/if_nas_search 'standalone=[outputs/alone/00,...]'    # the same again, with Kendall's tau
if-nas-rank run=outputs/dnas 'subnets=[...]'                # the same sub-networks in another super-network

Each sub-network is evaluated in the super-network, with batch-norm statistics estimated anew for it from some training
images. The run itself is not changed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vireo.engine.cli import entry_point

if TYPE_CHECKING:
    from collections.abc import Sequence

    from omegaconf import DictConfig

    from .build import Architecture
    from .genotype import Genotype


@entry_point("if_nas.conf", "rank")
def main(config: DictConfig) -> None:
    """Print the ranking; write it, and the sub-networks."""
    from functools import partial

    import numpy as np

    from vireo.engine.devices import evaluation_fabric
    from vireo.engine.finished import changed_data, require_classes
    from vireo.engine.folder import require_writable
    from vireo.engine.logs import write_json
    from vireo.engine.rendezvous import leave_group
    from vireo.errors import InputError

    from .data import build_datasets, build_loader
    from .evaluation import evaluate
    from .genotype import read_genotype, write_genotype
    from .plan import subnet_plan
    from .ranking import draw_subnets, estimate_batch_norm, kendall_tau
    from .search_load import load_search
    from .supernet import LChainSupernet

    check_settings(config)
    alone = standalone_accuracies(config.standalone)
    search = load_search(config.run, config.weights)
    network = search.network
    if not isinstance(network, LChainSupernet):
        raise InputError("is no search in an L-chain space", str(config.run), "only there are sub-networks drawn")
    if config.subnets is None:
        subnets = draw_subnets(network.space, config.count, config.seed)
    else:
        subnets = [read_genotype(path) for path in config.subnets]
        for number, subnet in enumerate(subnets):
            if subnet in subnets[:number]:
                same = config.subnets[subnets.index(subnet)]
                raise InputError(f"is the same sub-network as {same}", config.subnets[number], "give each once")
    for subnet in subnets:
        subnet_plan(network.space, subnet)  # which says whether it is one of this space
    accuracies = match(subnets, alone)
    out = require_writable(config.out or Path(config.run) / "ranking", "out=...")
    data = changed_data(search.config.data, config.data)

    fabric, here = evaluation_fabric(config)
    train_set, val_set = build_datasets(data)
    require_classes(val_set.classes, search.classes, f"evaluation data of {config.run}")
    chosen = np.random.default_rng(config.seed).permutation(len(train_set))[: config.bn_images]
    # the same images on every process
    statistics = build_loader(train_set.with_indices(np.sort(chosen)), data, train=False, device=fabric.device)
    loader = build_loader(val_set, data, train=False, **here)
    network.to(fabric.device)
    found = []
    with fabric.autocast():
        for subnet in subnets:
            forward = partial(network, subnet=subnet)
            estimate_batch_norm(network, forward, statistics)
            found.append(evaluate(forward, loader))
    leave_group()
    if fabric.global_rank:
        return

    rows: list[dict[str, Any]] = []
    for number, (subnet, scores, accuracy) in enumerate(zip(subnets, found, accuracies)):
        file = out / "subnets" / f"{number:02d}.json"
        file.parent.mkdir(exist_ok=True)
        write_genotype(file, subnet)
        rows.append({"subnet": str(file.relative_to(out)), "depth": subnet.depth, **scores, "alone": accuracy})
    both = [(row["top1"], row["alone"]) for row in rows if row["alone"] is not None]
    tau = kendall_tau(*zip(*both)) if both else None
    show(rows, tau, f"{config.run}: {len(val_set)} images")
    print(
        f"batch-norm statistics of {len(chosen)} training images{', which are all' * (len(chosen) < config.bn_images)}"
    )
    content = {"run": str(config.run), "seed": config.seed, "bn_images": len(chosen), "images": len(val_set)}
    write_json(out / "ranking.json", {**content, "subnets": rows, "kendall_tau": tau})


def check_settings(config: DictConfig) -> None:
    """Look for values that would fail late.

    Raises:
        InputError: naming the first, and what it may be.
    """
    from .search_build import require_names
    from .settings import Settings

    settings, data = Settings(config), Settings(config.data, "data")
    settings.text("run", "outputs/if_nas_search")
    settings.text("weights", "outputs/if_nas_search/model.safetensors", optional=True)
    settings.text("out", "outputs/ranking", optional=True)
    for name in ("root", "val_split", "classes_file"):
        data.text(name, "another one than in the run", optional=True)
    settings.whole("count", 1)
    settings.whole("seed")
    settings.whole("bn_images", 2)
    if config.standalone != []:
        require_names(config.standalone, "standalone", "outputs/00,outputs/01")
    if config.subnets is not None:
        require_names(config.subnets, "subnets", "subnets/00.json,subnets/01.json")


def standalone_accuracies(folders: Sequence[str]) -> list[tuple[str, Architecture, float]]:
    """Folder, genotype and last top-1 accuracy of runs of ``if-nas-train``.

    Raises:
        InputError: a folder of no such run, or of one that is not finished.
    """
    from vireo.errors import InputError

    from .load import read_architecture

    found = []
    for folder in folders:
        genotype, _ = read_architecture(Path(folder))
        path = Path(folder) / "metrics.json"
        try:
            accuracy = float(json.loads(path.read_text(encoding="utf-8"))["metrics"]["top1"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            remedy = "give folders of finished runs of if-nas-train with standalone=[...]"
            raise InputError("names no accuracy (top1)", str(path), remedy) from error
        found.append((str(folder), genotype, accuracy))
    return found


def match(subnets: Sequence[Genotype], alone: Sequence[tuple[str, Architecture, float]]) -> list[float | None]:
    """The accuracy of each sub-network when it is trained alone, None where no run is of it.

    Raises:
        InputError: a run of none of them, two runs of the same, or a single run, which ranks nothing.
    """
    from vireo.errors import InputError

    accuracies: list[float | None] = [None] * len(subnets)
    for folder, genotype, accuracy in alone:
        places = [number for number, subnet in enumerate(subnets) if subnet == genotype]
        if not places:
            remedy = "train the files that if-nas-rank wrote to subnets/, and rank with the same seed and count"
            raise InputError("was trained with none of these sub-networks", folder, remedy)
        if accuracies[places[0]] is not None:
            raise InputError("is a second run of the same sub-network", folder, "give one run of each")
        accuracies[places[0]] = accuracy
    if len(alone) == 1:
        raise InputError("one run ranks nothing", "standalone", "give two or more, better all of them")
    return accuracies


def show(rows: Sequence[dict[str, Any]], tau: float | None, title: str) -> None:
    """Print the sub-networks, the best of the super-network first."""
    from vireo.report import Table

    lines = []
    for row in sorted(rows, key=lambda row: -row["top1"]):
        accuracy = "" if row["alone"] is None else f"{row['alone']:.2f}"
        lines.append((row["subnet"], row["depth"], f"{row['top1']:.2f}", accuracy))
    Table(title, ("sub-network", "depth", "in the super-network, %", "alone, %"), lines).show()
    if tau is not None:
        print(f"Kendall's tau: {tau:.3f}")


if __name__ == "__main__":
    main()
