"""``g2sd-export RUN_OR_FILE OUT.safetensors``: the encoder of a checkpoint under timm's names, for use anywhere.

Examples::

    g2sd-export outputs/gd_small vit_small_g2sd.safetensors
    g2sd-export ViT_Sm_GD.pth vit_small_g2sd.safetensors

Prints what was kept and what was left out: a decoder, heads and tokens of training have no place in an encoder.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Write an encoder; exit with status 2 and one message if there is none."""
    parser = argparse.ArgumentParser(
        prog="g2sd-export", description="Write the encoder of a checkpoint under timm's names."
    )
    parser.add_argument("source", help="folder of a run, or a checkpoint of any layout")
    parser.add_argument("out", help="file to write, .safetensors")
    given = parser.parse_args(arguments)

    from vireo.errors import InputError

    try:
        print(export_encoder(given.source, given.out))
    except InputError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


def export_encoder(source: str, out: str) -> str:
    """Write the encoder of a checkpoint as safetensors, in float32.

    Args:
        source: a run's folder, or a file of any layout.
        out: ends in ``.safetensors``; an existing file is replaced.

    Returns:
        What was kept and left out, in lines.

    Raises:
        InputError: no encoder in the source, or another ending.
    """
    from pathlib import Path

    from vireo.engine.checkpoint import save_weights
    from vireo.engine.folder import require_writable
    from vireo.errors import InputError

    from .identify import groups_of, identify
    from .layouts import encoder_of, read_state

    if not out.endswith(".safetensors"):
        raise InputError("no .safetensors file", out, "give a name with that ending")
    state = read_state(source)
    encoder = {key: value.float() for key, value in encoder_of(state).items()}
    found = identify(state, source)
    require_writable(str(Path(out).parent))
    save_weights(encoder, Path(out))
    sizes = found.encoder
    lines = [
        f"{source}: {found.kind}",
        f"  kept: {len(encoder)} entries of {found.size or 'an encoder'}: {sizes['embed_dim']} channels, "
        f"{sizes['depth']} blocks, patches of {sizes['patch_size']}, images of {sizes['img_size']}",
        f"  left out: {groups_of(key for key in state if key not in encoder)}",
        f"  written: {out}",
    ]
    if found.size and sizes["patch_size"] == 16 and "norm.weight" in encoder:
        options = f"img_size={sizes['img_size']}, " * (sizes["img_size"] != 224)
        overlay = f'pretrained=True, pretrained_cfg_overlay={{"file": "{out}"}}'
        name = f"{found.size}_patch16_224"
        lines.append(f'  use: timm.create_model("{name}", num_classes=0, {options}{overlay})')
    return "\n".join(lines)


if __name__ == "__main__":
    main()
