"""Finished runs of several kinds judged by one script: classifiers, frozen encoders, segmenters, detectors.

A paper says how the networks of its runs are loaded; what is measured, printed and written is here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from torch import Tensor, nn

from vireo.engine.finished import changed_data, require_classes
from vireo.errors import InputError

if TYPE_CHECKING:
    from lightning.fabric import Fabric


@dataclass(frozen=True)
class Subject:
    """What is judged.

    Attributes:
        name: folder of the run, or name of a published setting.
        kind: of the paper's kinds of runs.
        config: of the run or setting.
        data: the data to judge it on.
    """

    name: str
    kind: str
    config: DictConfig
    data: DictConfig


@dataclass(frozen=True)
class Judged:
    """The outcome of an evaluation.

    Attributes:
        images: evaluated.
        sources: data sets and loaders, for what they skipped.
        metrics: computes them; called on the main process alone.
        unit, digits: how they are shown.
        shows: whether a metric of this name is shown.
        details: what is written beside the metrics.
    """

    images: int
    sources: list[Any]
    metrics: Callable[[], dict[str, Any]]
    unit: str = "%"
    digits: int = 2
    shows: Callable[[str], bool] = lambda name: True
    details: dict[str, Any] = field(default_factory=dict)


Evaluator = Callable[[Subject, Any, "Fabric", dict[str, Any]], Judged]


def subject_of(config: Any, config_and_kind: Callable[[Any], tuple[DictConfig, Any]], script: str) -> Subject:
    """What the configuration of an evaluation names: a run, or a published setting with weights.

    Args:
        config: with ``run`` or ``setting``, the other null, and ``weights`` and ``data``.
        config_and_kind: reads the configuration of a run and its kind.
        script: whose experiments the settings are: of classification, with the configuration ``finetune``.

    Raises:
        InputError: neither or both, no such run or setting, or a setting without weights.
    """
    if (config.run is None) == (config.setting is None):
        raise InputError("a run or a setting is judged", "run, setting", "give one of the two, the other as null")
    if config.run is not None:
        found, kind = config_and_kind(config.run)
        return Subject(str(config.run), kind, found, changed_data(found.data, config.data))
    if config.weights is None:
        raise InputError("has no value", "weights", f"give the file of a classifier trained as {config.setting}")
    from hydra import compose
    from hydra.errors import HydraException

    try:
        found = compose("finetune", [f"+experiment={config.setting}"])
    except HydraException as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError(f"no such experiment of {script} ({reason})", "setting", "see conf/experiment") from error
    return Subject(str(config.setting), "classifier", found, changed_data(found.data, config.data))


def report_on(subject: Subject, config: Any, evaluators: Mapping[Any, Evaluator]) -> None:
    """Judge a subject, print its metrics and write them as JSON (each process must call this).

    Args:
        subject: what is judged.
        config: ``run``, ``untrained``, ``out``, and what :func:`~vireo.engine.devices.evaluation_fabric` takes.
        evaluators: one for each kind.

    Raises:
        InputError: results cannot be written, or as the evaluator raises it.
    """
    from rich.console import Console
    from rich.table import Table

    from vireo.engine import print_skipped, skipped_lines
    from vireo.engine.devices import evaluation_fabric
    from vireo.engine.folder import require_writable
    from vireo.engine.logs import flatten, write_json
    from vireo.engine.rendezvous import leave_group

    title = f"{subject.name}{' (untrained)' if config.untrained else ''}"
    folder = Path(config.run) if config.run is not None else Path()
    out = Path(config.out or folder / ("eval_untrained.json" if config.untrained else "eval.json"))
    require_writable(out.parent, "out=...")
    fabric, here = evaluation_fabric(config)
    judged = evaluators[subject.kind](subject, config, fabric, here)
    skipped = skipped_lines(*judged.sources)
    leave_group()
    if fabric.global_rank:
        return
    metrics = judged.metrics()
    print_skipped(skipped)
    print(f"{title}: {judged.images} images")
    table = Table("metric", judged.unit)
    for name, value in flatten(metrics).items():
        if isinstance(value, int | float) and judged.shows(name):
            table.add_row(name, f"{value:.{judged.digits}f}")
    Console().print(table)
    content = {"run": subject.name, "kind": subject.kind, "untrained": config.untrained, "metrics": metrics}
    write_json(out, {**content, **judged.details})


def judge_labelled(
    subject: Subject,
    config: Any,
    fabric: Fabric,
    here: dict[str, Any],
    *,
    network: nn.Module,
    val_set: Any,
    protocol: str,
    classes: Sequence[str] = (),
    encode: Callable[[Tensor], Tensor],
) -> Judged:
    """A classifier by its errors, or a frozen encoder by k-NN and linear probe (each process must call this).

    Args:
        subject: what is judged.
        config: ``k`` of k-NN.
        fabric, here: of :func:`~vireo.engine.devices.evaluation_fabric`.
        network: in evaluation mode; moved to the device.
        val_set: the evaluation set of ``subject.data``.
        protocol: see :func:`~vireo.evaluation.frozen.chosen_protocol`.
        classes: of the classifier, by label.
        encode: images ``(B, 3, H, W)`` to features ``(B, D)`` by the network.

    Raises:
        InputError: ``k`` out of range, or data of other classes.
    """
    from vireo.data import build_dataset, labelled_loader, require_same_classes
    from vireo.evaluation import evaluate_classifier, feature_errors, gather_features
    from vireo.evaluation.frozen import require_neighbours

    img_size, details = subject.config.model.img_size, {"protocol": protocol}
    val_loader: Any = labelled_loader(val_set, subject.data, img_size, **here)
    network.to(fabric.device)
    if protocol == "classifier":
        require_classes(val_set.classes, classes, f"evaluation data of {subject.name}")
        with fabric.autocast():
            errors = evaluate_classifier(network, val_loader)
        return Judged(len(val_set), [val_set, val_loader], lambda: errors, details=details)
    train_set = build_dataset(subject.data, train=True)
    require_same_classes(train_set, val_set, str(subject.data.get("root")))
    if protocol != "linear":
        require_neighbours(config.k, len(train_set))
    train_loader: Any = labelled_loader(train_set, subject.data, img_size, **here)
    with fabric.autocast():
        train, test = (gather_features(encode, batches) for batches in (train_loader, val_loader))
    options: dict[str, Any] = {"protocol": protocol, "k": config.k, "device": fabric.device}
    return Judged(
        len(val_set),
        [val_set, val_loader, train_set, train_loader],
        lambda: feature_errors(train, test, len(val_set.classes), **options),
        shows=lambda name: "top" in name,
        details=details,
    )


def judge_segmenter(
    subject: Subject, fabric: Fabric, here: dict[str, Any], model: nn.Module, classes: Sequence[str], **windows: Any
) -> Judged:
    """A segmenter by its mean IoU (each process must call this).

    Args:
        subject, fabric, here, classes: as of :func:`judge_labelled`.
        model: in evaluation mode; moved to the device.
        **windows: of :func:`~vireo.segmentation.evaluate_segmenter`.

    Raises:
        InputError: data of other classes.
    """
    from vireo.data import segmentation_set
    from vireo.segmentation import build_loader, evaluate_segmenter

    val_set = segmentation_set(subject.data, train=False)
    require_classes(val_set.classes, classes, f"evaluation data of {subject.name}")
    loader = build_loader(val_set, subject.data, False, **here)
    model.to(fabric.device)
    with fabric.autocast():
        metrics = evaluate_segmenter(model, loader, tuple(classes), **windows)
    return Judged(len(val_set), [val_set, loader], lambda: metrics, unit="value", digits=4)


def judge_detector(
    subject: Subject, fabric: Fabric, here: dict[str, Any], model: nn.Module, classes: Sequence[str]
) -> Judged:
    """A detector by the AP of its boxes and masks (each process must call this).

    Args:
        subject, fabric, here, classes: as of :func:`judge_labelled`.
        model: in evaluation mode; moved to the device.

    Raises:
        InputError: data of other classes.
    """
    from vireo.detection import build_loader, build_sets, evaluate_detector, has_masks

    _, val_set = build_sets(subject.data)
    require_classes(val_set.classes, classes, f"evaluation data of {subject.name}")
    loader = build_loader(val_set, subject.data, False, **here)
    model.to(fabric.device)
    with fabric.autocast():
        metrics = evaluate_detector(model, loader, val_set, has_masks(subject.data))
    return Judged(len(val_set), [val_set, loader], lambda: metrics or {}, unit="value", digits=4)
