"""The encoders as timm models: ``timm.create_model("g2sd_vit_small", num_classes=...)``.

Importing this module registers them; vireo does so for every installed package. The authors' files have no stable
addresses, so ``pretrained=True`` needs one: ``pretrained_cfg_overlay={"file": ...}`` with a run's folder or a
checkpoint of any layout, of generic or specific distillation, of MAE, or of a classifier. Heads are taken from it where
they have as many classes. The ``_distilled`` models have a distillation token at the end of their sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model, resolve_pretrained_cfg
from torch import nn

from vireo.backbones import MaskedViT
from vireo.errors import InputError

from .classifier import DistilledVisionTransformer
from .sizes import ENCODERS

_READOUTS = {"": "none", "avg": "mean", "token": "cls"}
_HEADS = ("head.", "head_dist.", "dist_token")
_DISTILLED = "_distilled"
_MODELS = {  # the size of each
    "g2sd_vit_tiny": "vit_tiny",
    "g2sd_vit_small": "vit_small",
    "g2sd_vit_base": "vit_base",
    "g2sd_vit_tiny_distilled": "vit_tiny",
    "g2sd_vit_small_distilled": "vit_small",
}


def _cfg(name: str) -> dict[str, Any]:
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": None,
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "patch_embed.proj",
        "classifier": ("head", "head_dist") if name.endswith(_DISTILLED) else "head",
        "paper_ids": "arXiv:2302.14771",
        "paper_name": "Generic-to-Specific Distillation of Masked Autoencoders",
        "origin_url": "https://github.com/pengzhiliang/G2SD",
    }


default_cfgs = generate_default_cfgs({name: _cfg(name) for name in _MODELS})


def _create(name: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    distilled, pool = name.endswith(_DISTILLED), kwargs.pop("global_pool", "token")
    if pool not in _READOUTS or (distilled and pool == "avg"):
        choices = ", ".join(repr(key) for key in _READOUTS if not (distilled and key == "avg"))
        raise InputError(f"no such pooling {pool!r}", f"{name}, global_pool", f"use one of {choices}")
    config = resolve_pretrained_cfg(name, kwargs.get("pretrained_cfg"), kwargs.get("pretrained_cfg_overlay"))
    if pretrained and not config.file:
        remedy = 'give a checkpoint with pretrained_cfg_overlay={"file": ...}, or set pretrained=False'
        raise InputError("the released weights have no stable address", name, remedy)

    def network(**options: Any) -> nn.Module:
        if not distilled:
            common = {"readout": _READOUTS[pool], "class_token": True, "positions": "learned", "qkv_bias": "qkv"}
            return MaskedViT(**{**common, **options})
        built = DistilledVisionTransformer(**{**options, **({} if pool else {"num_classes": 0})})
        built.global_pool = pool
        return built

    built: Any = build_model_with_cfg(
        network,
        name,
        False,  # the weights are loaded below, with our own checks
        feature_cfg={"out_indices": kwargs.pop("out_indices", 3), "feature_cls": "getter"},
        kwargs_filter=("global_pool",),  # what timm adds of itself
        **{**ENCODERS[_MODELS[name]], "num_classes": 1000, **kwargs},
    )
    if pretrained:
        _load(built.model if kwargs.get("features_only") else built, str(config.file))
    return cast(nn.Module, built)


def _load(network: nn.Module, file: str) -> None:
    """Load the encoder strictly, and the heads that fit."""
    from .official import load_encoder, read_state

    load_encoder(network, file)
    own = network.state_dict()
    heads = {key: value for key, value in read_state(file).items() if key.startswith(_HEADS) and key in own}
    network.load_state_dict({k: v for k, v in heads.items() if v.shape == own[k].shape}, strict=False)


def _entry(name: str) -> Callable[..., nn.Module]:
    """timm's entry of a model."""

    def entry(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return _create(name, pretrained, **kwargs)

    size = ENCODERS[_MODELS[name]]
    entry.__name__ = entry.__qualname__ = name
    entry.__doc__ = f"{size['embed_dim']} channels, {size['depth']} blocks, patches of 16 pixels."
    return register_model(entry)


for _name in _MODELS:
    globals()[_name] = _entry(_name)
