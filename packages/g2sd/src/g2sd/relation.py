"""The loss between relations of queries, keys and values, an alternative to predicting features (section 3.7).

The authors' code has it and does not use it. Legend of shapes: B images, T tokens, D channels, A heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vireo.backbones import MaskedViT
from vireo.errors import InputError

QKV = tuple[Tensor, Tensor, Tensor]


def relation_loss(student_qkv: Sequence[QKV], teacher_qkv: Sequence[QKV], heads: int = 1) -> Tensor:
    """Mean divergence of the student's relations from the teacher's.

    A relation of two of queries, keys and values is ``softmax(X Y^T / sqrt(D / A))``, all nine pairs count alike.
    Student and teacher may differ in width: only their relations, ``(B, A, T, T)``, are compared.

    Args:
        student_qkv, teacher_qkv: of as many layers, each ``(q, k, v)`` of ``(B, T, D)``.
        heads: A, in which the channels of both are cut.

    Returns:
        Scalar: the sum over keys of the Kullback-Leibler divergence, averaged over images, heads, queries, pairs and
        layers.

    Raises:
        InputError: different numbers of layers, none, different tokens, or heads that do not divide the channels.
    """
    if len(student_qkv) != len(teacher_qkv) or not student_qkv:
        what = f"{len(student_qkv)} layers of the student, {len(teacher_qkv)} of the teacher"
        raise InputError(what, "relation_loss", "give as many of both, at least one")
    terms = []
    for own, theirs in zip(student_qkv, teacher_qkv):
        if own[0].shape[:2] != theirs[0].shape[:2]:
            what = f"tokens of {tuple(own[0].shape[:2])} and {tuple(theirs[0].shape[:2])}"
            raise InputError(what, "relation_loss", "give both the same images and masks")
        ours, wanted = (_log_relations(parts, heads) for parts in (own, theirs))
        terms.append(F.kl_div(ours, wanted, reduction="none", log_target=True).sum(-1).mean())
    return torch.stack(terms).mean()


def _log_relations(parts: QKV, heads: int) -> Tensor:
    """The nine relations' logarithms, float32 ``(9, B, A, T, T)``."""
    dim = parts[0].shape[2]
    if dim % heads:
        raise InputError(f"{dim} channels are not divided by {heads} heads", "relation_loss", "use another number")
    x = torch.stack(parts).float().unflatten(3, (heads, -1)).transpose(2, 3)  # (3, B, A, T, D / A)
    logits = torch.einsum("ibatd,jbasd->ijbats", x * (dim // heads) ** -0.5, x)
    return logits.flatten(0, 1).log_softmax(-1)


def encoder_qkv(encoder: MaskedViT, tokens: Tensor) -> tuple[Tensor, list[QKV]]:
    """Embedded tokens through all blocks, and what the attention of each makes of them.

    Args:
        encoder: of a student or a teacher.
        tokens: ``(B, T, D)`` of :meth:`~vireo.backbones.MaskedViT.embed_patches`.

    Returns:
        ``(B, T, D)`` before the final norm, and queries, keys and values of each block, ``(B, T, D)``.
    """
    found: list[QKV] = []

    def keep(_module: object, _inputs: object, output: Tensor) -> None:
        q, k, v = output.chunk(3, -1)
        found.append((q, k, v))

    blocks: list[torch.nn.Module] = list(encoder.blocks)
    hooks = [block.get_submodule("attn.qkv").register_forward_hook(keep) for block in blocks]
    try:
        return encoder.forward_blocks(tokens), found
    finally:
        for hook in hooks:
            hook.remove()
