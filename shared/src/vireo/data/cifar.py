"""CIFAR-10 and CIFAR-100 as their author publishes them: Python batches or binary files (Krizhevsky, 2009).

The Python batches are pickles, and a pickle can run anything. These are read by an unpickler that knows the few names
such files hold and gives each a harmless stand-in of its own; even numpy's reconstruction is not called.
"""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vireo.data.classification import ClassificationDataset
from vireo.errors import InputError

CifarKind = Literal["auto", "cifar-10-batches-py", "cifar-10-batches-bin", "cifar-100-python", "cifar-100-binary"]

_PIXELS = 3 * 32 * 32
_DOWNLOAD = "Unpack the archive from https://www.cs.toronto.edu/~kriz/cifar.html anew"
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class _Layout:
    """The files of one published folder."""

    train: tuple[str, ...]
    test: str
    meta: str
    classes: int
    label_key: str = ""  # in pickles
    names_key: str = ""
    label_bytes: int = 0  # per binary record; the last of them is the label

    def files(self, train: bool) -> tuple[str, ...]:
        return self.train if train else (self.test,)


_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
_LAYOUTS = {
    "cifar-10-batches-py": _Layout(_BATCHES, "test_batch", "batches.meta", 10, "labels", "label_names"),
    "cifar-10-batches-bin": _Layout(
        tuple(f"{name}.bin" for name in _BATCHES), "test_batch.bin", "batches.meta.txt", 10, label_bytes=1
    ),
    "cifar-100-python": _Layout(("train",), "test", "meta", 100, "fine_labels", "fine_label_names"),
    "cifar-100-binary": _Layout(("train.bin",), "test.bin", "fine_label_names.txt", 100, label_bytes=2),
}


class Cifar(ClassificationDataset):
    """CIFAR-10, or CIFAR-100 with its fine labels; all images are in memory (150 MB for the training set).

    Args:
        root: the published folder (``cifar-10-batches-py``, ``cifar-10-batches-bin``, ``cifar-100-python`` or
            ``cifar-100-binary``) or the one that holds it.
        train: the 50,000 training images, else the 10,000 test images.
        kind: which of those folders to read where several are there.

    Raises:
        InputError: no such folder, several of them, or a file that is missing, cut off, or not what it should be.
    """

    def __init__(self, root: str | Path, train: bool = True, kind: CifarKind = "auto") -> None:
        self.kind, folder = _find(Path(root), kind)
        layout = _LAYOUTS[self.kind]
        read = _read_binary if layout.label_bytes else _read_pickled
        parts = [read(folder / name, layout) for name in layout.files(train)]
        self.images = np.concatenate([images for images, _ in parts]).reshape(-1, 3, 32, 32)
        labels = np.concatenate([labels for _, labels in parts])
        published = 50_000 if train else 10_000
        notes = [] if len(labels) == published else [f"{folder} holds {len(labels)} images, published are {published}"]
        super().__init__(_class_names(folder / layout.meta, layout), labels, notes=notes)

    def load_image(self, index: int) -> Tensor:
        """``uint8 (3, 32, 32)`` RGB."""
        return torch.from_numpy(self.images[self.sources[index]])

    def arrays(self, workers: int = 4) -> Tensor:
        """All images, ``uint8 (N, 3, 32, 32)`` in order."""
        return torch.from_numpy(self.images[self.sources])


def _find(root: Path, kind: str) -> tuple[str, Path]:
    """The kind of data and its folder."""
    if kind != "auto" and kind not in _LAYOUTS:
        raise InputError(f"unknown kind {kind!r}", "data.kind", f"Use auto, {', '.join(_LAYOUTS)}")
    found = {}
    for name in _LAYOUTS if kind == "auto" else (kind,):
        layout = _LAYOUTS[name]
        if (root / name).is_dir():
            found[name] = root / name
        elif root.name == name or any((root / file).is_file() for file in layout.train):
            found[name] = root
    if not found or not root.is_dir():
        looked_for = ", ".join(_LAYOUTS if kind == "auto" else (kind,))
        raise InputError(f"no CIFAR data found; looked for {looked_for}", str(root), "Correct data.root")
    if len(found) > 1:
        choice = " or ".join(f"kind={name}" for name in found)
        raise InputError(f"several kinds of CIFAR data: {', '.join(found)}", str(root), f"Choose with {choice}")
    return next(iter(found.items()))


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        what = "file is missing" if isinstance(error, FileNotFoundError) else f"file cannot be read ({error.strerror})"
        raise InputError(what, str(path), _DOWNLOAD) from error


