"""``fgc-predict``: classes of images, and which channels fired for each.

fgc-predict cat.jpg holiday/ --run outputs/fgc --out predictions
fgc-predict cat.jpg --json predictions.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vireo.data.image_files import expand_folders, picture_files
from vireo.engine.cli import reporting
from vireo.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@dataclass(frozen=True)
class GatedPrediction:
    """What a gated network makes of one image.

    Attributes:
        path: the file.
        image: uint8 ``(3, H, W)`` RGB, as the network saw it but for normalisation.
        label: the most probable class.
        probability: its softmax probability.
        gate_logits: per block ``(C,)``; a channel is computed where it is positive.
    """

    path: Path
    image: Tensor
    label: int
    probability: float
    gate_logits: tuple[Tensor, ...]


def predict_images(
    network: nn.Module, paths: Iterable[str | Path], data: Any, *, device: str | torch.device | None = None
) -> list[GatedPrediction]:
    """Classify image files.

    Args:
        network: gated.
        paths: image files.
        data: the data configuration of the run: images are brought to its size and normalised as there.
        device: default: CUDA if there is a device.

    Raises:
        InputError: an image is missing, damaged, too large or none.
    """
    import torch

    from vireo.data import Normalize, decode_image, imagenet_transforms, resize_images

    from .gate import gates_of

    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    normalize = Normalize(list(data.mean), list(data.std))
    crop = None if data.resident else imagenet_transforms(False, data.crop_size)
    network.to(chosen).eval()
    found = []
    for path in map(Path, paths):
        image = decode_image(path)
        image = resize_images(image, tuple(data.image_size)) if crop is None else crop(image, {})[0]
        batch, _ = normalize(image[None].to(chosen), {})
        with torch.no_grad():
            probabilities = network(batch).softmax(1)[0]
        label = int(probabilities.argmax())
        logits = tuple(gate.logits[0].cpu() for gate in gates_of(network) if gate.logits is not None)
        found.append(GatedPrediction(path, image, label, float(probabilities[label]), logits))
    return found


def write_picture(found: GatedPrediction, classes: Sequence[str], target: Path) -> None:
    """Draw the image beside its gates and write it to ``target``, as JPEG or PNG by its name.

    Raises:
        InputError: the folder cannot be written.
    """
    from PIL import Image

    from vireo.engine.folder import write_atomically

    from .report import image_with_gates

    caption = f"{classes[found.label]} ({100 * found.probability:.0f} %)"
    pixels = found.image.permute(1, 2, 0).contiguous().numpy()
    picture = Image.fromarray(image_with_gates(pixels, found.gate_logits, caption), mode="RGB")
    kind: dict[str, Any] = {"format": "PNG"} if target.suffix == ".png" else {"format": "JPEG", "quality": 92}
    write_atomically(target, lambda file: picture.save(file, **kind))


def as_json(found: GatedPrediction, classes: Sequence[str]) -> dict[str, Any]:
    """File, class, probability and, per block, the numbers of the open channels."""
    return {
        "file_name": str(found.path),
        "class": classes[found.label],
        "label": found.label,
        "probability": round(found.probability, 5),
        "open_channels": [(z > 0).nonzero().flatten().tolist() for z in found.gate_logits],
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fgc-predict", description="Classify images and draw which channels of a gated network fire for each."
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files, or folders of images")
    parser.add_argument("--run", default="outputs/fgc", help="folder of a finished run (default: %(default)s)")
    parser.add_argument("--weights", metavar="FILE", help="other weights of the same network")
    parser.add_argument("--out", default="predictions", help="folder for the pictures (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="also write classes and open channels")
    parser.add_argument("--device", default=None, help="e.g. cpu (default: CUDA if there is a device)")
    return parser


def _predict(arguments: argparse.Namespace) -> int:
    from vireo.engine.folder import require_writable

    paths = expand_folders(arguments.images)
    targets = picture_files(paths, Path(arguments.out))
    require_writable(arguments.out, "--out")
    if arguments.json:
        require_writable(Path(arguments.json).parent, "--json")

    from vireo.engine.logs import write_json

    from .load import load_run  # torch, once the rest is known to be right

    loaded = load_run(arguments.run, arguments.weights)
    results: list[dict[str, Any]] = []
    bad: list[str] = []
    for path, target in zip(paths, targets):
        try:
            (found,) = predict_images(loaded.network, [path], loaded.config.data, device=arguments.device)
        except InputError as error:  # the others are done all the same
            bad.append(f"{error.where}: {error.what}")
            continue
        write_picture(found, loaded.classes, target)
        results.append(as_json(found, loaded.classes))
        print(f"{path}: {loaded.classes[found.label]} ({100 * found.probability:.0f} %), {target}")
    if arguments.json:
        write_json(Path(arguments.json), results)
    for line in bad:
        print(f"error: {line}", file=sys.stderr)
    return 2 if bad else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``fgc-predict``; 2 if an image could not be read: the others are written all the same."""
    return reporting(_predict, _parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
