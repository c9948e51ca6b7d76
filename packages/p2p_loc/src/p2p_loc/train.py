"""``p2p-train``: localize tiny objects from coarse points: train, refine the labels, train again.

p2p-train                                                        # generated people, on a CPU in minutes
p2p-train +experiment=demo_boxes                                 # its upper bound: the true boxes
p2p-train +experiment=tiny_person data.root=/data/tiny_set       # the authors' recipe
p2p-train ... rounds=0                                           # coarse points without refinement
torchrun --nproc-per-node 2 -m p2p_loc.train ...                 # several processes
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, cast

from vireo.engine.cli import entry_point

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from .localizer import Localizer


@entry_point("p2p_loc.conf", "train")
def main(config: DictConfig) -> None:
    """All rounds of a training in ``output_dir``; started again, they go on where they stopped."""
    from vireo.engine.devices import build_fabric, join, place_of
    from vireo.engine.rendezvous import leave_group

    from .data import build_sets
    from .detection import all_detections
    from .refiner import PointRefiner
    from .rounds import self_refine_rounds
    from .run_folder import RunFolder, require_settings

    monitor = require_settings(config)
    refiner = PointRefiner(**config.refine)
    kind = config.run
    fabric = build_fabric(kind.accelerator, kind.devices, kind.strategy, kind.precision, False)
    join(fabric)
    here = place_of(fabric)
    folder = RunFolder(config, main=fabric.global_rank == 0)
    if fabric.broadcast(folder.begin()):
        leave_group()
        return

    training, val_set = build_sets(config.data)
    folder.write_classes(training.classes, training.category_ids)
    tiles = training.dataset(train=False)
    seconds: dict[str, float] = {}

    def train(labels: dict[str, Any], number: int) -> Localizer:
        round_config = folder.round_config(number)
        finished = fabric.broadcast(folder.is_finished(number))
        return train_round(round_config, fabric, monitor, training, labels, val_set, finished)

    def predict(localizer: Localizer) -> Any:
        started = time.perf_counter()
        detections = all_detections(localizer, tiles, config.data, **here)
        seconds["predict_s"] = round(time.perf_counter() - started, 2)
        return detections

    def keep(number: int, localizer: Localizer, statistics: dict[str, Any]) -> dict[str, Any]:
        return {**folder.results(number), **(seconds if number < config.rounds else {})}

    try:
        result = self_refine_rounds(
            *(train, predict, training.content, config.rounds, refiner),
            folder=folder.path,
            on_round=keep,
            write=folder.main,
        )
        if folder.main:
            folder.finish(result, training, val_set, fabric.device)
    except SystemExit:  # asked to stop: every process was
        leave_group()
        raise
    leave_group()


def train_round(
    config: DictConfig, fabric: Any, monitor: str, training: Any, labels: dict[str, Any], val_set: Any, finished: bool
) -> Localizer:
    """A new network, trained on the labels of a round; or the one that this round left.

    Args:
        config: of the round.
        fabric: which has joined the other processes.
        monitor: the metric that decides on ``best.pt``.
        training: of :func:`~p2p_loc.data.build_training`.
        labels: COCO dict.
        val_set: for the metrics.
        finished: whether this was done before.
    """
    from vireo.engine import Run, say_skipped, write_skipped
    from vireo.engine.devices import place_of

    from .build import build_localizer, build_optimizer, schedule_for
    from .data import build_loader
    from .detection import evaluate_localizer
    from .load import load_weights

    if finished:
        localizer = build_localizer(config.model, len(training.classes), fresh=False)
        return load_weights(localizer, config.output_dir).to(fabric.device)

    run = Run.of(config, monitor=monitor, grad_clip=config.optim.grad_clip, fabric=fabric)
    run.launch()
    say_skipped(run, training, val_set)
    loader = build_loader(training.dataset(labels, train=True), config.data, train=True, **run.place)
    localizer = build_localizer(config.model, len(training.classes))
    optimizer = build_optimizer(localizer, config.optim)
    schedule = schedule_for(config.optim, config.epochs, run.steps_per_epoch(loader))
    model, optimizer = run.setup(localizer, optimizer, schedule)

    for epoch in run.epochs():
        for images, targets in run.batches(loader):
            run.step(model(images, targets), image_ids=[int(target["image_id"]) for target in targets])
        if (epoch + 1) % config.eval_every == 0 or epoch + 1 == config.epochs:
            evaluated = cast("Localizer", run.evaluated_model)
            run.record(evaluate_localizer(evaluated, val_set, config.data, config.eval, **place_of(fabric)))

    write_skipped(run, training, val_set, loader)
    run.finish()
    return cast("Localizer", run.evaluated_model)


if __name__ == "__main__":
    main()
