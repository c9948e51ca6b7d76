"""Objects assigned to the locations of Adap RepPoints at once against one by one, and training steps on a GPU.

    python benchmarks/p2p_loc_step.py [--gpu] [--repeat 10] [--objects 60] [--batch 2]

An assignment is that of both stages for a batch of 640x512 tiles, 27,280 locations each, with pseudo boxes of 16x16
spread evenly. One by one is the structure of the authors' code: for each object the distances to all locations of its
level, and for each object the boxes that reach its best overlap; both have our overlaps. Both must give the same
objects. The second stage is mostly overlaps on either side. Sides take turns; ratios are of medians.

With ``--gpu``: training steps (forward, losses, backward, SGD; ResNet-50, stem and first stage frozen) with objects
assigned either way; at batch 2, 4 and 8 in bfloat16 and channels last; and 8 tiles looked at in one pass against one by
one, as the authors' code does. On a CPU nearly all of a step is convolutions.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from common import parse_speed, ratio, speed_parser, write_speed
from timing import alternate, flops_of, gpu_speed, medians
from torch import Tensor

from p2p_loc import reppoints
from p2p_loc.assign import (
    BACKGROUND,
    IGNORED,
    NEGATIVE_IOU,
    POSITIVE_IOU,
    assign_by_iou,
    assign_points,
    grid_locations,
    pairwise_iou,
)
from p2p_loc.reppoints import ADAP_STRIDES, DeformConv3x3, RepPoints

TILE = (512, 640)  # height, width
PSEUDO_SIDE = 16.0
BASE_SCALE = 2.0
GPU_BATCHES = (2, 4, 8)


def points_one_by_one(
    boxes: Tensor,
    sizes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    scale: float,
    pos_num: int = 1,
    area: tuple[float, float] | None = None,
) -> Tensor:
    """:func:`p2p_loc.assign.assign_points` object by object, for images as large as the batch."""
    locations = grid_locations(sizes, strides, boxes.device)
    level = locations[:, 2].log2().int()
    match = torch.full((len(locations),), BACKGROUND, device=boxes.device)
    nearest = torch.full((len(locations),), torch.inf, device=boxes.device)
    centre, side = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-6)
    wanted = ((side / scale).log2().sum(1) / 2).int().clamp(int(level.min()), int(level.max()))
    every = torch.arange(len(locations), device=boxes.device)
    for i in range(len(boxes)):
        on_level = level == wanted[i]
        there = every[on_level]
        distance, order = ((locations[on_level, :2] - centre[i]) / side[i]).norm(dim=1).topk(pos_num, largest=False)
        chosen = there[order]
        closer = distance < nearest[chosen]
        match[chosen[closer]], nearest[chosen[closer]] = i, distance[closer]
    return match


def boxes_one_by_one(candidates: Tensor, boxes: Tensor, usable: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """:func:`p2p_loc.assign.assign_by_iou`, the boxes that reach an object's best overlap object by object."""
    iou = pairwise_iou(boxes, candidates)
    best, argbest = iou.max(0)
    match = torch.full_like(argbest, IGNORED)
    match[best < NEGATIVE_IOU] = BACKGROUND
    match[best >= POSITIVE_IOU] = argbest[best >= POSITIVE_IOU]
    for i in range(len(boxes)):
        match[iou[i] == iou[i].max()] = i
    return match, best


def make_batch(batch: int, objects: int, device: str) -> tuple[Tensor, list[dict[str, Any]]]:
    """Normal noise as tiles, and pseudo boxes of one size."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, *TILE, generator=generator)
    targets = []
    for _ in range(batch):
        low = torch.rand(objects, 2, generator=generator) * (torch.tensor([TILE[1], TILE[0]]) - PSEUDO_SIDE)
        labels = torch.zeros(objects, dtype=torch.long, device=device)
        targets.append({"boxes": torch.cat([low, low + PSEUDO_SIDE], 1).to(device), "labels": labels, "size": TILE})
    return images.to(device), targets


def assignments(targets: list[dict[str, Any]], device: str) -> list[dict[str, Callable[[], list[Tensor]]]]:
    """Objects of all locations of all images, at once and one by one: of the first stage, and of the second."""
    sizes = [(-(-TILE[0] // stride), -(-TILE[1] // stride)) for stride in ADAP_STRIDES]
    locations = grid_locations(sizes, ADAP_STRIDES)
    half = locations[:, 2:] * torch.exp(torch.randn(len(locations), 2, generator=torch.Generator().manual_seed(1)) / 2)
    proposals = torch.cat([locations[:, :2] - half, locations[:, :2] + half], 1).to(device)
    objects = [target["boxes"] for target in targets]

    def first(assign: Callable[..., Tensor]) -> list[Tensor]:
        return [assign(boxes, sizes, ADAP_STRIDES, BASE_SCALE, area=TILE) for boxes in objects]

    def second(assign: Callable[..., tuple[Tensor, Tensor]]) -> list[Tensor]:
        return [assign(proposals, boxes)[0] for boxes in objects]

    return [
        {"at once": partial(first, assign_points), "one by one": partial(first, points_one_by_one)},
        {"at once": partial(second, assign_by_iou), "one by one": partial(second, boxes_one_by_one)},
    ]


def step_of(model: RepPoints, batch: tuple[Tensor, Any], precision: torch.dtype | None = None) -> Callable[[], Tensor]:
    """One optimizer step; the learning rate is 0, so that every repetition does the same work."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0, momentum=0.9)
    images, targets = batch

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(images.device.type, precision, enabled=precision is not None):
            losses = model(images, targets)
        total = torch.stack(list(losses.values())).sum()
        total.backward()
        optimizer.step()
        return total.detach()

    return step


