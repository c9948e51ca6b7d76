"""``if-nas-train``: train a derived network from scratch.

if-nas-train                                                               # generated pictures, on a CPU in minutes
if-nas-train genotype=outputs/if_nas_search                                # what a search has found
if-nas-train +experiment=imagenet_l8 data.root=/data/imagenet              # the paper's recipe
torchrun --nproc-per-node 4 -m if_nas.train +experiment=...                # several processes
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vireo.engine.cli import entry_point

if TYPE_CHECKING:
    from omegaconf import DictConfig


@entry_point("if_nas.conf", "train")
def main(config: DictConfig) -> None:
    """One training run in ``output_dir``; started again, it goes on where it stopped."""
    from vireo.backbones import global_batch_norm
    from vireo.engine import Run, plain, say_skipped, write_skipped
    from vireo.engine.finished import save_classes

    from .build import (
        build_network,
        build_optimizer,
        check_settings,
        describe,
        has_dead_nodes,
        network_cost,
        network_width,
        training_losses,
    )
    from .data import build_datasets, build_loader
    from .evaluation import evaluate
    from .learning_rates import epoch_schedule
    from .load import require_no_search, write_architecture
    from .published import find_architecture
    from .train_report import write_run_report

    check_settings(config)
    require_no_search(Path(config.output_dir))
    architecture = find_architecture(config.genotype)
    run = Run.of(config, monitor="top1", mode="max", find_unused_parameters=has_dead_nodes(architecture))
    run.launch()
    train_set, val_set = build_datasets(config.data)
    loader = build_loader(train_set, config.data, train=True, **run.place)
    val_loader = build_loader(val_set, config.data, train=False, **run.place)

    num_classes, image_size = len(train_set.classes), tuple(config.data.image_size)
    width = network_width(config.model, architecture, num_classes, image_size)
    cost = network_cost(config.model, architecture, num_classes, width, image_size)
    facts = describe(architecture, width, cost)
    if run.is_main:
        save_classes(run.output_dir, train_set.classes)
        write_architecture(run.output_dir, architecture, facts)
        print(f"{config.genotype}: width {width}, {cost.params:,} parameters, {cost.macs:,} multiply-adds")
    say_skipped(run, train_set, val_set)

    network = build_network(config.model, architecture, num_classes, width)
    if run.world_size > 1:
        network = global_batch_norm(network)
    optim, steps = config.optim, run.steps_per_epoch(loader)
    final, warmup = optim.min_lr / optim.lr, optim.warmup_epochs
    schedule = epoch_schedule(optim.schedule, config.epochs, steps, final=final, warmup_epochs=warmup)
    model, _ = run.setup(network, build_optimizer(network, optim), schedule)
    if config.compile:
        network.compile()

    for epoch in run.epochs():
        network.drop_path = config.model.drop_path * epoch / config.epochs
        for images, targets in run.batches(loader):
            losses = training_losses(model(images), targets["label"], config.label_smoothing, config.auxiliary_weight)
            run.step(losses, image_ids=targets["index"])
        if (epoch + 1) % config.eval_every == 0 or epoch + 1 == config.epochs:
            run.record({**evaluate(run.evaluated_model, val_loader), **facts})

    write_skipped(run, train_set, val_set, loader, val_loader)
    run.finish(report=lambda folder: write_run_report(folder, plain(config.paper_metrics)))


if __name__ == "__main__":
    main()
