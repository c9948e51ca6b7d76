"""Batch normalisation over processes equals that of one process with the whole batch."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vireo.backbones import FixedStatsBatchNorm2d, GlobalBatchNorm2d, global_batch_norm

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
PARTS = {"equal": [(0, 4), (4, 8)], "unequal": [(0, 2), (2, 8)], "one_empty": [(0, 8), (8, 8)]}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no_affine": {"affine": False},
    "cumulative": {"momentum": None},
    "no_running": {"track_running_stats": False},
}


def layer(settings: dict[str, Any]) -> GlobalBatchNorm2d:
    """With affine parameters and running statistics that are no special numbers."""
    norm = GlobalBatchNorm2d(3, **settings)
    with torch.no_grad():
        for number, value in enumerate([*norm.parameters(), *norm.buffers()]):
            if value.is_floating_point():
                value.copy_(torch.linspace(0.5, 1.5, 3) + number)
    return norm


def step(norm: GlobalBatchNorm2d, dtype: torch.dtype, first: int, end: int) -> dict[str, Tensor]:
    """Two training steps on rows ``first`` to ``end`` of the global batch; what is to be compared."""
    norm.to(torch.promote_types(dtype, torch.float32))  # half precision keeps its parameters in float32
    generator = torch.Generator().manual_seed(0)
    result: dict[str, Any] = {}
    for _ in range(2):
        whole = torch.randn(8, 3, 5, 4, generator=generator) * 2 + 10  # a mean that naive sums of squares would feel
        factor = torch.randn(8, 3, 5, 4, generator=generator)
        x = whole[first:end].to(dtype).requires_grad_()
        output = norm(x)
        assert output.dtype == dtype
        loss = (output**2 * factor[first:end]).sum()
        loss.backward()
        result |= {"output": output.detach(), "input gradient": x.grad}
    result |= {f"gradient of {name}": value.grad for name, value in norm.named_parameters()}
    return {**result, **dict(norm.named_buffers())}


def every_case() -> list[tuple[str, str, torch.dtype]]:
    cases = [(parts, settings, torch.float32) for parts in PARTS for settings in SETTINGS]
    return [*cases, ("unequal", "plain", torch.float64), ("unequal", "plain", torch.bfloat16)]


@pytest.fixture(scope="module")
def of_two_processes(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, Tensor]]]:
    """For each case the results of the two ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", __file__]
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, env=ENVIRONMENT, timeout=200)
    assert done.returncode == 0, done.stderr[-4000:]
    ranks = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]
    return [list(pair) for pair in zip(*ranks)]


@pytest.mark.parametrize("case", range(len(every_case())), ids=["-".join(map(str, case)) for case in every_case()])
def test_two_processes_equal_one(case: int, of_two_processes: list[list[dict[str, Tensor]]]) -> None:
    _, settings, dtype = every_case()[case]
    expected = step(layer(SETTINGS[settings]), dtype, 0, 8)
    one, other = of_two_processes[case]
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 2e-2}[dtype]
    assert one.keys() == other.keys() == expected.keys()
    for name, value in expected.items():
        if name.startswith("gradient"):  # of the weights: local parts, which the processes add up
            actual = one[name] + other[name]
        elif name in ("output", "input gradient"):
            actual = torch.cat((one[name], other[name]))
        else:
            assert torch.equal(one[name], other[name]), name
            actual = one[name]
        scale = value.double().abs().max()
        assert (actual.double() - value.double()).abs().max() <= tolerance * scale, name


def test_in_one_process_it_is_batch_norm() -> None:
    norm, plain = layer({}), nn.BatchNorm2d(3)
    plain.load_state_dict(norm.state_dict())
    for mode in (True, False):
        x = torch.randn(4, 3, 5, 5)
        assert torch.equal(norm.train(mode)(x), plain.train(mode)(x))
    assert all(torch.equal(a, b) for a, b in zip(norm.state_dict().values(), plain.state_dict().values()))


def test_conversion_keeps_parameters_and_leaves_subclasses() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), FixedStatsBatchNorm2d(4), nn.Sequential(nn.BatchNorm2d(4))
    )
    before = dict(model.state_dict(keep_vars=True))
    assert global_batch_norm(model) is model
    assert type(model[1]) is GlobalBatchNorm2d
    assert type(model[2]) is FixedStatsBatchNorm2d
    assert [type(module) for module in model[3].modules()][1:] == [GlobalBatchNorm2d]
    after = model.state_dict(keep_vars=True)
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)
    assert type(global_batch_norm(nn.BatchNorm2d(2))) is GlobalBatchNorm2d


def main(folder: Path) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo")
    rank = dist.get_rank()
    results = [step(layer(SETTINGS[name]), dtype, *PARTS[parts][rank]) for parts, name, dtype in every_case()]
    norm = layer({}).eval()
    assert torch.equal(norm(torch.ones(1, 3, 2, 2)), nn.BatchNorm2d.forward(norm, torch.ones(1, 3, 2, 2)))
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
