"""CIFAR in its four published forms, and what is said about files that are something else."""

import io
import pickle
import pickletools
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vireo.data import Cifar
from vireo.errors import InputError

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
KINDS = ["cifar-10-batches-py", "cifar-10-batches-bin", "cifar-100-python", "cifar-100-binary"]


def python2_string(text: bytes) -> bytes:
    """A ``str`` as Python 2 pickles it."""
    if len(text) < 256:
        return pickle.SHORT_BINSTRING + bytes([len(text)]) + text
    return pickle.BINSTRING + struct.pack("<i", len(text)) + text


def python2_list(items: list[bytes]) -> bytes:
    return pickle.EMPTY_LIST + pickle.MARK + b"".join(items) + pickle.APPENDS


def python2_integer(value: int) -> bytes:
    return pickle.BININT + struct.pack("<i", value)


def python2_array(pixels: np.ndarray) -> bytes:
    """A uint8 array by the opcodes of numpy under Python 2."""
    start = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
    start += pickle.BININT1 + b"\0" + pickle.TUPLE1 + python2_string(b"b") + pickle.TUPLE3 + pickle.REDUCE
    shape = b"".join(python2_integer(side) for side in pixels.shape)
    dtype = b"cnumpy\ndtype\n" + python2_string(b"u1") + pickle.BININT1 + b"\0" + pickle.BININT1 + b"\1"
    dtype += pickle.TUPLE3 + pickle.REDUCE + pickle.MARK + python2_integer(3) + python2_string(b"|")
    dtype += pickle.NONE * 3 + python2_integer(-1) * 2 + python2_integer(0) + pickle.TUPLE + pickle.BUILD
    state = pickle.MARK + python2_integer(1) + shape + pickle.TUPLE2 + dtype + pickle.NEWFALSE
    return start + state + python2_string(pixels.tobytes()) + pickle.TUPLE + pickle.BUILD


def python2_batch(content: dict[bytes, Any]) -> bytes:
    """The dict as Python 2 pickled it with protocol 2; checked to be what any unpickler takes."""
    data = pickle.PROTO + b"\2" + pickle.EMPTY_DICT + pickle.MARK
    for key, value in content.items():
        data += python2_string(key)
        if isinstance(value, np.ndarray):
            data += python2_array(value)
        else:
            data += python2_list([python2_integer(v) if isinstance(v, int) else python2_string(v) for v in value])
    data += pickle.SETITEMS + pickle.STOP
    pickletools.dis(data, out=io.StringIO())
    return data


def python3_batch(content: dict[bytes, Any]) -> bytes:
    return pickle.dumps(content, protocol=2)


def pixels_of(labels: list[int], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (len(labels), 3072), dtype=np.uint8)


def write(root: Path, kind: str, encode: Callable[[dict[bytes, Any]], bytes] = python2_batch) -> list[tuple[Any, Any]]:
    """Write small files of a kind; per file its labels and pixels, the test file's last."""
    folder = root / kind
    folder.mkdir(parents=True)
    hundred = "100" in kind
    parts = []
    for number, name in enumerate(["train", "test"] if hundred else BATCHES):
        labels = [(7 * i + number) % (100 if hundred else 10) for i in range(4)]
        pixels = pixels_of(labels, number)
        parts.append((labels, pixels))
        if kind.endswith(("-py", "-python")):
            key = b"fine_labels" if hundred else b"labels"
            others = {b"coarse_labels": [0, 1, 2, 3]} if hundred else {b"batch_label": [b"some text"]}
            (folder / name).write_bytes(encode({**others, key: labels, b"data": pixels}))
        else:
            coarse = [[99]] * 4 if hundred else [[]] * 4
            records = [bytes([*c, label]) + row.tobytes() for c, label, row in zip(coarse, labels, pixels)]
            (folder / f"{name}.bin").write_bytes(b"".join(records))
    return parts


@pytest.mark.parametrize("encode", [python2_batch, python3_batch])
@pytest.mark.parametrize("kind", KINDS)
def test_reads_every_form(tmp_path: Path, kind: str, encode: Callable[[dict[bytes, Any]], bytes]) -> None:
    *train, test = write(tmp_path, kind, encode)
    for data, parts in ((Cifar(tmp_path), train), (Cifar(tmp_path / kind, train=False), [test])):
        assert data.kind == kind
        assert data.labels.tolist() == [label for labels, _ in parts for label in labels]
        expected = np.concatenate([pixels for _, pixels in parts]).reshape(-1, 3, 32, 32)
        assert torch.equal(data.arrays(), torch.from_numpy(expected))
        image, target = data[3]
        assert torch.equal(image, data.arrays()[3])
        assert target == {"label": torch.tensor(data.labels[3]), "index": torch.tensor(3), "image_id": 3}
        assert data.classes == (tuple(map(str, range(100))) if "100" in kind else CIFAR10)
        assert "published are" in data.notes[0]


@pytest.mark.parametrize("kind", KINDS)
def test_class_names_come_from_the_folder(tmp_path: Path, kind: str) -> None:
    write(tmp_path, kind)
    names = [f"name{i}" for i in range(100 if "100" in kind else 10)]
    if kind.endswith(("-py", "-python")):
        key = b"fine_label_names" if "100" in kind else b"label_names"
        file = tmp_path / kind / ("meta" if "100" in kind else "batches.meta")
        file.write_bytes(python2_batch({key: [name.encode() for name in names]}))
    else:
        file = tmp_path / kind / ("fine_label_names.txt" if "100" in kind else "batches.meta.txt")
        file.write_text("\n".join(names) + "\n\n")
    assert Cifar(tmp_path).classes == tuple(names)
    file.write_bytes(python2_batch({b"label_names": [b"one"]}))
    with pytest.raises(InputError, match=rf"{file.name}: not a list of {len(names)} class names"):
        Cifar(tmp_path)


