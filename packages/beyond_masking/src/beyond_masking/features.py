"""Features of a frozen encoder: what k-NN and the linear probe judge a pre-training by."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from vireo.backbones import MaskedViT
from vireo.errors import InputError

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
