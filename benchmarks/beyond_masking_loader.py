"""Images a second into pre-training: decoding and random resized crops to 224, against PIL's pipeline.

    python benchmarks/beyond_masking_loader.py [--images 600] [--workers 2] [--repetitions 5] [--gpu]

Both sides read the same JPEGs (640x480, see `loader.py`) with the same number of workers, cut random parts (20 to 100 %
of the area), resize them with antialiased bicubic filtering, flip half of them and deliver normalised float32 batches.
They take turns, epoch by epoch. With ``--gpu``, also decoding by nvJPEG against the workers, and the share of a
ViT-B/16 training step (batch 256, bfloat16) that waits for its batch.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from common import parse_speed, ratio, speed_parser, write_speed
from loader import SEED, write_photos
from timing import alternate_epochs, wait_share
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms as T
from torchvision.datasets import ImageFolder

from vireo.data import Compose, ImageTree, Loader, Normalize, RandomResizedCrop, stack_classification
from vireo.data.decode import decode_jpeg_batch, read_encoded

SIZE = 224
BATCH = 32


def our_loader(folder: Path, workers: int, batch: int = BATCH, device: str = "cpu") -> Loader:
    """As ``beyond-masking-pretrain`` builds it for large images."""
    return Loader(
        ImageTree(folder),
        batch_size=batch,
        shuffle=True,
        seed=SEED,
        transform=RandomResizedCrop(SIZE),
        device_transform=Compose(stack_classification, Normalize()),
        device=device,
        workers=workers,
        drop_last=True,
    )


def pil_loader(folder: Path, workers: int) -> DataLoader:
    """The usual pipeline of the field."""
    transform = T.Compose(
        [
            T.RandomResizedCrop(SIZE, scale=(0.2, 1.0), interpolation=T.InterpolationMode.BICUBIC),
            T.RandomHorizontalFlip(),
            T.ToTensor(),
            T.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    options: dict[str, Any] = {"batch_size": BATCH, "shuffle": True, "drop_last": True}
    dataset = ImageFolder(str(folder), transform)
    return DataLoader(dataset, num_workers=workers, persistent_workers=workers > 0, **options)


def nvjpeg_rate(folder: Path, batch: int = 256) -> float:
    """Images a second that nvJPEG decodes; files are read beforehand."""
    encoded = [read_encoded(path) for path in sorted(folder.rglob("*.jpg"))[:batch]]
    decode_jpeg_batch(encoded, "cuda")
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(5):
        decode_jpeg_batch(encoded, "cuda")
    torch.cuda.synchronize()
    return 5 * len(encoded) / (time.perf_counter() - began)


def vit_step() -> Callable[[Tensor, Any], None]:
    """A training step of ViT-B/16 in bfloat16, blocks compiled."""
    from beyond_masking import pretrain_vit_base
    from beyond_masking.build import compile_blocks

    model = pretrain_vit_base("none").cuda()
    compile_blocks(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-4, fused=True)

    def step(images: Tensor, _: Any) -> None:
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(images).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write ``results/speed_beyond_masking_loader.json``, with ``--gpu`` also ``..._gpu.json``."""
    arguments = parse_speed(speed_parser(__doc__, images=600, workers=2, repetitions=5), argv)
    workers = arguments.workers
    torch.set_num_threads(1)  # this process shares its cores with the workers
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kilobytes = write_photos(folder, arguments.images)
        sides = our_loader(folder, workers), pil_loader(folder, workers)
        seconds = alternate_epochs(*sides, "PIL", (BATCH, 3, SIZE, SIZE), arguments.repetitions)
        delivered = arguments.images // BATCH * BATCH
        rates = {side: round(delivered / median(values), 1) for side, values in seconds.items()}
        value = round(rates["vireo"] / rates["PIL"], 3)
        common = {"images": arguments.images, "kilobytes_per_image": round(kilobytes, 1), "workers": workers}
        result = {**common, "images_per_second": rates, "seconds_per_epoch": seconds}
        ratios = [ratio("decoding and crops to 224", "PIL transforms, DataLoader", value, 1.5, "min")]
        write_speed("beyond_masking_loader", {"ratios": ratios, **result})
        if arguments.gpu:
            decoded = nvjpeg_rate(folder)
            gain = round(decoded / rates["vireo"], 3)
            waited = round(wait_share(our_loader(folder, workers, 256, "cuda"), vit_step(), steps=30, warm_up=5), 4)
            ratios = [
                ratio("nvJPEG decoding", f"{workers} workers decoding and cropping", gain, 1.0, "min"),
                ratio("loader wait", "ViT-B/16 step, batch 256, bfloat16", waited, 0.05, "max"),
            ]
            rates["nvJPEG, decoding alone"] = round(decoded, 1)
            write_speed("beyond_masking_loader", {"ratios": ratios, **result}, gpu=True)
    for side, rate in rates.items():
        print(f"{side}: {rate} images/s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
