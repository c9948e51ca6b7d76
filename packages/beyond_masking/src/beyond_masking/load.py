"""What a finished run holds: its network, configuration and classes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from omegaconf import DictConfig

from vireo.backbones import MaskedViT
from vireo.engine.checkpoint import fit_state_dict, read, state_dict_in
from vireo.engine.finished import class_name, final_weights, read_classes, read_config_of, require_same_sizes
from vireo.engine.rng import seed_all
from vireo.errors import InputError

from .build import build_encoder, build_pretraining
from .model import TokenPretrainModel
from .official import from_official, is_official, load_pretraining

Kind = Literal["pretraining", "classifier"]

_SCRIPTS = {"pretraining": "beyond-masking-pretrain", "classifier": "beyond-masking-finetune"}
_COMMON_KEYS = ("model", "data", "augmentation", "optim", "seed")
_OWN_KEYS = {"pretraining": {"degradation", "mask_ratio"}, "classifier": {"readout", "mixing"}}
_SIZES = ("patch_size", "embed_dim", "depth", "num_heads")  # the image may have another size: positions are computed


@dataclass(frozen=True)
class LoadedRun:
    """What a finished run holds.

    Attributes:
        kind: of ``beyond-masking-pretrain`` or of ``beyond-masking-finetune``.
        network: in evaluation mode, on the CPU.
        config: the run's configuration.
        classes: class names by label; of a pre-training run, which has none, empty.
    """

    kind: Kind
    network: TokenPretrainModel | MaskedViT
    config: DictConfig
    classes: tuple[str, ...]

    @property
    def pretraining(self) -> TokenPretrainModel:
        """The network of a pre-training run."""
        assert isinstance(self.network, TokenPretrainModel), "ask load_run for this kind"
        return self.network

    @property
    def encoder(self) -> MaskedViT:
        """The network, or its encoder."""
        return self.network if isinstance(self.network, MaskedViT) else self.network.encoder


def load_run(
    folder: str | os.PathLike[str],
    weights: str | os.PathLike[str] | None = None,
    *,
    kind: Kind | None = None,
    untrained: bool = False,
) -> LoadedRun:
    """Build the network of a run and load its final weights, or others.

    Args:
        folder: of a run of ``beyond-masking-pretrain`` or ``beyond-masking-finetune``.
        weights: another ``.safetensors`` or torch file of the same network, such as ``checkpoints/best.pt`` of a run
            that is not finished, or a checkpoint in the authors' layout.
        kind: that the run must be of; None for either.
        untrained: the weights with which a run of this configuration and seed starts where it has no ``init``.

    Raises:
        InputError: no such run, one of another kind, no weights in it, both ``weights`` and ``untrained``, or weights
            that cannot be read, are refused or do not fit.
    """
    config, found = _config_and_kind(folder)
    if kind is not None and found != kind:
        what = f"is a run of {_SCRIPTS[found]}"
        raise InputError(what, str(folder), f"give the folder of a run of {_SCRIPTS[kind]}")
    if untrained and weights is not None:
        raise InputError("fresh weights, and those of a file", f"weights={weights}", "leave out one of the two")
    classes = read_classes(folder, _SCRIPTS[found], class_name) if found == "classifier" else ()
    if weights is None and not untrained:
        weights = final_weights(folder)
    seed_all(config.seed)
    network: TokenPretrainModel | MaskedViT
    if found == "pretraining":
        network = build_pretraining(config)
    else:
        network = build_encoder(config.model, readout=config.readout, num_classes=len(classes))
    if weights is not None:
        if isinstance(network, MaskedViT):
            load_classifier(network, weights)
        else:
            load_pretraining(network, weights)
    return LoadedRun(found, network.eval(), config, classes)


def load_classifier(model: MaskedViT, path: str | os.PathLike[str]) -> None:
    """Load a classifier strictly, from our layout or the authors'.

    Raises:
        InputError: an unreadable file, or keys that do not fit.
    """
    state = state_dict_in(read(path), str(path))
    if is_official(state):
        fixed = {} if model.positions == "learned" else {"pos_embed": model.state_dict()["pos_embed"]}
        state = {**from_official(state), **fixed}
    fit_state_dict(model, state, str(path))


def require_same_model(model: Any, init: str, readout: str = "mean") -> None:
    """Check that a classifier has the sizes of the run it starts from; nothing to check where ``init`` is a file.

    Args:
        model: the classifier's ``model`` configuration.
        init: folder of a run, or a checkpoint.
        readout: the classifier's; ``cls`` has positions of its own.

    Raises:
        InputError: naming the sizes of both.
    """
    if (Path(init) / "config.yaml").is_file():
        names = [*_SIZES, *(["positions"] if readout != "cls" else [])]
        require_same_sizes(model, _config_and_kind(init)[0].model, names, init)


def _config_and_kind(folder: str | os.PathLike[str]) -> tuple[DictConfig, Kind]:
    config, kind = read_config_of(folder, _SCRIPTS, _OWN_KEYS, _COMMON_KEYS)
    return config, cast(Kind, kind)
