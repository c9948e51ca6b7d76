"""``fgc-train``: train gated networks with batch shaping (BAS) or feature-gate coupling (FGC).

fgc-train +experiment=demo_bas                                    # generated pictures, on a CPU in a minute
fgc-train +experiment=demo_fgc init=outputs/demo_bas              # coupling, from the weights of that run
fgc-train +experiment=cifar10_resnet20 data.root=/data/cifar10    # the paper's recipe, both stages in one run
torchrun --nproc-per-node 4 -m fgc.train +experiment=...          # several processes
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vireo.engine.cli import entry_point

if TYPE_CHECKING:
    from omegaconf import DictConfig


@entry_point("fgc.conf", "train")
def main(config: DictConfig) -> None:
    """One training run in ``output_dir``; started again, it goes on where it stopped."""
    import torch.nn.functional as F

    from vireo.backbones import global_batch_norm
    from vireo.engine import Run, build_schedule, plain, say_skipped, write_skipped
    from vireo.engine.finished import save_classes
    from vireo.errors import InputError

    from .blocks import gated_blocks
    from .build import build_network, build_objective, build_optimizer, load_initial_weights
    from .collectives import batch_share
    from .data import build_datasets, build_loader
    from .eval import evaluate
    from .gate import gate_noise
    from .objective import require_blocks
    from .report import draw_gallery, write_run_report
    from .schedules import Recipe

    run = Run.of(config, monitor="top1_error", mode="min")
    recipe = Recipe(config.stage, **plain(config.recipe))
    start_epoch = recipe.first_epoch if config.start_epoch is None else config.start_epoch
    if config.stage == "fgc" and config.init is None:
        remedy = "give the run or the checkpoint of the first stage with init=..., or do both stages with stage=both"
        raise InputError("stage=fgc starts from trained gates", "init", remedy)
    run.launch()
    train_set, val_set = build_datasets(config.data)
    loader = build_loader(train_set, config.data, train=True, **run.place)
    val_loader = build_loader(val_set, config.data, train=False, **run.place)
    if run.is_main:
        save_classes(run.output_dir, train_set.classes)
    say_skipped(run, train_set, val_set)

    network = build_network(config.model, len(train_set.classes))
    if config.init is not None:
        load_initial_weights(network, config.init)
    if run.world_size > 1:
        network = global_batch_norm(network)
    require_blocks(config.measured_blocks or (), len(gated_blocks(network)), "measured_blocks")
    objective = build_objective(network, recipe, config, len(train_set))
    sgd = build_optimizer(network, config.optim)
    schedule = build_schedule(
        config.optim.schedule,
        epochs=config.epochs,
        steps_per_epoch=run.steps_per_epoch(loader),
        milestones=[epoch - start_epoch for epoch in config.optim.milestones],
        gamma=config.optim.gamma,
    )
    model, _ = run.setup(network, sgd, schedule)
    if config.compile:
        network.compile()
    blocks = gated_blocks(network)

    for run_epoch in run.epochs():
        epoch = start_epoch + run_epoch  # of the whole recipe
        weights = recipe.weights(epoch)
        if epoch == recipe.coupling_start and run.batches_done == 0:
            sgd.state.clear()  # the authors start the second stage with a new optimizer
        for images, targets in run.batches(loader):
            with gate_noise(network, targets["key"]):
                logits = model(images)
            share = batch_share(len(images), run.device)
            gate_losses, monitors = objective.losses(blocks, weights, targets["index"], share)
            losses = {"loss_ce": F.cross_entropy(logits, targets["label"]) * share, **gate_losses}
            run.step(losses, image_ids=targets["index"], monitors=monitors)
        if (run_epoch + 1) % config.eval_every == 0 or run_epoch + 1 == config.epochs:
            run.record(evaluate(run.evaluated_model, val_loader, config.image_size, config.measured_blocks))

    write_skipped(run, train_set, val_set, loader, val_loader)
    if run.is_main:
        draw_gallery(run.evaluated_model, val_set, config.data, run.output_dir, config.gallery_images)
    run.finish(report=lambda folder: write_run_report(folder, "FGC", plain(config.paper_metrics)))


if __name__ == "__main__":
    main()
