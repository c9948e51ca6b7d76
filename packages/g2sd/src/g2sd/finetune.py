"""``g2sd-finetune``: train a classifier, from a pre-training or from scratch, with or without a teacher.

g2sd-finetune                                                       # from scratch, generated pictures, CPU
g2sd-finetune init=outputs/distill                                  # from a run of g2sd-distill or g2sd-pretrain
g2sd-finetune init=outputs/distill teacher.weights=outputs/teacher  # specific distillation from a classifier
g2sd-finetune init=outputs/pretrain readout=mean                    # such a teacher
g2sd-finetune +experiment=sd_small init=vit_s_gd.pth teacher.weights=mae_finetuned_vit_base.pth data.root=/data/imagenet
torchrun --nproc-per-node 8 -m g2sd.finetune ...                    # several processes
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vireo.engine.cli import entry_point

if TYPE_CHECKING:
    from omegaconf import DictConfig


@entry_point("g2sd.conf", "finetune")
def main(config: DictConfig) -> None:
    """One fine-tuning run in ``output_dir``; started again, it goes on where it stopped."""
    import torch.nn.functional as F

    from vireo.data import Mixing, batch_key, build_dataset, labelled_loader, require_same_classes
    from vireo.engine import Run, compile_blocks, plain, say_skipped, schedule_for, write_skipped
    from vireo.engine.finished import save_classes
    from vireo.evaluation import evaluate_classifier

    from .build import BLOCKS, build_adamw, build_class_distillation, build_classifier, has_token, load_start
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
    classes = tuple(train_set.classes)
    if run.is_main:
        save_classes(run.output_dir, classes)
    say_skipped(run, train_set, val_set)

    network = build_classifier(config.model, len(classes), config.readout, has_token(config), config.head_std)
    if config.init is not None:
        report = load_start(network, config.init, config.model)
        if run.is_main:
            print(report)
    distillation = build_class_distillation(config, classes, len(train_set), run)
    network.set_grad_checkpointing(config.grad_checkpointing)
    mixing = Mixing(len(classes), **plain(config.mixing))
    step_images = config.data.batch_size * config.run.accumulate
    schedule = schedule_for(config.optim, config.epochs, run.steps_per_epoch(loader), step_images, "cosine")
    model, _ = run.setup(network, build_adamw(network, config.optim, step_images), schedule)
    if distillation is not None:
        distillation.to(run.device)
    if config.compile:
        compile_blocks(network, BLOCKS)
        if distillation is not None:
            compile_blocks(distillation.teacher, BLOCKS)

    for epoch in run.epochs():
        for images, targets in run.batches(loader):
            key = batch_key(config.seed, epoch, run.batches_done)
            mixed, soft_labels = mixing.mix(images, targets["label"], key)
            answer = model(mixed)
            if distillation is None:
                loss = F.cross_entropy(answer, soft_labels)
            else:
                loss = distillation(answer, mixed, soft_labels, epoch, targets["index"])
            run.step({"loss": loss}, image_ids=targets["index"])
        if distillation is not None:
            distillation.end_epoch(epoch, len(loader) * config.data.batch_size // run.world_size)
        if (epoch + 1) % config.eval_every == 0 or epoch + 1 == config.epochs:
            run.record(evaluate_classifier(run.evaluated_model, val_loader))

    write_skipped(run, train_set, val_set, loader, val_loader)
    run.finish(report=lambda folder: write_finetuning_report(folder, plain(config.paper_metrics)))


if __name__ == "__main__":
    main()
