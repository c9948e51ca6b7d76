"""``itpn-check FILE``: which model a checkpoint is of, what of it fits our networks, and what is left out.

Examples::

    itpn-check itpn-base-pixel.pth
    itpn-check fast_itpn_tiny_1600e_1k.pt --model fast_itpn_tiny
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what a checkpoint holds; exit with status 2 and one message if it is none that fits."""
    parser = argparse.ArgumentParser(
        prog="itpn-check", description="Which model a checkpoint is of, what fits, and what is left out."
    )
    parser.add_argument("file", help="a checkpoint of the authors or of a run of ours, or the folder of a run")
    parser.add_argument("--model", help="compare it with this size, e.g. itpn_base or fast_itpn_tiny")
    given = parser.parse_args(arguments)

    from vireo.errors import InputError

    try:
        print(describe(given.file, given.model))
    except InputError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


def describe(path: str, model: str | None = None) -> str:
    """What a checkpoint holds and how it fits, in lines.

    Args:
        path: a file, or the folder of a run.
        model: name of a size to compare it with; None for the one it is of.

    Raises:
        InputError: an unreadable file, one without a backbone, an unknown size, or entries that do not fit.
    """
    import torch

    from .identify import groups_of, identify
    from .official import fit_backbone, read_state, split_official
    from .sizes import SIZES, itpn_backbone

    state = read_state(path)
    found = identify(state, path)
    options = {"num_classes": found.num_classes, **found.options}
    with torch.device("meta"):
        if model is None:
            network = found.build(num_classes=found.num_classes)
        else:
            own = {key: value for key, value in options.items() if key not in SIZES.get(model, {})}
            if model.startswith("fast_") and not found.fast:
                own.pop("rel_pos")
            network = itpn_backbone(model, **own)
    meta = {key: value.to("meta") for key, value in state.items()}
    entries, report = fit_backbone(network, meta, path)
    heads = split_official(state).heads
    readout = [key for key in report.missing if key in heads]
    unused = [key for key in report.unexpected if key not in readout]
    fresh = [key for key in report.missing if key not in readout]
    scale = "with layer scale" if found.options["init_values"] else "no layer scale"
    sizes = f"{found.size or 'sizes of its own'}: {options['embed_dim']} channels, depths {options['depths']}"
    lines = [
        f"{path}: {found.family}",
        f"  {sizes}, units of {options['patch_size']}, image size {options.get('img_size', 'unknown')}, {scale}",
        f"  pyramid: {f'depth {found.fpn_depth}' if found.fpn_depth else 'none that fits'}"
        f"; classes: {found.num_classes or 'none'}",
        f"  fits {model or 'the backbone'}: {len(entries) + len(readout)} entries",
        f"  not in the file, left at their start: {groups_of(fresh) or 'nothing'}",
        f"  in the file, beside the backbone: {groups_of(unused) or 'nothing'}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
