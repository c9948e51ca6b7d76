"""``itpn-segment``: train a segmenter over a pre-trained pyramid, or from scratch, and evaluate its mean IoU.

itpn-segment                                                                # from scratch, generated shapes, CPU
itpn-segment init=outputs/pretrain                                          # backbone and pyramid of a pre-training
itpn-segment init=outputs/pretrain init_parts=backbone                      # its backbone alone
itpn-segment +experiment=camvid data.root=/data/camvid                      # images and label maps in folders
itpn-segment +experiment=ade20k_pixel_base init=itpn-base-pixel.pth data.root=/data/ADEChallengeData2016
torchrun --nproc-per-node 8 -m itpn.segment ...                             # several processes
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vireo.engine.cli import entry_point

if TYPE_CHECKING:
    from omegaconf import DictConfig


@entry_point("itpn.conf", "segment")
def main(config: DictConfig) -> None:
    """One training run in ``output_dir``; started again, it goes on where it stopped."""
    from torch.optim import AdamW

    from vireo.data import segmentation_set
    from vireo.engine import Run, plain, say_skipped, write_skipped
    from vireo.engine.finished import require_classes, save_classes
    from vireo.engine.schedule import linear, with_warmup
    from vireo.errors import InputError
    from vireo.segmentation import build_loader, evaluate_segmenter, write_gallery

    from .kinds import require_own_settings
    from .layer_decay import layer_decay_groups
    from .segmentation import build_segmenter, windows_of
    from .segmentation import write_segmentation_report as write_report

    require_own_settings(config, "segmentation")
    run = Run.of(config, monitor="mIoU")
    run.launch()
    if config.segmenter.head == "upernet" and config.data.batch_size < 2:
        what = "one image has no statistics for batch normalisation over what is pooled to one pixel"
        raise InputError(what, "data.batch_size", "use at least 2 images")
    sets = segmentation_set(config.data, train=True), segmentation_set(config.data, train=False)
    require_classes(sets[1].classes, sets[0].classes, "evaluation data")
    loader, val_loader = (build_loader(part, config.data, part is sets[0], **run.place) for part in sets)
    if run.is_main:
        save_classes(run.output_dir, sets[0].classes)
    say_skipped(run, *sets)

    segmenter = build_segmenter(config, len(sets[0].classes), config.init)
    optim = config.optim
    total = config.epochs * run.steps_per_epoch(loader)
    schedule = with_warmup(linear(total), optim.warmup_steps, optim.warmup_start)
    groups = layer_decay_groups(segmenter, optim.lr, optim.layer_decay, optim.weight_decay, optim.layer_scheme)
    adamw = AdamW(groups, lr=optim.lr, betas=tuple(optim.betas))
    model, _ = run.setup(segmenter, adamw, schedule)

    for epoch in run.epochs():
        for images, targets in run.batches(loader):
            run.step(model(images, targets["labels"]), image_ids=targets["index"])
        if (epoch + 1) % config.eval_every == 0 or epoch + 1 == config.epochs:
            run.record(evaluate_segmenter(run.evaluated_model, val_loader, sets[1].classes, **windows_of(config)))

    if run.is_main:
        count, folder = config.gallery_images, run.output_dir
        write_gallery(run.evaluated_model, sets[1], config.data, count, folder, run.device, **windows_of(config))
    write_skipped(run, *sets, loader, val_loader)
    run.finish(report=lambda folder: write_report(folder, plain(config.paper_metrics)))


if __name__ == "__main__":
    main()
