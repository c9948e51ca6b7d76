"""A training step of SSD-Det against the same detector without refiner, and that against torchvision's Faster R-CNN.

    python benchmarks/ssd_det_step.py [--gpu] [--repeat 3] [--height 800 --width 1344]

Same images, 7 boxes each (COCO's mean), forward, backward and SGD step, ResNet-50, stem and first stage frozen,
BatchNorm statistics fixed. The steps alternate; ratios are of medians.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from common import parse_speed, ratio, speed_parser, write_speed
from timing import alternate, medians
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from ssd_det.model import SSDDet

CLASSES = 80
BOXES_PER_IMAGE = 7


def make_batch(batch: int, height: int, width: int, device: str) -> tuple[Tensor, list[dict[str, Any]]]:
    """Normal noise as images, and boxes whose sides are spread like COCO's (16 to 400 px, log-uniform)."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, height, width, generator=generator)
    targets = []
    for _ in range(batch):
        side = torch.exp(torch.empty(BOXES_PER_IMAGE, 2).uniform_(2.77, 5.99, generator=generator))
        centre = torch.rand(BOXES_PER_IMAGE, 2, generator=generator) * torch.tensor([width, height])
        low = (centre - side / 2).clamp(min=0)
        high = torch.minimum(centre + side / 2, torch.tensor([width, height]))
        labels = torch.randint(0, CLASSES, (BOXES_PER_IMAGE,), generator=generator)
        targets.append({"boxes": torch.cat([low, high], 1).to(device), "labels": labels.to(device)})
    return images.to(device), targets


def step_of(model: nn.Module, batch: tuple[Any, Any]) -> Callable[[], None]:
    """One optimizer step of ``model``; the learning rate is 0, so that every repetition does the same work."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        losses = [value for name, value in model(*batch).items() if name.startswith("loss_")]
        torch.stack(losses).sum().backward()
        optimizer.step()

    return step


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write ``results/speed_ssd_det_step.json``."""
    parser = speed_parser(__doc__, height=800, width=1344)
    parser.add_argument("--repeat", type=int, help="counted steps of each kind; default 3, with a GPU 20")
    parser.add_argument("--batch", type=int, help="images; default 1, with a GPU 2")
    arguments = parse_speed(parser, argv)
    device = "cuda" if arguments.gpu else "cpu"
    repeat = arguments.repeat or (20 if arguments.gpu else 3)
    batch = arguments.batch or (2 if arguments.gpu else 1)
    images, targets = make_batch(batch, arguments.height, arguments.width, device)
    shifted = [{"boxes": t["boxes"], "labels": t["labels"] + 1} for t in targets]

    torch.manual_seed(0)
    models: dict[str, nn.Module] = {
        "SSD-Det": SSDDet("resnet50", CLASSES, frozen_stages=1),
        "without refiner": SSDDet("resnet50", CLASSES, refiner=None, frozen_stages=1),
        "plain Faster R-CNN": SSDDet(
            "resnet50", CLASSES, refiner=None, neck_norm="none", loss_weight=1.0, frozen_stages=1
        ),
        # what fasterrcnn_resnet50_fpn builds with ImageNet weights; without them it would thaw everything
        "torchvision": FasterRCNN(
            resnet_fpn_backbone(
                backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=3
            ),
            CLASSES + 1,
            rpn_post_nms_top_n_train=1000,
            min_size=min(arguments.height, arguments.width),
            max_size=max(arguments.height, arguments.width),
            image_mean=[0.0] * 3,
            image_std=[1.0] * 3,
        ),
    }
    steps = {}
    for name, model in models.items():
        model.to(device).train()
        model_inputs = (list(images), shifted) if name == "torchvision" else (images, targets)
        steps[name] = step_of(model, model_inputs)
    seconds = alternate(steps, repeat)
    middle = medians(seconds)
    for name, value in middle.items():
        print(f"{name}: {value:.3f} s")
    refined = middle["SSD-Det"] / middle["without refiner"]
    plain = middle["plain Faster R-CNN"] / middle["torchvision"]
    content = {
        "ratios": [
            ratio("SSD-Det training step", "the same detector without refiner", refined, 1.6, "max"),
            ratio("plain Faster R-CNN training step", "torchvision's", plain, 1.05, "max"),
        ],
        "seconds": seconds,
        "images": [batch, 3, arguments.height, arguments.width],
        "boxes_per_image": BOXES_PER_IMAGE,
    }
    write_speed("ssd_det_step", content, arguments.gpu)
    return 0


if __name__ == "__main__":
    sys.exit(main())
