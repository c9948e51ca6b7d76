"""The whole pre-training step compiled, in one graph, against the plain one: losses and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from beyond_masking import GeneratorDraws, TokenPretrainModel
from beyond_masking.model import DEGRADATIONS

SIZES: dict[str, Any] = {"img_size": 28, "patch_size": 4, "embed_dim": 24, "depth": 1, "num_heads": 3}
DECODER: dict[str, Any] = {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}


def check(degradation: str, mask_ratio: float, backend: str) -> None:
    """Compare loss, its parts and all gradients with explicit parameters and noise."""
    torch.manual_seed(0)
    torch.compiler.reset()
    model = TokenPretrainModel(degradation, mask_ratio, **SIZES, **DECODER)
    images = torch.randn(2, 3, model.crop_size, model.crop_size)
    params = model.degradation.draw(GeneratorDraws(2))
    noise = torch.rand(2, model.num_patches)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    weights = [p for p in model.parameters() if p.requires_grad]

    def losses(images: Tensor, params: Any, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        output = model(images, params, noise)
        return output.loss, output.losses

    compiled = torch.compile(losses, fullgraph=True, backend=backend)
    (loss, parts), (quick, quick_parts) = losses(images, params, noise), compiled(images, params, noise)
    assert parts.keys() == quick_parts.keys()
    torch.testing.assert_close(quick, loss, rtol=1e-5, atol=1e-5)
    for name, part in parts.items():
        torch.testing.assert_close(quick_parts[name], part, rtol=1e-5, atol=1e-5)
    plain_gradients, quick_gradients = torch.autograd.grad(loss, weights), torch.autograd.grad(quick, weights)
    for name, one, other in zip(names, plain_gradients, quick_gradients):
        assert (one - other).abs().max() <= 1e-5, name
    assert max(float(gradient.abs().max()) for gradient in plain_gradients) > 1e-3


@pytest.mark.parametrize("degradation", DEGRADATIONS)
def test_one_graph(degradation: str) -> None:
    check(degradation, 0.75, "aot_eager")


@pytest.mark.parametrize("degradation", ["zoomed_in", "zoomed_out", "blurred"])
def test_one_graph_without_mask(degradation: str) -> None:
    check(degradation, 0.0, "aot_eager")


@pytest.mark.slow
def test_inductor() -> None:
    check("zoomed_in", 0.75, "inductor")
