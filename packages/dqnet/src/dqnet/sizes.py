"""The sizes of the two branches, by name."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from vireo.errors import InputError

VITS: Mapping[str, Mapping[str, int]] = {
    "vit_tiny_patch16": {"embed_dim": 192, "depth": 12, "num_heads": 3, "patch_size": 16},
    "vit_small_patch16": {"embed_dim": 384, "depth": 12, "num_heads": 6, "patch_size": 16},
    "vit_base_patch16": {"embed_dim": 768, "depth": 12, "num_heads": 12, "patch_size": 16},
    "vit_large_patch16": {"embed_dim": 1024, "depth": 24, "num_heads": 16, "patch_size": 16},
}
BOTTLENECK_DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
BASIC_DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


def vit_options(name: str, **options: Any) -> dict[str, Any]:
    """Arguments of :class:`~dqnet.GlobalViT` for a size of :data:`VITS`; ``options`` come before the size's own.

    Raises:
        InputError: an unknown name.
    """
    if name not in VITS:
        near = get_close_matches(name, VITS, 1)
        meant = f"did you mean {near[0]}? known: " if near else "use one of "
        raise InputError(f"unknown transformer {name!r}", "vit", meant + ", ".join(VITS))
    return {**VITS[name], **options}
