"""``g2sd-detect``: train a ViTDet detector, with or without a teacher, and evaluate it.

g2sd-detect                                                         # from scratch, generated shapes, CPU
g2sd-detect init=outputs/distill                                    # from a run of g2sd-distill or g2sd-pretrain
g2sd-detect init=outputs/distill teacher.weights=outputs/teacher    # specific distillation from a run of this script
g2sd-detect +experiment=bccd data.root=/data/BCCD teacher.weights=outputs/bccd_teacher
g2sd-detect +experiment=coco_sd_small init=vit_s_gd.pth teacher.weights=vitdet_b.pth data.root=/data/coco
torchrun --nproc-per-node 8 -m g2sd.detect +experiment=...          # several processes
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vireo.engine.cli import entry_point

if TYPE_CHECKING:
    from omegaconf import DictConfig


@entry_point("g2sd.conf", "detect")
def main(config: DictConfig) -> None:
    """One training run in ``output_dir``; started again, it goes on where it stopped."""
    from torch.optim import AdamW

    from vireo.detection import (
        build_loader,
        build_sets,
        evaluate_detector,
        has_masks,
        training_targets,
        write_gallery,
    )
    from vireo.engine import Run, build_schedule, plain, say_skipped, write_skipped
    from vireo.engine.finished import save_classes

    from .detection import build_detector, build_teacher, detection_groups, write_detection_report
    from .kinds import require_own_settings

    require_own_settings(config, "detection")
    masks = has_masks(config.data)
    run = Run.of(config, monitor="box_AP")
    run.launch()
    sets = build_sets(config.data)
    size = config.detector.img_size
    loader, val_loader = (build_loader(part, config.data, part is sets[0], size, **run.place) for part in sets)
    classes = sets[0].classes
    if run.is_main:
        save_classes(run.output_dir, classes)
    say_skipped(run, *sets)

    network = build_detector(config, len(classes), config.init)
    teacher = build_teacher(config, network, classes)
    optim = config.optim
    schedule = build_schedule(
        "multistep",
        epochs=config.epochs,
        steps_per_epoch=run.steps_per_epoch(loader),
        warmup_steps=optim.warmup_steps,
        milestones=[share * config.epochs for share in optim.milestones],
    )
    groups = detection_groups(network, optim.lr, optim.layer_decay, optim.weight_decay)
    model, _ = run.setup(network, AdamW(groups, lr=optim.lr, betas=tuple(optim.betas)), schedule)
    if teacher is not None:
        teacher.to(run.device)

    for epoch in run.epochs():
        for images, targets in run.batches(loader):
            batch, sizes, truth = network.prepare(images, training_targets(targets, masks))
            answer = None if teacher is None else teacher(batch)
            losses = model(batch, sizes, truth, answer, run.step_count)
            run.step(losses, image_ids=[int(target["image_id"]) for target in targets])
        if (epoch + 1) % config.eval_every == 0 or epoch + 1 == config.epochs:
            run.record(evaluate_detector(run.evaluated_model.detector, val_loader, sets[1], masks))

    if run.is_main:
        detector = run.evaluated_model.detector
        write_gallery(detector, sets[1], config.data, config.gallery_images, run.output_dir, run.device)
    write_skipped(run, *sets, loader, val_loader)
    run.finish(report=lambda folder: write_detection_report(folder, plain(config.paper_metrics)))


if __name__ == "__main__":
    main()
