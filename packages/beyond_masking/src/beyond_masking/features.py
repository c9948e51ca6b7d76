"""Features of a frozen encoder: what k-NN and the linear probe judge a pre-training by."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from vireo.backbones import MaskedViT
from vireo.evaluation import Features, gather_features, pooled
from vireo.evaluation.frozen import Pooling


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
    if encoder.patch_embed.proj.in_channels == 1 and images.shape[1] == 3:
        images = images.mean(1, keepdim=True)
    # with read-out "mean" the tokens' norm is the identity and fc_norm the last one; with the others it is the reverse
    tokens = encoder.fc_norm(encoder.forward_visible(images))[:, encoder.num_prefix_tokens :]
    return pooled(tokens, pooling)


def encoded(encoder: MaskedViT, batches: Iterable[Any], pooling: Pooling = "mean_max") -> Features:
    """Labelled data through a frozen encoder, that of all processes (each must call this), on the CPU.

    Args:
        encoder: left in evaluation mode.
        batches: an evaluation loader over this process's share of the data.
        pooling: see :func:`pooled_features`.
    """
    encoder.eval()
    return gather_features(lambda images: pooled_features(encoder, images, pooling), batches)
