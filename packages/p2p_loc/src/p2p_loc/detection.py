"""Detections of a trained network: on batches, on images of any size by tiles, and on whole data sets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vireo.data import Loader, NormalizePad
from vireo.data.transforms import ResizeShortSide
from vireo.evaluation import gather_predictions

from .annotations import Detections
from .data import build_loader
from .localizer import Candidates, Localizer
from .location import LocationEvaluator
from .pyramid import padded_area
from .tiles import tile_image

Prediction = dict[str, Any]


def predict_batches(model: Localizer, batches: Iterable[Any]) -> list[Prediction]:
    """Detections of all images of a loader.

    Images of a batch that have the same size with their own padding go through the network together, the others apart:
    padding would change the statistics of normalisation, and an image's detections would depend on its neighbours.

    Args:
        model: put into evaluation mode.
        batches: normalised images ``(B, 3, H, W)`` and their targets, with ``image_id``, ``size`` and ``orig_size``.

    Returns:
        Of each image ``image_id``, ``boxes`` ``(n, 4)`` xyxy in pixels of the original image, ``scores`` ``(n,)`` and
        ``labels`` ``(n,)``, best first, on the CPU.
    """
    model.eval()
    predictions: list[Prediction] = []
    for images, targets in batches:
        areas = [padded_area(target["size"]) for target in targets]
        found: dict[int, dict[str, Tensor]] = {}
        for area in dict.fromkeys(areas):
            alike = [i for i, other in enumerate(areas) if other == area]
            chosen = images if len(alike) == len(images) else images[alike]
            outputs = model(chosen[..., : area[0], : area[1]], [targets[i] for i in alike])
            found.update(zip(alike, outputs, strict=True))
        predictions += [
            {"image_id": int(target["image_id"]), **in_original_pixels(found[i], target)}
            for i, target in enumerate(targets)
        ]
    return predictions


@torch.no_grad()
def detect(
    model: Localizer,
    image: Tensor,
    *,
    tile: Sequence[int] | None = None,
    overlap: Sequence[int] = (100, 100),
    batch_size: int = 4,
    device: str | torch.device | None = None,
) -> dict[str, Tensor]:
    """Detections in one image of any size.

    Tiles are cut, normalised and looked at ``batch_size`` at a time; of each only the candidates that may still be
    detections are kept, so memory hardly grows with the image. One non-maximum suppression joins them (section 3.5).

    Args:
        model: put into evaluation mode.
        image: uint8 ``(3, H, W)`` RGB, on any device.
        tile: width and height of the tiles; None: the image is looked at whole.
        overlap: of neighbouring tiles, horizontally and vertically.
        batch_size: tiles in one pass.
        device: where the network works; default: where it is.

    Returns:
        ``boxes`` ``(n, 4)`` xyxy in pixels of the image, ``scores`` ``(n,)`` and ``labels`` ``(n,)``, class indices;
        best first, on the CPU.

    Raises:
        InputError: a tile without pixels, or that overlaps wholly.
    """
    device = torch.device(device) if device is not None else next(model.parameters()).device
    model.to(device).eval()
    normalize = NormalizePad()
    height, width = image.shape[-2:]
    corners = [[0, 0, width, height]] if tile is None else tile_image((width, height), tile, overlap, "shift").tolist()
    kept: list[Candidates] = []
    for start in range(0, len(corners), batch_size):
        chosen = corners[start : start + batch_size]
        crops = [image[:, top:bottom, left:right].to(device) for left, top, right, bottom in chosen]
        images, _ = normalize(crops, [])
        found = model.candidates(images, [(crop.shape[1], crop.shape[2]) for crop in crops])
        for (left, top, _, _), (boxes, scores) in zip(chosen, found, strict=True):
            likely = (scores > model.score_threshold).any(1)
            shift = boxes.new_tensor([left, top, left, top])
            kept.append(Candidates(boxes[likely] + shift, scores[likely]))
    joined = Candidates(*(torch.cat(part) for part in zip(*kept)))
    return {name: value.cpu() for name, value in model.detections(joined).items()}


def prediction_loader(
    dataset: Any,
    data: Any,
    *,
    tiled: bool,
    device: str | torch.device = "cpu",
    rank: int = 0,
    world_size: int = 1,
) -> Loader:
    """Batches for :func:`all_predictions`: of normalised images, or single images as decoded, to be cut into tiles.

    Args:
        dataset: a :class:`~p2p_loc.tile_dataset.TileDataset`.
        data: its configuration.
        tiled: the images will be cut into ``data.eval_tile``; where that is null, they are not.
        device, rank, world_size: of this process.
    """
    if not tiled or data.eval_tile is None:
        here: dict[str, Any] = {"device": device, "rank": rank, "world_size": world_size}
        return build_loader(dataset, data, train=False, seed=0, **here)
    return Loader(
        dataset,
        batch_size=world_size,
        shuffle=False,
        transform=None if data.short_side is None else ResizeShortSide(data.short_side, data.long_side),
        device=device,
        workers=data.workers,
        rank=rank,
        world_size=world_size,
        on_error=data.on_error,
    )


def all_detections(model: Localizer, dataset: Any, data: Any, **options: Any) -> Detections:
    """Detections in all images of a data set; every process of a group calls this, and gets all of them.

    Arguments are those of :func:`all_predictions`.
    """
    return Detections.from_predictions(all_predictions(model, dataset, data, **options), dataset.category_ids)


def all_predictions(
    model: Localizer,
    dataset: Any,
    data: Any,
    *,
    tiled: bool = False,
    loader: Loader | None = None,
    gather: bool = True,
    **here: Any,
) -> list[Prediction]:
    """Detections of each image that could be decoded; every process of a group calls this, and gets all of them.

    Args:
        model: not wrapped for several processes, on the device of ``here``; put into evaluation mode.
        dataset: a :class:`~p2p_loc.tile_dataset.TileDataset`.
        data: its configuration.
        tiled: cut the images into ``data.eval_tile``, where that is set.
        loader: that of :func:`prediction_loader`, for a caller who asks it afterwards what was skipped.
        gather: False: only this process calls it, and looks at all images.
        **here: ``device``, and with ``gather`` the ``rank`` and ``world_size``.

    Returns:
        As :func:`predict_batches`.
    """
    batches = prediction_loader(dataset, data, tiled=tiled, **here) if loader is None else loader
    if tiled and data.eval_tile is not None:
        options = {"tile": data.eval_tile, "overlap": data.eval_overlap, "batch_size": data.eval_batch_size}
        found = [
            {"image_id": int(target["image_id"]), **in_original_pixels(detect(model, image, **options), target)}
            for images, targets in batches
            for image, target in zip(images, targets, strict=True)
        ]
    else:
        found = predict_batches(model, batches)
    return gather_predictions(found) if gather else found


def seen_truth(truth: Mapping[str, Any], predictions: Iterable[Prediction]) -> dict[str, Any]:
    """The COCO dict without the images that have no prediction: those that could not be decoded."""
    seen = {prediction["image_id"] for prediction in predictions}
    return {
        **truth,
        "images": [row for row in truth["images"] if row["id"] in seen],
        "annotations": [row for row in truth["annotations"] if row["image_id"] in seen],
    }


def evaluate_localizer(
    model: Localizer, dataset: Any, data: Any, evaluation: Any, *, loader: Loader | None = None, **here: Any
) -> dict[str, Any] | None:
    """The location metric of a network on the images of a data set that can be decoded; every process calls this.

    Args:
        model: not wrapped for several processes, on the device of ``here``; put into evaluation mode.
        dataset: of :func:`~p2p_loc.data.build_evaluation_set`.
        data: its configuration; where ``eval_tile`` is set, images are cut into tiles.
        evaluation: arguments of :class:`~p2p_loc.location.LocationEvaluator`: ``taus``, ``max_dets``, ``ignore_flags``.
        loader: see :func:`all_predictions`.
        **here: ``device``, ``rank`` and ``world_size``.

    Returns:
        See :meth:`~p2p_loc.location.LocationEvaluator.evaluate`; None on all processes but the first.
    """
    evaluator = LocationEvaluator(**evaluation)
    found = all_predictions(model, dataset, data, tiled=True, loader=loader, **here)
    if here.get("rank", 0):
        return None
    return evaluator.evaluate(
        seen_truth(dataset.truth, found), Detections.from_predictions(found, dataset.category_ids)
    )


def in_original_pixels(found: dict[str, Tensor], target: dict[str, Any]) -> dict[str, Tensor]:
    """Detections of a network's input on the CPU, their boxes as they lie in the image before it was resized."""
    height, width = (float(old) / float(new) for old, new in zip(target["orig_size"], target["size"]))
    moved = {name: value.detach().cpu() for name, value in found.items()}
    return {**moved, "boxes": moved["boxes"] * moved["boxes"].new_tensor([width, height, width, height])}
