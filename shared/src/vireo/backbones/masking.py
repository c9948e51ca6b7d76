"""Random masking of tokens (He et al., Masked Autoencoders, section 3), from noise that the caller gives."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from vireo.errors import InputError


class TokenMask(NamedTuple):
    """Which of N tokens an encoder sees.

    Attributes:
        ids_keep: int64 ``(B, K)``, the visible tokens in order of their noise.
        ids_removed: int64 ``(B, N - K)``, the others, likewise.
        ids_restore: int64 ``(B, N)``: position n of the image is entry ``ids_restore[n]`` of (kept, removed).
        mask: bool ``(B, N)`` in image order, true where a token is removed.
    """

    ids_keep: Tensor
    ids_removed: Tensor
    ids_restore: Tensor
    mask: Tensor


def visible_tokens(num_tokens: int, mask_ratio: float) -> int:
    """How many of ``num_tokens`` stay: ``int(num_tokens * (1 - mask_ratio))``, truncated as in the published codes.

    Raises:
        InputError: the ratio is not in [0, 1), or leaves no token.
    """
    where = f"mask_ratio={mask_ratio}"
    if not 0 <= mask_ratio < 1:
        raise InputError("the mask ratio is not in [0, 1)", where, "use e.g. 0.75, or 0 for no mask")
    kept = int(num_tokens * (1 - mask_ratio))
    if kept < 1:
        raise InputError(f"no visible token is left of {num_tokens}", where, "use a smaller ratio or larger images")
    return kept


def random_masking(noise: Tensor, mask_ratio: float) -> TokenMask:
    """Keep the tokens with the least noise, :func:`visible_tokens` of each sample.

    Args:
        noise: ``(B, N)``; only its ranks matter, equal values keep their order.
        mask_ratio: share of tokens to remove, in [0, 1).
    """
    kept = visible_tokens(noise.shape[1], mask_ratio)
    shuffled = noise.argsort(dim=1, stable=True)
    restore = shuffled.argsort(dim=1)
    return TokenMask(shuffled[:, :kept], shuffled[:, kept:], restore, restore >= kept)


def gather_tokens(tokens: Tensor, ids: Tensor) -> Tensor:
    """Tokens ``ids`` (B, K) of ``tokens`` (B, N, D): ``(B, K, D)``."""
    return tokens.gather(1, ids[:, :, None].expand(-1, -1, tokens.shape[2]))