def one_by_one(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The same step with objects assigned one by one."""

    def looped() -> Tensor:
        with (
            mock.patch.object(reppoints, "assign_points", points_one_by_one),
            mock.patch.object(reppoints, "assign_by_iou", boxes_one_by_one),
        ):
            return step()

    return looped


def with_plain_convolutions() -> Any:
    """In place of deformable ones, which multiply as often but are not counted."""
    return mock.patch.object(DeformConv3x3, "forward", lambda self, x, _: F.conv2d(x, self.weight, padding=1))


def on_gpu(batch: int, objects: int, repeat: int) -> dict[str, Any]:
    """Seconds of a step by assignment and of looking at 8 tiles, and training in bfloat16 by batch size."""
    torch.manual_seed(0)
    model = RepPoints(1).cuda().to(memory_format=torch.channels_last).train()
    step = step_of(model, make_batch(batch, objects, "cuda"))
    steps = {"at once": step, "one by one": one_by_one(step)}
    first, second = (float(side()) for side in steps.values())
    if abs(first - second) > 1e-4 * abs(second):
        raise SystemExit(f"the losses differ: {first} and {second}")
    found: dict[str, Any] = {"step_seconds": alternate(steps, repeat), "training": {}}

    for size in GPU_BATCHES:
        images, targets = make_batch(size, objects, "cuda")
        images = images.contiguous(memory_format=torch.channels_last)
        step = step_of(model, (images, targets), torch.bfloat16)
        with with_plain_convolutions():
            flops = flops_of(step)
        found["training"][f"batch {size}"] = gpu_speed(step, size, flops, repeat)
    model.eval()

    @torch.inference_mode()
    def look(size: int) -> None:
        with torch.autocast("cuda", torch.bfloat16):
            for tiles in images.split(size):
                model.candidates(tiles, [TILE] * len(tiles))

    sides = {"batched": lambda: look(len(images)), "one by one": lambda: look(1)}
    return found | {"tiles_seconds": alternate(sides, repeat, warm_up=3)}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write ``results/speed_p2p_loc_step.json``."""
    parser = speed_parser(__doc__, objects=60, batch=2)
    parser.add_argument("--repeat", type=int, default=10, help="counted rounds; default: %(default)s")
    arguments = parse_speed(parser, argv)
    device = "cuda" if arguments.gpu else "cpu"
    repeat = arguments.repeat

    _, targets = make_batch(arguments.batch, arguments.objects, device)
    stages = assignments(targets, device)
    if not all(torch.equal(*pair) for sides in stages for pair in zip(*(side() for side in sides.values()))):
        raise SystemExit("the two sides assign different objects")
    content: dict[str, Any] = {"batch": arguments.batch, "objects": arguments.objects}
    first, second = content["stage_seconds"] = [alternate(sides, repeat) for sides in stages]
    both = {name: [a + b for a, b in zip(first[name], second[name])] for name in first}
    ratios = [
        gain("objects of the first stage, at once", first, 10.0),
        gain("objects of both stages, at once", both, 1.5),
    ]
    if arguments.gpu:
        content |= on_gpu(arguments.batch, arguments.objects, repeat)
        ratios += [
            gain("training step, objects assigned at once", content["step_seconds"], 1.0),
            gain(f"{GPU_BATCHES[-1]} tiles in one pass", content["tiles_seconds"], 1.5),
        ]
    write_speed("p2p_loc_step", {"ratios": ratios, **content}, arguments.gpu)
    return 0


def gain(name: str, seconds: dict[str, list[float]], target: float) -> dict[str, Any]:
    """How many times as fast the first side is as the second, which is one by one."""
    ours, theirs = medians(seconds).values()
    return ratio(name, "one by one", theirs / ours, target, "min")


if __name__ == "__main__":
    sys.exit(main())
