"""The backbones as timm models, alone and with their pyramid: ``timm.create_model("itpn_base", num_classes=...)``.

Importing this module registers them; vireo does so for every installed package. The authors' files have no stable
addresses, so ``pretrained=True`` needs one: ``pretrained_cfg_overlay={"file": ...}`` with a checkpoint of theirs or of
ours. Layer scale and depth of the pyramid are then those of the file, and so is the classifier if it has as many
classes. ``itpn_base_pyramid`` and its like are pre-trained as a whole: maps of 256 channels at strides 4, 8, 16 and 32
for any detector, ``timm.create_model("itpn_base_pyramid", features_only=True)``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast

from timm.data.constants import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_INCEPTION_MEAN,
    IMAGENET_INCEPTION_STD,
)
from timm.models import (
    build_model_with_cfg,
    generate_default_cfgs,
    register_model,
    register_model_deprecations,
    resolve_pretrained_cfg,
)
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from vireo.errors import InputError

from .features import iTPNFeatures
from .hivit import HiViT
from .neck import PyramidNeck
from .sizes import SIZES, itpn_backbone

DETECTION_EPS = 1e-5  # of the norms in the released detectors

# name: size, side of the images, tag of each released file and its name
_MODELS: dict[str, tuple[str, int, dict[str, str]]] = {
    "hivit_tiny_patch16_224": ("hivit_tiny", 224, {}),
    "hivit_small_patch16_224": ("hivit_small", 224, {}),
    "hivit_base_patch16_224": ("hivit_base", 224, {}),
    "itpn_base_patch16_224": ("itpn_base", 224, {"pixel": "iTPN-B-pixel", "clip": "iTPN-B-CLIP"}),
    "itpn_large_patch16_224": ("itpn_large", 224, {"pixel": "iTPN-L-pixel", "clip": "iTPN-L-CLIP/16"}),
    "itpn_large_patch16_256": ("itpn_large", 256, {"clip": "iTPN-L-CLIP/14"}),
    "fast_itpn_tiny_patch16_224": ("fast_itpn_tiny", 224, {"clip": "fast_itpn_tiny_1600e_1k.pt"}),
    "fast_itpn_small_patch16_224": ("fast_itpn_small", 224, {"clip": "fast_itpn_small_1600e_1k.pt"}),
    "fast_itpn_base_patch16_224": ("fast_itpn_base", 224, {"clip": "fast_itpn_base_clipl_e1600.pt"}),
    "fast_itpn_large_patch16_256": ("fast_itpn_large", 256, {"clip": "fast_itpn_large_1600e_1k.pt"}),
}
_PYRAMIDS = {"itpn_tiny_pyramid": "hivit_tiny", "itpn_base_pyramid": "itpn_base", "itpn_large_pyramid": "itpn_large"}
_SHORT = {name.partition("_patch16")[0]: name for name in _MODELS if name != "itpn_large_patch16_256"}
_OFFICIAL = {  # names in the authors' code
    "itpn_base_3324_patch16_224": "itpn_base_patch16_224",
    "itpn_large_2240_patch16_224": "itpn_large_patch16_224",
    "itpn_large_2240_patch16_256": "itpn_large_patch16_256",
    "fast_itpn_tiny_1112_patch16_224": "fast_itpn_tiny_patch16_224",
    "fast_itpn_small_2220_patch16_224": "fast_itpn_small_patch16_224",
    "fast_itpn_base_3324_patch16_224": "fast_itpn_base_patch16_224",
    "fast_itpn_large_2240_patch16_256": "fast_itpn_large_patch16_256",
}


def _cfg(side: int, half: bool, file: str, **more: Any) -> dict[str, Any]:
    """timm's description of released weights; ``half`` where images are normalised by 0.5 and 0.5."""
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, side, side),
        "pool_size": None,
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_INCEPTION_MEAN if half else IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_INCEPTION_STD if half else IMAGENET_DEFAULT_STD,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        "paper_ids": "arXiv:2211.12735",
        "paper_name": "Integrally Pre-Trained Transformer Pyramid Networks",
        "origin_url": "https://github.com/sunsmarterjie/iTPN",
        "notes": (f"released as {file}",) if file else (),
        **more,
    }


def _cfgs() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, (size, side, files) in {**_MODELS, **{short: _MODELS[name] for short, name in _SHORT.items()}}.items():
        for tag, file in (files or {"": ""}).items():
            half = tag == "clip" and not size.startswith("fast_")
            found[f"{name}.{tag}" if tag else name] = _cfg(side, half, file)
    for name, size in _PYRAMIDS.items():
        files = next((files for other, _, files in _MODELS.values() if other == size), {})
        for tag, file in (files or {"": ""}).items():
            more = {"num_classes": 0, "first_conv": "backbone.patch_embed.proj", "classifier": None}
            found[f"{name}.{tag}" if tag else name] = _cfg(224, False, file, **more)  # detectors use ImageNet's values
    return found


default_cfgs = generate_default_cfgs(_cfgs())


