"""``g2sd-pretrain``: train a masked autoencoder on pixels: a teacher, or the baseline of a small one.

g2sd-pretrain                                                            # a small teacher on generated pictures, CPU
g2sd-pretrain +experiment=mae_base_1600 data.root=/data/imagenet         # the paper's teacher
torchrun --nproc-per-node 8 -m g2sd.pretrain +experiment=...             # several processes
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vireo.engine.cli import entry_point

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from torch import Tensor

    from .mae import MaskedAutoencoder


@entry_point("g2sd.conf", "pretrain")
def main(config: DictConfig) -> None:
    """One pre-training run in ``output_dir``; started again, it goes on where it stopped."""
    from vireo.data import pretraining_set
    from vireo.engine import Run, plain, say_skipped, schedule_for, write_skipped

    from .kinds import require_own_settings
    from .pretraining import (
        build_adamw,
        build_loader,
        build_mae,
        compile_transformer,
        load_start,
        mask_noise,
    )
    from .pretraining_report import write_gallery, write_pretraining_report

    require_own_settings(config, "pretraining")  # before it leaves anything behind
    run = Run.of(config, monitor="loss" if config.eval_every else None, mode="min")
    run.launch()
    network = build_mae(config)
    if config.init is not None:
        run.console.say(load_start(network, config.init))
    network.encoder.set_grad_checkpointing(config.grad_checkpointing)
    sets = [pretraining_set(config.data, train=True)]
    loader = build_loader(sets[0], config, network, **run.place)
    val_loader = None
    if config.eval_every or config.gallery_images:
        sets.append(pretraining_set(config.data, train=False))
        val_loader = build_loader(sets[1], config, network, train=False, **run.place)
    say_skipped(run, *sets)

    step_images = config.data.batch_size * config.run.accumulate
    schedule = schedule_for(config.optim, config.epochs, run.steps_per_epoch(loader), step_images, "cosine")
    model, _ = run.setup(network, build_adamw(network, config.optim, step_images), schedule)
    if config.compile:
        compile_transformer(network)

    for epoch in run.epochs():
        for images, targets in run.batches(loader):
            output = model(images, mask_noise(targets, network), config.mask_ratio)
            run.step({"loss": output.loss}, image_ids=targets["index"])
        last = epoch + 1 == config.epochs
        if config.eval_every and val_loader is not None and ((epoch + 1) % config.eval_every == 0 or last):
            run.record(evaluate_recovery(run.evaluated_model, val_loader, config.mask_ratio))  # type: ignore[arg-type]

    write_skipped(run, *sets, loader, *([] if val_loader is None else [val_loader]))
    if run.is_main and config.gallery_images:
        shown: Any = build_loader(sets[1], config, network, train=False, device=run.device)
        images, targets = next(iter(shown.batches(0)))
        noise = mask_noise(targets, network)
        count = config.gallery_images
        write_gallery(run.evaluated_model, images[:count], noise[:count], config, run.output_dir)  # type: ignore[arg-type]
    run.finish(report=lambda folder: write_pretraining_report(folder, plain(config.paper_metrics)))


def evaluate_recovery(network: MaskedAutoencoder, loader: Any, mask_ratio: float) -> dict[str, float]:
    """Mean loss over the evaluation images of all processes; see :func:`vireo.evaluation.mean_losses`.

    Args:
        network, loader: as there.
        mask_ratio: share of patches to remove.
    """
    from vireo.evaluation import mean_losses

    from .pretraining import mask_noise

    def losses_of(number: int, images: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"loss": network(images, mask_noise(targets, network), mask_ratio).loss}

    return mean_losses(network, loader, losses_of)


if __name__ == "__main__":
    main()
