"""Released networks as timm models: ``import if_nas.timm_models; timm.create_model("ifnas_l8", num_classes=...)``.

timm knows them once this module is imported, which :func:`vireo.backbones.load_registrations` does for the commands
that take a timm name. A name alone stands for the largest even width within 600 million multiply-adds at 224 pixels
(section 6), ``..._c64`` for the 64 channels of the authors' script. Options are ``width``, ``num_classes`` and
``drop_path``. With ``features_only=True`` they give maps at strides 8, 16 and 32. No weights were released:
``pretrained=True`` needs ``pretrained_cfg_overlay={"file": ...}`` with weights of one's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model, resolve_pretrained_cfg
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from vireo.engine.checkpoint import fit_state_dict, read, state_dict_in
from vireo.errors import InputError

from .derived import DerivedNetwork, DerivedStage
from .published import GENOTYPES

# name: architecture, width that fits 600 million multiply-adds; dnas_ is the search without interleaving-free phases
_NETWORKS: dict[str, tuple[str, int]] = {
    "ifnas_l4": ("taas_sample_l4", 54),
    "ifnas_l4_v2": ("taas_sample_l4_v2", 56),
    "ifnas_l4_keep1": ("if_l4_keep1", 62),
    "ifnas_l6_keep1": ("if_l6_keep1", 68),
    "ifnas_l8": ("if_l8", 56),
    "ifnas_l8_keep1": ("if_l8_keep1", 70),
    "dnas_l4": ("taas_no_sample_l4", 56),
    "dnas_l8_keep2": ("taas_no_sample_l8_keep2", 62),
}
SIZES = {
    f"{name}{suffix}": (genotype, width)
    for name, (genotype, fitted) in _NETWORKS.items()
    for suffix, width in (("", fitted), ("_c64", 64))
}
"""Name of the timm model to released architecture and width."""
_OPTIONS = {"width", "num_classes", "drop_path", "features_only", "out_indices"}
_OF_TIMM = {"pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "feature_cls", "output_stride"}  # it gives them


class TimmDerivedNetwork(DerivedNetwork):
    """A :class:`~if_nas.derived.DerivedNetwork` with timm's interface for classifiers and maps.

    Args:
        genotype: name of a released architecture.
        width, num_classes, drop_path: as there.
    """

    def __init__(self, genotype: str, width: int, num_classes: int = 1000, drop_path: float = 0.0) -> None:
        super().__init__(GENOTYPES[genotype], width, num_classes, "imagenet", drop_path=drop_path)
        self.feature_info = [
            {"num_chs": channels, "reduction": 8 * 2**index, "module": f"stages.{index}"}
            for index, channels in enumerate(self.widths)
        ]

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the last layer; 0 classes leave the pooled features.

        Raises:
            InputError: another pooling than the mean.
        """
        if global_pool not in (None, "avg"):
            raise InputError("another pooling than the mean", "global_pool", "leave it out")
        self.num_classes = num_classes
        self.classifier = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """timm's interface: to compute maps anew in the backward pass is not supported.

        Raises:
            InputError: it is asked for.
        """
        if enable:
            raise InputError("gradient checkpointing is not supported", "set_grad_checkpointing", "leave it out")

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """timm's interface: maps ``(B, C_i, H / s_i, W / s_i)`` at strides 8, 16, 32.

        Args:
            x: images ``(B, 3, H, W)``.
            indices: which of the three, or how many of the last; None for all.
            norm: must be False.
            stop_early: no effect.
            output_fmt: must be ``NCHW``.
            intermediates_only: return the maps alone, else (the map before pooling, maps).

        Raises:
            InputError: another format.
        """
        if output_fmt != "NCHW" or norm:
            raise InputError("the maps are NCHW and not normalised", "forward_intermediates", "leave out the options")
        maps = self.stage_features(x)
        wanted = [maps[index] for index in feature_take_indices(len(self.feature_info), indices)[0]]
        return wanted if intermediates_only else (self.final(maps[-1]), wanted)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """timm's interface: remove what the maps ``indices`` do not need, so that every parameter gets a gradient."""
        taken, last = feature_take_indices(len(self.feature_info), indices)
        self.stages = self.stages[: last + 1]
        for stage in self.stages:
            cast(DerivedStage, stage).remove_dead_nodes()
        if prune_head:
            self.final = nn.Sequential()
            self.reset_classifier(0)
        return taken


def _create(name: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    genotype, width = SIZES[name]
    if kwargs.pop("global_pool", "avg") != "avg":
        raise InputError("another pooling than the mean", f"{name}, global_pool", "leave it out")
    if kwargs.pop("in_chans", 3) != 3:
        raise InputError("images have three channels", f"{name}, in_chans", "leave it out")
    if unknown_options := sorted(kwargs.keys() - _OPTIONS - _OF_TIMM):
        what = "the networks have no such option"
        raise InputError(
            what, f"{name}, {unknown_options[0]}", f"leave it out; there are {', '.join(sorted(_OPTIONS))}"
        )
    config = resolve_pretrained_cfg(name, kwargs.get("pretrained_cfg"), kwargs.get("pretrained_cfg_overlay"))
    if pretrained and not config.file:
        remedy = 'set pretrained=False, or give weights of your own with pretrained_cfg_overlay={"file": ...}'
        raise InputError("no weights were released", name, remedy)
    unknown: Any = ("global_pool", "in_chans")  # what timm adds of itself
    indices = kwargs.pop("out_indices", (0, 1, 2))
    built: Any = build_model_with_cfg(
        TimmDerivedNetwork,
        name,
        False,  # the weights are loaded below, with our own checks
        feature_cfg={"out_indices": indices, "feature_cls": "getter"},
        kwargs_filter=unknown,
        **{"genotype": genotype, "width": width, **kwargs},
    )
    if pretrained:
        _load(built.model if kwargs.get("features_only") else built, str(config.file))
    return cast(nn.Module, built)


def _load(network: DerivedNetwork, file: str) -> None:
    """Load what the network has of a training's weights; a classifier only of as many classes."""
    state, own = state_dict_in(read(file), file), network.state_dict()
    with torch.device("meta"):
        pruned = DerivedNetwork(network.genotype, network.width, 1).state_dict().keys() - own.keys()
    state = {key: value for key, value in state.items() if not key.startswith("auxiliary_head.") and key not in pruned}
    for key in [key for key in state if key.startswith("classifier.")]:
        if key not in own or state[key].shape != own[key].shape:
            del state[key]
    classifier = {key: value for key, value in own.items() if key.startswith("classifier.")}
    fit_state_dict(network, {**classifier, **state}, file)


def _entry(name: str) -> Callable[..., nn.Module]:
    """timm's entry of a model."""

    def entry(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return _create(name, pretrained, **kwargs)

    genotype, width = SIZES[name]
    entry.__name__ = entry.__qualname__ = name
    entry.__doc__ = f"{genotype} with {width} channels in the first stage."
    return register_model(entry)


default_cfgs = generate_default_cfgs(
    {
        name: {
            "url": "",
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "pool_size": (7, 7),
            "crop_pct": 0.875,
            "interpolation": "bilinear",
            "mean": IMAGENET_DEFAULT_MEAN,
            "std": IMAGENET_DEFAULT_STD,
            "first_conv": "stem.0",
            "classifier": "classifier",
            "paper_ids": "arXiv:2112.02488",
            "paper_name": "Exploring Complicated Search Spaces with Interleaving-Free Sampling",
            "origin_url": "https://github.com/sunsmarterjie/IFNAS",
        }
        for name in SIZES
    }
)
for _name in SIZES:
    globals()[_name] = _entry(_name)
