"""Annotations of vireo's data sets as torchvision's detectors take them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vireo.errors import InputError


def training_targets(targets: list[dict[str, Any]], masks: bool = True) -> list[dict[str, Tensor]]:
    """Targets for torchvision's detectors: no crowds, classes from 1.

    Args:
        targets: of a batch, see :class:`~vireo.data.DetectionDataset`.
        masks: whether they are wanted.

    Raises:
        InputError: a target without masks that are wanted.
    """
    fields = ["boxes", "labels", *(["masks"] if masks else [])]
    wanted = []
    for target in targets:
        if masks and "masks" not in target:
            remedy = "read the data with masks=True"
            raise InputError("the annotations have no masks", f"image {target['image_id']}", remedy)
        kept = ~target["iscrowd"]
        chosen: dict[str, Tensor] = {field: target[field][kept] for field in fields}
        wanted.append({**chosen, "labels": chosen["labels"] + 1})
    return wanted
