"""``g2sd-distill``: generic distillation: a small student predicts what a masked autoencoder's decoder holds.

g2sd-distill                                                             # of the run in outputs/pretrain, CPU, a minute
g2sd-distill +experiment=gd_small data.root=/data/imagenet teacher.weights=mae_pretrain_vit_base_full.pth
torchrun --nproc-per-node 8 -m g2sd.distill +experiment=...              # several processes

The teacher is checked first, as by g2sd-check-teacher.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vireo.engine.cli import entry_point

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from torch import Tensor, nn

    from vireo.data import ClassificationDataset

    from .generic import GenericOutput, GenericStudent
    from .teacher import FrozenTeacher


@entry_point("g2sd.conf", "distill")
def main(config: DictConfig) -> None:
    """One run of generic distillation in ``output_dir``; started again, it goes on where it stopped."""
    from vireo.data import pretraining_set
    from vireo.engine import Run, plain, say_skipped, schedule_for, write_skipped

    from .kinds import require_own_settings
    from .pretraining import (
        build_adamw,
        build_loader,
        build_student,
        build_teacher,
        compile_transformer,
        load_start,
    )
    from .pretraining_report import write_distillation_report

    require_own_settings(config, "distillation")  # before it leaves anything behind
    run = Run.of(config, monitor="loss" if config.eval_every else None, mode="min")
    run.launch()
    teacher = build_teacher(config)
    network = build_student(config, teacher)
    if config.init is not None:
        run.console.say(load_start(network, config.init))
    network.encoder.set_grad_checkpointing(config.grad_checkpointing)
    sets = [pretraining_set(config.data, train=True)]
    loader = build_loader(sets[0], config, network, **run.place)
    val_loader = None
    if config.eval_every:
        sets.append(pretraining_set(config.data, train=False))
        val_loader = build_loader(sets[1], config, network, train=False, **run.place)
    say_skipped(run, *sets)
    if run.is_main:
        run.console.say(describe_teacher(config, sets[-1]))

    step_images = config.data.batch_size * config.run.accumulate
    schedule = schedule_for(config.optim, config.epochs, run.steps_per_epoch(loader), step_images, "cosine")
    model, _ = run.setup(network, build_adamw(network, config.optim, step_images), schedule)
    teacher.to(run.device)
    if config.compile:
        compile_transformer(network, teacher.network)

    for epoch in run.epochs():
        for images, targets in run.batches(loader):
            output = distilled(model, network, teacher, images, targets, config.mask_ratio)
            run.step({"loss": output.loss}, image_ids=targets["index"], monitors=output.losses)
        last = epoch + 1 == config.epochs
        if config.eval_every and val_loader is not None and ((epoch + 1) % config.eval_every == 0 or last):
            run.record(evaluate_imitation(run.evaluated_model, teacher, val_loader, config.mask_ratio))  # type: ignore[arg-type]

    write_skipped(run, *sets, loader, *([] if val_loader is None else [val_loader]))
    run.finish(report=lambda folder: write_distillation_report(folder, plain(config.paper_metrics)))


def describe_teacher(config: DictConfig, dataset: ClassificationDataset) -> str:
    """What g2sd-check-teacher says of a run's teacher, on the first images of its data.

    Raises:
        InputError: it cannot be used.
    """
    from .teacher_check import check_teacher

    options = config.teacher
    if options.random_decoder:
        return (
            f"{options.weights}: only its encoder is used, the decoder is drawn anew (teacher.random_decoder=true). "
            "This is what a file without a decoder leads to, and an ablation: the student learns little from it"
        )
    return str(check_teacher(options.weights, config.target_block, options.name, dataset, config.data))


def distilled(
    model: nn.Module,
    student: GenericStudent,
    teacher: FrozenTeacher,
    images: Tensor,
    targets: dict[str, Tensor],
    mask_ratio: float,
) -> GenericOutput:
    """A step: both networks see the same pixels of the same patches, gathered once.

    Args:
        model: the student, wrapped for several processes or not.
        student: the same, not wrapped.
        teacher: frozen.
        images: normalised ``(B, 3, H, W)``.
        targets: of the loader; their keys decide which patches stay.
        mask_ratio: share of patches to remove.
    """
    from .mae import random_mask, visible_patches
    from .pretraining import mask_noise

    mask = random_mask(student.encoder, len(images), mask_noise(targets, student), mask_ratio)
    patches = visible_patches(student.encoder, images, mask)
    output: GenericOutput = model(patches, mask, teacher(patches, mask, encoder=student.encoder_head is not None))
    return output


def evaluate_imitation(
    student: GenericStudent, teacher: FrozenTeacher, loader: Any, mask_ratio: float
) -> dict[str, float]:
    """Mean losses over the evaluation images of all processes; see :func:`vireo.evaluation.mean_losses`."""
    from vireo.evaluation import mean_losses

    def losses_of(number: int, images: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        output = distilled(student, student, teacher, images, targets, mask_ratio)
        return {"loss": output.loss, **output.losses}

    return mean_losses(student, loader, losses_of)


if __name__ == "__main__":
    main()
