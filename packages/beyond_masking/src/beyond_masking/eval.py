"""``beyond-masking-eval``: top-1 and top-5 of a classifier, or k-NN and linear probe of a pre-trained encoder.

beyond-masking-eval run=outputs/finetune                                    # a classifier, on the run's own data
beyond-masking-eval run=outputs/pretrain                                    # frozen features: k-NN and linear probe
beyond-masking-eval run=outputs/pretrain untrained=true                     # the same of fresh weights, to compare with
beyond-masking-eval run=outputs/pretrain protocol=knn k=10 data.train_per_class=100
beyond-masking-eval run=outputs/finetune data.root=/data/imagenet           # the same data elsewhere
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vireo.engine.cli import entry_point

if TYPE_CHECKING:
    from omegaconf import DictConfig


@entry_point("beyond_masking.conf", "eval")
def main(config: DictConfig) -> None:
    """Print the metrics of a run on its evaluation data or on other data; write a JSON."""

    from rich.console import Console
    from rich.table import Table

    from vireo.data import build_dataset, labelled_loader, require_same_classes
    from vireo.engine import print_skipped, skipped_lines
    from vireo.engine.devices import evaluation_fabric
    from vireo.engine.finished import changed_data, require_classes
    from vireo.engine.folder import require_writable
    from vireo.engine.logs import flatten, write_json
    from vireo.engine.rendezvous import leave_group
    from vireo.evaluation import evaluate_classifier, feature_errors
    from vireo.evaluation.frozen import chosen_protocol, require_neighbours, require_pooling

    from .features import encoded
    from .load import load_run

    require_pooling(config.features)
    loaded = load_run(config.run, config.weights, untrained=config.untrained)
    remedy = "or give a run of beyond-masking-finetune"
    protocol = chosen_protocol(config.protocol, loaded.kind == "classifier", remedy)
    out = Path(config.out or Path(config.run) / ("eval_untrained.json" if config.untrained else "eval.json"))
    require_writable(out.parent, "out=...")
    data = changed_data(loaded.config.data, config.data)
    fabric, here = evaluation_fabric(config)

    img_size = loaded.config.model.img_size
    val_set = build_dataset(data, train=False)
    val_loader = labelled_loader(val_set, data, img_size, **here)
    sources: list[Any] = [val_set, val_loader]
    network = loaded.network.to(fabric.device).eval()
    metrics: dict[str, Any]
    if protocol == "classifier":
        require_classes(val_set.classes, loaded.classes, f"evaluation data of {config.run}")
        with fabric.autocast():
            metrics = evaluate_classifier(network, val_loader)
    else:
        train_set = build_dataset(data, train=True)
        require_same_classes(train_set, val_set, str(data.get("root")))
        if protocol != "linear":
            require_neighbours(config.k, len(train_set))
        train_loader = labelled_loader(train_set, data, img_size, **here)
        sources += [train_set, train_loader]
        with fabric.autocast():
            train, test = (encoded(loaded.encoder, batches, config.features) for batches in (train_loader, val_loader))
    skipped = skipped_lines(*sources)
    leave_group()
    if fabric.global_rank:
        return
    if protocol != "classifier":
        options = {"protocol": protocol, "k": config.k, "device": fabric.device}
        metrics = feature_errors(train, test, len(val_set.classes), **options)
    print_skipped(skipped)
    print(f"{config.run}{' (untrained)' if config.untrained else ''}: {len(val_set)} images")
    table = Table("metric", "%")
    for name, value in flatten(metrics).items():
        if "top" in name:
            table.add_row(name, f"{value:.2f}")
    Console().print(table)
    content = {"run": str(config.run), "protocol": protocol, "untrained": config.untrained, "metrics": metrics}
    write_json(out, content)


if __name__ == "__main__":
    main()
