"""The weights the authors released: strict loading, and their network's outputs.

The file is theirs and has no licence, so it is not here. With ``FGC_RELEASED_WEIGHTS`` naming a copy of
``resnet20-99-BAS.pth`` these tests run; without it they are skipped.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from fgc_golden import close, load, unpacked, values
from torch import Tensor

from fgc.gate import gates_of
from fgc.macs import count_macs
from fgc.meters import OnRates
from fgc.official import from_official
from fgc.resnet import GatedResNet, gated_resnet20
from vireo.engine.checkpoint import read

SHA256 = "3ea3647a3d20c2d988a99e5307b49ca76f0a1eb761a4968f68047b5fe124305c"
WEIGHTS = Path(os.environ.get("FGC_RELEASED_WEIGHTS", "resnet20-99-BAS.pth"))

pytestmark = pytest.mark.skipif(not WEIGHTS.is_file(), reason="FGC_RELEASED_WEIGHTS names no file")


@pytest.fixture(scope="module")
def network() -> GatedResNet:
    """The released network; read without executing anything from the file."""
    assert hashlib.sha256(WEIGHTS.read_bytes()).hexdigest() == SHA256
    content = read(WEIGHTS)
    assert set(content) == {"epoch", "arch", "best_acc1", "state_dict", "optimizer"}
    assert content["epoch"] == 100
    loaded = gated_resnet20()
    assert from_official(loaded, content, str(WEIGHTS)) == []
    return loaded.eval()


def images() -> Tensor:
    coarse = np.kron(values("input.image.coarse", (8, 3, 8, 8), 7), np.ones((1, 1, 4, 4), np.float32))
    fine = values("input.image.fine", (8, 3, 32, 32), 7)
    return torch.from_numpy((0.9 * coarse + 0.25 * fine).astype(np.float32))


def test_outputs_and_gates(network: GatedResNet) -> None:
    """``resnet20_released_eval.npz``: logits of the batch, and gates of the part that each entry covers."""
    case = load("resnet20_released_eval")
    with torch.no_grad():
        logits = network(images())
    gate_logits = torch.cat([gate.logits for gate in gates_of(network) if gate.logits is not None], 1)
    close(logits[-len(case["logits"]) :], case["logits"])
    close(gate_logits[-len(case["gate_logits"]) :], case["gate_logits"])
    hard = unpacked(case["gate"], gate_logits.shape[1])
    assert torch.equal((gate_logits > 0).float()[-len(hard) :], hard)


def test_cost_in_one_and_in_two_batches(network: GatedResNet) -> None:
    """The authors' counter, whose mean over batches does not weigh them by size."""
    case = load("resnet20_released_eval")
    macs = count_macs(network, (32, 32))
    for name, parts in {"": [8], "_two_batches": [5, 3]}.items():
        rates = OnRates()
        for part in images().split(parts):
            with torch.no_grad():
                network(part)
            rates.add(network)
        report = macs.at(rates.mean_of_batches)
        assert int(report.gated) == int(case[f"avg_block_macs{name}"])
        assert int(report.gated) + report.gates == int(case[f"avg_total_macs{name}"])
        if not name:
            assert report.pruning == pytest.approx(float(case["pruning"]), rel=1e-12)
