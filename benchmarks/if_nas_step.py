"""A search step of IF-NAS by plans of phases against a super-network that evaluates all its candidates.

    python benchmarks/if_nas_step.py          # CPU: N = (18, 20, 18), L = 8, C = 16, batch 16 at 64 x 64
    python benchmarks/if_nas_step.py --gpu    # batch 256 at 224 x 224 on a CUDA device: plain, ours, compiled

A step is forward in a phase of the schedule, cross entropy, backward, clipping and both updates; rounds go through the
phases. The plain super-network is written as the authors' is structured: a module for every operator of every edge,
all of them evaluated and multiplied by weights, 0 for what is out of turn, which are put together node by node in every
forward pass, and an optimizer each for weights and architecture. Before that, loss and all gradients of the two must
agree to 1e-5 in double precision, in three phases.

On a GPU products are in TensorFloat-32 on both sides, and memory is in channels_last order where that is said.
"""

from __future__ import annotations

import copy
import itertools
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from common import parse_speed, ratio, speed_parser, write_speed
from timing import alternate, medians
from torch import Tensor, nn
from torch.nn import functional as F

from if_nas.official_supernet import supernet_to_official
from if_nas.operators import build_operator
from if_nas.optim import search_optimizer
from if_nas.schedule import ActiveNodes, InterleavingFreeSchedule
from if_nas.space import LChainSpace
from if_nas.supernet import LChainSupernet

SPACE = LChainSpace((18, 20, 18), 8)
CLASSES = 100
Step = Callable[[], object]


class PlainSupernet(nn.Module):
    """The dense super-network, with the weights of ours."""

    def __init__(self, ours: LChainSupernet) -> None:
        super().__init__()
        state = supernet_to_official(ours)
        self.stem, self.head = copy.deepcopy(ours.stem), copy.deepcopy(ours.head)
        self.entries = nn.ModuleList(copy.deepcopy(cast("Any", stage).entry) for stage in ours.stages)
        self.ops, self.beta, self.alpha = nn.ModuleList(), nn.ParameterList(), nn.ParameterList()
        for stage in range(len(SPACE.nodes)):
            count = len(SPACE.edges(stage))
            ops = [build_operator(name, ours.width * 2**stage) for _ in range(count) for name in SPACE.ops]
            self.ops.append(nn.ModuleList(ops))
            prefix = f"stage{stage + 1}._ops."
            self.ops[stage].load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if prefix in k})
            for node in range(1, SPACE.nodes[stage] + 1):
                row, m = ours.arch.row(stage, node), len(SPACE.sources(stage, node))
                self.beta.append(nn.Parameter(ours.arch.beta[row].detach().clone()))
                self.alpha.append(nn.Parameter(ours.arch.alpha[row, :m].detach().clone()))

    def node_weights(self, row: int, m: int, active: bool) -> tuple[Tensor, Tensor]:
        """Weights of the candidate edges of a node and of their operators."""
        if active:
            return self.beta[row][:m].sigmoid(), self.alpha[row].sigmoid()
        device = self.beta[row].device
        edges = torch.tensor([0.0] * (m - 1) + [1.0], device=device)
        return edges, torch.ones(m, len(SPACE.ops), device=device)

    def forward(self, images: Tensor, active: ActiveNodes) -> Tensor:
        features, row = self.stem(images), 0
        for stage, entry in enumerate(self.entries):
            nodes, index = {0: entry(features)}, 0
            ops = cast("nn.ModuleList", self.ops[stage])
            for node in range(1, SPACE.nodes[stage] + 1):
                sources = SPACE.sources(stage, node)
                edges, weights = self.node_weights(row, len(sources), node in active[stage])
                total: Any = 0
                for position, source in enumerate(sources):
                    for number in range(len(SPACE.ops)):
                        term = ops[index](nodes[source])
                        total = total + 2 / len(sources) * edges[position] * weights[position, number] * term
                        index += 1
                nodes[node] = total
                row += 1
            features = nodes[SPACE.nodes[stage]]
        logits: Tensor = self.head(features)
        return logits


def phases() -> list[ActiveNodes]:
    """The active nodes of all phases of the published schedule."""
    schedule = InterleavingFreeSchedule(SPACE.length)
    return [schedule.active(turn, SPACE.nodes) for turn in range(schedule.period)]


def step_of(network: LChainSupernet | PlainSupernet, images: Tensor, targets: Tensor) -> Step:
    """A search step, of the next phase whenever it is called."""
    turns = itertools.cycle(phases())
    optimizers: list[torch.optim.Optimizer]
    if isinstance(network, LChainSupernet):
        optimizers, weights = [search_optimizer(network)], network.weight_parameters()
    else:
        architecture = [*network.beta, *network.alpha]
        known = {id(parameter) for parameter in architecture}
        weights = [parameter for parameter in network.parameters() if id(parameter) not in known]
        optimizers = [torch.optim.SGD(group, 0.1, 0.9, weight_decay=3e-5) for group in (weights, architecture)]

    def step() -> None:
        F.cross_entropy(network(images, next(turns)), targets).backward()
        nn.utils.clip_grad_norm_(weights, 5)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

    return step


