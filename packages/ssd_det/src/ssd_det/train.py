"""``ssd-det-train``: train SSD-Det, its ablations or a plain Faster R-CNN on inaccurate boxes.

ssd-det-train +experiment=demo                                   # generated shapes, on a CPU in minutes
ssd-det-train +experiment=demo refiner=none output_dir=outputs/plain    # the plain baseline
ssd-det-train +experiment=coco_r50_noise40 data.root=/data/coco  # the paper's recipe
torchrun --nproc-per-node 8 -m ssd_det.train +experiment=...     # several processes
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from vireo.engine.cli import entry_point

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from .model import SSDDet


@entry_point("ssd_det.conf", "train")
def main(config: DictConfig) -> None:
    """One training run in ``output_dir``; started again, it goes on where it stopped."""
    from vireo.engine import Run, plain, say_skipped, write_skipped
    from vireo.engine.finished import save_classes

    from .build import build_model, build_optimizer, schedule_for
    from .data import build_datasets, build_loader
    from .eval import evaluate, refinement_quality
    from .load import category_rows
    from .report import draw_gallery, write_run_report

    run = Run.of(config, monitor="AP50", grad_clip=config.optim.grad_clip)
    run.launch()
    train_set, val_set = build_datasets(config.data)
    if run.is_main:
        save_classes(run.output_dir, category_rows(train_set))
    say_skipped(run, train_set, val_set)
    loader = build_loader(train_set, config.data, train=True, **run.place)
    val_loader = build_loader(val_set, config.data, train=False, **run.place)
    given_loader = build_loader(train_set, config.data, train=False, **run.place)

    detector = build_model(config.model, config.refiner, len(train_set.classes))
    optimizer = build_optimizer(detector, config.optim)
    schedule = schedule_for(config.optim, config.epochs, run.steps_per_epoch(loader))
    model, optimizer = run.setup(detector, optimizer, schedule)

    for epoch in run.epochs():
        detector.set_epoch(epoch)
        for images, targets in run.batches(loader):
            outputs = model(images, targets)
            losses = {name: value for name, value in outputs.items() if name.startswith("loss_")}
            stats = {name: value for name, value in outputs.items() if name.startswith("stat_")}
            run.step(losses, image_ids=[int(target["image_id"]) for target in targets], monitors=stats)
        if (epoch + 1) % config.eval_every == 0 or epoch + 1 == config.epochs:
            evaluated = cast("SSDDet", run.evaluated_model)
            metrics = evaluate(evaluated, val_loader, val_set)
            quality = refinement_quality(evaluated, given_loader, config.eval_refined // run.world_size)
            run.record({**metrics, **(quality or {})} if metrics is not None else None)

    write_skipped(run, train_set, val_set, loader, val_loader)
    if run.is_main:
        evaluated = cast("SSDDet", run.evaluated_model)
        draw_gallery(evaluated, train_set, val_set, config.data, run.output_dir, config.gallery_images)
    run.finish(report=lambda folder: write_run_report(folder, "SSD-Det", plain(config.paper_metrics)))


if __name__ == "__main__":
    main()
