"""Ragged execution, in Triton's interpreter on the CPU and on a GPU where there is one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fgc_golden import close
from fgc_networks import build, set_gates

from fgc.executor import ConditionalExecutor
from vireo.errors import InputError
from vireo.testing import full_float32

pytest.importorskip("triton")

_INTERPRETED = """
import torch
from fgc_golden import close
from fgc_networks import build, set_gates
from fgc.executor import ConditionalExecutor
from fgc.ragged_kernels import active_channels

torch.set_num_threads(1)
on = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)
counts, index = active_channels(on)
assert counts.tolist() == [3, 0, 4] and index[0, :3].tolist() == [0, 2, 3] and index[2].tolist() == [0, 1, 2, 3]
for name in ("tiny", "bottleneck"):
    for channels in ("as trained", []) if name == "tiny" else ("as trained",):
        model, images = build(name)
        if channels != "as trained":
            set_gates(model, channels)
        close(ConditionalExecutor(model, "ragged")(images), model(images))
images[0, 0, 2, 2] = float("inf")
logits = ConditionalExecutor(model, "ragged")(images)
assert not logits[0].isfinite().any() and logits[1].isfinite().all()
print("equal")
"""


@pytest.mark.slow
def test_equals_the_network_in_the_interpreter() -> None:
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _INTERPRETED], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout.strip().endswith("equal"), done.stderr[-2000:]


def test_needs_a_gpu_or_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    model, images = build("tiny")
    with pytest.raises(InputError, match='mode="gather"'):
        ConditionalExecutor(model, "ragged")(images)


def test_needs_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(InputError, match="Triton is not installed"):
        ConditionalExecutor(build("tiny")[0], "ragged")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["resnet20", "resnet18", "resnet50", "grouped"])
def test_equals_the_network_on_a_gpu(name: str) -> None:
    model, images = build(name)
    expected = model(images)
    executor = ConditionalExecutor(model, "ragged").cuda()
    with full_float32():
        close(executor(images.cuda()).cpu(), expected)
        set_gates(model, [])
        close(ConditionalExecutor(model, "ragged").cuda()(images.cuda()).cpu(), model(images))
