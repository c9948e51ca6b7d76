"""The discretisation losses of IF-NAS over all stages at once against a loop over scalars.

    python benchmarks/if_nas_loss.py [--gpu] [--repeat 15]

N = (18, 20, 18), L = 8, every node active, which is the search without sampling, and one phase of the schedule: forward
and backward of both losses. The loop goes over stages, nodes, edges and operators and adds up scalars, as the authors'
code does. Losses and gradients must agree first.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from common import parse_speed, ratio, speed_parser, write_speed
from timing import alternate, medians
from torch import Tensor

from if_nas.arch import ArchWeights
from if_nas.losses import discretization_loss
from if_nas.schedule import ActiveNodes, InterleavingFreeSchedule, every_node
from if_nas.space import LChainSpace

SPACE = LChainSpace((18, 20, 18), 8)


def scalar_loss(arch: ArchWeights, active: ActiveNodes) -> Tensor:
    """R_edge + R_op, added up one by one."""
    total = arch.beta.new_zeros(())
    for stage, nodes in enumerate(active):
        for node in nodes:
            row, m = arch.row(stage, node), len(SPACE.sources(stage, node))
            edges = arch.beta[row, :m].sigmoid()
            for position in range(m):
                if m > 1:
                    total = total + torch.log(1 + edges[position] / edges.mean())
                ops = arch.alpha[row, position].sigmoid()
                for number in range(len(SPACE.ops)):
                    total = total + torch.log(1 + ops[number] / ops.mean())
    return total


def sides(active: ActiveNodes, device: str) -> dict[str, Callable[[], None]]:
    """Both, checked to give the same."""
    torch.manual_seed(0)
    arch = ArchWeights(SPACE).to(device)

    def run(loss: Callable[[], Tensor]) -> None:
        arch.zero_grad()
        loss().backward()

    def ours() -> None:
        run(lambda: discretization_loss(arch, active, 1.0, 1.0))

    def loop() -> None:
        run(lambda: scalar_loss(arch, active))

    with torch.no_grad():
        arch.beta.normal_()
        arch.alpha.normal_()
    found = []
    for side in (ours, loop):
        side()
        found.append([parameter.grad.clone() for parameter in arch.parameters() if parameter.grad is not None])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    return {"ours": ours, "loop": loop}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write ``results/speed_if_nas_loss.json``, with ``--gpu`` ``..._gpu.json``."""
    arguments = parse_speed(speed_parser(__doc__, repeat=15), argv)
    schedule = InterleavingFreeSchedule(SPACE.length)
    cases = {"every node active": (every_node(SPACE.nodes), 20.0), "one phase": (schedule.active(4, SPACE.nodes), 5.0)}
    ratios, seconds = [], {}
    for name, (active, target) in cases.items():
        times: dict[str, Any] = medians(
            alternate(sides(active, "cuda" if arguments.gpu else "cpu"), arguments.repeat, warm_up=3)
        )
        print(f"{name}: " + ", ".join(f"{side} {1e3 * value:.2f} ms" for side, value in times.items()))
        what = f"discretisation losses, {name}"
        ratios.append(ratio(what, "loop over scalars", round(times["loop"] / times["ours"], 2), target, "min"))
        seconds[name] = times
    write_speed("if_nas_loss", {"ratios": ratios, "seconds": seconds}, arguments.gpu)
    return 0


if __name__ == "__main__":
    sys.exit(main())
