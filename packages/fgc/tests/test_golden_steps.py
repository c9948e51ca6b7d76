"""Whole training steps of both stages against the authors' computation: two of each, from images to parameters.

The network computes in float64, so that the result does not depend on the processor's kernels; the numbers to compare
with are float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fgc_golden import close, fill_state_dict, load, tensor, unpacked
from torch import Tensor, nn

from fgc.blocks import gated_blocks
from fgc.coupling import FeatureGateCoupling, couple
from fgc.gate import uniform_noise
from fgc.resnet import GatedResNet, gated_resnet20
from fgc.shaping import batch_shaping_loss, expected_gate_rate

BATCH, SAMPLES, BLOCKS = 8, 64, (7, 8)
RHO, ZETA, KAPPA = {"fgc": 0.4, "bas": 0.25}, 0.6, 0.003
LOOSE = 3e-4  # gradients and parameters: two convolution back ends differ by 5e-5
# One sum before the last ReLU of block 0 is -1.1e-7, and was rounded to the other side of 0 in the authors' float32
# run; the gradient knows on which side it was. It is moved there, by one of its addends:
# (stage, step): (layer, position in the layer's output, shift).
KINKS = {("fgc", 0): ("layer1.0.bn2", 105396, 2e-6)}


def golden_couplings(seed: int) -> list[FeatureGateCoupling]:
    couplings = []
    for block in BLOCKS:
        coupling = FeatureGateCoupling(SAMPLES, 64, num_neighbors=6)
        gates = tensor(f"input.gate_memory.{block}", (SAMPLES, 64), seed)
        coupling.gate_bank.memory.copy_(F.normalize(gates))
        features = tensor(f"input.feat_memory.{block}", (SAMPLES, 64), seed)
        coupling.feature_bank.memory.copy_(F.normalize(features.abs()))
        couplings.append(coupling)
    return couplings


def golden_noise(network: GatedResNet, seed: int, step: int) -> Tensor:
    """Drawn block by block, side by side."""
    random = np.random.RandomState(seed * 1000 + step)
    widths = [block.gate.out_channels for block in gated_blocks(network)]
    parts = [random.uniform(1e-4, 1 - 1e-4, (BATCH, width)).astype(np.float32) for width in widths]
    return torch.from_numpy(np.concatenate(parts, 1))


@contextmanager
def beside_kink(network: GatedResNet, stage: str, step: int) -> Iterator[None]:
    """Shift the number of ``KINKS``, if there is one."""
    if (stage, step) not in KINKS:
        yield
        return
    layer, position, shift = KINKS[stage, step]

    def move(module: nn.Module, inputs: Any, output: Tensor) -> None:
        output.detach().view(-1)[position] += shift

    handle = network.get_submodule(layer).register_forward_hook(move)
    yield
    handle.remove()


@pytest.mark.parametrize(("name", "seed"), [("fgc_train_step", 8), ("bas_train_step", 10)])
def test_two_training_steps(name: str, seed: int) -> None:
    case, stage = load(name), name[:3]
    network = gated_resnet20().train()
    fill_state_dict(network.state_dict(), seed)
    network.double()
    couplings = golden_couplings(seed)
    gates = [parameter for name, parameter in network.named_parameters() if ".gate." in name]
    backbone = [parameter for name, parameter in network.named_parameters() if ".gate." not in name]
    optimizer = torch.optim.SGD(
        [{"params": gates, "weight_decay": 0.0}, {"params": backbone, "weight_decay": 5e-4}],
        lr=0.02,
        momentum=0.9,
        nesterov=True,
    )
    for step in range(2):
        expected = {name[3:]: value for name, value in case.items() if name.startswith(f"t{step}_")}
        with uniform_noise(network, golden_noise(network, seed, step)), beside_kink(network, stage, step):
            out = network(tensor(f"input.image.{step}", (BATCH, 3, 32, 32), seed).double())
        blocks = gated_blocks(network)
        logits = [block.gate.logits for block in blocks if block.gate.logits is not None]
        close(out, expected["logits"])
        uniform = golden_noise(network, seed, step)
        sampled = torch.cat(logits, 1) + torch.logit(uniform) > 0
        assert torch.equal(sampled.float(), unpacked(expected["gate"], uniform.shape[1]))

        ce, l0 = F.cross_entropy(out, expected["label"]), expected_gate_rate(logits)
        close(ce, expected["ce"])
        close(l0, expected["l0"])
        if stage == "bas":
            extra, weight = batch_shaping_loss(torch.cat(logits, 1)), ZETA
            close(extra, expected["bs"])
        else:
            features = [blocks[block].feature for block in BLOCKS]
            assert all(feature is not None for feature in features)
            chosen = [logits[block] for block in BLOCKS]
            extra, weight = couple(couplings, features, chosen, expected["index"], 21), KAPPA  # type: ignore[arg-type]
            close(extra, expected["ct"])
        loss = ce + RHO[stage] * l0 + weight * extra
        close(loss, expected["loss"])
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            check_gradients(network, case)
        optimizer.step()

    state = network.state_dict()
    for name, value in picked(case, "after:").items():
        stride = 1 if value.numel() == state[name].numel() else 11  # small ones are stored whole
        close(state[name].flatten()[::stride], value, LOOSE)
    if stage == "fgc":
        rows = torch.cat([case["t0_index"], case["t1_index"]])
        for block, coupling in zip(BLOCKS, couplings):
            close(coupling.gate_bank.memory[rows], case[f"gate_memory_rows.{block}"], LOOSE)
            close(coupling.feature_bank.memory[rows], case[f"feat_memory_rows.{block}"], LOOSE)
    with torch.no_grad():
        out = network.eval()(tensor("input.image.0", (BATCH, 3, 32, 32), seed).double())
        close(out, case["eval_logits_after"], LOOSE)


def check_gradients(network: nn.Module, case: dict[str, Tensor]) -> None:
    """Norms of all gradients, and every seventh number of those stored."""
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    norms = picked(case, "gnorm:")
    assert norms.keys() == gradients.keys()
    for name, norm in norms.items():
        close(gradients[name].norm(), norm, LOOSE)  # type: ignore[union-attr]
    stored = picked(case, "grad:")
    assert stored
    for name, value in stored.items():
        close(gradients[name].flatten()[::7], value, LOOSE)  # type: ignore[union-attr]


def picked(case: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries under a prefix, without it."""
    return {name[len(prefix) :]: value for name, value in case.items() if name.startswith(prefix)}
