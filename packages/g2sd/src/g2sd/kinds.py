"""The kinds of runs, and how a configuration shows which it is. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from vireo.engine.cli import require_own_keys

Kind = Literal["pretraining", "distillation", "classifier", "segmentation", "detection"]

SCRIPTS: Mapping[str, str] = {
    "pretraining": "g2sd-pretrain",
    "distillation": "g2sd-distill",
    "classifier": "g2sd-finetune",
    "segmentation": "g2sd-segment",
    "detection": "g2sd-detect",
}
COMMON_KEYS = ("model", "data", "optim", "seed")
OWN_KEYS: Mapping[str, tuple[str, ...]] = {  # that no other kind has
    "pretraining": ("norm_pix",),
    "distillation": ("target_block",),
    "classifier": ("mixing",),
    "segmentation": ("segmenter",),
    "detection": ("detector",),
}


def require_own_settings(config: Any, kind: Kind) -> None:
    """Check that a configuration, with its experiment, is of one kind of runs only.

    Raises:
        InputError: the experiment is of another script.
    """
    require_own_keys(config, kind, OWN_KEYS, SCRIPTS)
