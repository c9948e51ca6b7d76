"""Checkpoints that are torn, full disks, foreign and malicious files, and the report of keys that do not fit."""

import argparse
import errno
import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from vireo.engine import checkpoint, folder
from vireo.errors import InputError


@pytest.fixture
def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))


def test_intact_tells_torn_and_flipped_files(tmp_path: Path) -> None:
    path = tmp_path / "step_00000001.pt"
    checkpoint.save({"weights": torch.arange(1000.0), "step": 1}, path)
    assert checkpoint.intact(path)
    assert checkpoint.read(path)["step"] == 1
    whole = path.read_bytes()
    for fraction in (0.0, 0.3, 0.99):
        path.write_bytes(whole[: int(len(whole) * fraction)])
        assert not checkpoint.intact(path)
    middle = whole.index(torch.arange(1000.0).numpy().tobytes()[400:480])
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    assert not checkpoint.intact(path)
    path.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))
    assert not checkpoint.intact(path)


def test_newest_intact_falls_back_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for step in (2, 4, 6):
        checkpoint.save({"step": step}, tmp_path / f"step_{step:08d}.pt")
    newest = tmp_path / "step_00000006.pt"
    newest.write_bytes(newest.read_bytes()[:-20])
    with caplog.at_level(logging.WARNING):
        assert checkpoint.newest_intact(tmp_path) == tmp_path / "step_00000004.pt"
    assert "step_00000006.pt: torn" in caplog.text


def test_all_torn_says_what_to_do(tmp_path: Path) -> None:
    assert checkpoint.newest_intact(tmp_path) is None
    for step in (1, 2):
        (tmp_path / f"step_{step:08d}.pt").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"none of the 2 checkpoints.*step_00000001.pt.*resume=never"):
        checkpoint.newest_intact(tmp_path)


def test_keep_newest(tmp_path: Path) -> None:
    for step in (9, 10, 100):
        checkpoint.save({}, tmp_path / f"step_{step:08d}.pt")
    checkpoint.save({}, tmp_path / "best.pt")
    checkpoint.keep_newest(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pt", "step_00000010.pt", "step_00000100.pt"]


class FullDisk:
    """A file on a disk with room for ``room`` more bytes."""

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room = file, room

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        if size > self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room -= size
        return self.file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> "FullDisk":
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()


@pytest.mark.parametrize("room", [0, 3000])
def test_full_disk_leaves_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    path = tmp_path / "best.pt"
    checkpoint.save({"step": 1}, path)
    monkeypatch.setattr(folder, "open", lambda file, mode: FullDisk(Path.open(file, mode), room), raising=False)
    with pytest.raises(InputError, match=r"no space left.*free space on that disk") as caught:
        checkpoint.save({"step": 2, "weights": torch.zeros(10000)}, path)
    assert str(tmp_path) in str(caught.value)
    assert checkpoint.read(path)["step"] == 1
    assert list(tmp_path.iterdir()) == [path]


def test_unwritable_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/run: the output folder cannot be written \(not a directory\)"):
        folder.require_writable(tmp_path / "file" / "run")
    for number, remedy in ((errno.EROFS, "choose another folder"), (errno.ENOSPC, "free space")):

        def refuse(number: int = number, **options: Any) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr("tempfile.TemporaryFile", refuse)
        with pytest.raises(InputError, match=remedy):
            folder.require_writable(tmp_path / "run")
    monkeypatch.undo()
    assert list(folder.require_writable(tmp_path / "new" / "run").iterdir()) == []


def test_errors_that_are_not_the_disks_pass_through(tmp_path: Path) -> None:
    def fail(file: Any) -> None:
        raise KeyError("ours")

    with pytest.raises(KeyError):
        folder.write_atomically(tmp_path / "a", fail)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s}, lambda s: {"state_dict": s, "epoch": 3}])
def test_load_weights_finds_the_state_dict(tmp_path: Path, net: nn.Module, wrap: Callable[[Any], Any]) -> None:
    torch.save(wrap(net.state_dict()), tmp_path / "weights.pt")
    other = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    report = checkpoint.load_weights(other, tmp_path / "weights.pt")
    assert not report
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters()))


