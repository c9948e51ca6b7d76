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

    from vireo.data import DetectionDataset, Loader


@entry_point("beyond_masking.conf", "detect")
def main(config: DictConfig) -> None:
    """One training run in ``output_dir``; started again, it goes on where it stopped."""
    from torch.optim import AdamW

    from vireo.engine import Run, build_schedule, plain, say_skipped, write_skipped

    from .detection import detector_groups, mask_rcnn, training_targets

    run = Run.of(config, monitor="mask_AP")
    run.launch()
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
            run.record(evaluate(run.evaluated_model, val_loader, sets[1]))

    write_skipped(run, *sets, loader, val_loader)
    run.finish()


def build_sets(data: Any) -> tuple[DetectionDataset, DetectionDataset]:
    """Training and evaluation set of a configuration, with masks: generated shapes or COCO.

    Raises:
        InputError: an unknown format, no ``root``, different classes, or files that cannot be used.
    """
    from pathlib import Path

    from vireo.data import CocoDetection, GeneratedShapes
    from vireo.data.image_sets import VAL_SEED
    from vireo.errors import InputError

    if data.format == "generated":
        shapes: dict[str, Any] = {"image_size": tuple(data.image_size), "object_size": tuple(data.object_size)}
        shapes |= {"class_colours": True, "masks": True}
        train = GeneratedShapes(data.train_images, seed=data.seed, **shapes)
        return train, GeneratedShapes(data.val_images, seed=data.seed + VAL_SEED, **shapes)
    if data.format != "coco":
        raise InputError(f"unknown format {data.format!r}", "data.format", "use generated or coco")
    if data.root is None:
        raise InputError("has no value", "data.root", "give the folder of the data with data.root=DIR")
    root = Path(data.root)
    common: dict[str, Any] = {"on_error": data.on_error, "masks": True}
    folder, annotations = root / data.train_split, root / data.train_annotations
    coco_train = CocoDetection(folder, annotations, min_box=1.0, drop_empty=True, **common)
    coco_val = CocoDetection(root / data.val_split, root / data.val_annotations, **common)
    if coco_train.classes != coco_val.classes:
        what = "training and evaluation set have different classes"
        raise InputError(what, "data.val_annotations", "use annotation files with the same categories")
    return coco_train, coco_val


def build_loader(dataset: DetectionDataset, data: Any, train: bool, **here: Any) -> Loader:
    """Batches of lists of images ``(3, H, W)`` in [0, 1], not yet resized; training flips half of them.

    Args:
        dataset: with masks.
        data: configuration.
        train: shuffle, flip, leave out a last batch that is not full.
        **here: device, rank, world size and seed.
    """
    import numpy as np

    from vireo.data import Loader, RandomHorizontalFlip, aspect_ratio_groups, require_batch

    require_batch(len(dataset), data.batch_size, train, "data.batch_size")
    sizes = np.array([dataset.image_size(i) for i in range(len(dataset))])
    return Loader(
        dataset,
        batch_size=data.batch_size if train else data.eval_batch_size * here["world_size"],
        shuffle=train,
        drop_last=train,
        transform=RandomHorizontalFlip() if train else None,
        device_transform=lambda images, targets: ([image.float() / 255 for image in images], targets),
        groups=aspect_ratio_groups(sizes) if train else None,
        workers=data.workers,
        on_error=data.on_error,
        **here,
    )


def evaluate(model: Any, loader: Loader, dataset: DetectionDataset) -> dict[str, Any] | None:
    """COCO metrics of boxes and masks, as ``box_AP``, ``mask_AP`` and so on; None on all processes but the first.

    Args:
        model: Mask R-CNN, not wrapped for several processes; left in evaluation mode.
        loader: over this process's share of ``dataset``.
        dataset: the ground truth.
    """
    import torch.distributed as dist

    from vireo.evaluation import evaluate_coco, gather_predictions

    from .detection import ground_truth, predictions_of

    model.eval()
    own = [found for images, targets in loader.batches(0) for found in predictions_of(model, images, targets)]
    predictions = gather_predictions(own)
    if dist.is_initialized() and dist.get_rank() != 0:
        return None
    truth = ground_truth(dataset)
    kinds = {"box": evaluate_coco(truth, predictions), "mask": evaluate_coco(truth, predictions, "segm")}
    return {f"{kind}_{name}": value for kind, metrics in kinds.items() for name, value in metrics.items()}


if __name__ == "__main__":
    main()
