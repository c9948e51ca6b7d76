"""``itpn-finetune``: train a classifier from a pre-trained backbone, or from scratch.

itpn-finetune                                                               # from scratch, generated pictures, CPU
itpn-finetune init=outputs/pretrain                                         # from a run of itpn-pretrain
itpn-finetune init=outputs/pretrain data.train_per_class=100                # with few labels
itpn-finetune +experiment=finetune_pixel_base init=itpn-base-pixel.pth data.root=/data/imagenet
torchrun --nproc-per-node 8 -m itpn.finetune ...                            # several processes
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vireo.engine.cli import entry_point

if TYPE_CHECKING:
    from omegaconf import DictConfig


@entry_point("itpn.conf", "finetune")
def main(config: DictConfig) -> None:
    """One fine-tuning run in ``output_dir``; started again, it goes on where it stopped."""
    import torch.nn.functional as F

    from vireo.data import Mixing, batch_key, build_dataset, labelled_loader, require_same_classes
    from vireo.engine import Run, compile_blocks, plain, say_skipped, schedule_for, write_skipped
    from vireo.engine.finished import save_classes
    from vireo.evaluation import evaluate_classifier

    from .build import block_kinds, build_adamw, build_backbone, load_start
    from .identify import summary
    from .kinds import require_own_settings
    from .report import write_finetuning_report

    require_own_settings(config, "classifier")
    run = Run.of(config, monitor="top1_error", mode="min")
    run.launch()
    img_size = config.model.img_size
    train_set, val_set = build_dataset(config.data, train=True), build_dataset(config.data, train=False)
    require_same_classes(train_set, val_set, str(config.data.get("root")))
    loader = labelled_loader(train_set, config.data, img_size, config.augmentation, **run.place)
    val_loader = labelled_loader(val_set, config.data, img_size, **run.place)
    if run.is_main:
        save_classes(run.output_dir, train_set.classes)
    say_skipped(run, train_set, val_set)

    network = build_backbone(config.model, len(train_set.classes), config.head_std)
    if config.init is not None:
        report = load_start(network, config.init, config.model)
        if run.is_main:
            print(f"{config.init}: {summary(report)}")
    network.set_grad_checkpointing(config.grad_checkpointing)
    mixing = Mixing(len(train_set.classes), **plain(config.mixing))
    step_images = config.data.batch_size * config.run.accumulate
    steps = run.steps_per_epoch(loader)
    schedule = schedule_for(config.optim, config.epochs, steps, step_images, config.optim.schedule)
    model, _ = run.setup(network, build_adamw(network, config.optim, step_images), schedule)
    if config.compile:
        compile_blocks(network, block_kinds())

    for epoch in run.epochs():
        for images, targets in run.batches(loader):
            key = batch_key(config.seed, epoch, run.batches_done)
            mixed, soft_labels = mixing.mix(images, targets["label"], key)
            run.step({"loss": F.cross_entropy(model(mixed), soft_labels)}, image_ids=targets["index"])
        if (epoch + 1) % config.eval_every == 0 or epoch + 1 == config.epochs:
            run.record(evaluate_classifier(run.evaluated_model, val_loader))

    write_skipped(run, train_set, val_set, loader, val_loader)
    run.finish(report=lambda folder: write_finetuning_report(folder, plain(config.paper_metrics)))


if __name__ == "__main__":
    main()
