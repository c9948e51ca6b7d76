"""``g2sd-check-teacher FILE``: which masked autoencoder a checkpoint is of, and whether it can teach.

Examples::

    g2sd-check-teacher mae_pretrain_vit_base_full.pth --target-block 4
    g2sd-check-teacher outputs/pretrain --images data/pictures

Exit status 2 with one message if it cannot be used: an encoder without its decoder, too few decoder blocks, a damaged
file, or a decoder that recovers nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what a teacher is; exit with status 2 and one message if it is none."""
    parser = argparse.ArgumentParser(
        prog="g2sd-check-teacher", description="Which masked autoencoder a checkpoint is of, and whether it can teach."
    )
    parser.add_argument("file", help="a checkpoint of any layout, or the folder of a run of g2sd-pretrain")
    parser.add_argument("--target-block", type=int, help="decoder block that a student is to predict, counted from 1")
    parser.add_argument("--name", help="the size that it must have, e.g. mae_vit_base_patch16")
    parser.add_argument("--images", help="folder of images to recover; without it, drawn pictures")
    given = parser.parse_args(arguments)

    from vireo.data.image_tree import ImageTree
    from vireo.errors import InputError

    from .teacher_check import check_teacher

    try:
        dataset = None if given.images is None else ImageTree(given.images)
        found = check_teacher(given.file, given.target_block, given.name, dataset)
        print(found)
        if found.warning:
            raise InputError(found.warning, given.file, "give a trained one, or show it its own data with --images")
    except InputError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
