"""Latency of gated networks that compute only what their gates leave on, against dense, masked and the ideal.

    python benchmarks/fgc_latency.py [--repeat 60] [--threads 1]    # one image on a CPU: gather
    python benchmarks/fgc_latency.py --gpu [--batch 128]            # batches on a GPU: ragged

Random weights, random gates of a given on-rate (a new draw for every pass), whose own perceptrons are computed and
paid for. Dense has no gates, batch norm folded, and is the fastest of its forms; all alternate; each timed pass
follows an untimed one of the same kind; medians.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
import torchvision
from common import parse_speed, ratio, speed_parser, write_speed

from fgc.attach import attach_gates
from fgc.latency import measure_latency
from fgc.resnet import gated_resnet20

ON_RATES = (0.25, 0.4, 0.5, 0.75)
TARGETS = {
    "ResNet-20 at 32x32": {0.25: 1.5, 0.4: 1.25, 0.5: 1.1},
    "ResNet-18 at 224x224": {0.25: 1.8, 0.4: 1.4, 0.5: 1.25},
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write ``results/speed_fgc_latency.json``."""
    parser = speed_parser(__doc__)
    parser.add_argument("--repeat", type=int, default=60, help="timed passes of each kind and on-rate")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--batch", type=int, default=128, help="images on the GPU; on the CPU it is 1")
    arguments = parse_speed(parser, argv)
    torch.manual_seed(0)
    networks: dict[str, tuple[torch.nn.Module, int]] = {
        "ResNet-18 at 224x224": (attach_gates(torchvision.models.resnet18()), 224)
    }
    if arguments.gpu:
        networks["ResNet-34 at 224x224"] = (attach_gates(torchvision.models.resnet34()), 224)
    else:
        networks = {"ResNet-20 at 32x32": (gated_resnet20(), 32), **networks}
    ours, batch = ("ragged", arguments.batch) if arguments.gpu else ("gather", 1)
    ratios: list[dict[str, Any]] = []
    table: list[dict[str, Any]] = []
    for name, (model, side) in networks.items():
        model.to("cuda" if arguments.gpu else "cpu").eval()
        rows = measure_latency(
            model, (side, side), ON_RATES, ("masked", ours), arguments.repeat, arguments.threads, batch
        )
        for row in rows:
            gain = row.gain(ours)
            table.append(
                {
                    "network": name,
                    "on_rate": row.on_rate,
                    "dense_ms": row.dense,
                    "masked_ms": row.milliseconds["masked"],
                    f"{ours}_ms": row.milliseconds[ours],
                    "gain": gain,
                    "ideal": row.ideal,
                }
            )
            print(
                f"{name}, on-rate {row.on_rate}: dense {row.dense:.2f} ms, masked {row.milliseconds['masked']:.2f}, "
                f"{ours} {row.milliseconds[ours]:.2f}: {gain:.2f}x, ideal {row.ideal:.2f}x",
                flush=True,
            )
            target = None if arguments.gpu else TARGETS[name].get(row.on_rate)
            if target is not None:
                what = f"{name}, one image, {row.on_rate:.0%} of the gates on"
                ratios.append(ratio(what, "dense, no gates, batch norm folded", gain, target, "min"))
    common = {"batch": batch, "threads": arguments.threads, "repeat": arguments.repeat}
    write_speed("fgc_latency", {"ratios": ratios, "table": table, **common}, arguments.gpu)
    return 0


if __name__ == "__main__":
    sys.exit(main())
