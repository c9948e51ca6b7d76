"""``if-nas-search``: search for an architecture in a space with long-distance connections.

if-nas-search                                                     # generated pictures, on a CPU in minutes
if-nas-search schedule.name=dnas output_dir=outputs/dnas          # the same with all nodes active: no sampling
if-nas-search +experiment=search_cifar10 data.root=/data/cifar10  # on a GPU
torchrun --nproc-per-node 4 -m if_nas.search +experiment=...      # several processes

The architecture is in genotype.json of the run's folder, the one after each epoch in genotypes/. Take them to
if-nas-train genotype=FOLDER; derive others from the same search with if-nas-derive.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vireo.engine.cli import entry_point

if TYPE_CHECKING:
    from omegaconf import DictConfig


@entry_point("if_nas.conf", "search")
def main(config: DictConfig) -> None:
    """One search in ``output_dir``; started again, it goes on where it stopped."""
    import logging
    from functools import partial

    import torch.nn.functional as F

    from vireo.backbones import global_batch_norm
    from vireo.engine import Run, plain, require_own, say_skipped, write_skipped
    from vireo.engine.finished import save_classes

    from .data import build_datasets, build_loader
    from .evaluation import evaluate
    from .history import describe, forget_from, measure, search_cost, write_epoch
    from .schedule import ActiveNodes
    from .search_build import (
        build_node_schedule,
        build_optimizer,
        build_search_network,
        check_settings,
        learning_rates,
        leaves_unused,
        never_reached,
        penalty_weights,
        turn_number,
    )
    from .search_load import require_own_folder
    from .search_report import write_search_report

    require_own(config, "genotype" in config, "if-nas-train")
    check_settings(config)
    require_own_folder(config)
    run = Run.of(config, find_unused_parameters=leaves_unused(config))
    run.launch()
    if run.is_main and (late := never_reached(config)):
        logging.getLogger(__name__).warning("%s", late)
    train_set, val_set = build_datasets(config.data)
    loader = build_loader(train_set, config.data, train=True, **run.place)
    val_loader = build_loader(val_set, config.data, train=False, **run.place)
    if run.is_main:
        save_classes(run.output_dir, train_set.classes)
    say_skipped(run, train_set, val_set)

    network = build_search_network(config, len(train_set.classes))
    schedule = build_node_schedule(config.schedule, network, config.seed)
    if run.world_size > 1:
        network = global_batch_norm(network)
    optimizer = build_optimizer(network, config)
    model, _ = run.setup(network, optimizer, learning_rates(config, run.steps_per_epoch(loader)))
    if config.compile:
        network.compile()
    if run.is_main:
        forget_from(run.output_dir, run.epoch)

    def active_nodes(epoch: int, step: int) -> ActiveNodes:
        return schedule.active(turn_number(config.schedule.turn, epoch, step), network.nodes)

    for epoch in run.epochs():
        edge_weight, op_weight = penalty_weights(config.discretization, epoch)
        for images, targets in run.batches(loader):
            active = active_nodes(epoch, run.step_count)
            logits = model(images, active)
            loss_edge, loss_op = network.penalties(active)
            losses = {
                "loss_ce": F.cross_entropy(logits, targets["label"]),
                "loss_edge": edge_weight * loss_edge,
                "loss_op": op_weight * loss_op,
            }
            run.step(losses, image_ids=targets["index"])  # weights and architecture on the same batch: one level
        genotype, edge_weights = network.derive(**plain(config.derive)), network.edge_weights()
        metrics = {**describe(edge_weights), **measure(genotype, config, len(train_set.classes)), **search_cost(run)}
        if (epoch + 1) % config.eval_every == 0 or epoch + 1 == config.epochs:
            active = active_nodes(epoch, run.step_count - 1)
            with run.fabric.autocast():
                metrics |= evaluate(partial(network.eval(), active=active), val_loader)
        if run.is_main:
            write_epoch(run.output_dir, epoch, genotype, edge_weights)
        run.record(metrics)

    write_skipped(run, train_set, val_set, loader, val_loader)
    run.finish(report=lambda folder: write_search_report(folder, plain(config.paper_metrics)))


if __name__ == "__main__":
    main()
