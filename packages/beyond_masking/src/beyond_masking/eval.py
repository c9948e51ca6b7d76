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
    from collections.abc import Iterable

    from omegaconf import DictConfig
    from torch import nn

PROTOCOLS = ("auto", "classifier", "knn", "linear", "features")


def evaluate_classifier(network: nn.Module, batches: Iterable[Any]) -> dict[str, float]:
    """Errors over all processes (each must call this).

    Args:
        network: not wrapped for several processes; left in evaluation mode.
        batches: an evaluation loader over this process's share of the data.

    Returns:
        ``top1_error``, with more than five classes ``top5_error``, and ``top1_accuracy`` and so on, in percent.
    """
    import torch

    from vireo.evaluation import TopK

    from .features import with_accuracy

    network.eval()
    num_classes: int = network.num_classes  # type: ignore[assignment]
    errors = TopK(num_classes, (1, 5) if num_classes > 5 else (1,))
    with torch.no_grad():
        for images, targets in batches:
            errors.update(network(images), targets["label"])
    return with_accuracy({name: value for name, value in errors.compute().items() if name.startswith("top")})


def chosen_protocol(protocol: str, kind: str) -> str:
    """The protocol for a run of this kind: ``classifier``, ``knn``, ``linear`` or ``features``.

    Raises:
        InputError: an unknown protocol, or ``classifier`` for a pre-training run.
    """
    from vireo.errors import InputError

    if protocol not in PROTOCOLS:
        raise InputError(f"unknown protocol {protocol!r}", "protocol", f"use one of {', '.join(PROTOCOLS)}")
    if protocol == "auto":
        return "classifier" if kind == "classifier" else "features"
    if protocol == "classifier" and kind != "classifier":
        remedy = "use knn, linear or features, or give a run of beyond-masking-finetune"
        raise InputError("a pre-training run has no classifier", "protocol", remedy)
    return protocol


@entry_point("beyond_masking.conf", "eval")
def main(config: DictConfig) -> None:
    """Print the metrics of a run on its evaluation data or on other data; write a JSON."""

    from rich.console import Console
    from rich.table import Table

    from vireo.engine import print_skipped, skipped_lines
    from vireo.engine.devices import evaluation_fabric
    from vireo.engine.finished import changed_data, require_classes
    from vireo.engine.folder import require_writable
    from vireo.engine.logs import flatten, write_json
    from vireo.engine.rendezvous import leave_group
    from vireo.errors import InputError

    from .data import build_dataset, labelled_loader, require_same_classes
    from .features import encoded, feature_errors, require_pooling
    from .load import load_run

    require_pooling(config.features)
    loaded = load_run(config.run, config.weights, untrained=config.untrained)
    protocol = chosen_protocol(config.protocol, loaded.kind)
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
        if protocol != "linear" and not 1 <= config.k <= len(train_set):
            what = f"{config.k} is not between 1 and the {len(train_set)} labelled training images"
            raise InputError(what, "k", "use fewer neighbours, or more images")
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
