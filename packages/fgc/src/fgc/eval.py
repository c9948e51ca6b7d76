"""``fgc-eval``: error, pruning, on-rates and neighbourhoods of a gated network, and its latency.

fgc-eval run=outputs/fgc                                  # on the run's own evaluation data
fgc-eval run=outputs/fgc data.root=/data/cifar10          # the same data elsewhere
fgc-eval run=outputs/fgc latency=true                     # dense, masked and gathered execution at batch 1
fgc-eval run=outputs/fgc weights=resnet20-99-BAS.pth      # other weights of the same network, ours or the authors'
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vireo.engine.cli import entry_point

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from omegaconf import DictConfig
    from torch import nn

NEIGHBORS = 20  # of an image, in the measures of neighbourhoods


def evaluate(
    network: nn.Module, batches: Iterable[Any], image_size: Sequence[int], measured: Sequence[int] | None = None
) -> dict[str, Any]:
    """Error and cost over all processes (each must call this).

    Args:
        network: not wrapped for several processes; left in evaluation mode.
        batches: an evaluation loader over this process's share of the data.
        image_size: height and width, for the multiply-adds.
        measured: numbers of the blocks whose neighbourhoods are compared; default: the last two.

    Returns:
        ``top1_error`` and ``top5_error`` in percent (the latter with more than five classes); ``pruning`` (section 3.5)
        and ``exact_pruning`` in [0, 1]; ``pruning_published``, from the unweighted mean over batches; ``on_rate`` by
        block; ``overlap`` and ``purity`` by measured block (section 10), where there are more than 20 images.
    """
    import torch

    from vireo.evaluation import TopK

    from .macs import count_macs
    from .meters import GateRecords, OnRates
    from .neighborhoods import gate_purity, neighbor_overlap
    from .objective import default_coupled_blocks

    network.eval()
    macs = count_macs(network, (image_size[0], image_size[1]))
    records = GateRecords(default_coupled_blocks(network) if measured is None else measured)
    rates, errors = OnRates(), None
    with torch.no_grad():
        for images, targets in batches:
            logits = network(images)
            if errors is None:
                errors = TopK(logits.shape[1], (1, 5) if logits.shape[1] > 5 else (1,))
            errors.update(logits, targets["label"])
            rates.add(network)
            records.add(network, targets["label"])
    assert errors is not None, "no batch to evaluate"
    found = errors.compute()
    mean = rates.mean
    report = macs.at(mean)
    metrics: dict[str, Any] = {name: value for name, value in found.items() if name.endswith("_error")}
    metrics |= {
        "pruning": report.pruning,
        "exact_pruning": report.exact_pruning,
        "pruning_published": macs.at(rates.mean_of_batches).pruning,
        "on_rate": {str(block): rate for block, rate in enumerate(mean)},
    }
    features, gate_logits, labels = records.gathered()
    if len(labels) > NEIGHBORS:
        pairs = list(zip(map(str, records.blocks), features, gate_logits))
        metrics["overlap"] = {block: neighbor_overlap(f, z, NEIGHBORS) for block, f, z in pairs}
        metrics["purity"] = {block: gate_purity(z, labels, NEIGHBORS) for block, _, z in pairs}
    return metrics


@entry_point("fgc.conf", "eval")
def main(config: DictConfig) -> None:
    """Print the metrics of a gated network on the evaluation data of its run or on other data; write a JSON."""
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from vireo.engine import print_skipped, skipped_lines
    from vireo.engine.devices import evaluation_fabric
    from vireo.engine.finished import changed_data, require_classes
    from vireo.engine.folder import require_writable
    from vireo.engine.logs import write_json
    from vireo.engine.rendezvous import leave_group

    from .blocks import gated_blocks
    from .data import build_dataset, build_loader
    from .latency import measure_latency
    from .load import load_run
    from .objective import require_blocks

    out = Path(config.out or Path(config.run) / "eval.json")
    loaded = load_run(config.run, config.weights)
    require_writable(out.parent, "out=...")
    data = changed_data(loaded.config.data, config.data)
    fabric, here = evaluation_fabric(config)
    val_set = build_dataset(data, train=False)
    require_classes(val_set.classes, loaded.classes, f"evaluation data of {config.run}")
    network = loaded.network.to(fabric.device)
    require_blocks(config.measured_blocks or (), len(gated_blocks(network)), "measured_blocks")
    loader = build_loader(val_set, data, train=False, **here)
    with fabric.autocast():
        metrics = evaluate(network, loader, loaded.config.image_size, config.measured_blocks)
    skipped = skipped_lines(val_set, loader)
    leave_group()
    if fabric.global_rank:
        return
    print_skipped(skipped)
    table = Table("metric", "value")
    blocks = Table("block", "on-rate", "overlap@20", "gate purity@20")
    for name, value in metrics.items():
        if isinstance(value, float):
            table.add_row(name, f"{value:.4f}")
    for block, rate in metrics["on_rate"].items():
        others = [metrics.get(name, {}).get(block) for name in ("overlap", "purity")]
        blocks.add_row(block, f"{rate:.3f}", *("" if value is None else f"{value:.3f}" for value in others))
    print(f"{config.run}: {len(val_set)} images")
    Console().print(table, blocks)
    if config.latency:
        rows = measure_latency(network.cpu(), tuple(loaded.config.image_size))
        metrics["latency"] = [asdict(row) for row in rows]
        modes = list(rows[0].milliseconds)
        gains = [f"{mode}: times faster" for mode in modes]
        timings = Table("on-rate", *(f"{mode} [ms]" for mode in ("dense", *modes)), *gains, "ideal")
        for row in rows:
            times, faster = [row.dense, *row.milliseconds.values()], [row.gain(mode) for mode in modes]
            timings.add_row(*(f"{value:.2f}" for value in (row.on_rate, *times, *faster, row.ideal)))
        Console().print(timings)
    write_json(out, {"run": str(config.run), "metrics": metrics})


if __name__ == "__main__":
    main()
