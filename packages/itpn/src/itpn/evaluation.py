"""How each kind of run is judged: classifiers, frozen backbones, segmenters, detectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lightning.fabric import Fabric
from omegaconf import DictConfig
from torch import Tensor

from vireo.data import build_dataset, labelled_loader, require_same_classes
from vireo.engine.finished import changed_data, require_classes
from vireo.errors import InputError
from vireo.evaluation import evaluate_classifier, feature_errors, gather_features, pooled
from vireo.evaluation.frozen import Pooling, chosen_protocol, require_neighbours, require_pooling

from .build import build_backbone
from .kinds import Kind
from .load import LoadedRun, config_and_kind, load_classifier, load_run


@dataclass(frozen=True)
class Subject:
    """What is judged.

    Attributes:
        name: folder of the run, or name of a published setting.
        kind: which script it is of.
        config: of the run or setting.
        data: the data to judge it on.
    """

    name: str
    kind: Kind
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


Evaluator = Callable[[Subject, Any, Fabric, dict[str, Any]], Judged]


def subject_of(config: Any) -> Subject:
    """What the configuration of ``itpn-eval`` names: a run, or a published setting with weights.

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
    return _published(config)


def _published(config: Any) -> Subject:
    from hydra import compose
    from hydra.errors import HydraException

    try:
        found = compose("finetune", [f"+experiment={config.setting}"])
    except HydraException as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError(f"no such experiment of itpn-finetune ({reason})", "setting", "see conf/experiment") from error
    return Subject(str(config.setting), "classifier", found, changed_data(found.data, config.data))


def judge_images(subject: Subject, config: Any, fabric: Fabric, here: dict[str, Any]) -> Judged:
    """A classifier by its errors, or a frozen backbone by k-NN and linear probe (each process must call this).

    Raises:
        InputError: no weights, an unknown protocol or pooling, ``k`` out of range, data of other classes.
    """
    require_pooling(config.features)
    remedy = "or give a run of itpn-finetune"
    protocol = chosen_protocol(config.protocol, subject.kind == "classifier", remedy)
    loaded = None if config.run is None else load_run(config.run, config.weights, untrained=config.untrained)
    img_size = subject.config.model.img_size
    val_set = build_dataset(subject.data, train=False)
    val_loader = labelled_loader(val_set, subject.data, img_size, **here)
    if loaded is None:
        network = build_backbone(subject.config.model, len(val_set.classes))
        load_classifier(network, config.weights)
        loaded = LoadedRun("classifier", network.eval(), subject.config, tuple(val_set.classes))
    loaded.network.to(fabric.device)
    details = {"protocol": protocol}
    if protocol == "classifier":
        require_classes(val_set.classes, loaded.classes, f"evaluation data of {subject.name}")
        with fabric.autocast():
            errors = evaluate_classifier(loaded.network, val_loader)
        return Judged(len(val_set), [val_set, val_loader], lambda: errors, details=details)
    train_set = build_dataset(subject.data, train=True)
    require_same_classes(train_set, val_set, str(subject.data.get("root")))
    if protocol != "linear":
        require_neighbours(config.k, len(train_set))
    train_loader = labelled_loader(train_set, subject.data, img_size, **here)

    loaders: tuple[Any, Any] = (train_loader, val_loader)

    def encode(images: Tensor) -> Tensor:
        return token_features(loaded, images, config.features)

    with fabric.autocast():
        train, test = (gather_features(encode, batches) for batches in loaders)
    options: dict[str, Any] = {"protocol": protocol, "k": config.k, "device": fabric.device}
    return Judged(
        len(val_set),
        [val_set, val_loader, train_set, train_loader],
        lambda: feature_errors(train, test, len(val_set.classes), **options),
        shows=lambda name: "top" in name,
        details=details,
    )


def token_features(loaded: LoadedRun, images: Tensor, pooling: Pooling = "mean_max") -> Tensor:
    """One vector an image from the tokens of stage 3, whose stream has no norm of its own.

    Args:
        loaded: a classifier, whose head is not applied, or a pre-training; in evaluation mode.
        images: normalised ``(B, 3, H, W)``.
        pooling: ``mean`` over the tokens, or that and their greatest values.

    Returns:
        ``(B, C)``, with ``mean_max`` ``(B, 2 C)``.
    """
    backbone = loaded.backbone
    return pooled(backbone.forward_features(images)[:, backbone.num_prefix_tokens :], pooling)


def judge_segmenter(subject: Subject, config: Any, fabric: Fabric, here: dict[str, Any]) -> Judged:
    """A segmenter by its mean IoU (each process must call this).

    Raises:
        InputError: no weights, or data of other classes.
    """
    from vireo.data import segmentation_set
    from vireo.segmentation import build_loader, evaluate_segmenter

    from .segmentation import load_segmenter, windows_of

    model, _, classes = load_segmenter(config.run, config.weights, untrained=config.untrained)
    val_set = segmentation_set(subject.data, train=False)
    require_classes(val_set.classes, classes, f"evaluation data of {subject.name}")
    loader = build_loader(val_set, subject.data, False, **here)
    model.to(fabric.device)
    with fabric.autocast():
        metrics = evaluate_segmenter(model, loader, classes, **windows_of(subject.config))
    return Judged(len(val_set), [val_set, loader], lambda: metrics, unit="value", digits=4)


def judge_detector(subject: Subject, config: Any, fabric: Fabric, here: dict[str, Any]) -> Judged:
    """A detector by the AP of its boxes and masks (each process must call this).

    Raises:
        InputError: no weights, or data of other classes.
    """
    from vireo.detection import build_loader, build_sets, evaluate_detector, has_masks

    from .detection import load_detector

    model, _, classes = load_detector(config.run, config.weights, untrained=config.untrained)
    _, val_set = build_sets(subject.data)
    require_classes(val_set.classes, classes, f"evaluation data of {subject.name}")
    loader = build_loader(val_set, subject.data, False, **here)
    model.to(fabric.device)
    with fabric.autocast():
        metrics = evaluate_detector(model, loader, val_set, has_masks(subject.data))
    return Judged(len(val_set), [val_set, loader], lambda: metrics or {}, unit="value", digits=4)


EVALUATORS: Mapping[Kind, Evaluator] = {
    "classifier": judge_images,
    "pretraining": judge_images,
    "segmentation": judge_segmenter,
    "detection": judge_detector,
}
