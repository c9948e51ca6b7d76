"""Peak memory of finding and drawing points on an image of 10,000 x 8,000 pixels, from the file to the picture.

    python benchmarks/p2p_loc_memory.py [--gpu] [--tiles 4]

What ``p2p-predict`` does, in a process of its own for each line: decode a JPEG or PNG, look at tiles of 640 x 512 with
an overlap of 100, join, draw, write. The small network looks at all 380 tiles. Adap RepPoints with a ResNet-50, too
slow for that on a CPU, looks at the first ``--tiles`` of them, with a GPU at all; their number does not matter to
memory. Weights are random: the 50 best candidates of each tile are made sure, so that there is something to join and to
draw.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import parse_speed, ratio, speed_parser, write_speed

WIDTH, HEIGHT = 10_000, 8_000
TILE, OVERLAP = (640, 512), (100, 100)
LIMIT = 2e9  # bytes
SURE = 50  # detections of a tile
CASES = (("small", "jpg"), ("small", "png"), ("reppoints", "jpg"))


def write_image(path: Path) -> None:
    """A picture of soft blobs, the same 1,000 x 800 pixels ten times across and down."""
    import cv2
    import numpy as np

    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT // 80, WIDTH // 80, 3), dtype=np.uint8)
    part = cv2.resize(noise, (WIDTH // 10, HEIGHT // 10), interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(path), np.tile(part, (10, 10, 1)))


def child(kind: str, image: str, tiles: int, device: str) -> dict[str, Any]:
    """Predict in this process: its peak memory before and after in bytes, seconds, and numbers of points and tiles."""
    import torch
    from torch import Tensor

    from p2p_loc.draw import draw_points
    from p2p_loc.localizer import Candidates, Localizer
    from p2p_loc.predict import predictor
    from vireo.report import write_picture

    class Sure(Localizer):
        """A network whose best candidates are sure, and which gives up after a number of tiles."""

        def __init__(self, network: Localizer, tiles: int) -> None:
            super().__init__(network.num_classes)
            self.network, self.left, self.seen = network, tiles, 0

        def candidates(self, images: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Candidates]:
            if self.left <= 0:
                return [Candidates(images.new_zeros(0, 4), images.new_zeros(0, self.num_classes))] * len(sizes)
            self.left -= len(sizes)
            self.seen += len(sizes)
            found = []
            for boxes, scores in self.network.candidates(images, sizes):
                best = scores.amax(1).topk(SURE).indices
                found.append(Candidates(boxes[best], (scores[best] / scores[best].amax()).clamp(min=0.1)))
            return found

    torch.manual_seed(0)
    if kind == "small":
        from p2p_loc.small import SmallLocalizer

        network: Localizer = SmallLocalizer(1)
    else:
        from p2p_loc.reppoints import RepPoints

        network = RepPoints(1, backbone="resnet50", pretrained=False)
    model = Sure(network, tiles)
    before = _peak()
    start = time.perf_counter()
    found = predictor(model, tile=TILE, overlap=OVERLAP, threshold=0.0, device=device)(image)
    drawn = draw_points(found.image, found.points, scores=found.scores)
    write_picture(Path(image).with_name(f"drawn_{kind}.jpg"), drawn)
    seconds = time.perf_counter() - start
    on_device = torch.cuda.max_memory_allocated() if device == "cuda" else None
    numbers = {"seconds": seconds, "points": len(found.points), "tiles": model.seen}
    return {"network": kind, "image": Path(image).name, "before": before, "peak": _peak(), "gpu": on_device, **numbers}


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write ``results/speed_p2p_loc_memory.json``."""
    parser = speed_parser(__doc__, tiles=4)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    arguments = parse_speed(parser, argv)
    if arguments.child:
        kind, image, tiles, device = arguments.child
        print(json.dumps(child(kind, image, int(tiles), device)))
        return 0
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for kind, suffix in CASES:
            image = Path(folder) / f"large.{suffix}"
            if not image.exists():
                write_image(image)
            few = kind == "reppoints" and not arguments.gpu
            last = [kind, str(image), str(arguments.tiles if few else 10**9), "cuda" if arguments.gpu else "cpu"]
            done = subprocess.run([sys.executable, __file__, "--child", *last], capture_output=True, text=True)
            if done.returncode:
                print(done.stderr, file=sys.stderr)
                return 1
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            row = rows[-1]
            print(
                f"{kind}, {image.name}: {row['peak'] / 1e9:.2f} GB ({row['before'] / 1e9:.2f} before the image), "
                f"{row['points']} points of {row['tiles']} tiles in {row['seconds']:.1f} s"
            )
    ratios = []
    for row in rows:
        case = f"{row['network']}, {row['image'][-3:]}, {row['tiles']} tiles"
        ratios.append(
            ratio(f"peak memory on {WIDTH:,} x {HEIGHT:,} pixels ({case})", "2 GB", row["peak"] / LIMIT, 1.0, "max")
        )
    write_speed("p2p_loc_memory", {"ratios": ratios, "rows": rows}, arguments.gpu)
    return 0


if __name__ == "__main__":
    sys.exit(main())
