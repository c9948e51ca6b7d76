"""The latency table and the gates it imposes."""

from __future__ import annotations

import pytest
import torch
from fgc_golden import close
from fgc_networks import build

from fgc.executor import ConditionalExecutor
from fgc.folding import FoldedGate
from fgc.latency import force_on_rate, measure_latency
from fgc.macs import count_macs
from vireo.errors import InputError


def test_rows_hold_every_mode_and_the_ideal() -> None:
    model, _ = build("tiny")
    threads = torch.get_num_threads()
    rows = measure_latency(model, (8, 8), on_rates=(0.25, 1.0), repeats=2)
    assert [row.on_rate for row in rows] == [0.25, 1.0]
    for row in rows:
        assert set(row.milliseconds) == {"masked", "gather"}
        assert row.gain("gather") == row.dense / row.milliseconds["gather"] > 0
        assert row.ideal == count_macs(model, (8, 8), [row.on_rate] * 3).ideal_speedup
    assert torch.get_num_threads() == threads


def test_forced_gates_are_the_same_in_every_mode_and_end_with_the_context() -> None:
    model, images = build("resnet20")
    executors = [ConditionalExecutor(model, mode) for mode in ("masked", "gather")]
    logits = []
    for executor in executors:
        with force_on_rate(executor, 0.3, seed=1):
            logits.append(executor(images))
            gates = [module.forced for module in executor.modules() if isinstance(module, FoldedGate)]
            on = torch.cat([gate.flatten() for gate in gates if gate is not None]) > 0
            assert len(on) == 336
            assert 0.2 < on.float().mean() < 0.4
    close(logits[1], logits[0])
    assert (logits[0] - model(images)).abs().max() > 1e-2
    close(executors[1](images), model(images))


def test_mistakes() -> None:
    model, _ = build("tiny")
    with (
        pytest.raises(InputError, match=r"rate 1.5 is not in \[0, 1\]"),
        force_on_rate(ConditionalExecutor(model), 1.5, 0),
    ):
        pass
    with pytest.raises(InputError, match="repeats 0"):
        measure_latency(model, (8, 8), repeats=0)
    with pytest.raises(InputError, match="mode 'quick'"):
        measure_latency(model, (8, 8), modes=["quick"])
