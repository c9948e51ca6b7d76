"""Frozen features as a judge of pre-training: tokens pooled to one vector an image, k-NN and linear probe over them."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from vireo.errors import InputError
from vireo.evaluation.classifier import with_accuracy
from vireo.evaluation.features import Features
from vireo.evaluation.knn import knn_error
from vireo.evaluation.probe import linear_probe

Pooling = Literal["mean", "mean_max"]
POOLINGS = ("mean", "mean_max")
PROTOCOLS = ("auto", "classifier", "knn", "linear", "features")


def require_pooling(pooling: str) -> None:
    """Check that there is such a pooling.

    Raises:
        InputError: there is none.
    """
    if pooling not in POOLINGS:
        raise InputError(f"unknown pooling {pooling!r}", "features", f"use one of {', '.join(POOLINGS)}")


def pooled(tokens: Tensor, pooling: Pooling = "mean_max") -> Tensor:
    """Tokens ``(B, N, D)`` as one vector an image: their mean ``(B, D)``, or that and their maximum ``(B, 2 D)``.

    Raises:
        InputError: another pooling.
    """
    require_pooling(pooling)
    mean = tokens.mean(1)
    return mean if pooling == "mean" else torch.cat((mean, tokens.amax(1)), 1)


def chosen_protocol(protocol: str, classifier: bool, remedy: str) -> str:
    """How to judge a run: ``classifier``, ``knn``, ``linear`` or ``features`` (both).

    Args:
        protocol: any of these, or ``auto``: by what the run has.
        classifier: whether it has one.
        remedy: what has one, for the message.

    Raises:
        InputError: an unknown protocol, or ``classifier`` for a run without one.
    """
    if protocol not in PROTOCOLS:
        raise InputError(f"unknown protocol {protocol!r}", "protocol", f"use one of {', '.join(PROTOCOLS)}")
    if protocol == "auto":
        return "classifier" if classifier else "features"
    if protocol == "classifier" and not classifier:
        raise InputError("a pre-training run has no classifier", "protocol", f"use knn, linear or features, {remedy}")
    return protocol


def require_neighbours(k: int, images: int) -> None:
    """Check that k-NN can look at ``k`` of so many training images.

    Raises:
        InputError: it cannot.
    """
    if not 1 <= k <= images:
        what = f"{k} is not between 1 and the {images} labelled training images"
        raise InputError(what, "k", "use fewer neighbours, or more images")


def feature_errors(
    train: Features,
    test: Features,
    num_classes: int,
    *,
    protocol: Literal["knn", "linear", "features"] = "features",
    k: int = 20,
    device: torch.device | str | None = None,
) -> dict[str, dict[str, Any]]:
    """What simple classifiers make of frozen features.

    Args:
        train, test: labelled features.
        num_classes: C.
        protocol: ``knn``, ``linear`` or, with ``features``, both.
        k: neighbours of k-NN.
        device: where to compute; None: the CPU.

    Returns:
        Under ``knn`` and ``linear`` what :func:`~vireo.evaluation.knn_error` and
        :func:`~vireo.evaluation.linear_probe` return, and accuracies; in percent.

    Raises:
        InputError: ``k`` out of range, or too few images of a class.
    """
    found: dict[str, dict[str, Any]] = {}
    if protocol in ("knn", "features"):
        found["knn"] = with_accuracy(knn_error(train, test, k, device=device))
    if protocol in ("linear", "features"):
        found["linear"] = with_accuracy(linear_probe(train, test, num_classes, device=device))
    return found
