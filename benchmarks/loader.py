"""Loader images per second against torchvision's ImageFolder, DataLoader and PIL transforms.

    python benchmarks/loader.py [--images 600] [--workers 2] [--repetitions 7] [--gpu]

Both sides read the same JPEGs (640x480, made here: smooth colours, edges and sensor noise) with the same number of
workers, resize them with antialiased bilinear filtering to the same size, flip half of them and deliver normalised
float32 NCHW batches on the CPU. They take turns, epoch by epoch; the ratio is that of the median times. Before that,
their batches are compared without flips: they may differ by rounding only, or nothing is written.

With ``--gpu``, also the time a Faster R-CNN training step waits for its batch, as a fraction of the step.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import torch
from common import parse_speed, ratio, speed_parser, write_speed
from timing import alternate_epochs, wait_share
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms as T
from torchvision.datasets import ImageFolder

from vireo.data import Compose, Loader, NormalizePad, RandomHorizontalFlip, Resize, decode_image

SEED = 0
HEIGHT, WIDTH = 480, 640
SIZE = (320, 427)
BATCH = 16
QUALITY = 90
LARGEST_DIFFERENCE = 3.0  # grey levels; two correct decoders and filters differ by rounding


def photo(rng: np.random.Generator) -> np.ndarray:
    """A BGR picture (480, 640, 3) with the spectrum of a photograph: noise at many scales, some hard edges."""
    picture = np.full((HEIGHT, WIDTH, 3), 128, np.float32)
    for cells, amplitude in ((4, 60), (8, 40), (16, 30), (32, 20), (64, 12), (160, 8)):
        coarse = rng.standard_normal((cells * 3 // 4, cells, 3)).astype(np.float32)
        picture += amplitude * cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    for _ in range(6):
        x, y, w, h = (int(v) for v in rng.integers((0, 0, 20, 20), (600, 440, 200, 200)))
        picture[y : y + h, x : x + w] += rng.normal(0, 40, 3).astype(np.float32)
    picture += rng.normal(0, 4, (HEIGHT, WIDTH, 1)).astype(np.float32)
    return picture.clip(0, 255).astype(np.uint8)


def write_photos(folder: Path, count: int) -> float:
    """Write ``count`` JPEGs as the one class of an image folder; returns their mean size in kB."""
    (folder / "photos").mkdir()
    rng = np.random.default_rng(SEED)
    for number in range(count):
        path = folder / "photos" / f"{number:05d}.jpg"
        cv2.imwrite(str(path), photo(rng), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return sum(path.stat().st_size for path in folder.rglob("*.jpg")) / count / 1e3


class Photos:
    """The image folder as samples with one box."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.rglob("*.jpg"))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        box = torch.tensor([[100.0, 100.0, 300.0, 300.0]])
        target = {"boxes": box, "labels": torch.ones(1, dtype=torch.int64), "image_id": index}
        return decode_image(self.paths[index]), target


def vireo_loader(
    folder: Path,
    workers: int,
    *,
    flip: float = 0.5,
    shuffle: bool = True,
    size: tuple[int, int] = SIZE,
    device: str = "cpu",
    batch: int = BATCH,
) -> Loader:
    return Loader(
        Photos(folder),
        batch_size=batch,
        shuffle=shuffle,
        seed=SEED,
        transform=Compose(Resize(size), RandomHorizontalFlip(flip)),
        device_transform=NormalizePad(multiple=1),
        device=device,
        workers=workers,
        drop_last=True,
    )


def torchvision_loader(folder: Path, workers: int, *, flip: float = 0.5, shuffle: bool = True) -> DataLoader:
    normalize = T.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    transform = T.Compose([T.Resize(SIZE), T.RandomHorizontalFlip(flip), T.ToTensor(), normalize])
    dataset = ImageFolder(str(folder), transform)
    return DataLoader(
        dataset,
        batch_size=BATCH,
        shuffle=shuffle,
        num_workers=workers,
        drop_last=True,
        persistent_workers=workers > 0,
    )


def largest_difference(folder: Path) -> float:
    """Largest difference of the two sides' first batches, in grey levels."""
    ours = next(iter(vireo_loader(folder, 0, flip=0.0, shuffle=False)))[0]
    theirs = next(iter(torchvision_loader(folder, 0, flip=0.0, shuffle=False)))[0]
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        raise ValueError(f"the sides deliver {ours.shape} {ours.dtype} and {theirs.shape} {theirs.dtype}")
    return float(((ours - theirs).abs().amax((0, 2, 3)) * torch.tensor([58.395, 57.12, 57.375])).max())


def detector_step(size: tuple[int, int]) -> Callable[[Tensor, list[dict[str, Any]]], None]:
    """A training step of Faster R-CNN (ResNet-50) on a GPU."""
    from torchvision.models.detection import fasterrcnn_resnet50_fpn

    model = fasterrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=3,
        min_size=min(size),
        max_size=max(size),
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
    ).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

    def step(images: Tensor, targets: list[dict[str, Any]]) -> None:
        losses = model(list(images), targets)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()

    return step


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write ``results/speed_loader.json``; exit status 1 if the sides deliver different pixels."""
    arguments = parse_speed(speed_parser(__doc__, images=600, workers=2, repetitions=7), argv)
    torch.set_num_threads(1)  # this process shares its cores with the workers
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kilobytes = write_photos(folder, arguments.images)
        difference = largest_difference(folder)
        if not difference <= LARGEST_DIFFERENCE:
            print(f"pixels differ by {difference:.2f} grey levels, more than {LARGEST_DIFFERENCE}", file=sys.stderr)
            return 1
        sides = vireo_loader(folder, arguments.workers), torchvision_loader(folder, arguments.workers)
        seconds = alternate_epochs(*sides, "torchvision", (BATCH, 3, *SIZE), arguments.repetitions)
        delivered = arguments.images // BATCH * BATCH
        rates = {side: delivered / median(values) for side, values in seconds.items()}
        gain = rates["vireo"] / rates["torchvision"]
        ratios = [ratio("Loader on the CPU", "torchvision ImageFolder, DataLoader, PIL transforms", gain, 1.5, "min")]
        if arguments.gpu:
            size = (800, 1067)
            loader = vireo_loader(folder, arguments.workers, size=size, device="cuda", batch=8)
            waited = wait_share(loader, detector_step(size), steps=60, warm_up=3)
            ratios.append(ratio("Loader wait", "Faster R-CNN training step", waited, 0.05, "max"))
    print(f"{arguments.images} JPEGs of {WIDTH}x{HEIGHT}, {kilobytes:.0f} kB each, to {SIZE[1]}x{SIZE[0]}")
    print(f"{arguments.workers} workers, {arguments.repetitions} epochs each, in turns")
    print(f"{'':12} {'images/s':>9} {'min s':>7} {'median s':>9} {'max s':>7}")
    for side, values in seconds.items():
        print(f"{side:12} {rates[side]:9.1f} {min(values):7.2f} {median(values):9.2f} {max(values):7.2f}")
    print(f"pixels differ by at most {difference:.1f} grey levels")
    write_speed(
        "loader",
        {
            "ratios": ratios,
            "images": arguments.images,
            "kilobytes_per_image": round(kilobytes, 1),
            "workers": arguments.workers,
            "images_per_second": rates,
            "seconds_per_epoch": seconds,
            "largest_difference_grey_levels": difference,
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
