"""What a finished run makes of one image file: classes, the recovered picture, a map of labels, boxes."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vireo.data import decode_image, evaluation_view
from vireo.data.image_sets import normalization
from vireo.engine.folder import write_atomically
from vireo.errors import InputError
from vireo.report import as_picture, grid

from .kinds import Kind
from .load import config_and_kind, load_run


@dataclass(frozen=True)
class Prediction:
    """What is written of one image.

    Attributes:
        rows: of the table of results, each with ``file_name``; values are text or numbers.
        picture: uint8 ``(H, W, 3)`` to look at.
        summary: in a few words.
        labels: of segmentation, uint8 ``(H, W)``: the class of each pixel of the file.
    """

    rows: list[dict[str, Any]]
    picture: np.ndarray
    summary: str
    labels: np.ndarray | None = None


Predictor = Callable[[Path], Prediction]


def predictor(
    run: str,
    weights: str | None = None,
    *,
    top: int = 5,
    threshold: float = 0.5,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> Predictor:
    """A function of image files for a run of any kind.

    Args:
        run: folder of a finished run.
        weights: others of the same network.
        top: classes named for an image.
        threshold: least score of a detection.
        seed: of the masks that a pre-training recovers.
        device: default: CUDA if there is a device.

    Raises:
        InputError: no such run, weights that do not fit, or a setting out of range.
    """
    _, kind = config_and_kind(run)
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    options = {"top": top, "threshold": threshold, "seed": seed, "device": chosen}
    return PREDICTORS[kind](run, weights, options)


def classes_of_images(run: str, weights: str | None, options: Mapping[str, Any]) -> Predictor:
    """The most probable classes."""
    if options["top"] < 1:
        raise InputError(f"{options['top']} classes an image", "--top", "use 1 or more")
    loaded, device = load_run(run, weights), options["device"]
    network, data, img_size = loaded.network.to(device), loaded.config.data, loaded.config.model.img_size

    @torch.no_grad()
    def predict(path: Path) -> Prediction:
        view = evaluation_view(decode_image(path).to(device), data, img_size)
        probabilities = network(view).softmax(1)[0]
        best = probabilities.topk(min(options["top"], len(loaded.classes)))
        rows: list[dict[str, Any]] = [
            {"file_name": str(path), "rank": rank, "class": loaded.classes[label], "label": label, "probability": value}
            for rank, (value, label) in enumerate(zip(_rounded(best.values), best.indices.tolist()), start=1)
        ]
        summary = f"{rows[0]['class']} ({100 * rows[0]['probability']:.0f} %)"
        return Prediction(rows, grid([as_picture(_in_unit_range(view[0], data))], 1, [summary]), summary)

    return predict


def recovered_images(run: str, weights: str | None, options: Mapping[str, Any]) -> Predictor:
    """What a pre-training on pixels recovers of a random mask, and its loss."""
    from .pixel import MaskedPyramidAutoencoder
    from .pretraining_report import recovery_grid

    loaded, device = load_run(run, weights), options["device"]
    network, data = loaded.network.to(device), loaded.config.data
    if not isinstance(network, MaskedPyramidAutoencoder):
        remedy = "give a run with objective=pixel; itpn-eval judges this one by its features"
        raise InputError("a pre-training on features recovers no picture", run, remedy)

    @torch.no_grad()
    def predict(path: Path) -> Prediction:
        view = evaluation_view(decode_image(path).to(device), data, loaded.config.model.img_size)
        generator = torch.Generator().manual_seed(options["seed"])
        noise = torch.rand(1, network.num_units, generator=generator).to(device)
        loss = float(network(view, noise).losses["pixel"])
        rows = [{"file_name": str(path), "loss": round(loss, 5)}]
        return Prediction(rows, recovery_grid(network, view, noise, data), f"loss {loss:.3f}")

    return predict


def segmented_images(run: str, weights: str | None, options: Mapping[str, Any]) -> Predictor:
    """The class of each pixel."""
    from vireo.data import ResizeImage
    from vireo.report import draw_segmentation
    from vireo.segmentation.evaluate import predict_labels

    from .segmentation import load_segmenter, windows_of

    model, config, classes = load_segmenter(run, weights)
    device = options["device"]
    model.to(device)
    windows, unit = windows_of(config), config.model.get("patch_size", 16)
    resize, normalize = ResizeImage(config.data.short_side, config.data.long_side), normalization(config.data)

    @torch.no_grad()
    def predict(path: Path) -> Prediction:
        image = decode_image(path)
        size = (image.shape[-2], image.shape[-1])
        resized, _ = resize(image, {"labels": torch.zeros(size, dtype=torch.uint8)})
        view, _ = normalize(resized[None].to(device), {})
        whole = tuple(unit * math.ceil(side / unit) for side in view.shape[-2:])  # as windows, they are padded
        chosen = windows if windows["window"] is not None else {"window": whole, "stride": whole}
        labels = predict_labels(model, view, [size], **chosen)[0].cpu()
        shares = labels.flatten().long().bincount(minlength=len(classes)) / labels.numel()
        order = [label for label in shares.argsort(descending=True).tolist() if shares[label] > 0]
        rows = [
            {"file_name": str(path), "class": classes[label], "label": label, "share": round(float(shares[label]), 5)}
            for label in order
        ]
        summary = ", ".join(f"{classes[label]} {100 * float(shares[label]):.0f} %" for label in order[:3])
        return Prediction(rows, draw_segmentation(image, labels), summary, labels.numpy())

    return predict


def detected_images(run: str, weights: str | None, options: Mapping[str, Any]) -> Predictor:
    """Boxes, and masks where the run has them, the best first."""
    from vireo.detection.evaluate import MASK_THRESHOLD
    from vireo.report import draw_detections

    from .detection import load_detector

    if not 0 <= options["threshold"] <= 1:
        raise InputError(f"a score of {options['threshold']}", "--threshold", "use a number from 0 to 1")
    model, _, classes = load_detector(run, weights)
    device = options["device"]
    model.to(device)

    @torch.no_grad()
    def predict(path: Path) -> Prediction:
        image = decode_image(path)
        found = {name: value.cpu() for name, value in model([image.to(device) / 255])[0].items()}
        sure = found["scores"] >= options["threshold"]
        boxes, labels, scores = found["boxes"][sure], found["labels"][sure] - 1, found["scores"][sure]
        masks = found["masks"][sure, 0] > MASK_THRESHOLD if "masks" in found else None
        rows: list[dict[str, Any]] = [
            {
                "file_name": str(path),
                "class": classes[label],
                "label": label,
                "score": score,
                **{name: round(value, 2) for name, value in zip(("x1", "y1", "x2", "y2"), box)},
            }
            for box, label, score in zip(boxes.tolist(), labels.tolist(), _rounded(scores))
        ]
        picture = draw_detections(image, boxes, labels, scores, masks=masks, classes=classes)
        return Prediction(rows, picture, f"{len(rows)} objects")

    return predict


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV, a column for every key that one of them has."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_atomically(path, lambda file: file.write(text.getvalue().encode()))


def write_labels(path: Path, labels: np.ndarray) -> None:
    """Write class indices uint8 ``(H, W)`` as a grey PNG of these values."""
    write_atomically(path, lambda file: Image.fromarray(labels).save(file, format="PNG"))


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 5) for value in values.tolist()]


def _in_unit_range(image: Tensor, data: Any) -> Tensor:
    """A normalised image ``(3, H, W)`` in [0, 1], on the CPU."""
    constants = normalization(data)
    return (image.float().cpu() / constants.inverse_std + constants.mean) / 255


PREDICTORS: Mapping[Kind, Callable[[str, str | None, Mapping[str, Any]], Predictor]] = {
    "classifier": classes_of_images,
    "pretraining": recovered_images,
    "segmentation": segmented_images,
    "detection": detected_images,
}
