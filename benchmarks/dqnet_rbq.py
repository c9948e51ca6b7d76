"""The relation-based query against an explicit implementation with the same weights, as the paper uses it.

    python benchmarks/dqnet_rbq.py          # CPU: 768 channels, a grid of 24 x 24, windows of 10, batches of 1 and 4
    python benchmarks/dqnet_rbq.py --gpu    # also speed and memory on a CUDA device, bfloat16, batch 20

The explicit implementation below follows the definition: both maps are padded and projected, the indices of relative
positions are made at every call, and all logits and their biases are formed. The two sides take turns and are compared
by the median of each round's ratio; before that their outputs, and the gradients of both maps, must agree to 1e-5.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from common import parse_speed, ratio, speed_parser, write_speed
from timing import alternate, medians
from torch import Tensor

from dqnet import RelationBasedQuery

DIM, GRID, TOLERANCE = 768, 24, 1e-5
BATCHES = (1, 4)
Fuse = Callable[[Tensor, Tensor], Tensor]


def explicit_query(query: RelationBasedQuery, query_map: Tensor, detail_map: Tensor) -> Tensor:
    """The fused map with the parameters of ``query``, padding not masked."""
    (batch, dim, height, width), s, heads = query_map.shape, query.window, query.heads
    down, right = -height % s, -width % s
    rows, columns = (height + down) // s, (width + right) // s

    def windows(x: Tensor) -> Tensor:
        padded = F.pad(x, (0, right, 0, down)).view(batch, dim, rows, s, columns, s)
        return padded.permute(0, 2, 4, 3, 5, 1).reshape(batch * rows * columns, s * s, dim)

    shape = (-1, s * s, heads, dim // heads)
    q = query.q(windows(query_map)).view(shape).transpose(1, 2) * (dim // heads) ** -0.5
    k, v = (part.reshape(shape).transpose(1, 2) for part in query.kv(windows(detail_map)).chunk(2, -1))
    side = torch.arange(s)
    offsets = (side[:, None] - side + s - 1).to(q.device)
    grid = q.unflatten(2, (s, s))
    by_row = torch.einsum("nhyxc,yjc->nhyxj", grid, query.rel_pos_h[offsets].to(q.dtype))
    by_column = torch.einsum("nhyxc,xjc->nhyxj", grid, query.rel_pos_w[offsets].to(q.dtype))
    logits = (q @ k.transpose(-2, -1)).view(-1, heads, s, s, s, s)
    logits = (logits + by_row[..., :, None] + by_column[..., None, :]).view(-1, heads, s * s, s * s)
    answers = (logits.softmax(-1) @ v).transpose(1, 2).reshape(-1, s * s, dim)
    merged = query.proj(answers).view(batch, rows, columns, s, s, dim).permute(0, 5, 1, 3, 2, 4)
    answer = merged.reshape(batch, dim, rows * s, columns * s)[..., :height, :width]
    return answer * query_map + detail_map


def some_query() -> RelationBasedQuery:
    """The paper's, with relative positions as if trained."""
    torch.manual_seed(0)
    query = RelationBasedQuery(DIM)
    for table in (query.rel_pos_h, query.rel_pos_w):
        torch.nn.init.normal_(table, std=0.1)
    return query


def some_maps(batch: int, grid: int, device: str = "cpu") -> list[Tensor]:
    return [torch.randn(batch, DIM, grid, grid, device=device, requires_grad=True) for _ in range(2)]


def sides_of(query: RelationBasedQuery) -> dict[str, Fuse]:
    return {"ours": query, "explicit": lambda *maps: explicit_query(query, *maps)}


def require_equal(sides: dict[str, Fuse], maps: list[Tensor]) -> float:
    """The largest difference between outputs and between gradients."""
    found = []
    for fuse in sides.values():
        fused = fuse(*maps)
        found.append([fused, *torch.autograd.grad(fused.sum(), maps)])
    apart = max((first - second).abs().max().item() for first, second in zip(*found))
    assert apart <= TOLERANCE, f"they differ by {apart}"
    return apart


def both_ways(fuse: Fuse, maps: list[Tensor]) -> Callable[[], object]:
    return lambda: fuse(*maps).sum().backward()


def forward(fuse: Fuse, maps: list[Tensor]) -> Callable[[], object]:
    return torch.no_grad()(lambda: fuse(*maps))


def measure_cpu(rounds: int) -> dict[str, Any]:
    """With one thread and with all: the paper's grid, and one that windows divide, where padding costs nobody."""
    sides, runs, rows, all_threads = sides_of(some_query()), {}, [], torch.get_num_threads()
    for threads in sorted({1, all_threads}):
        torch.set_num_threads(threads)
        for batch, grid in [*((batch, GRID) for batch in BATCHES), (BATCHES[-1], 20)]:
            maps = some_maps(batch, grid)
            apart = require_equal(sides, maps)
            for words, way in (("forward", forward), ("forward and backward", both_ways)):
                times = alternate({name: way(fuse, maps) for name, fuse in sides.items()}, rounds)
                quotient = round(median(a / b for a, b in zip(times["explicit"], times["ours"])), 4)
                name = f"RBQ, {words}, batch {batch}, grid {grid}, {threads} thread{'s' * (threads > 1)}"
                seconds = {key: round(value, 5) for key, value in medians(times).items()}
                runs[name] = {"ratio": quotient, "seconds": seconds, "largest_difference": apart}
                target = 1.5 if grid == GRID else 0.9
                rows.append(ratio(name, "explicit implementation", quotient, target, "min"))
    return {"ratios": rows, "threads": all_threads, "runs": runs}


def measure_gpu(rounds: int, batch: int = 20) -> dict[str, Any]:
    """Forward and backward in bfloat16; ours as it is and compiled."""
    query, maps = some_query().cuda(), some_maps(batch, GRID, "cuda")
    sides = sides_of(query)
    apart = require_equal(sides, maps)
    sides["ours, compiled"] = torch.compile(query)
    steps = {name: torch.autocast("cuda", torch.bfloat16)(both_ways(fuse, maps)) for name, fuse in sides.items()}
    times = alternate(steps, rounds, warm_up=5)
    memory = {}
    for name, step in steps.items():
        torch.cuda.reset_peak_memory_stats()
        step()
        memory[name] = round(torch.cuda.max_memory_allocated() / 2**30, 3)
    rows = []
    for name in ("ours", "ours, compiled"):
        quotient = median(a / b for a, b in zip(times["explicit"], times[name]))
        rows.append(
            ratio(f"RBQ, bf16, batch {batch}, {name}", "explicit implementation", round(quotient, 4), 1.5, "min")
        )
    seconds = {name: round(value, 6) for name, value in medians(times).items()}
    return {"ratios": rows, "seconds": seconds, "peak_memory_gb": memory, "largest_difference": apart}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write ``results/speed_dqnet_rbq.json``, with ``--gpu`` also ``..._gpu.json``."""
    arguments = parse_speed(speed_parser(__doc__, rounds=15), argv)
    if arguments.gpu:
        write_speed("dqnet_rbq", measure_gpu(30), gpu=True)
    write_speed("dqnet_rbq", measure_cpu(arguments.rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
