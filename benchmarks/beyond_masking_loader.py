"""Images a second into pre-training: decoding and random resized crops to 224, against PIL's pipeline.

    python benchmarks/beyond_masking_loader.py [--images 600] [--workers 2] [--repetitions 5] [--gpu]

Both sides read the same JPEGs (640x480, see `loader.py`) with the same number of workers, cut random parts (20 to 100 %
of the area), resize them with antialiased bicubic filtering, flip half of them and deliver normalised float32 batches.
They take turns, epoch by epoch. With ``--gpu``, also decoding by nvJPEG against the workers, and the share of a
ViT-B/16 training step (batch 256, bfloat16) that waits for its batch.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from common import write_result
from loader import SEED, write_photos
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


def epoch_seconds(batches: Iterable[Any]) -> float:
    """Seconds to go through an epoch."""
    began = time.perf_counter()
    for images, _ in batches:
        assert images.shape == (BATCH, 3, SIZE, SIZE)
    return time.perf_counter() - began


def in_turns(folder: Path, workers: int, repetitions: int) -> dict[str, list[float]]:
    """Seconds of an epoch of both sides, after one each to start the workers and fill the file cache."""
    ours, theirs = our_loader(folder, workers), pil_loader(folder, workers)
    seconds: dict[str, list[float]] = {"vireo": [], "PIL": []}
    for repetition in range(repetitions + 1):
        taken = {"vireo": epoch_seconds(ours.batches(repetition)), "PIL": epoch_seconds(theirs)}
        for side in seconds if repetition else ():
            seconds[side].append(taken[side])
    return seconds


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


def wait_share(folder: Path, workers: int, steps: int = 30, batch: int = 256) -> float:
    """Share of a ViT-B/16 step that waits for its batch, after five steps of warm-up."""
    from beyond_masking import pretrain_vit_base
    from beyond_masking.build import compile_blocks

    model = pretrain_vit_base("none").cuda()
    compile_blocks(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-4, fused=True)
    loader = our_loader(folder, workers, batch, "cuda")
    waited = total = 0.0
    done = epoch = 0
    while done < steps + 5:
        batches, epoch = loader.batches(epoch), epoch + 1
        while done < steps + 5:
            began = time.perf_counter()
            delivered = next(batches, None)
            if delivered is None:
                break
            torch.cuda.current_stream().synchronize()  # the copy itself counts as waiting
            ready = time.perf_counter()
            with torch.autocast("cuda", torch.bfloat16):
                loss = model(delivered[0]).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            torch.cuda.current_stream().synchronize()
            if done >= 5:
                waited, total = waited + ready - began, total + time.perf_counter() - began
            done += 1
    return waited / total


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write ``results/speed_beyond_masking_loader.json``, with ``--gpu`` also ``..._gpu.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--gpu", action="store_true")
    arguments = parser.parse_args(argv)
    if arguments.gpu and not torch.cuda.is_available():
        print("no CUDA device: the GPU part cannot be measured", file=sys.stderr)
        return 1
    torch.set_num_threads(1)  # this process shares its cores with the workers
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kilobytes = write_photos(folder, arguments.images)
        seconds = in_turns(folder, arguments.workers, arguments.repetitions)
        delivered = arguments.images // BATCH * BATCH
        rates = {side: round(delivered / median(values), 1) for side, values in seconds.items()}
        ratio = {"name": "decoding and crops to 224", "against": "PIL transforms, DataLoader", "bound": "min"}
        common = {"images": arguments.images, "kilobytes_per_image": round(kilobytes, 1), "workers": arguments.workers}
        result = {**common, "images_per_second": rates, "seconds_per_epoch": seconds}
        value = round(rates["vireo"] / rates["PIL"], 3)
        write_result(
            "speed_beyond_masking_loader", {"ratios": [{**ratio, "value": value, "target": 1.5}], **result}, SEED
        )
        if arguments.gpu:
            decoded = nvjpeg_rate(folder)
            ratios = [
                {
                    "name": "nvJPEG decoding",
                    "against": f"{arguments.workers} workers decoding and cropping",
                    "value": round(decoded / rates["vireo"], 3),
                    "target": 1.0,
                    "bound": "min",
                },
                {
                    "name": "loader wait",
                    "against": "ViT-B/16 step, batch 256, bfloat16",
                    "value": round(wait_share(folder, arguments.workers), 4),
                    "target": 0.05,
                    "bound": "max",
                },
            ]
            rates["nvJPEG, decoding alone"] = round(decoded, 1)
            write_result("speed_beyond_masking_loader_gpu", {"ratios": ratios, **result}, SEED)
    for side, rate in rates.items():
        print(f"{side}: {rate} images/s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
