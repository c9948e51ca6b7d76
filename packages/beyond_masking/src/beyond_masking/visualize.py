"""``beyond-masking-visualize``: what encoders see of images, what they make of it, and what it was.

beyond-masking-visualize cat.jpg holiday/ --run outputs/integrated outputs/zoomed_out --out pictures
beyond-masking-visualize cat.jpg --degradations                       # every degradation, without a trained model
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vireo.engine.cli import reporting
from vireo.engine.image_script import for_each_image, image_parser, named_images

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from .model import TokenPretrainModel

SIZE = 224  # of the encoder's input when no run says it


def read_image(path: Path, size: int) -> Tensor:
    """The middle square of an image file, ImageNet-normalised ``(1, 3, size, size)``.

    Raises:
        InputError: the file is missing, damaged, too large or no image.
    """
    import torch

    from vireo.data import Normalize, decode_image
    from vireo.data.resized_crops import resampling_weights

    image = decode_image(path)
    side = min(image.shape[-2:])
    rows, columns = (
        resampling_weights(torch.tensor([(length - side) / 2]), torch.tensor([float(side)]), length, size)
        for length in image.shape[-2:]
    )
    return Normalize()(rows @ image.float() @ columns.mT, {})[0][None]


def recovery_sheet(networks: Sequence[TokenPretrainModel], path: Path, seed: int) -> np.ndarray:
    """A row per network: the original, what it sees, its prediction; uint8 ``(H, W, 3)``.

    Args:
        networks: at least one.
        path: image file.
        seed: of masks and degradations.
    """
    from vireo.report import stacked

    from .draws import GeneratorDraws
    from .report import recovery_grid

    rows = []
    for network in networks:
        images = read_image(path, network.crop_size)
        rows.append(recovery_grid(network, images, GeneratorDraws(1, generator=seeded_generator(seed))))
    return stacked(rows)


def degradation_sheet(path: Path, size: int, seed: int) -> np.ndarray:
    """What the encoder sees of an image under each degradation, without a mask; uint8 ``(H, W, 3)``."""
    from vireo.report import as_picture, grid

    from .draws import GeneratorDraws
    from .model import DEGRADATIONS, build_degradation
    from .targets import denormalized

    cells, captions = [], []
    for name in DEGRADATIONS:
        degradation = build_degradation(name, size)
        images = read_image(path, degradation.crop_size)
        seen = degradation(images, draws=GeneratorDraws(1, generator=seeded_generator(seed))).inputs
        cells.append(as_picture(denormalized(seen[0].expand(3, -1, -1))))
        captions.append("original" if name == "none" else name.replace("_", "-"))
    return grid(cells, 4, captions)


def seeded_generator(seed: int) -> torch.Generator:
    """A generator for one picture."""
    import torch

    return torch.Generator().manual_seed(seed)


def _parser() -> argparse.ArgumentParser:
    what = "Draw what pre-trained encoders see of images and what they recover."
    parser = image_parser("beyond-masking-visualize", what, out="pictures")
    parser.add_argument("--run", nargs="+", default=["outputs/pretrain"], help="folders of finished pre-training runs")
    parser.add_argument("--degradations", action="store_true", help="draw every degradation, without any run")
    parser.add_argument("--seed", type=int, default=0, help="of masks and degradations")
    return parser


def _visualize(arguments: argparse.Namespace) -> int:
    images = named_images(arguments, as_png=True)

    from vireo.report import write_picture

    from .load import load_run

    folders = [] if arguments.degradations else arguments.run
    networks = [load_run(folder, kind="pretraining").pretraining for folder in folders]

    def sheet(path: Path) -> np.ndarray:
        if arguments.degradations:
            return degradation_sheet(path, SIZE, arguments.seed)
        return recovery_sheet(networks, path, arguments.seed)

    def write(path: Path, target: Path, picture: np.ndarray) -> None:
        write_picture(target, picture)
        print(f"{path}: {target}")

    return for_each_image(images, sheet, write)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; 2 if an image could not be read: the others are drawn all the same."""
    return reporting(_visualize, _parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
