"""Helpers for tests: reference cases rebuilt from names, console scripts called in place.

A reference case stores what the authors' code computed, not the network it used. Both sides derive every parameter from
its key and a seed, so a few kilobytes pin down a network of any size.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
import zlib
from collections.abc import Iterator, MutableMapping
from typing import NamedTuple, TypeVar
from unittest import mock

import numpy as np
import torch
from torch import Tensor

State = TypeVar("State", bound=MutableMapping[str, Tensor])


def values(name: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """The float32 array standing for the parameter, buffer or input ``name``.

    The random stream is numpy's legacy generator seeded with ``crc32(name) + seed``. What is drawn depends on the name:

    ==========================================  ====================================================
    ``*.running_var``                           uniform in [0.5, 1.5]
    ``input*``                                  standard normal
    vectors and scalars                         normal, std 0.1 (around 1 for a ``*.weight``: a norm's gain)
    matrices and kernels                        normal, variance 1 / fan-in (all dimensions but the first)
    ==========================================  ====================================================
    """
    rng = np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32)  # the stored numbers' stream
    kind = name.rpartition(".")[2]
    if kind == "running_var":
        drawn = rng.uniform(0.5, 1.5, shape)
    else:
        drawn = rng.standard_normal(shape)
        if name.startswith("input"):
            pass
        elif len(shape) > 1:
            drawn = drawn / np.sqrt(max(1, int(np.prod(shape[1:]))))
        else:
            drawn = 0.1 * drawn + (1.0 if kind == "weight" else 0.0)
    return np.asarray(drawn, dtype=np.float32)


def tensor(name: str, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """:func:`values` as a torch tensor."""
    return torch.from_numpy(values(name, tuple(shape), seed))


@torch.no_grad()
def fill_state_dict(state: State, seed: int = 0) -> State:
    """Overwrite every floating-point tensor of ``state`` in place with :func:`values` of its key; returns ``state``."""
    for name, parameter in state.items():
        if parameter.is_floating_point():
            parameter.copy_(tensor(name, tuple(parameter.shape), seed))
    return state


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Matrix products and convolutions of float32 on a GPU are as exact as on a CPU: TensorFloat-32 is off.

    pytest's ``monkeypatch`` cannot restore ``torch.backends.cuda.matmul``, whose attributes are not stored in it.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


class Outcome(NamedTuple):
    """How a console script ended, and what it wrote."""

    status: int
    out: str
    err: str

    def mistake(self) -> str:
        """The message of a script that ended with status 2: one line, no traceback.

        Raises:
            AssertionError: it ended otherwise, or said more or less than that.
        """
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert self.status == 2, self.err
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        assert self.err.endswith(lines[0] + "\n"), self.err
        return lines[0]


def call_script(module: str, *arguments: object) -> Outcome:
    """Run ``main`` of an entry point's module in this process, as its console script would.

    Args:
        module: e.g. ``"ssd_det.train"``, whose script is ``ssd-det-train``.
        arguments: of the command line.
    """
    main = importlib.import_module(module).main
    script = module.replace("_", "-").replace(".", "-")
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", [script, *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            status = main()
        except SystemExit as end:
            status = end.code
    return Outcome(int(status or 0), out.getvalue(), err.getvalue())
