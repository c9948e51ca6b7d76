"""Specific distillation for classification: a loss from a teacher's answers to the same images (section 3.5)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vireo.engine.finished import initial_weights
from vireo.engine.folder import write_atomically
from vireo.engine.logs import write_json
from vireo.errors import InputError

from .losses import NKDLoss, hard_distillation_loss, require_positive, require_weight, soft_distillation_loss
from .teacher import FrozenTeacher

KINDS = ("hard", "soft", "nkd")
WITH_TOKEN = ("hard", "soft")  # what the distillation token is there for
_NO_VIEW = ("val_images", "val_split", "eval_batch_size", "workers", "on_error", "check_images")


class ClassDistillation:
    """The loss of a student beside a teacher that sees the same mixed images.

    Args:
        teacher: answers with logits ``(B, C)``.
        kind: ``hard`` (published) or ``soft``, of a student with a distillation token; ``nkd``, of one without.
        weight: share of the teacher in the loss.
        temperature: of ``soft`` and ``nkd``.
        alpha: of ``nkd``.
        cache: keeps the teacher's decisions; of ``hard`` alone.

    Raises:
        InputError: an unknown kind, numbers out of range, or a cache for what are no decisions.
    """

    def __init__(
        self,
        teacher: FrozenTeacher,
        kind: str = "hard",
        weight: float = 0.5,
        temperature: float = 1.0,
        alpha: float = 1.0,
        cache: TeacherLabels | None = None,
    ) -> None:
        require_kind(kind)
        require_weight(weight)
        require_positive("temperature", temperature)
        if cache is not None and kind != "hard":
            what = f"only decisions are kept, and distillation.kind={kind} needs all logits"
            raise InputError(what, "teacher.cache", "use distillation.kind=hard, or teacher.cache=null")
        self.teacher, self.cache = teacher, cache
        self.kind, self.weight, self.temperature = kind, weight, temperature
        self.nkd = NKDLoss(temperature, alpha)

    def to(self, device: torch.device) -> ClassDistillation:
        """Move the teacher."""
        self.teacher.to(device)
        return self

    def __call__(self, answer: Any, images: Tensor, soft_labels: Tensor, epoch: int, index: Tensor) -> Tensor:
        """Loss of a batch.

        Args:
            answer: of the student in training: logits of both tokens, or, for ``nkd``, of the one.
            images: mixed, ``(B, 3, H, W)``.
            soft_labels: mixed, ``(B, C)``.
            epoch, index: which views they are; ``index`` int64 ``(B,)`` numbers the images of the data set.
        """
        if self.kind == "nkd":
            truth = F.cross_entropy(answer, soft_labels)
            taught: Tensor = self.nkd(answer, self.teacher(images), soft_labels)
            return (1 - self.weight) * truth + self.weight * taught
        of_class, of_teacher = answer
        if self.kind == "soft":
            logits = self.teacher(images)
            return soft_distillation_loss(of_class, of_teacher, soft_labels, logits, self.weight, self.temperature)
        decided = None if self.cache is None else self.cache.read(epoch, index)
        if decided is None:
            decided = self.teacher(images).argmax(1)
            if self.cache is not None:
                self.cache.note(index, decided)
        return hard_distillation_loss(of_class, of_teacher, soft_labels, decided, self.weight)

    def end_epoch(self, epoch: int, images: int) -> None:
        """Keep the decisions of an epoch, if there is a cache and this process saw all of its ``images``."""
        if self.cache is not None:
            self.cache.end_epoch(epoch, images)


class TeacherLabels:
    """A teacher's decisions by epoch and image, in a folder, for trainings that see the same views again.

    A view depends on the seed, the data, the augmentation and its mixing partners; all that decides it is written to
    ``settings.json`` and must be the same. Each process has a file an epoch, written when the epoch is done.

    Args:
        folder: made if it is absent.
        settings: what decides the labels; plain values.
        images: number of images of the data set.
        rank: of this process, of ``settings["processes"]``.

    Raises:
        InputError: labels of other settings, or a damaged file.
    """

    def __init__(self, folder: str | Path, settings: Mapping[str, Any], images: int, rank: int = 0) -> None:
        self.folder, self.images, self.rank = Path(folder), images, rank
        self._epoch, self._known = -1, None  # type: tuple[int, Tensor | None]
        self._seen: list[tuple[Tensor, Tensor]] = []
        wanted = json.loads(json.dumps(dict(settings)))
        path = self.folder / "settings.json"
        if not path.is_file():
            if rank == 0:
                self.folder.mkdir(parents=True, exist_ok=True)
                write_json(path, wanted)
            return
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError("cannot be read", str(path), "remove the folder: it is made anew") from error
        if differing := sorted(_differing(found, wanted)):
            what = f"its labels are of another {', '.join(differing)}"
            raise InputError(what, str(self.folder), "give another folder, or train with the settings in settings.json")

    def read(self, epoch: int, index: Tensor) -> Tensor | None:
        """The decisions for some images in an epoch, int64 ``(B,)``; None if the epoch is not known."""
        if epoch != self._epoch:
            self._epoch, self._known, self._seen = epoch, self._load(epoch), []
        if self._known is None:
            return None
        self._known = self._known.to(index.device)
        return self._known[index]

    def note(self, index: Tensor, decided: Tensor) -> None:
        """Remember the decisions ``(B,)`` for some images of the epoch that was asked for last."""
        self._seen.append((index, decided))

    def end_epoch(self, epoch: int, images: int) -> None:
        """Write the decisions of an epoch if they are new and of as many ``images``, all that this process has."""
        if self._known is not None or epoch != self._epoch or sum(len(index) for index, _ in self._seen) != images:
            return
        labels = np.full(self.images, -1, np.int32)
        for index, decided in self._seen:
            labels[index.cpu().numpy()] = decided.cpu().numpy()
        self._seen = []
        write_atomically(self._path(epoch), lambda file: np.save(file, labels, allow_pickle=False))

    def _path(self, epoch: int) -> Path:
        return self.folder / f"epoch_{epoch:05d}_process_{self.rank}.npy"

    def _load(self, epoch: int) -> Tensor | None:
        path = self._path(epoch)
        if not path.is_file():
            return None
        try:
            labels = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise InputError("cannot be read", str(path), "remove the file: it is made anew") from error
        if labels.shape != (self.images,):
            what = f"holds {labels.shape} labels for {self.images} images"
            raise InputError(what, str(path), "remove the file: it is made anew")
        return torch.from_numpy(labels.astype(np.int64))


def label_settings(config: Any, images: int, classes: tuple[str, ...], processes: int, device: str) -> dict[str, Any]:
    """What decides a teacher's decisions in a training: see :class:`TeacherLabels`.

    Args:
        config: of the training.
        images: of its training set.
        classes: of its data.
        processes: how many share a batch, in which images are mixed.
        device: kind of the device, on which the teacher's precision depends.

    Raises:
        InputError: no weights of the teacher.
    """
    from vireo.engine import plain

    data = {key: value for key, value in plain(config.data).items() if key not in _NO_VIEW}
    with initial_weights(config.teacher.weights).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "teacher": {"sha256": digest, "precision": config.teacher.precision, "device": device},
        "seed": config.seed,
        "data": data,
        "images": images,
        "classes": list(classes),
        "img_size": config.model.img_size,
        "augmentation": plain(config.augmentation),
        "mixing": plain(config.mixing),
        "processes": processes,
    }


def require_kind(kind: str) -> None:
    """Check a kind of distillation.

    Raises:
        InputError: it is unknown.
    """
    if kind not in KINDS:
        raise InputError(f"unknown kind {kind!r}", "distillation.kind", f"use one of {', '.join(KINDS)}")


def _differing(found: Any, wanted: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Names of the settings that differ."""
    if not isinstance(found, dict):
        return [prefix.rstrip(".") or "kind"]
    names: list[str] = []
    for key in sorted({*found, *wanted}):
        one, other = found.get(key), wanted.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            names += _differing(one, other, f"{prefix}{key}.")
        elif one != other:
            names.append(f"{prefix}{key}")
    return names
