"""``itpn-detect``: train Mask or Faster R-CNN over a pre-trained pyramid, or from scratch, and evaluate it.

itpn-detect                                                                 # from scratch, generated shapes, CPU
itpn-detect init=outputs/pretrain                                           # backbone and pyramid of a pre-training
itpn-detect +experiment=bccd data.root=/data/BCCD                           # VOC files: boxes alone
itpn-detect +experiment=coco_pixel_base_3x init=itpn-base-pixel.pth data.root=/data/coco
torchrun --nproc-per-node 8 -m itpn.detect +experiment=...                  # several processes
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vireo.engine.cli import entry_point

if TYPE_CHECKING:
    from omegaconf import DictConfig


@entry_point("itpn.conf", "detect")
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

    from .detection import build_detector, write_detection_report
    from .kinds import require_own_settings
    from .layer_decay import layer_decay_groups

    require_own_settings(config, "detection")
    masks = has_masks(config.data)
    run = Run.of(config, monitor="box_AP")
    run.launch()
    sets = build_sets(config.data)
    loader, val_loader = (build_loader(part, config.data, part is sets[0], **run.place) for part in sets)
    if run.is_main:
        save_classes(run.output_dir, sets[0].classes)
    say_skipped(run, *sets)

    detector = build_detector(config, len(sets[0].classes), config.init)
    optim = config.optim
    schedule = build_schedule(
        "multistep",
        epochs=config.epochs,
        steps_per_epoch=run.steps_per_epoch(loader),
        warmup_steps=optim.warmup_steps,
        milestones=[share * config.epochs for share in optim.milestones],
    )
    groups = layer_decay_groups(detector, optim.lr, optim.layer_decay, optim.weight_decay, optim.layer_scheme)
    model, _ = run.setup(detector, AdamW(groups, lr=optim.lr, betas=tuple(optim.betas)), schedule)

    for epoch in run.epochs():
        for images, targets in run.batches(loader):
            losses = model(images, training_targets(targets, masks))
            run.step(losses, image_ids=[int(target["image_id"]) for target in targets])
        if (epoch + 1) % config.eval_every == 0 or epoch + 1 == config.epochs:
            run.record(evaluate_detector(run.evaluated_model, val_loader, sets[1], masks))

    if run.is_main:
        write_gallery(run.evaluated_model, sets[1], config.data, config.gallery_images, run.output_dir, run.device)
    write_skipped(run, *sets, loader, val_loader)
    run.finish(report=lambda folder: write_detection_report(folder, plain(config.paper_metrics)))


if __name__ == "__main__":
    main()
