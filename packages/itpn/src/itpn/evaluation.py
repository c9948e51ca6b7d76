"""How each kind of run is judged: classifiers, frozen backbones, segmenters, detectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.fabric import Fabric
from torch import Tensor

from vireo.data import build_dataset
from vireo.evaluation import pooled
from vireo.evaluation.frozen import Pooling, chosen_protocol, require_pooling
from vireo.evaluation.runs import Evaluator, Judged, Subject, judge_labelled
from vireo.evaluation.runs import judge_detector as judge_loaded_detector
from vireo.evaluation.runs import judge_segmenter as judge_loaded_segmenter

from .build import build_backbone
from .kinds import Kind
from .load import LoadedRun, load_classifier, load_run


def judge_images(subject: Subject, config: Any, fabric: Fabric, here: dict[str, Any]) -> Judged:
    """A classifier by its errors, or a frozen backbone by k-NN and linear probe (each process must call this).

    Raises:
        InputError: no weights, an unknown protocol or pooling, ``k`` out of range, data of other classes.
    """
    require_pooling(config.features)
    protocol = chosen_protocol(config.protocol, subject.kind == "classifier", "or give a run of itpn-finetune")
    loaded = None if config.run is None else load_run(config.run, config.weights, untrained=config.untrained)
    val_set = build_dataset(subject.data, train=False)
    if loaded is None:
        network = build_backbone(subject.config.model, len(val_set.classes))
        load_classifier(network, config.weights)
        loaded = LoadedRun("classifier", network.eval(), subject.config, tuple(val_set.classes))
    return judge_labelled(
        subject,
        config,
        fabric,
        here,
        network=loaded.network,
        val_set=val_set,
        protocol=protocol,
        classes=loaded.classes,
        encode=lambda images: token_features(loaded, images, config.features),
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
    from .segmentation import load_segmenter, windows_of

    model, _, classes = load_segmenter(config.run, config.weights, untrained=config.untrained)
    return judge_loaded_segmenter(subject, fabric, here, model, classes, **windows_of(subject.config))


def judge_detector(subject: Subject, config: Any, fabric: Fabric, here: dict[str, Any]) -> Judged:
    """A detector by the AP of its boxes and masks (each process must call this).

    Raises:
        InputError: no weights, or data of other classes.
    """
    from .detection import load_detector

    model, _, classes = load_detector(config.run, config.weights, untrained=config.untrained)
    return judge_loaded_detector(subject, fabric, here, model, classes)


EVALUATORS: Mapping[Kind, Evaluator] = {
    "classifier": judge_images,
    "pretraining": judge_images,
    "segmentation": judge_segmenter,
    "detection": judge_detector,
}
