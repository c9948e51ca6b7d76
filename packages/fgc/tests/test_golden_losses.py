"""Batch shaping, memory banks and the contrastive loss against the authors' computation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from fgc_golden import close, load, tensor
from torch import Tensor

from fgc.bank import MemoryBank
from fgc.coupling import FeatureGateCoupling
from fgc.shaping import batch_shaping_loss


def test_batch_shaping() -> None:
    case = load("batch_shaping")
    probs = case["probs"].double()
    logits = torch.logit(probs).requires_grad_()
    single = logits.detach().float().requires_grad_()
    assert torch.isinf(logits).sum() == 2
    for z in (logits, single):
        loss = batch_shaping_loss(z)
        close(loss, case["loss"])
        (0.75 * loss).backward()
        slope = probs * (1 - probs)
        assert z.grad is not None
        assert (z.grad[slope == 0] == 0).all()
        by_probs = torch.where(slope > 0, z.grad / slope.clamp(min=1e-300), 0)
        close(by_probs, case["grad_of_075_loss"])


def golden_coupling(feature_memory: Tensor | None = None, gate_memory: Tensor | None = None) -> FeatureGateCoupling:
    """Banks of 240 rows of 64, 9 neighbours, warm-up over at epoch 1; a chunk that does not divide the bank."""
    coupling = FeatureGateCoupling(240, 64, num_neighbors=9, warmup_epochs=0, chunk=100)
    if feature_memory is not None:
        coupling.feature_bank.memory.copy_(feature_memory)
    if gate_memory is not None:
        coupling.gate_bank.memory.copy_(gate_memory)
    return coupling


def test_feature_bank_in_the_warm_up() -> None:
    case = load("feature_bank")
    coupling = golden_coupling(case["memory"])
    coupling.warmup_epochs = 20
    index = case["index"].long()
    assert torch.equal(coupling.positives(case["feat"], index, 20)[:, 0], case["warm_return"].long().flatten())
    coupling.feature_bank.update(index, case["feat"])
    close(coupling.feature_bank.memory[::3], case["memory_after_warm"])
    close(coupling.feature_bank.memory[index], case["updated_rows"])


def test_nearest_neighbours() -> None:
    case = load("feature_bank")
    coupling = golden_coupling(case["memory"])
    index = case["index"].long()
    assert torch.equal(coupling.positives(case["feat"], index, 1), case["neighbours"].long())
    coupling.feature_bank.update(index, case["feat"])
    close(coupling.feature_bank.memory[index], case["memory_after_knn_rows"])


def test_contrast() -> None:
    case = load("gate_contrast")
    memory = F.normalize(tensor("input.gate_memory", (240, 64), 6))
    index, neighbours = case["index"].long(), case["neighbours"].long()
    features = torch.rand(12, 64)
    for name, positives in {"self": index[:, None], "knn": neighbours}.items():
        coupling = golden_coupling(gate_memory=memory)
        coupling.positives = lambda *_, given=positives: given  # type: ignore[method-assign]
        logits = tensor("input.gate_logits", (12, 64, 1, 1), 6).flatten(1).requires_grad_()
        loss = coupling(features, logits, index, 21)
        close(loss, case[f"{name}_loss"])
        (0.003 * loss).backward()
        assert logits.grad is not None
        close(logits.grad, case[f"{name}_grad_of_0003_loss"])
        close(coupling.gate_bank.memory[index], case["memory_rows_after"])
        close(logits.detach() @ memory[:16].t() / 0.07, case["scores_cols0to16"])


def test_a_bank_starts_uniform() -> None:
    memory = MemoryBank(400, 75).memory
    assert memory.abs().max() <= 0.2  # 1 / sqrt(75 / 3)
    close(memory.std(), torch.tensor(0.2 / 3**0.5), 0.02)
