"""``dqnet-eval``: error of a trained network on the evaluation data of its run.

dqnet-eval run=outputs/dqnet
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vireo.engine.cli import entry_point

if TYPE_CHECKING:
    from collections.abc import Iterable

    from omegaconf import DictConfig
    from torch import nn


def evaluate(network: nn.Module, batches: Iterable[Any], num_classes: int) -> dict[str, float]:
    """``top1_error`` in percent over all processes (each must call this); leaves the network in evaluation mode."""
    import torch

    from vireo.evaluation import TopK

    network.eval()
    errors = TopK(num_classes, (1,))
    with torch.no_grad():
        for images, targets in batches:
            errors.update(network(images), targets["label"])
    return {"top1_error": errors.compute()["top1_error"]}


@entry_point("dqnet.conf", "eval")
def main(config: DictConfig) -> None:
    """Print the metrics of a run and write them into its folder."""
    from vireo.engine import load_weights
    from vireo.engine.devices import evaluation_fabric
    from vireo.engine.finished import final_weights, read_config
    from vireo.engine.logs import write_json
    from vireo.engine.rendezvous import leave_group

    from .build import build_network
    from .data import build_dataset, build_loader

    trained = read_config(config.run, "dqnet-train", ("model", "data"))
    weights = final_weights(config.run)
    fabric, here = evaluation_fabric(config)
    dataset = build_dataset(trained.data, train=False)
    num_classes = len(dataset.classes)
    network = build_network(trained.model, num_classes).to(fabric.device)
    load_weights(network, weights)
    with fabric.autocast():
        metrics = evaluate(network, build_loader(dataset, trained.data, train=False, **here), num_classes)
    leave_group()
    if fabric.global_rank == 0:
        print(f"{config.run}: {len(dataset)} images, top-1 error {metrics['top1_error']:.2f} %")
        write_json(Path(config.run) / "eval.json", {"run": str(config.run), "metrics": metrics})


if __name__ == "__main__":
    main()
