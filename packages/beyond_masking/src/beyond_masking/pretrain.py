"""``beyond-masking-pretrain``: train an encoder to recover what a degradation, a mask or both took from images.

beyond-masking-pretrain                                                     # zoomed-in + mask, generated pictures, CPU
beyond-masking-pretrain degradation.name=none                               # mask only: MAE
beyond-masking-pretrain +experiment=integrated data.root=/data/imagenet     # the paper's recipe
torchrun --nproc-per-node 8 -m beyond_masking.pretrain +experiment=...      # several processes
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vireo.engine.cli import entry_point

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from torch import Tensor

    from .model import TokenPretrainModel


@entry_point("beyond_masking.conf", "pretrain")
def main(config: DictConfig) -> None:
    """One pre-training run in ``output_dir``; started again, it goes on where it stopped."""
    from vireo.data import build_dataset, pretraining_loader
    from vireo.engine import Run, plain, say_skipped, schedule_for, write_skipped

    from .build import build_adamw, build_pretraining, compile_blocks, load_start
    from .draws import batch_draws
    from .report import write_gallery, write_pretraining_report

    run = Run.of(config, monitor="loss" if config.eval_every else None, mode="min")
    run.launch()
    network = build_pretraining(config)
    if config.init is not None:
        load_start(network, config.init)
    network.encoder.set_grad_checkpointing(config.grad_checkpointing)
    crops = (config.data, config.augmentation, network.crop_size)
    train_set = build_dataset(config.data, train=True, labels=False)
    loader = pretraining_loader(train_set, *crops, **run.place)
    sets = [train_set]
    val_loader = None
    if config.eval_every or config.gallery_images:
        sets.append(build_dataset(config.data, train=False, labels=False))
        val_loader = pretraining_loader(sets[1], *crops, train=False, **run.place)
    say_skipped(run, *sets)

    step_images = config.data.batch_size * config.run.accumulate
    schedule = schedule_for(config.optim, config.epochs, run.steps_per_epoch(loader), step_images)
    model, _ = run.setup(network, build_adamw(network, config.optim, step_images), schedule)
    if config.compile:
        compile_blocks(network)

    for epoch in run.epochs():
        for images, targets in run.batches(loader):
            draws = batch_draws(targets["key"], config.seed, epoch, run.batches_done)
            output = model(images, draws=draws)
            run.step({"loss": output.loss}, image_ids=targets["index"], monitors=output.losses)
        last = epoch + 1 == config.epochs
        if config.eval_every and val_loader is not None and ((epoch + 1) % config.eval_every == 0 or last):
            run.record(evaluate_recovery(run.evaluated_model, val_loader, config.seed))  # type: ignore[arg-type]

    write_skipped(run, *sets, loader, *([] if val_loader is None else [val_loader]))
    if run.is_main and config.gallery_images:
        images, _ = next(iter(pretraining_loader(sets[1], *crops, train=False, device=run.device).batches(0)))
        write_gallery(run.evaluated_model, images[: config.gallery_images], run.output_dir)  # type: ignore[arg-type]
    run.finish(report=lambda folder: write_pretraining_report(folder, plain(config.paper_metrics)))


def evaluate_recovery(network: TokenPretrainModel, loader: Any, seed: int) -> dict[str, float]:
    """Mean losses over the evaluation images of all processes; see :func:`vireo.evaluation.mean_losses`.

    Args:
        network, loader: as there.
        seed: of what is drawn.
    """
    from vireo.evaluation import mean_losses

    from .draws import batch_draws

    def losses_of(number: int, images: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        output = network(images, draws=batch_draws(targets["key"], seed, 0, number))
        return {"loss": output.loss, **output.losses}

    return mean_losses(network, loader, losses_of)


if __name__ == "__main__":
    main()
