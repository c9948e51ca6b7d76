"""``itpn-pretrain``: pre-train a backbone together with its pyramid, on pixels or on the features of CLIP.

itpn-pretrain                                                          # pixels of generated pictures, CPU, a minute
itpn-pretrain +experiment=pixel_base_400 data.root=/data/imagenet      # the paper's recipe
itpn-pretrain +experiment=clip_base_300 data.root=/data/imagenet teacher.weights=clip_vit_b16.safetensors
torchrun --nproc-per-node 8 -m itpn.pretrain +experiment=...           # several processes
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vireo.engine.cli import entry_point

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from torch import Tensor

    from .pretraining import Inputs, PretrainNetwork


@entry_point("itpn.conf", "pretrain")
def main(config: DictConfig) -> None:
    """One pre-training run in ``output_dir``; started again, it goes on where it stopped."""
    from vireo.data import pretraining_set
    from vireo.engine import Run, plain, say_skipped, write_skipped
    from vireo.engine.optim import compile_blocks, schedule_for

    from .attention import MlpBlock
    from .momentum import MomentumPyramidAutoencoder
    from .pretraining import (
        build_adamw,
        build_inputs,
        build_loader,
        build_pretraining,
        build_teacher,
        load_pretraining,
    )
    from .pretraining_report import write_gallery, write_pretraining_report

    run = Run.of(config, monitor="loss" if config.eval_every else None, mode="min")
    run.launch()
    teacher = build_teacher(config)
    network = build_pretraining(config, 0 if teacher is None else teacher.dim)
    inputs = build_inputs(config, network, teacher)
    if config.init is not None:
        load_pretraining(network, config.init)
    network.backbone.set_grad_checkpointing(config.grad_checkpointing)
    sets = [pretraining_set(config.data, train=True)]
    loader = build_loader(sets[0], config, network, teacher, **run.place)
    val_loader = None
    if config.eval_every or config.gallery_images:
        sets.append(pretraining_set(config.data, train=False))
        val_loader = build_loader(sets[1], config, network, teacher, train=False, **run.place)
    say_skipped(run, *sets)

    step_images = config.data.batch_size * config.run.accumulate
    steps_per_epoch = run.steps_per_epoch(loader)
    schedule = schedule_for(config.optim, config.epochs, steps_per_epoch, step_images, config.optim.schedule)
    optimizer = build_adamw(network, config.optim, step_images, config.objective)
    model, _ = run.setup(network, optimizer, schedule)
    if teacher is not None:
        teacher.to(run.device)
    if config.compile:
        compile_blocks(network, MlpBlock)

    for epoch in run.epochs():
        for images, targets in run.batches(loader):
            if isinstance(network, MomentumPyramidAutoencoder) and run.batches_done % config.run.accumulate == 0:
                network.update_teacher(run.step_count, config.epochs * steps_per_epoch)
            output = model(*inputs(images, targets))
            run.step({"loss": output.loss}, image_ids=targets["index"], monitors=output.losses)
        last = epoch + 1 == config.epochs
        if config.eval_every and val_loader is not None and ((epoch + 1) % config.eval_every == 0 or last):
            run.record(evaluate_recovery(run.evaluated_model, val_loader, inputs))  # type: ignore[arg-type]

    write_skipped(run, *sets, loader, *([] if val_loader is None else [val_loader]))
    if run.is_main and config.gallery_images and config.objective == "pixel":
        shown: Any = build_loader(sets[1], config, network, teacher, train=False, device=run.device)
        pictures, noise = (part[: config.gallery_images] for part in inputs(*next(iter(shown.batches(0)))))
        write_gallery(run.evaluated_model, pictures, noise, config.data, run.output_dir)  # type: ignore[arg-type]
    run.finish(report=lambda folder: write_pretraining_report(folder, plain(config.paper_metrics)))


def evaluate_recovery(network: PretrainNetwork, loader: Any, inputs: Inputs) -> dict[str, float]:
    """Mean losses over the evaluation images of all processes; see :func:`vireo.evaluation.mean_losses`.

    Args:
        network, loader: as there.
        inputs: what the network is given for a batch.
    """
    from vireo.evaluation import mean_losses

    def losses_of(number: int, images: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        output = network(*inputs(images, targets))
        return {"loss": output.loss, **output.losses}

    return mean_losses(network, loader, losses_of)


if __name__ == "__main__":
    main()
