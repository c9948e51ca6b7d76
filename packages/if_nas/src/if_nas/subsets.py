"""Data sets cut down: CIFAR at another size, and the named classes of a folder of classes (ImageNet-100)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from vireo.data import Cifar, ClassificationDataset, resize_images
from vireo.errors import InputError

_Dataset = TypeVar("_Dataset", bound=ClassificationDataset)


class ResizedCifar(Cifar):
    """CIFAR with images of another size: whole factors take the mean of each box of pixels.

    Args:
        root, train: see :class:`~vireo.data.cifar.Cifar`.
        kind: one of the published folders, or ``cifar-10`` for that of its two forms which is there.
        size: ``(h, w)``.
    """

    def __init__(self, root: str | Path, train: bool, kind: str, size: tuple[int, int]) -> None:
        form: Any = _published_form(Path(root)) if kind == "cifar-10" else kind
        super().__init__(root, train, form)
        self.size = size

    def load_image(self, index: int) -> Tensor:
        """``uint8 (3, h, w)`` RGB."""
        return resize_images(super().load_image(index), self.size)

    def arrays(self, workers: int = 4) -> Tensor:
        """All images, ``uint8 (N, 3, h, w)`` in order."""
        return resize_images(super().arrays(workers), self.size)


def _published_form(root: Path) -> str:
    """The form of CIFAR-10 that lies at ``root``, or below it."""
    forms = ("cifar-10-batches-py", "cifar-10-batches-bin")
    there = [form for form in forms if (root / form).is_dir() or root.name == form]
    return there[0] if there else forms[any(root.glob("*.bin"))]


def read_class_names(path: str | Path) -> list[str]:
    """The classes of a list: the first word of each line, such as ``n01440764``; ``#`` begins a comment.

    Raises:
        InputError: no such file, no text, no class in it, or one that stands twice.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise InputError(f"cannot be read ({reason})", str(path), "give a text file, one class a line") from error
    names = [words[0] for line in lines if (words := line.partition("#")[0].split())]
    if not names:
        raise InputError("names no class", str(path), "write one class a line, such as n01440764")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"class {twice[0]} stands twice", str(path), "name each class once")
    return names


def named_classes(dataset: _Dataset, names: Sequence[str], where: str) -> _Dataset:
    """The images of the classes ``names`` alone, labelled in the order that the data set has them.

    The order of ``names`` does not matter: labels are those of a folder that holds only these classes.

    Args:
        dataset: with these classes among others.
        names: different ones.
        where: the list, for the message.

    Raises:
        InputError: a class that the data set does not have.
    """
    absent = [name for name in names if name not in dataset.classes]
    if absent:
        listed = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
        what = f"{len(absent)} of its {len(names)} classes are not in the data: {listed}"
        raise InputError(what, where, "correct the list, or data.root")
    kept = np.isin(dataset.classes, list(names))
    subset = dataset.with_indices(np.flatnonzero(kept[dataset.labels]))
    subset.labels = (np.cumsum(kept) - 1)[subset.labels]
    subset.classes = tuple(name for name, keep in zip(dataset.classes, kept) if keep)
    return subset
