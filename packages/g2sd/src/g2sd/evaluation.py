"""How each kind of run is judged: classifiers, frozen encoders, segmenters, detectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from lightning.fabric import Fabric
from torch import Tensor

from vireo.backbones import MaskedViT
from vireo.data import build_dataset
from vireo.errors import InputError
from vireo.evaluation import pooled
from vireo.evaluation.frozen import POOLINGS, chosen_protocol
from vireo.evaluation.runs import Evaluator, Judged, Subject, judge_labelled
from vireo.evaluation.runs import judge_detector as judge_loaded_detector
from vireo.evaluation.runs import judge_segmenter as judge_loaded_segmenter

from .build import load_classifier
from .kinds import Kind
from .load import LoadedRun, load_run

Features = Literal["cls", "mean", "mean_max"]
FEATURES = ("cls", *POOLINGS)


def judge_images(subject: Subject, config: Any, fabric: Fabric, here: dict[str, Any]) -> Judged:
    """A classifier by its errors, or a frozen encoder by k-NN and linear probe (each process must call this).

    Raises:
        InputError: no weights, an unknown protocol or pooling, ``k`` out of range, data of other classes.
    """
    require_features(config.features)
    protocol = chosen_protocol(config.protocol, subject.kind == "classifier", "or give a run of g2sd-finetune")
    loaded = None if config.run is None else load_run(config.run, config.weights, untrained=config.untrained)
    val_set = build_dataset(subject.data, train=False)
    if loaded is None:
        classes = tuple(val_set.classes)
        network = load_classifier(config.weights, len(classes), subject.config.model.img_size)
        loaded = LoadedRun("classifier", network.eval(), subject.config, classes)
    return judge_labelled(
        subject,
        config,
        fabric,
        here,
        network=loaded.network,
        val_set=val_set,
        protocol=protocol,
        classes=loaded.classes,
        encode=lambda images: token_features(loaded.network, images, config.features),
    )


def token_features(network: MaskedViT, images: Tensor, features: Features = "mean") -> Tensor:
    """One vector an image from the tokens behind the encoder's norm, if it has one in front of its read-out.

    Args:
        network: a classifier, whose head is not applied, or an encoder; in evaluation mode.
        images: normalised ``(B, 3, H, W)``.
        features: the class token, or the ``mean`` of the patches, or that and their greatest values.

    Returns:
        ``(B, D)``, with ``mean_max`` ``(B, 2 D)``.

    Raises:
        InputError: no such features.
    """
    require_features(features)
    tokens: Tensor = network.forward_features(images)
    return tokens[:, 0] if features == "cls" else pooled(tokens[:, network.num_prefix_tokens :], features)


def require_features(features: str) -> None:
    """Check that there are such features.

    Raises:
        InputError: there are none.
    """
    if features not in FEATURES:
        raise InputError(f"unknown features {features!r}", "features", f"use one of {', '.join(FEATURES)}")


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
    "distillation": judge_images,
    "segmentation": judge_segmenter,
    "detection": judge_detector,
}
