"""Networks filled with the parameters of the reference cases, and what their gradients are called there."""

from __future__ import annotations

from typing import Any

import torch
from bm_golden import fill_state_dict, load_json, tensor
from torch import Tensor, nn

from beyond_masking import TokenPretrainModel, from_official, to_official
from vireo.engine.checkpoint import fit_state_dict


def official_state(keys: str, seed: int) -> dict[str, Tensor]:
    """The state dict of ``<keys>.keys.json``, filled by the authors' names."""
    shapes = load_json(f"{keys}.keys")
    return fill_state_dict({key: torch.empty(entry["shape"]) for key, entry in shapes.items()}, seed)


def load_official(model: TokenPretrainModel, state: dict[str, Tensor]) -> TokenPretrainModel:
    """``model`` with all of ``state``, strictly, and its own position tables."""
    own = model.state_dict()
    tables = {key: own[key] for key in ("encoder.pos_embed", "decoder.pos_embed")}
    fit_state_dict(model, {**from_official(state), **tables}, "reference")
    return model


def filled(model: TokenPretrainModel, seed: int) -> TokenPretrainModel:
    """``model`` with the parameters of a case."""
    return load_official(model, fill_state_dict({k: v.clone() for k, v in to_official(model).items()}, seed))


def image(batch: int, side: int, seed: int) -> Tensor:
    return tensor("input.image", (batch, 3, side, side), seed)


def mask_noise(batch: int, seed: int) -> Tensor:
    return tensor("input.mask_noise", (batch, 196), seed)


def named_parameters(model: TokenPretrainModel, of: Any = lambda parameter: parameter) -> list[Tensor]:
    """``of`` each parameter in the order of ``grad_norms``."""
    encoder, decoder = model.encoder, model.decoder
    qkv: nn.Linear = encoder.blocks[0].attn.qkv  # type: ignore[assignment, union-attr]
    bias = of(qkv.bias)
    q, _, v = (None, None, None) if bias is None else bias.chunk(3)
    fc1: nn.Linear = decoder.blocks[0].mlp.fc1  # type: ignore[assignment, union-attr]
    return [
        of(encoder.patch_embed.proj.weight),
        q,
        v,
        of(qkv.weight),
        of(encoder.norm.weight),
        of(decoder.embed.weight),
        of(decoder.mask_token),
        of(fc1.weight),
        of(decoder.head.weight),
        of(decoder.head.bias),
    ]


def norms(tensors: list[Tensor | None]) -> Tensor:
    """L2 norms in float64, 0 for what has no gradient."""
    return torch.stack(
        [torch.zeros((), dtype=torch.float64) if t is None else t.detach().double().norm() for t in tensors]
    )
