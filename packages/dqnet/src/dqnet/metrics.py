"""The metrics of the field over a data set (section 5.2 of the notes).

Equal to pysodmetrics 1.6.2, whose conventions they take, wherever that is defined; see :mod:`dqnet.metric_parts`.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from vireo.errors import InputError

from .metric_parts import ImageScores, image_scores

NAMES = ("Smeasure", "wFmeasure", "MAE", "adpEm", "meanEm", "maxEm", "adpFm", "meanFm", "maxFm")
_WAITING = 8  # images for each thread, before ``update`` waits for one


class SegmentationMetrics:
    """Scores of grey maps of objects against binary masks, averaged over images.

    Images are scored by threads while the caller goes on: nearly all of the work is done outside of Python.

    Args:
        workers: threads; 0: in the calling one; None: as many as there are processors for this process.

    Example:
        >>> metrics = SegmentationMetrics()
        >>> metrics.update(pred, mask)
        >>> metrics.compute()["Smeasure"]
    """

    def __init__(self, workers: int | None = None) -> None:
        self.workers = processors() if workers is None else workers
        self._scores: list[ImageScores] = []
        self._waiting: deque[Future[ImageScores]] = deque()
        self._pool: ThreadPoolExecutor | None = None

    def update(self, pred: Any, mask: Any) -> None:
        """Add an image. The arrays may be used, but not changed, until :meth:`compute`.

        Args:
            pred: uint8 ``(H, W)``: 255 is the surest foreground. An array or a tensor on the CPU.
            mask: uint8 ``(H, W)``: foreground above 128.

        Raises:
            InputError: another type, shapes that differ, or no pixels.
        """
        pred, mask = (np.asarray(image) for image in (pred, mask))
        require_comparable(pred, mask, f"image {len(self) + 1}")
        if not self.workers:
            self._scores.append(image_scores(pred, mask))
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.workers, "metrics")
        if len(self._waiting) >= _WAITING * self.workers:
            self._scores.append(self._waiting.popleft().result())
        self._waiting.append(self._pool.submit(image_scores, pred, mask))

    def __len__(self) -> int:
        """Images of this process."""
        return len(self._scores) + len(self._waiting)

    @property
    def scores(self) -> list[ImageScores]:
        """Of each image of this process, in the order of the updates."""
        while self._waiting:
            self._scores.append(self._waiting.popleft().result())
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        return self._scores

    def compute(self) -> dict[str, float]:
        """Metrics over the images of all processes, each of which must call this; their images must be disjoint.

        Returns:
            In the order of the authors' tables: ``Smeasure, wFmeasure, MAE, adpEm, meanEm, maxEm, adpFm, meanFm,
            maxFm``, then ``IoU``. Mean and maximum E and F are those of the curve averaged over the images. A perfect
            map has an E slightly above 1. The same numbers however the images are spread over processes.

        Raises:
            InputError: no images at all.
        """
        return dataset_scores(_gathered(self.scores))

    def __getstate__(self) -> dict[str, Any]:
        return {"workers": self.workers, "_scores": self.scores, "_waiting": deque(), "_pool": None}


def dataset_scores(scores: Sequence[ImageScores]) -> dict[str, float]:
    """Metrics of a data set from the scores of its images; see :meth:`SegmentationMetrics.compute`.

    Raises:
        InputError: no images at all.
    """
    if not scores:
        raise InputError("no images were scored", "metrics", "give at least one map with its mask")
    # sorted, so that rounding does not depend on the order of the images
    means = np.sort([np.hstack(score) for score in scores], axis=0).mean(0)
    single = dict(zip(ImageScores._fields, means.tolist()))
    em, fm = means[-512:-256], means[-256:]
    single |= {"meanEm": em.mean(), "maxEm": em.max(), "meanFm": fm.mean(), "maxFm": fm.max()}
    return {name: float(single[name]) for name in (*NAMES, "IoU")}


def require_comparable(pred: np.ndarray, mask: np.ndarray, where: str) -> None:
    """Check that a map and a mask can be compared.

    Raises:
        InputError: they are not uint8 ``(H, W)`` of one shape with pixels.
    """
    for name, image in (("map", pred), ("mask", mask)):
        if image.dtype != np.uint8 or image.ndim != 2:
            what = f"a {name} of {image.dtype} {tuple(image.shape)}"
            raise InputError(what, where, "give uint8 (H, W); probabilities times 255, masks 0 and 255")
    if pred.shape != mask.shape or not pred.size:
        what = f"a map of {_size(pred)} for a mask of {_size(mask)} pixels (height x width)"
        raise InputError(what, where, "resize the map to the size of the mask")


def _size(image: np.ndarray) -> str:
    return " x ".join(map(str, image.shape))


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gathered(scores: list[ImageScores]) -> list[ImageScores]:
    """The scores of all processes of ``torch.distributed``; without a process group the same."""
    dist: Any = sys.modules.get("torch.distributed")  # without it there is no group, and no need to wait for torch
    if dist is None or not (dist.is_available() and dist.is_initialized()):
        return scores
    shards: list[list[ImageScores]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(shards, scores)
    return [score for shard in shards for score in shard]
