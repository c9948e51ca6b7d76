"""``if-nas-eval``: accuracy and cost of a trained network.

if-nas-eval run=outputs/if_nas_train                              # on the run's own evaluation data
if-nas-eval run=outputs/if_nas_train data.root=/data/cifar10      # the same data elsewhere
if-nas-eval run=outputs/if_nas_train weights=outputs/if_nas_train/checkpoints/best.pt   # of the best epoch
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vireo.engine.cli import entry_point

if TYPE_CHECKING:
    from omegaconf import DictConfig


@entry_point("if_nas.conf", "eval")
def main(config: DictConfig) -> None:
    """Print accuracy and cost of a network on the evaluation data of its run or on other data; write a JSON."""
    from vireo.engine import print_skipped, skipped_lines
    from vireo.engine.devices import evaluation_fabric
    from vireo.engine.finished import changed_data, require_classes
    from vireo.engine.folder import require_writable
    from vireo.engine.logs import write_json
    from vireo.engine.rendezvous import leave_group
    from vireo.report import Table

    from .build import check_eval_settings, describe
    from .cost import count_cost
    from .data import build_dataset, build_loader
    from .evaluation import evaluate
    from .load import load_run

    check_eval_settings(config)
    out = Path(config.run) / "eval.json" if config.out is None else Path(config.out)
    loaded = load_run(config.run, config.weights)
    require_writable(out.parent, "out=...")
    data = changed_data(loaded.config.data, config.data)
    fabric, here = evaluation_fabric(config)
    val_set = build_dataset(data, train=False)
    require_classes(val_set.classes, loaded.classes, f"evaluation data of {config.run}")
    loader = build_loader(val_set, data, train=False, **here)
    network = loaded.network.to(fabric.device)
    with fabric.autocast():
        accuracy = evaluate(network, loader)
    skipped = skipped_lines(val_set, loader)
    leave_group()
    if fabric.global_rank:
        return
    print_skipped(skipped)
    size = tuple(data.image_size)
    facts = describe(loaded.architecture, loaded.width, count_cost(network, size))
    facts["official_macs"] = count_cost(network, size, "official").macs
    rows = [(name, f"{value:.2f} %") for name, value in accuracy.items()]
    rows += [(name, f"{value:,}") for name, value in facts.items()]
    print(f"{config.run}: {len(val_set)} images")
    Table("Accuracy and cost", ("metric", "value"), rows).show()
    write_json(out, {"run": str(config.run), "metrics": {**accuracy, **facts}})


if __name__ == "__main__":
    main()
