"""The encoders as timm models: ``timm.create_model("beyond_masking_vit_base", num_classes=...)``.

Importing this module registers them; vireo does so for every installed package. The authors released no weights, so
``pretrained=True`` needs a file: ``pretrained_cfg_overlay={"file": ...}`` with a checkpoint, ours or in their layout.
By timm's custom a head is taken from it where the overlay's ``num_classes`` (else 1000) is the model's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model, resolve_pretrained_cfg
from torch import Tensor

from vireo.backbones import MaskedViT
from vireo.engine.checkpoint import LoadReport
from vireo.errors import InputError

from .official import encoder_state

_READOUTS = {"": "none", "avg": "mean", "token": "cls"}
_CFG = {
    "url": "",
    "num_classes": 1000,
    "input_size": (3, 224, 224),
    "pool_size": None,
    "crop_pct": 224 / 256,
    "interpolation": "bicubic",
    "fixed_input_size": True,
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "first_conv": "patch_embed.proj",
    "classifier": "head",
    "license": "apache-2.0",
}
default_cfgs = generate_default_cfgs(
    {f"beyond_masking_vit_{size}": _CFG for size in ("tiny", "small", "base", "large")}
)


def _fitting(state: Mapping[str, Tensor], model: MaskedViT) -> dict[str, Tensor]:
    """A checkpoint of pre-training as weights of ``model``, whose read-out keeps its own where the file has none.

    Raises:
        InputError: the encoder's entries do not fit.
    """
    own, given = model.state_dict(), encoder_state(state)
    if "pos_embed" in given or model.positions != "learned":
        given = model.resized(given)
    readout = ("norm.", "fc_norm.", "head.", "cls_token", *(["pos_embed"] if model.positions == "learned" else []))
    faults = LoadReport(
        missing=[key for key in own if key not in given and not key.startswith(readout)],
        unexpected=[key for key in given if key not in own and not key.startswith(readout)],
        misshaped=[],  # timm adapts or refuses these
    )
    if faults:
        what = f"the checkpoint does not fit the encoder; {faults}"
        raise InputError(what, "pretrained_cfg_overlay", "use the model of its pre-training")
    return {key: given.get(key, value) for key, value in own.items()}


def _create(variant: str, pretrained: bool, **kwargs: Any) -> MaskedViT:
    pool = kwargs.pop("global_pool", "avg")
    if pool not in _READOUTS:
        choices = ", ".join(map(repr, _READOUTS))
        raise InputError(f"unknown global_pool {pool!r}", variant, f"use one of {choices}")
    readout = _READOUTS[pool]
    if readout == "cls":
        kwargs.setdefault("positions", "learned")  # section 3.6
    if pretrained:
        config = resolve_pretrained_cfg(variant, kwargs.get("pretrained_cfg"), kwargs.get("pretrained_cfg_overlay"))
        remedy = 'give a checkpoint with pretrained_cfg_overlay={"file": ...}, or set pretrained=False'
        if not (config.has_weights or config.state_dict):
            raise InputError("no weights of these encoders were published", variant, remedy)
        if config.file and not Path(config.file).exists():
            raise InputError("no such file", str(config.file), remedy)
    return build_model_with_cfg(
        MaskedViT,
        variant,
        pretrained,
        pretrained_filter_fn=_fitting,
        feature_cfg={"out_indices": kwargs.pop("out_indices", 3), "feature_cls": "getter"},
        **{"readout": readout, "num_classes": 1000, **kwargs},
    )


@register_model
def beyond_masking_vit_tiny(pretrained: bool = False, **kwargs: Any) -> MaskedViT:
    """ViT-Ti/16 with mean read-out."""
    return _create("beyond_masking_vit_tiny", pretrained, **{"embed_dim": 192, "num_heads": 3, **kwargs})


@register_model
def beyond_masking_vit_small(pretrained: bool = False, **kwargs: Any) -> MaskedViT:
    """ViT-S/16 with mean read-out."""
    return _create("beyond_masking_vit_small", pretrained, **{"embed_dim": 384, "num_heads": 6, **kwargs})


@register_model
def beyond_masking_vit_base(pretrained: bool = False, **kwargs: Any) -> MaskedViT:
    """ViT-B/16 with mean read-out, the paper's model."""
    return _create("beyond_masking_vit_base", pretrained, **kwargs)


@register_model
def beyond_masking_vit_large(pretrained: bool = False, **kwargs: Any) -> MaskedViT:
    """ViT-L/16 with mean read-out."""
    sizes = {"embed_dim": 1024, "depth": 24, "num_heads": 16}
    return _create("beyond_masking_vit_large", pretrained, **{**sizes, **kwargs})
