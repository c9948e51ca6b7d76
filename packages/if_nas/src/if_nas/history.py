"""What a search has learned after each epoch: the weights of edges by distance, and the architecture so far."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vireo.engine.logs import write_json
from vireo.errors import InputError

from .published import GENOTYPE_FILE

if TYPE_CHECKING:
    from vireo.engine import Run

    from .build import Architecture

EdgeWeights = list[dict[int, dict[int, float]]]
"""Per stage: node to source to the weight of that edge, in [0, 1]."""

FOLDER = "genotypes"
"""Of a run, holds the architecture after each epoch."""


def weights_by_distance(edge_weights: EdgeWeights) -> dict[int, float]:
    """Mean weight of the edges of each distance ``node - source`` (section 10).

    Only nodes with all candidates count: a node near the input of its stage has fewer, and no long ones.

    Returns:
        Distance, ascending, to mean weight.
    """
    sizes = [len(sources) for stage in edge_weights for sources in stage.values()]
    found: dict[int, list[float]] = {}
    for stage in edge_weights:
        for node, sources in stage.items():
            if len(sources) == max(sizes):
                for source, weight in sources.items():
                    found.setdefault(node - source, []).append(weight)
    return {distance: sum(weights) / len(weights) for distance, weights in sorted(found.items())}


def short_edge_preference(by_distance: dict[int, float]) -> float | None:
    """The weight at distance 1 minus the mean of those at the other distances (section 10); None without others."""
    others = [weight for distance, weight in by_distance.items() if distance > 1]
    return by_distance[1] - sum(others) / len(others) if others else None


def write_epoch(folder: Path, epoch: int, genotype: Architecture, edge_weights: EdgeWeights) -> None:
    """Write the architecture after ``epoch`` (from 0) with its edge weights: to ``genotypes/``, and as the newest."""
    content = {**genotype.to_dict(), "epoch": epoch + 1, "edge_weights": edge_weights}
    (folder / FOLDER).mkdir(exist_ok=True)
    for path in (epoch_file(folder, epoch), folder / GENOTYPE_FILE):
        write_json(path, content)


def epoch_file(folder: Path, epoch: int) -> Path:
    """Where a run in ``folder`` keeps the architecture after ``epoch``, from 0. Names count from 1."""
    return folder / FOLDER / f"epoch_{epoch + 1:03d}.json"


def forget_from(folder: Path, epoch: int) -> None:
    """Remove what an earlier run in ``folder`` left of ``epoch``, from 0, and later ones."""
    if epoch == 0:
        (folder / GENOTYPE_FILE).unlink(missing_ok=True)
    for path in (folder / FOLDER).glob("epoch_*.json"):
        number = path.stem.removeprefix("epoch_")
        if number.isdigit() and int(number) > epoch:
            path.unlink(missing_ok=True)


def read_edge_weights(path: str | Path) -> EdgeWeights:
    """The edge weights beside a genotype that a search wrote, of the last or of any epoch.

    Raises:
        InputError: the file cannot be read, or holds no edge weights.
    """
    remedy = "give genotype.json of a search, or one of its genotypes/epoch_NNN.json"
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        return [
            {int(node): {int(source): float(w) for source, w in sources.items()} for node, sources in stage.items()}
            for stage in content["edge_weights"]
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"holds no edge weights ({type(error).__name__})", str(path), remedy) from error


def describe(edge_weights: EdgeWeights) -> dict[str, Any]:
    """``preference``, see :func:`short_edge_preference`, and ``edge_weight`` by distance, which is a text."""
    by_distance = weights_by_distance(edge_weights)
    return {
        "preference": short_edge_preference(by_distance),
        "edge_weight": {str(distance): weight for distance, weight in by_distance.items()},
    }


def measure(genotype: Architecture, config: Any, num_classes: int) -> dict[str, Any]:
    """``depth`` and ``nodes`` of an architecture and its ``cost`` at the width of the search, nested.

    Args:
        genotype: what the search derived.
        config: of the search: ``model`` and ``data.image_size``.
        num_classes: K.
    """
    import torch

    from .cost import count_cost
    from .search_build import build_derived_network

    with torch.device("meta"):
        network = build_derived_network(genotype, config.model, num_classes)
        cost = count_cost(network, tuple(config.data.image_size))
    return {"depth": genotype.depth, "nodes": sum(genotype.num_nodes), "cost": asdict(cost)}


def search_cost(run: Run) -> dict[str, float]:
    """``gpu_hours``, or ``cpu_hours``, of a search so far: the hours of all its processes together."""
    unit = "cpu_hours" if run.device.type == "cpu" else "gpu_hours"
    return {unit: run.wall_s * run.world_size / 3600}