def test_several_kinds(tmp_path: Path) -> None:
    for kind in KINDS[:2]:
        write(tmp_path, kind)
    with pytest.raises(InputError, match=r"several kinds.*kind=cifar-10-batches-py or kind=cifar-10-batches-bin"):
        Cifar(tmp_path)
    assert Cifar(tmp_path, kind="cifar-10-batches-bin").kind == "cifar-10-batches-bin"


def test_nothing_found(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError, match=f"looked for {', '.join(KINDS)}"):
            Cifar(root)
    with pytest.raises(InputError, match="looked for cifar-100-python"):
        Cifar(tmp_path, kind="cifar-100-python")
    with pytest.raises(InputError, match=r"unknown kind 'cifar'.*cifar-10-batches-py"):
        Cifar(tmp_path, kind="cifar")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_missing_file(tmp_path: Path, kind: str) -> None:
    write(tmp_path, kind)
    suffix = "" if kind.endswith(("-py", "-python")) else ".bin"
    name = ("test" if "100" in kind else "data_batch_3") + suffix
    (tmp_path / kind / name).unlink()
    with pytest.raises(InputError, match=rf"{name}: file is missing"):
        Cifar(tmp_path, train="100" not in kind)


@pytest.mark.parametrize("kept", [0, 100, 3073 * 3 - 1])
def test_binary_cut_off(tmp_path: Path, kept: int) -> None:
    write(tmp_path, KINDS[1])
    path = tmp_path / KINDS[1] / "data_batch_2.bin"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=rf"data_batch_2.bin: {kept} bytes are no whole records of 3073: cut off"):
        Cifar(tmp_path)


def test_binary_label_out_of_range(tmp_path: Path) -> None:
    write(tmp_path, KINDS[1])
    path = tmp_path / KINDS[1] / "test_batch.bin"
    path.write_bytes(b"\x0a" + path.read_bytes()[1:])
    with pytest.raises(InputError, match=r"test_batch.bin: label 10 is outside 0 to 9"):
        Cifar(tmp_path, train=False)


GOOD: dict[bytes, Any] = {b"labels": [0, 1], b"data": pixels_of([0, 1], 0)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({**GOOD, b"labels": [0, 10]}, "label 10 is outside 0 to 9"),
        ({**GOOD, b"labels": [-1, 3]}, "label -1 is outside 0 to 9"),
        ({**GOOD, b"labels": [0]}, "1 labels for 2 images"),
        ({**GOOD, b"labels": [b"cat", b"dog"]}, "labels is no list of integers"),
        ({**GOOD, b"data": np.zeros((2, 3000), np.uint8)}, r"data is \(2, 3000\), not uint8 \(n, 3072\)"),
        ({**GOOD, b"data": np.zeros((0, 3072), np.uint8), b"labels": []}, r"data is \(0, 3072\)"),
        ({**GOOD, b"data": [1, 2]}, "data is list, not uint8"),
        ({b"labels": [0, 1]}, r"no entry 'data' among \['labels'\]"),
    ],
)
def test_wrong_content(tmp_path: Path, content: dict[bytes, Any], message: str) -> None:
    write(tmp_path, KINDS[0])
    (tmp_path / KINDS[0] / "test_batch").write_bytes(python2_batch(content))
    with pytest.raises(InputError, match=f"test_batch: {message}"):
        Cifar(tmp_path, train=False)


class Malicious:
    """Unpickled by Python's own unpickler, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["data_batch_1", "batches.meta"])
def test_a_malicious_pickle_does_not_run(tmp_path: Path, name: str) -> None:
    write(tmp_path, KINDS[0])
    victim = tmp_path / "victim"
    data = python3_batch({**GOOD, b"extra": Malicious(victim)})
    (tmp_path / KINDS[0] / name).write_bytes(data)
    with pytest.raises(InputError, match=rf"{name}: the pickle asks for .*; nothing was run"):
        Cifar(tmp_path)
    assert not victim.exists()
    pickle.loads(data)  # the same bytes do run elsewhere
    assert victim.exists()


@pytest.mark.parametrize("name", ["eval", "getattr", "__import__"])
def test_no_builtin_is_admitted(tmp_path: Path, name: str) -> None:
    write(tmp_path, KINDS[0])
    data = b"cbuiltins\n" + name.encode() + b"\n(S'1'\ntR."
    (tmp_path / KINDS[0] / "test_batch").write_bytes(data)
    with pytest.raises(InputError, match=rf"asks for builtins.{name}, which no CIFAR file holds"):
        Cifar(tmp_path, train=False)


def test_damaged_pickles(tmp_path: Path) -> None:
    write(tmp_path, KINDS[0])
    path = tmp_path / KINDS[0] / "test_batch"
    whole = path.read_bytes()
    floats = python3_batch({**GOOD, b"data": np.zeros((2, 3072), np.float32)})
    wrong_size = python2_batch(GOOD).replace(python2_integer(3072), python2_integer(3073))
    unbuilt = python2_batch(GOOD)[:2] + b"cnumpy.core.multiarray\n_reconstruct\n)R."
    for data in (b"", b"\x80", whole[: len(whole) // 2], b"not a pickle", floats, wrong_size):
        path.write_bytes(data)
        with pytest.raises(InputError, match="test_batch: no readable Python batch"):
            Cifar(tmp_path, train=False)
    for data, what in ((pickle.dumps([1], protocol=2), "list"), (unbuilt, "_Array")):
        path.write_bytes(data)
        with pytest.raises(InputError, match=f"test_batch: the pickle holds a {what}, not a dict"):
            Cifar(tmp_path, train=False)
