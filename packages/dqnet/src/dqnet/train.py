"""``dqnet-train``: train DQnet, or one of its controls, to find camouflaged objects.

dqnet-train                                                      # a small network, generated camouflage, CPU, a minute
dqnet-train +experiment=demo_vit                                 # the transformer alone first ...
dqnet-train +experiment=demo init.vit=outputs/demo_vit           # ... then the whole network from it
dqnet-train +experiment=demo model.arm=concat init.vit=outputs/demo_vit    # or a control: sum, concat, vit, resnet
dqnet-train +experiment=cod data.root=/data/cod init.vit=mae_pretrain_vit_base.pth    # the paper's recipe
torchrun --nproc-per-node 2 -m dqnet.train ...                   # several processes
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vireo.engine.cli import entry_point

if TYPE_CHECKING:
    from omegaconf import DictConfig


@entry_point("dqnet.conf", "train")
def main(config: DictConfig) -> None:
    """One training run in ``output_dir``; started again, it goes on where it stopped."""
    from vireo.backbones import global_batch_norm
    from vireo.engine import Run, plain, say_skipped, write_skipped
    from vireo.errors import InputError

    from .build import build_network, build_optimizer, build_schedule, load_start
    from .data import build_dataset, build_loader
    from .evaluation import evaluate
    from .gallery import write_gallery
    from .losses import structure_losses
    from .report import write_report

    run = Run.of(config, monitor="wFmeasure")
    run.launch()
    if config.data.batch_size < 2:
        what = "one image has no statistics for batch normalisation where a map is down to one place"
        raise InputError(what, "data.batch_size", "use at least 2 images")
    size = config.model.image_size
    sets = build_dataset(config.data, train=True), build_dataset(config.data, train=False)
    loader, val_loader = (build_loader(part, config.data, size, train=part is sets[0], **run.place) for part in sets)
    say_skipped(run, *sets)

    network = build_network(config)
    for line in load_start(network, config.init):
        run.console.say(line)
    if network.vit is not None:
        network.vit.set_grad_checkpointing(config.grad_checkpointing)
    if config.sync_bn:
        global_batch_norm(network)
    optimizer = build_optimizer(network, config.optim, fused=config.run.precision != "16-mixed")
    schedule = build_schedule(config.schedule, config.epochs * run.steps_per_epoch(loader))
    model, _ = run.setup(network, optimizer, schedule)

    for epoch in run.epochs():
        for images, targets in run.batches(loader):
            losses = structure_losses(model(images), targets["mask"], config.loss.bce)
            run.step(losses, image_ids=targets["index"])
        if (epoch + 1) % config.eval_every == 0 or epoch + 1 == config.epochs:
            run.record(evaluate(run.evaluated_model, val_loader))

    if run.is_main:
        write_gallery(
            run.evaluated_model, sets[1], config.data, size, config.gallery_images, run.output_dir, run.device
        )
    write_skipped(run, *sets, loader, val_loader)
    run.finish(report=lambda folder: write_report(folder, plain(config.paper_metrics)))


if __name__ == "__main__":
    main()