def test_load_weights_reads_safetensors_ddp_prefixes_and_stored_options(tmp_path: Path, net: nn.Module) -> None:
    save_file(net.state_dict(), tmp_path / "weights.safetensors")
    assert not checkpoint.load_weights(net, tmp_path / "weights.safetensors")
    prefixed = {f"module.{key}": value for key, value in net.state_dict().items()}
    torch.save({"model": prefixed, "args": argparse.Namespace(lr=0.1)}, tmp_path / "weights.pth")
    assert not checkpoint.load_weights(net, tmp_path / "weights.pth")


def test_wrong_checkpoint_lists_all_kinds(tmp_path: Path, net: nn.Module) -> None:
    state = net.state_dict()
    state["head.weight"] = state.pop("1.bias")
    state["0.weight"] = torch.zeros(3, 5)
    torch.save(state, tmp_path / "wrong.pt")
    before = [parameter.clone() for parameter in net.parameters()]
    with pytest.raises(InputError) as caught:
        checkpoint.load_weights(net, tmp_path / "wrong.pt")
    message = str(caught.value)
    for part in (
        "wrong.pt",
        "1 missing: 1.bias",
        "1 unexpected: head.weight",
        "1 misshaped: 0.weight (file (3, 5), model (3, 4))",
    ):
        assert part in message
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters()))
    report = checkpoint.load_weights(net, tmp_path / "wrong.pt", strict=False)
    assert (report.missing, report.unexpected) == (["1.bias"], ["head.weight"])
    torch.save({"other": torch.zeros(1)}, tmp_path / "foreign.pt")
    with pytest.raises(InputError, match="no key fits"):
        checkpoint.load_weights(net, tmp_path / "foreign.pt", strict=False)


class Payload:
    def __init__(self, path: Any) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("legacy", [False, True])
def test_malicious_pickle_is_refused_and_not_run(tmp_path: Path, net: nn.Module, legacy: bool) -> None:
    path, trace = tmp_path / "evil.pt", tmp_path / "was_run"
    if legacy:
        path.write_bytes(pickle.dumps({"model": Payload(trace)}))
    else:
        torch.save({"model": net.state_dict(), "extra": Payload(trace)}, path)
    with pytest.raises(InputError, match=rf"evil.pt: refused.*{'' if legacy else 'mkdir'}.*safetensors"):
        checkpoint.load_weights(net, path)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_unreadable_files(tmp_path: Path, net: nn.Module, name: str) -> None:
    with pytest.raises(InputError, match="no such file"):
        checkpoint.load_weights(net, tmp_path / name)
    (tmp_path / name).write_bytes(b"\x00garbage" * 20)
    with pytest.raises(InputError, match=f"{name}: cannot be read"):
        checkpoint.load_weights(net, tmp_path / name)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match=f"{name}: cannot be read"):
        checkpoint.load_weights(net, tmp_path / name)


def test_file_without_weights(tmp_path: Path, net: nn.Module) -> None:
    torch.save({"epoch": 3}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="holds no state dict"):
        checkpoint.load_weights(net, tmp_path / "a.pt")


def test_save_weights_copies_what_is_shared(tmp_path: Path) -> None:
    tied = torch.ones(3, 2)
    checkpoint.save_weights({"a": tied, "b": tied, "c": tied[0], "d": tied.T}, tmp_path / "model.safetensors")
    loaded = load_file(tmp_path / "model.safetensors")
    assert sorted(loaded) == ["a", "b", "c", "d"]
    assert loaded["d"].shape == (2, 3)


def test_json_is_written_with_the_same_bytes_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    digest = folder.write_reproducibly({"b": [1, 2.5], "a": "ä"}, path)
    assert path.read_bytes() == b'{"a":"\\u00e4","b":[1,2.5]}'
    assert digest == folder.write_reproducibly({"a": "ä", "b": [1, 2.5]}, tmp_path / "b.json")
    with pytest.raises(ValueError, match="not JSON compliant"):
        folder.write_reproducibly({"a": float("nan")}, path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/a\.json: .*choose a folder that is writable"):
        folder.write_reproducibly({}, tmp_path / "file" / "a.json")
    assert path.read_bytes().startswith(b'{"a"')
