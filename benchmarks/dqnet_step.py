"""A training step of DQnet against a plain implementation with the same weights and with what takes no part.

    python benchmarks/dqnet_step.py          # CPU: the published network at 384, batch 2, and the small one at 64
    python benchmarks/dqnet_step.py --gpu    # also batch 20 in bfloat16 on a CUDA device, and inference

A step is forward, structure loss, backward and AdamW. The plain implementation is what a reader of the authors' notes
would write: the query of ``dqnet_rbq.py`` and its sigmoid, which nobody reads; attention of the transformer written
out; maps of three more of its blocks; torch's bicubic resize; one pool of 31 x 31 for the weights of the loss; the
parameters of a classifier, of four maps and of an auxiliary head; and each batch also at half and at one and a half
times its size, as the authors' data hands it over. Its AdamW is torch's default, ours is fused. The two sides take
turns and are compared by the median of each round's ratio; before that their losses must agree to 1e-5. The published
network is mostly products of large matrices, which both sides share.

On a GPU batches come from pinned memory. ``compiled`` is ours after ``torch.compile``.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any, cast

import torch
import torch.nn.functional as F
from common import parse_speed, ratio, speed_parser, write_speed
from dqnet_rbq import explicit_query
from timing import alternate, flops_of, gpu_speed, medians
from torch import Tensor, nn

from dqnet import DQnet, structure_loss
from dqnet.official_extras import AuxiliaryHead

SMALL: dict[str, Any] = {
    "image_size": 64,
    "vit": {"name": "vit_tiny_patch16", "patch_size": 8, "embed_dim": 96, "depth": 4, "num_heads": 4},
    "resnet": {"depth": 50, "layers": [1, 1, 1, 1], "width": 16, "stem_pool": False},
    "window": 4,
    "heads": 4,
    "head_width": 48,
}
Batch = tuple[Tensor, Tensor]
Step = Callable[[], object]


class PlainDQnet(nn.Module):
    """The network as the authors' notes describe it, with the weights of ours."""

    def __init__(self, ours: DQnet) -> None:
        super().__init__()
        self.network = cast("Any", copy.deepcopy(ours))
        self.gates: list[Tensor] = []
        for query in self.network.resnet.queries:
            query.query.forward = partial(self.queried, query.query)
        for block in self.network.vit.blocks:
            block.attn.fused_attn = False
        widths = [len(query.stage_norm.weight) for query in self.network.resnet.queries]
        out, dim = self.network.resnet.channels[3], self.network.vit.embed_dim
        self.unused = nn.ModuleList(
            [nn.Linear(out, 1000), AuxiliaryHead(widths), *(nn.Conv2d(dim, c, 1) for c in widths)]
        )
        self.maps: list[Tensor] = []
        depth = len(self.network.vit.blocks)
        for number in (depth // 4 - 1, depth // 2 - 1, 3 * depth // 4 - 1):
            self.network.vit.blocks[number].register_forward_hook(self.keep)

    def keep(self, _: nn.Module, __: Any, tokens: Tensor) -> None:
        """One of the maps that the decoder does not look at."""
        side = round((tokens.shape[1] - 1) ** 0.5)
        self.maps.append(tokens[:, 1:].transpose(1, 2).reshape(len(tokens), -1, side, side))

    def queried(self, query: Any, query_map: Tensor, detail_map: Tensor) -> Tensor:
        fused = explicit_query(query, query_map, detail_map)
        self.gates.append(fused.sigmoid())
        return fused

    def forward(self, images: Tensor) -> Tensor:
        self.gates, self.maps = [], []
        c0, c1, c2, c3, query = self.network.maps(images)
        head = self.network.head
        c0, c1, c2, c3, query = (down(x) for down, x in zip(head.down, (c0, c1, c2, c3, query)))

        def resize(x: Tensor, like: Tensor) -> Tensor:
            return F.interpolate(x, size=like.shape[-2:], mode="bicubic", align_corners=True)

        sums = [resize(c3, c2) + c2, resize(c2, c1) + c1, resize(c1, c0) + c0]
        fused = head.fuse(torch.cat([resize(query, c0), resize(sums[0], c0), resize(sums[1], c0), sums[2]], 1))
        return F.interpolate(head.head(fused), size=images.shape[-2:], mode="bicubic", align_corners=False)


def plain_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """The structure loss with one pool of 31 x 31 pixels."""
    logits = logits.float()
    weights = 1 + 5 * (F.avg_pool2d(masks, 31, 1, 15) - masks).abs()
    found = logits.sigmoid()
    common = (weights * found * masks).sum((2, 3))
    union = (weights * (found + masks)).sum((2, 3))
    return F.binary_cross_entropy_with_logits(logits, masks) + (1 - (common + 1) / (union - common + 1)).mean()


def step_of(network: nn.Module, batches: Sequence[Batch], precision: torch.dtype | None = None) -> Step:
    """A training step on the first of ``batches``; the others are only brought to the device."""
    plain = isinstance(network, PlainDQnet)
    loss_of = plain_loss if plain else structure_loss
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=0.1, fused=not plain)
    device = next(network.parameters()).device

    def step() -> None:
        (images, masks), *_ = [[part.to(device, non_blocking=True) for part in batch] for batch in batches]
        with torch.autocast(device.type, precision, enabled=precision is not None):
            logits = network(images)
        loss_of(logits, masks).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def with_scales(images: Tensor, masks: Tensor) -> list[Batch]:
    """The batch, and at half and one and a half times its size."""
    sides = [images.shape[-1], images.shape[-1] // 2, images.shape[-1] * 3 // 2]
    resize = partial(F.interpolate, mode="bilinear", align_corners=False)
    return [(resize(images, size=(side, side)), resize(masks, size=(side, side))) for side in sides]


def some_batch(batch: int, side: int) -> Batch:
    return torch.randn(batch, 3, side, side), (torch.randn(batch, 1, side, side) > 0.5).float()


def compare(ours: DQnet, images: Tensor, masks: Tensor, rounds: int) -> dict[str, Any]:
    """Both sides on a CPU, from the same weights; only the plain one makes the other sizes of its batch."""
    plain = PlainDQnet(ours)
    ours.train()
    plain.train()
    losses = [structure_loss(ours(images), masks).item(), plain_loss(plain(images), masks).item()]
    assert abs(losses[0] - losses[1]) <= 1e-5 * losses[1], f"they lose {losses}"

    def plain_step() -> None:
        with torch.no_grad():
            with_scales(images, masks)
        step()

    step = step_of(plain, [(images, masks)])
    times = alternate({"ours": step_of(ours, [(images, masks)]), "plain": plain_step}, rounds)
    return {
        "ratio": round(median(a / b for a, b in zip(times["plain"], times["ours"])), 4),
        "losses": losses,
        "batch": len(images),
        "seconds": {name: round(value, 4) for name, value in medians(times).items()},
    }


def measure_cpu(batch: int, rounds: int) -> dict[str, Any]:
    """The published network, and the small one of the demonstration."""
    torch.manual_seed(0)
    published = compare(DQnet(), *some_batch(batch, 384), rounds)
    small = compare(DQnet(**SMALL), *some_batch(12, 64), 5 * rounds)
    rows = [
        ratio("training step, published network, 384", "plain implementation", published["ratio"], 1.05, "min"),
        ratio("training step, small network, 64", "plain implementation", small["ratio"], 1.3, "min"),
    ]
    runs = {"published": published, "small": small}
    return {"ratios": rows, "threads": torch.get_num_threads(), "runs": runs}


def measure_gpu(rounds: int) -> dict[str, Any]:
    """Training at batch 20 and inference at 1 and 40, all in bfloat16."""
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(0)
    ours = DQnet().cuda()
    plain = PlainDQnet(ours)
    images, masks = (part.pin_memory() for part in some_batch(20, 384))
    scales = [(x.pin_memory(), y.pin_memory()) for x, y in with_scales(images, masks)]
    flops = flops_of(lambda: ours(images[:4].cuda()).sum().backward()) * 5
    ours.zero_grad()
    compiled = cast("nn.Module", torch.compile(ours))
    training = {
        "plain": step_of(plain, scales, torch.bfloat16),
        "ours": step_of(ours, [(images, masks)], torch.bfloat16),
        "ours, compiled": step_of(compiled, [(images, masks)], torch.bfloat16),
    }
    found = {f"training, {name}": gpu_speed(step, 20, flops, rounds) for name, step in training.items()}
    training.clear()
    once = flops_of(lambda: ours(images[:1].cuda()))
    for batch in (1, 40):
        pictures = torch.randn(batch, 3, 384, 384, device="cuda")
        for name, network in (("plain", plain), ("ours", ours), ("ours, compiled", compiled)):
            network.eval()
            run = torch.inference_mode()(torch.autocast("cuda", torch.bfloat16)(partial(network, pictures)))
            found[f"inference, batch {batch}, {name}"] = gpu_speed(run, batch, once * batch, rounds)
    rows = []
    for what in ("training", "inference, batch 1", "inference, batch 40"):
        for name in ("ours", "ours, compiled"):
            speed = found[f"{what}, {name}"]["images_per_s"] / found[f"{what}, plain"]["images_per_s"]
            rows.append(ratio(f"{what}, bf16, {name}", "plain implementation", round(speed, 4), 1.0, "min"))
    use = found["training, ours, compiled"]["utilisation"]
    return {"ratios": [*rows, ratio("utilisation, training", "989 TFLOP/s", use, 0.3, "min")], "runs": found}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write ``results/speed_dqnet_step.json``, with ``--gpu`` also ``..._gpu.json``."""
    arguments = parse_speed(speed_parser(__doc__, batch=2, rounds=4), argv)
    if arguments.gpu:
        write_speed("dqnet_step", measure_gpu(20), gpu=True)
    write_speed("dqnet_step", measure_cpu(arguments.batch, arguments.rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
