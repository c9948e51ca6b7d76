"""Small detectors and random batches that the tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ssd_det.model import SSDDet
from ssd_det.refiner import BoxRefiner
from vireo.data.random import counter_key

SIDE = 96
CLASSES = 3
REFINER: dict[str, Any] = {"num_negatives": 40, "ratios": (1.0, 0.8), "shakes": (0.1,)}


def small_detector(kind: type[SSDDet] = SSDDet, *, box_score: float = 0.05, seed: int = 0, **options: Any) -> Any:
    """A narrow detector from scratch; ``kind`` is the class, ``options`` its arguments."""
    torch.manual_seed(seed)
    shape: dict[str, Any] = {
        "norm": "gn",
        "backbone_options": {"channels": (32, 32, 32, 32)},
        "fpn_channels": 16,
        "hidden": 24,
        "roi_size": 3,
        "anchor_scale": 4.0,
        "rpn_options": {"pre_nms": (60, 60), "post_nms": 40},
        "rcnn_options": {"samples_per_image": 32, "score_threshold": box_score},
    }
    if kind is SSDDet and "refiner" not in options:
        options["refiner"] = REFINER
    return kind("resnet18", CLASSES, **{**shape, **options})


def small_refiner(seed: int = 0, **options: Any) -> BoxRefiner:
    """A narrow refiner for the maps of :func:`maps`, with weights large enough for its heads to disagree."""
    torch.manual_seed(seed)
    refiner = BoxRefiner(CLASSES, **{"in_channels": 16, "hidden": 24, "roi_size": 3, **REFINER, **options})
    for parameter in refiner.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    return refiner


def maps(seed: int = 0, batch: int = 2) -> list[Tensor]:
    """Random pyramid maps at strides 4 to 64 for images of side 96."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, 16, -(-SIDE // s), -(-SIDE // s), generator=generator) for s in (4, 8, 16, 32, 64)]


def random_batch(seed: int = 0, counts: tuple[int, ...] = (3, 2)) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor]:
    """Images, and per image boxes inside it and labels; sizes without padding."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(len(counts), 3, SIDE, SIDE, generator=generator)
    boxes = []
    for count in counts:
        corner = torch.rand(count, 2, generator=generator) * 50 + 2
        boxes.append(torch.cat([corner, corner + 14 + 24 * torch.rand(count, 2, generator=generator)], 1))
    labels = [torch.arange(count) % CLASSES for count in counts]
    return images, boxes, labels, torch.tensor([[SIDE, SIDE]] * len(counts)).float()


def targets_of(boxes: list[Tensor], labels: list[Tensor], keyed: bool = True) -> list[dict[str, Any]]:
    """Training targets, with counter keys."""
    keys = {i: {"key": torch.tensor(counter_key(0, 0, i))} if keyed else {} for i in range(len(boxes))}
    return [{"boxes": b, "labels": c, **keys[i]} for i, (b, c) in enumerate(zip(boxes, labels))]


def batch(seed: int = 0, counts: tuple[int, ...] = (3, 2)) -> tuple[Tensor, list[dict[str, Any]]]:
    """Images and keyed targets."""
    images, boxes, labels, _ = random_batch(seed, counts)
    return images, targets_of(boxes, labels)


def train_step(model: SSDDet, images: Tensor, targets: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Forward and backward; the outputs, detached."""
    outputs = model.train()(images, targets)
    model.zero_grad()
    torch.stack([v for k, v in outputs.items() if k.startswith("loss_")]).sum().backward()
    return {name: value.detach() for name, value in outputs.items()}


def step_of_one_of_two(rank: int, folder: str) -> None:
    """One of two processes: a step on its image of ``batch(counts=(3, 1))``; means are written to ``two.pt``."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    images, targets = batch(counts=(3, 1))
    model = small_detector()
    losses = train_step(model, images[rank : rank + 1], targets[rank : rank + 1])
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    table = torch.stack([losses[name] for name in sorted(losses)])
    for values in (gradient, table):
        dist.all_reduce(values)
    if rank == 0:
        torch.save({"gradient": gradient / 2, "losses": table / 2}, Path(folder) / "two.pt")
    dist.destroy_process_group()


def features(model: SSDDet) -> list[Tensor]:
    """The pyramid of :func:`random_batch`'s images."""
    return model.extract(random_batch()[0])
