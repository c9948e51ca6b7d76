"""``beyond-masking-finetune``: train a classifier from a pre-trained encoder, or from scratch.

beyond-masking-finetune                                                     # from scratch, generated pictures, CPU
beyond-masking-finetune init=outputs/pretrain                               # from a run of beyond-masking-pretrain
beyond-masking-finetune init=outputs/pretrain data.train_per_class=100      # with few labels
beyond-masking-finetune data=imagenet data.root=/data/imagenet model=base init=mae_pretrain_vit_base.pth
torchrun --nproc-per-node 8 -m beyond_masking.finetune ...                  # several processes
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vireo.engine.cli import entry_point

if TYPE_CHECKING:
    from omegaconf import DictConfig


@entry_point("beyond_masking.conf", "finetune")
def main(config: DictConfig) -> None:
    """One fine-tuning run in ``output_dir``; started again, it goes on where it stopped."""
    import torch.nn.functional as F

    from vireo.data import Mixing, batch_key, build_dataset, labelled_loader, require_same_classes
    from vireo.engine import Run, plain, require_own, say_skipped, schedule_for, write_skipped
    from vireo.engine.finished import save_classes
    from vireo.evaluation import evaluate_classifier

    from .build import build_adamw, build_encoder, compile_blocks, load_encoder
    from .load import require_same_model
    from .report import write_finetuning_report

    require_own(config, "degradation" in config, "beyond-masking-pretrain")
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

    network = build_encoder(config.model, readout=config.readout, num_classes=len(train_set.classes))
    if config.init is not None:
        require_same_model(config.model, config.init, config.readout)
        load_encoder(network, config.init, config.patch_embed)
    network.set_grad_checkpointing(config.grad_checkpointing)
    mixing = Mixing(len(train_set.classes), **plain(config.mixing))
    step_images = config.data.batch_size * config.run.accumulate
    schedule = schedule_for(config.optim, config.epochs, run.steps_per_epoch(loader), step_images)
    adamw = build_adamw(network, config.optim, step_images, layer_decay=config.optim.layer_decay)
    model, _ = run.setup(network, adamw, schedule)
    if config.compile:
        compile_blocks(network)

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
