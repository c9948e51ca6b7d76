"""``dqnet-train``: train the network.

dqnet-train +experiment=demo                      # generated pictures, on a CPU in seconds
torchrun --nproc-per-node 4 -m dqnet.train ...    # several processes
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vireo.engine.cli import entry_point

if TYPE_CHECKING:
    from omegaconf import DictConfig


@entry_point("dqnet.conf", "train")
def main(config: DictConfig) -> None:
    """One training run in ``output_dir``; started again, it goes on where it stopped."""
    import torch.nn.functional as F

    from vireo.engine import Run, build_schedule
    from vireo.report import write_run_report

    from .build import build_network, build_optimizer
    from .data import build_dataset, build_loader
    from .eval import evaluate

    run = Run.of(config, monitor="top1_error", mode="min")
    run.launch()
    train_set, val_set = build_dataset(config.data, train=True), build_dataset(config.data, train=False)
    loader = build_loader(train_set, config.data, train=True, **run.place)
    val_loader = build_loader(val_set, config.data, train=False, **run.place)
    num_classes = len(train_set.classes)
    network = build_network(config.model, num_classes)
    optimizer = build_optimizer(network, config.optim)
    schedule = build_schedule("cosine", epochs=config.epochs, steps_per_epoch=run.steps_per_epoch(loader))
    model, _ = run.setup(network, optimizer, schedule)

    for epoch in run.epochs():
        for images, targets in run.batches(loader):
            run.step({"loss": F.cross_entropy(model(images), targets["label"])}, image_ids=targets["index"])
        if (epoch + 1) % config.eval_every == 0 or epoch + 1 == config.epochs:
            run.record(evaluate(run.evaluated_model, val_loader, num_classes))
    run.finish(report=lambda folder: write_run_report(folder, "dqnet", {}))


if __name__ == "__main__":
    main()
