"""``beyond-masking-detect``: transfer an encoder to Mask R-CNN, train it, and evaluate boxes and masks.

beyond-masking-detect                                                       # generated shapes, on a CPU in a minute
beyond-masking-detect init=outputs/pretrain ...                             # from a pre-training
beyond-masking-detect +experiment=coco_mask_rcnn_base init=outputs/integrated data.root=/data/coco
torchrun --nproc-per-node 8 -m beyond_masking.detect +experiment=...        # several processes
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vireo.engine.cli import entry_point

if TYPE_CHECKING:
    from omegaconf import DictConfig


@entry_point("beyond_masking.conf", "detect")
def main(config: DictConfig) -> None:
    """One training run in ``output_dir``; started again, it goes on where it stopped."""
    from torch.optim import AdamW

    from vireo.detection import build_loader, build_sets, evaluate_detector, training_targets
    from vireo.engine import Run, build_schedule, plain, say_skipped, write_skipped

    from .detection import detector_groups, mask_rcnn

    run = Run.of(config, monitor="mask_AP")
    run.launch()
    require_masks(config.data)
    sets = build_sets(config.data)
    say_skipped(run, *sets)
    loader, val_loader = (build_loader(part, config.data, part is sets[0], **run.place) for part in sets)
    options = plain(config.model)
    options["short_side"] = tuple(options["short_side"])
    detector = mask_rcnn(num_classes=len(sets[0].classes), init=config.init, patch_embed=config.patch_embed, **options)
    optim = config.optim
    steps = run.steps_per_epoch(loader)
    schedule = build_schedule(
        "multistep",
        epochs=config.epochs,
        steps_per_epoch=steps,
        warmup_steps=optim.warmup_steps,
        milestones=[share * config.epochs for share in optim.milestones],
    )
    groups = detector_groups(detector, optim.weight_decay, optim.layer_decay, optim.lr)
    model, _ = run.setup(detector, AdamW(groups, lr=optim.lr), schedule)

    for epoch in run.epochs():
        for images, targets in run.batches(loader):
            losses = model(images, training_targets(targets))
            run.step(losses, image_ids=[int(target["image_id"]) for target in targets])
        if (epoch + 1) % config.eval_every == 0 or epoch + 1 == config.epochs:
            run.record(evaluate_detector(run.evaluated_model, val_loader, sets[1]))

    write_skipped(run, *sets, loader, val_loader)
    run.finish()


def require_masks(data: Any) -> None:
    """Check that the data of a configuration have the masks that Mask R-CNN learns.

    Raises:
        InputError: they have none.
    """
    from vireo.detection import has_masks
    from vireo.errors import InputError

    if not has_masks(data):
        raise InputError(f"the format {data.format} has no masks", "data.format", "use generated or coco")


if __name__ == "__main__":
    main()
