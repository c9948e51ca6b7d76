"""``g2sd-segment``: train a segmenter over a distilled encoder, taught by a larger one, and evaluate its mean IoU.

g2sd-segment                                                                # from scratch, generated shapes, CPU
g2sd-segment init=outputs/distill                                           # encoder of generic distillation
g2sd-segment init=outputs/distill teacher.weights=outputs/segment_teacher   # and specific distillation
g2sd-segment +experiment=camvid_sd data.root=/data/camvid                   # taught by outputs/camvid_teacher
g2sd-segment +experiment=ade20k_sd_small init=ViT_Sm_GD.pth data.root=/data/ADEChallengeData2016
torchrun --nproc-per-node 8 -m g2sd.segment ...                             # several processes
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vireo.engine.cli import entry_point

if TYPE_CHECKING:
    from omegaconf import DictConfig


@entry_point("g2sd.conf", "segment")
def main(config: DictConfig) -> None:
    """One training run in ``output_dir``; started again, it goes on where it stopped."""
    from torch.optim import AdamW

    from vireo.data import segmentation_set
    from vireo.engine import Run, layer_decay_groups, plain, say_skipped, write_skipped
    from vireo.engine.finished import require_classes, save_classes
    from vireo.engine.schedule import linear, with_warmup
    from vireo.errors import InputError
    from vireo.segmentation import build_loader, evaluate_segmenter, write_gallery

    from .divergence import build_divergence
    from .kinds import require_own_settings
    from .segmentation import build_segmenter, load_start, load_teacher_segmenter, require_crop, windows_of
    from .segmentation import write_segmentation_report as write_report

    require_own_settings(config, "segmentation")
    require_crop(config)
    run = Run.of(config, monitor="mIoU")
    run.launch()
    if config.data.batch_size < 2:
        what = "one image has no statistics for batch normalisation over what is pooled to one pixel"
        raise InputError(what, "data.batch_size", "use at least 2 images")
    sets = segmentation_set(config.data, train=True), segmentation_set(config.data, train=False)
    classes = sets[0].classes
    require_classes(sets[1].classes, classes, "evaluation data")
    loader, val_loader = (build_loader(part, config.data, part is sets[0], **run.place) for part in sets)
    if run.is_main:
        save_classes(run.output_dir, classes)
    say_skipped(run, *sets)

    taught = config.teacher.weights is not None
    divergence = build_divergence(**plain(config.divergence)) if taught else None
    segmenter = build_segmenter(config, len(classes), divergence)
    if config.init is not None:
        report = load_start(segmenter, config.init, config.model)
        if run.is_main:
            print(report)
    teacher = None
    if taught:
        suited = segmenter, classes, config.data.normalize
        teacher = load_teacher_segmenter(config.teacher.weights, *suited, config.teacher.precision)
    optim = config.optim
    total = config.epochs * run.steps_per_epoch(loader)
    schedule = with_warmup(linear(total), optim.warmup_steps, optim.warmup_start)
    groups = layer_decay_groups(segmenter, optim.weight_decay, optim.layer_decay, lr=optim.lr)
    model, _ = run.setup(segmenter, AdamW(groups, lr=optim.lr, betas=tuple(optim.betas)), schedule)
    if teacher is not None:
        teacher.to(run.device)

    for epoch in run.epochs():
        for images, targets in run.batches(loader):
            scores = None if teacher is None else teacher.ask(teacher.network.scores, images)
            run.step(model(images, targets["labels"], scores), image_ids=targets["index"])
        if (epoch + 1) % config.eval_every == 0 or epoch + 1 == config.epochs:
            run.record(evaluate_segmenter(run.evaluated_model, val_loader, classes, **windows_of(config)))

    if run.is_main:
        count, folder = config.gallery_images, run.output_dir
        write_gallery(run.evaluated_model, sets[1], config.data, count, folder, run.device, **windows_of(config))
    write_skipped(run, *sets, loader, val_loader)
    run.finish(report=lambda folder: write_report(folder, plain(config.paper_metrics)))


if __name__ == "__main__":
    main()