class TimmPyramid(iTPNFeatures):
    """Backbone and pyramid as one timm model; maps at strides 4, 8, 16 and 32.

    Args:
        size: of the backbone, see :data:`~itpn.sizes.SIZES`.
        fpn_dim, fpn_depth: channels and blocks a step of the pyramid.
        extra: how the map of stride 32 is pooled.
        **options: of the backbone.

    Raises:
        InputError: as the parts raise it.
    """

    def __init__(
        self,
        size: str,
        fpn_dim: int = 256,
        fpn_depth: int = 1,
        extra: Literal["avgpool", "maxpool"] = "avgpool",
        **options: Any,
    ) -> None:
        backbone = itpn_backbone(size, **{"norm_eps": DETECTION_EPS, **options})
        assert isinstance(backbone, HiViT), "no pyramid of Fast-iTPN was released"
        super().__init__(backbone, PyramidNeck(backbone.dims, fpn_dim, fpn_depth, backbone.norm_eps), 4, extra)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """timm's interface: the maps ``(B, d, H / s, W / s)``, finest first.

        Args:
            x: images.
            indices: which of the four, or how many of the last; None for all.
            norm: must be False.
            stop_early: no effect: every map is made from the top.
            output_fmt: must be ``NCHW``.
            intermediates_only: return the maps alone, else (the coarsest map, maps).

        Raises:
            InputError: another format, or units that do not divide the images.
        """
        if output_fmt != "NCHW" or norm:
            raise InputError("the maps are NCHW and not normalised", "forward_intermediates", "leave out the options")
        maps = self.maps(x)
        wanted = [maps[index] for index in feature_take_indices(len(maps), indices)[0]]
        return wanted if intermediates_only else (maps[-1], wanted)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the backbone's blocks in the backward pass."""
        self.backbone.set_grad_checkpointing(enable)


def _create(name: str, size: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    pyramid = name in _PYRAMIDS
    if kwargs.pop("global_pool", "avg") != "avg":
        raise InputError("another pooling than the mean", f"{name}, global_pool", "leave it out")
    if pyramid and kwargs.pop("num_classes", 0):
        raise InputError("a pyramid has no classifier", f"{name}, num_classes", "leave it out")
    config = resolve_pretrained_cfg(name, kwargs.get("pretrained_cfg"), kwargs.get("pretrained_cfg_overlay"))
    state = _weights(name, config) if pretrained else None
    options: dict[str, Any] = {} if pyramid else {"num_classes": 1000}
    if not size.startswith("fast_"):
        options |= {"init_values": 0.1} if config.tag == "clip" else {}
        options |= {} if pyramid else {"rel_pos": "bias"}
    if state is not None:
        from .identify import identify

        found = identify(state, str(config.file))
        options["init_values"] = found.options["init_values"]
        if pyramid and found.fpn_depth:
            options["fpn_depth"] = found.fpn_depth

    def network(**given: Any) -> nn.Module:
        return TimmPyramid(size, **given) if pyramid else itpn_backbone(size, **given)

    unknown: Any = ("global_pool", "num_classes") if pyramid else ("global_pool",)  # what timm adds of itself
    indices = kwargs.pop("out_indices", (0, 1, 2, 3) if pyramid else (0, 1, 2))
    built: Any = build_model_with_cfg(
        network,
        name,
        False,  # the weights are loaded below, with our own checks
        feature_cfg={"out_indices": indices, "feature_cls": "getter"},
        kwargs_filter=unknown,
        **{**options, **kwargs},
    )
    if state is not None:
        _load(built.model if kwargs.get("features_only") else built, state, str(config.file))
    return cast(nn.Module, built)


def _weights(name: str, config: Any) -> dict[str, Tensor]:
    """The state dict of the file that a configuration names."""
    if not config.file:
        remedy = 'give a checkpoint with pretrained_cfg_overlay={"file": ...}, or set pretrained=False'
        raise InputError("the released weights have no stable address", name, remedy)
    from .official import read_state

    return read_state(config.file)


def _load(network: Any, state: dict[str, Tensor], where: str) -> None:
    """Load backbone and pyramid, or backbone and classifier, if that has as many classes."""
    from .official import fit_backbone, fit_classifier, fit_neck

    if isinstance(network, TimmPyramid):
        entries, _ = fit_backbone(network.backbone, state, where)
        of_neck, _ = fit_neck(network.neck, state, where)
        network.backbone.load_state_dict(entries, strict=False)
        network.neck.load_state_dict(of_neck, strict=False)
        return
    entries, _ = fit_backbone(network, state, where)
    network.load_state_dict({**entries, **fit_classifier(network, state)}, strict=False)


def _entry(name: str, size: str, side: int) -> Callable[..., nn.Module]:
    """timm's entry of a model."""

    def entry(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return _create(name, size, pretrained, **{"img_size": side, **kwargs})

    width, depths = SIZES[size]["embed_dim"], SIZES[size]["depths"]
    entry.__name__ = entry.__qualname__ = name
    entry.__doc__ = f"{size}: {width} channels, depths {depths}."
    return register_model(entry)


for _name, (_size, _side, _) in _MODELS.items():
    globals()[_name] = _entry(_name, _size, _side)
for _short, _name in _SHORT.items():
    globals()[_short] = _entry(_short, *_MODELS[_name][:2])
for _name, _size in _PYRAMIDS.items():
    globals()[_name] = _entry(_name, _size, 224)
register_model_deprecations(__name__, dict(_OFFICIAL))
