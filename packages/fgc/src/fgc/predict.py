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

from vireo.engine.cli import reporting
from vireo.engine.image_script import for_each_image, named_images, prediction_parser

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
    what = "Classify images and draw which channels of a gated network fire for each."
    return prediction_parser("fgc-predict", what, run="outputs/fgc", json="classes and open channels")


def _predict(arguments: argparse.Namespace) -> int:
    images = named_images(arguments)

    from vireo.engine.logs import write_json
    from vireo.report import write_picture

    from .load import load_run  # torch, once the rest is known to be right
    from .report import image_with_gates

    loaded = load_run(arguments.run, arguments.weights)
    results: list[dict[str, Any]] = []

    def prediction(path: Path) -> GatedPrediction:
        return predict_images(loaded.network, [path], loaded.config.data, device=arguments.device)[0]

    def write(path: Path, target: Path, found: GatedPrediction) -> None:
        caption = f"{loaded.classes[found.label]} ({100 * found.probability:.0f} %)"
        pixels = found.image.permute(1, 2, 0).contiguous().numpy()
        write_picture(target, image_with_gates(pixels, found.gate_logits, caption))
        results.append(as_json(found, loaded.classes))
        print(f"{path}: {caption}, {target}")

    status = for_each_image(images, prediction, write)
    if arguments.json:
        write_json(Path(arguments.json), results)
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``fgc-predict``; 2 if an image could not be read: the others are written all the same."""
    return reporting(_predict, _parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
