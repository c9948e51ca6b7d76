"""Features of a frozen encoder: what k-NN and the linear probe judge a pre-training by."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from vireo.backbones import MaskedViT
from vireo.errors import InputError
from vireo.evaluation import Features, gather_features, knn_error, linear_probe

Pooling = Literal["mean", "mean_max"]
POOLINGS = ("mean", "mean_max")


def require_pooling(pooling: str) -> None:
    """Check that there is such a pooling.

    Raises:
        InputError: there is none.
    """
    if pooling not in POOLINGS:
        raise InputError(f"unknown pooling {pooling!r}", "features", f"use one of {', '.join(POOLINGS)}")


def pooled_features(encoder: MaskedViT, images: Tensor, pooling: Pooling = "mean_max") -> Tensor:
    """One vector an image from the patch tokens behind the last norm; a class token is left out.

    An encoder of one channel (``decolorized``) gets the mean of the three: the weights of its pre-training are uniform
    in [0, 0.667] (section 3.4), a third on average.

    Args:
        encoder: in evaluation mode, with any read-out; a head is not applied.
        images: ImageNet-normalised ``(B, 3, H, W)``, whole, of the encoder's size.
        pooling: ``mean`` over the tokens, or that and their greatest values (section 10).

    Returns:
        ``(B, D)``, with ``mean_max`` ``(B, 2 D)``.

    Raises:
        InputError: another pooling, or images of another size.
    """
    require_pooling(pooling)
    if encoder.patch_embed.proj.in_channels == 1 and images.shape[1] == 3:
        images = images.mean(1, keepdim=True)
    # with read-out "mean" the tokens' norm is the identity and fc_norm the last one; with the others it is the reverse
    tokens = encoder.fc_norm(encoder.forward_visible(images))[:, encoder.num_prefix_tokens :]
    mean = tokens.mean(1)
    return mean if pooling == "mean" else torch.cat((mean, tokens.amax(1)), 1)


def encoded(encoder: MaskedViT, batches: Iterable[Any], pooling: Pooling = "mean_max") -> Features:
    """Labelled data through a frozen encoder, that of all processes (each must call this), on the CPU.

    Args:
        encoder: left in evaluation mode.
        batches: an evaluation loader over this process's share of the data.
        pooling: see :func:`pooled_features`.
    """
    encoder.eval()
    return gather_features(lambda images: pooled_features(encoder, images, pooling), batches)


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


def with_accuracy(metrics: dict[str, Any]) -> dict[str, Any]:
    """``metrics`` and, for each ``top<k>_error`` in percent, ``top<k>_accuracy``, which the paper reports."""
    errors = {name: value for name, value in metrics.items() if name.startswith("top") and name.endswith("_error")}
    return {**metrics, **{name.replace("_error", "_accuracy"): 100 - value for name, value in errors.items()}}
