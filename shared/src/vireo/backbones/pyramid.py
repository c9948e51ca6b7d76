"""Backbones that return one feature map per stride, any of timm's by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Literal

import timm
import torch
from timm.layers.norm import GroupNorm
from torch import nn

from vireo.errors import InputError

BackboneNorm = Literal["fixed_bn", "bn", "gn"]


class FixedStatsBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm that always uses its running statistics, also in training; its affine parameters still train."""

    def train(self, mode: bool = True) -> FixedStatsBatchNorm2d:
        super().train(False)
        return self


@cache
def load_registrations() -> tuple[str, ...]:
    """Import every installed package's backbones into timm's registry (entry-point group ``vireo.backbones``)."""
    found = tuple(sorted(entry_points(group="vireo.backbones"), key=lambda point: point.name))
    for point in found:
        point.load()
    return tuple(point.name for point in found)


def pyramid_backbone(
    name: str,
    *,
    pretrained: bool = False,
    norm: BackboneNorm = "fixed_bn",
    frozen_stages: int = 0,
    strides: Sequence[int] = (4, 8, 16, 32),
    weights: str | None = None,
    **kwargs: Any,
) -> nn.Module:
    """A timm model that returns its maps at the given strides, under timm's (= torchvision's) parameter names.

    A plain vision transformer, whose maps all have one stride, gets a simple feature pyramid: it is a
    :class:`~vireo.backbones.vit.ViTFeatures`, and images must be padded to a multiple of the largest stride.

    Args:
        name: any timm name with maps at several strides (``resnet50``, ``convnext_tiny``) or of a plain ViT
            (``vit_base_patch16_224``), or one registered by a Vireo package (``beyond_masking_vit_base``).
        pretrained: load timm's weights for this name.
        norm: for ResNets, ``"fixed_bn"`` (statistics fixed, affine parameters train), ``"bn"`` or ``"gn"`` (GroupNorm,
            the one to train from scratch with small batches).
        frozen_stages: leading stages without gradient; 1 freezes the stem and the stride-4 stage. Plain transformers
            have none.
        strides: strides of the maps; a plain transformer has p/4, p/2, p and 2p for its patch size p.
        weights: file with pre-trained weights, in place of the download: in timm's layout, or for a plain transformer
            whatever ``ViTFeatures`` takes.
        **kwargs: for ``timm.create_model``, e.g. ``channels=(32, 64, 128, 256)``; for a plain transformer also
            ``out_channels``.

    Returns:
        A module mapping images ``(B, 3, H, W)`` to a list of maps ``(B, C_i, H / s_i, W / s_i)``; its
        ``feature_info.channels()`` are the ``C_i``.

    Raises:
        InputError: unknown name, weights that cannot be downloaded or do not fit, or stages, strides or options that
            the model does not have.
    """
    load_registrations()
    if not timm.is_model(name):
        near = ", ".join(get_close_matches(name, timm.list_models(), n=4)) or "resnet50"
        raise InputError(f"unknown backbone {name!r}", "model.backbone", f"use the name of a timm model, e.g. {near}")
    if "resnet" in name or "resnext" in name:
        layers: dict[str, Callable[..., nn.Module]] = {
            "fixed_bn": FixedStatsBatchNorm2d,
            "bn": nn.BatchNorm2d,
            "gn": GroupNorm,
        }
        if norm not in layers:
            raise InputError(f"unknown normalisation {norm!r}", "model.norm", f"use one of {', '.join(layers)}")
        kwargs["norm_layer"] = layers[norm]
    reductions = _reductions(name)
    try:
        if len(set(reductions)) == 1:
            model = _plain_transformer(name, pretrained=pretrained, weights=weights, **kwargs)
            _require_strides(strides, model.feature_info.reduction(), name, exactly=True)  # type: ignore[operator, union-attr]
        else:
            _require_strides(strides, reductions, name)
            indices = tuple(max(i for i, r in enumerate(reductions) if r == stride) for stride in strides)
            if weights is not None:
                kwargs["pretrained_cfg_overlay"] = {"file": weights}
            model = timm.create_model(
                name, features_only=True, out_indices=indices, pretrained=pretrained or weights is not None, **kwargs
            )
    except (OSError, RuntimeError) as error:
        if not pretrained and weights is None:
            raise
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else "no reason given"
        raise InputError(
            f"the pre-trained weights could not be loaded ({type(error).__name__}: {reason})",
            f"backbone {name}, {weights or 'download'}",
            "connect to the internet once so that they are cached, name a local file with backbone_weights, "
            "or train from scratch with pretrained=false",
        ) from error
    _freeze(model, frozen_stages, name)
    return model


def _reductions(name: str) -> list[int]:
    """Strides of a timm model's maps, without allocating its parameters."""
    with torch.device("meta"):
        return list(timm.create_model(name, features_only=True).feature_info.reduction())  # type: ignore[operator, union-attr]


def _plain_transformer(name: str, **options: Any) -> nn.Module:
    """:class:`~vireo.backbones.vit.ViTFeatures`, or a clear message where timm's model is none."""
    from vireo.backbones.vit import ViTFeatures  # which imports this module

    try:
        return ViTFeatures(name, **options)
    except (AssertionError, TypeError) as error:  # timm's: other networks of one stride, or misspelt options
        raise InputError(
            f"no plain transformer for images of any size, or not with these options ({error})",
            f"backbone {name}",
            "use a ViT such as vit_base_patch16_224, and options that it has",
        ) from error


def _require_strides(wanted: Sequence[int], given: Sequence[int], name: str, *, exactly: bool = False) -> None:
    """Raise InputError unless the ``wanted`` strides are among the ``given``, or are exactly those."""
    if list(wanted) != list(given) if exactly else not set(wanted) <= set(given):
        remedy = "give it another patch_size" if exactly else "choose of those"
        raise InputError(f"the backbone has maps at strides {list(given)}, not {list(wanted)}", name, remedy)


def _freeze(model: nn.Module, stages: int, name: str) -> None:
    """Take the gradient from everything up to the last module of the given number of stages."""
    if stages == 0:
        return
    layers = list(getattr(model, "return_layers", ()))
    if stages > len(layers):
        what = f"{name} has {len(layers)} stages that can be frozen, not {stages}"
        raise InputError(what, "model.frozen_stages", f"set it to {len(layers)}")
    for child_name, child in model.named_children():
        child.requires_grad_(False)
        if child_name == layers[stages - 1]:
            return