def counterparts(ours: LChainSupernet, plain: PlainSupernet) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name and gradients of everything that is learned, of ours and of the plain network."""

    def gradient(parameter: Tensor) -> Tensor:
        return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad

    for name, parameter in ours.named_parameters():
        if ".banks." in name:
            _, stage, _, op, kind, repeat, part = name.split(".")
            layer = 4 * int(repeat) + {"depthwise": 1, "pointwise": 2, "norm": 3}[kind]
            modules = list(cast("nn.ModuleList", plain.ops[int(stage)]))[SPACE.ops.index(op) :: len(SPACE.ops)]
            expected = [gradient(getattr(cast("Any", module).ops[layer], part)) for module in modules]
            yield name, gradient(parameter), torch.cat(expected)
        elif name in ("arch.beta", "arch.alpha"):
            for row, value in enumerate(getattr(plain, name.removeprefix("arch."))):
                yield f"{name}, row {row}", gradient(parameter)[row][: len(value)], gradient(value)
        else:
            stage_entry = re.sub(r"stages\.(\d+)\.entry", r"entries.\1", name)
            yield name, gradient(parameter), gradient(plain.get_parameter(stage_entry))


def require_equal(ours: LChainSupernet, plain: PlainSupernet, tolerance: float = 1e-5) -> None:
    """Losses and all gradients of the two in the first, the middle and the last phase, in double precision."""
    ours, plain = copy.deepcopy(ours).double(), copy.deepcopy(plain).double()
    images, targets = torch.randn(4, 3, 64, 64, dtype=torch.double), torch.arange(4)
    for phase in (0, 4, 8):
        ours.zero_grad()
        plain.zero_grad()
        torch.set_default_dtype(torch.double)  # for the constants of the plain network
        found = [F.cross_entropy(network(images, phases()[phase]), targets) for network in (ours, plain)]
        torch.set_default_dtype(torch.float)
        torch.stack(found).sum().backward()
        torch.testing.assert_close(found[0], found[1], rtol=tolerance, atol=0)
        for name, gradient, expected in counterparts(ours, plain):
            # the bias between two normalisations has no gradient but rounding
            close = (gradient - expected).norm() <= tolerance * expected.norm() + 1e-12
            assert close, f"phase {phase}: gradients of {name} differ"


def some_batch(batch: int, side: int) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, 3, side, side), torch.arange(batch) % CLASSES


def measure_cpu(batch: int, side: int, rounds: int) -> dict[str, Any]:
    """Both sides take turns, through all phases and more."""
    torch.manual_seed(0)
    ours = LChainSupernet(SPACE, 16, CLASSES)
    plain = PlainSupernet(ours)
    require_equal(ours, plain)
    images, targets = some_batch(batch, side)
    times = alternate({"ours": step_of(ours, images, targets), "plain": step_of(plain, images, targets)}, rounds)
    middle = medians(times)
    for name, value in middle.items():
        print(f"{name}: {value:.3f} s")
    gain = round(middle["plain"] / middle["ours"], 4)
    row = ratio(f"search step, L = 8, {side} x {side}", "dense plain super-network", gain, 2.0, "min")
    return {"ratios": [row], "seconds": middle, "batch": batch, "threads": torch.get_num_threads()}


def measure_gpu(rounds: int) -> dict[str, Any]:
    """Batch 256 at 224: iterations a second and memory of the plain super-network and of ours, in three ways."""
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(0)
    images, targets = (part.cuda() for part in some_batch(256, 224))
    last = images.to(memory_format=torch.channels_last)
    made = LChainSupernet(SPACE, 16, CLASSES)
    require_equal(made, PlainSupernet(made))

    def build(form: str) -> Step:
        if form == "plain":
            return step_of(PlainSupernet(made).cuda(), images, targets)
        ours = copy.deepcopy(made).cuda()
        if "channels_last" in form:
            ours = ours.to(memory_format=torch.channels_last)
        if "compiled" in form:
            ours.compile()
        return step_of(ours, last if "channels_last" in form else images, targets)

    found = {}
    for form in ("plain", "ours", "ours, channels_last", "ours, compiled", "ours, compiled, channels_last"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        seconds = alternate({form: build(form)}, rounds, warm_up=len(phases()))
        found[form] = {
            "iterations_per_s": round(1 / medians(seconds)[form], 3),
            "peak_memory_gb": round(torch.cuda.max_memory_allocated() / 2**30, 2),
        }
        print(form, found[form], flush=True)
    base = found.pop("plain")
    rows = [
        ratio(f"search step, 224 x 224, batch 256, {form}", "dense plain super-network",
              round(speed["iterations_per_s"] / base["iterations_per_s"], 4), 2.0, "min")
        for form, speed in found.items()
    ]  # fmt: skip
    return {"ratios": rows, "runs": {"plain": base, **found}}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write ``results/speed_if_nas_step.json``, with ``--gpu`` ``..._gpu.json`` in its place."""
    arguments = parse_speed(speed_parser(__doc__, batch=16, side=64, rounds=18), argv)
    rounds = arguments.rounds
    content = measure_gpu(rounds) if arguments.gpu else measure_cpu(arguments.batch, arguments.side, rounds)
    write_speed("if_nas_step", content, arguments.gpu)
    return 0


if __name__ == "__main__":
    sys.exit(main())