def _read_binary(path: Path, layout: _Layout) -> tuple[np.ndarray, np.ndarray]:
    """Pixels ``(n, 3072)`` and labels ``(n,)`` of a file of records: label bytes, then the pixels."""
    data = np.frombuffer(_read_bytes(path), np.uint8)
    record = layout.label_bytes + _PIXELS
    if not len(data) or len(data) % record:
        raise InputError(f"{len(data)} bytes are no whole records of {record}: cut off", str(path), _DOWNLOAD)
    records = data.reshape(-1, record)
    return records[:, layout.label_bytes :], _checked(records[:, layout.label_bytes - 1], layout, path)


def _read_pickled(path: Path, layout: _Layout) -> tuple[np.ndarray, np.ndarray]:
    """Pixels ``(n, 3072)`` and labels ``(n,)`` of a Python batch."""
    batch = _load_pickle(path)
    try:
        pixels, labels = batch["data"], batch[layout.label_key]
    except KeyError as error:
        raise InputError(f"no entry {error} among {sorted(batch)}", str(path), _DOWNLOAD) from None
    if isinstance(pixels, _Array):
        pixels = pixels.value
    if not isinstance(pixels, np.ndarray) or pixels.shape[1:] != (_PIXELS,) or not len(pixels):
        shape = getattr(pixels, "shape", type(pixels).__name__)
        raise InputError(f"data is {shape}, not uint8 (n, {_PIXELS})", str(path), _DOWNLOAD)
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise InputError(f"{layout.label_key} is no list of integers", str(path), _DOWNLOAD)
    if len(labels) != len(pixels):
        raise InputError(f"{len(labels)} labels for {len(pixels)} images", str(path), _DOWNLOAD)
    return pixels, _checked(labels, layout, path)


def _checked(labels: Any, layout: _Layout, path: Path) -> np.ndarray:
    low, high = min(labels), max(labels)
    if low < 0 or high >= layout.classes:
        bad = low if low < 0 else high
        raise InputError(f"label {bad} is outside 0 to {layout.classes - 1}", str(path), _DOWNLOAD)
    return np.asarray(labels, np.int64)


def _class_names(path: Path, layout: _Layout) -> tuple[str, ...]:
    """Names by label from the folder's own list; the well-known ones, or numbers, where it is missing."""
    if not path.is_file():
        return _CIFAR10 if layout.classes == 10 else tuple(str(label) for label in range(layout.classes))
    if layout.label_bytes:
        names: Any = _read_bytes(path).decode("utf-8", "replace").split()
    else:
        names = _load_pickle(path).get(layout.names_key)
    if isinstance(names, list):
        names = [name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in names]
    if not isinstance(names, list) or len(names) != layout.classes or not all(isinstance(n, str) for n in names):
        raise InputError(f"not a list of {layout.classes} class names", str(path), _DOWNLOAD + ", or remove this file")
    return tuple(names)


class _Refused(Exception):
    """A pickle names something that no CIFAR file holds."""


class _Array:
    """Stands in for a numpy array in a pickle; takes bytes only."""

    value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, by_columns, data = state
        if not isinstance(dtype, _Dtype) or dtype.code not in ("u1", b"u1"):
            raise ValueError("an array is not uint8")
        self.value = np.frombuffer(data, np.uint8).reshape(shape, order="F" if by_columns else "C")


class _Dtype:
    """Stands in for a numpy dtype in a pickle: keeps its code."""

    def __init__(self, code: Any) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        """Byte order and alignment do not matter for bytes."""


class _PlainUnpickler(pickle.Unpickler):
    """Admits what a batch holds (numbers, text, lists, dicts, byte arrays) and gives stand-ins, never real objects."""

    def find_class(self, module: str, name: str) -> Any:
        # each call makes a new function, so that nothing a pickle does to it outlives the file
        match module, name:
            case ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct"):
                return lambda *_: _Array()
            case ("numpy", "ndarray"):
                return None  # an argument of _reconstruct
            case ("numpy", "dtype"):
                return lambda code, *_: _Dtype(code)
            case ("_codecs", "encode"):
                return lambda text, _: text.encode("latin1")
        raise _Refused(f"{module}.{name}")


def _load_pickle(path: Path) -> dict[str, Any]:
    """The dict of a Python batch, with text as keys; text written by Python 2 stays bytes elsewhere."""
    data = _read_bytes(path)
    try:
        content = _PlainUnpickler(io.BytesIO(data), encoding="bytes").load()
    except _Refused as error:
        what = f"the pickle asks for {error}, which no CIFAR file holds; nothing was run"
        raise InputError(what, str(path), f"Do not trust this file. {_DOWNLOAD}") from None
    except Exception as error:  # a damaged pickle can raise anything
        what = f"no readable Python batch ({type(error).__name__}: {error})"
        raise InputError(what, str(path), _DOWNLOAD) from error
    if not isinstance(content, dict):
        raise InputError(f"the pickle holds a {type(content).__name__}, not a dict", str(path), _DOWNLOAD)
    return {key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in content.items()}
