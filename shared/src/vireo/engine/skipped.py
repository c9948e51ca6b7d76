"""What was left out of a run's data: said when it starts, listed in its folder when it ends."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import torch.distributed as dist

from vireo.engine.folder import write_atomically
from vireo.engine.resumable import ResumableRun


def skipped_lines(*sources: Any) -> list[str]:
    """What data sets and loaders of all processes left out, each once (a collective call).

    Args:
        sources: objects with a list ``skipped``.
    """
    own = [line for source in sources for line in source.skipped]
    parts = [own]
    if dist.is_initialized():
        parts = [own] * dist.get_world_size()
        dist.all_gather_object(parts, own)
    return list(dict.fromkeys(line for part in parts for line in part))


def print_skipped(lines: Iterable[str]) -> None:
    """Say on stderr what an evaluation left out."""
    for line in lines:
        print(f"skipped: {line}", file=sys.stderr)


def say_skipped(run: ResumableRun, *sources: Any) -> None:
    """Say on the console of a run what its data sets leave out."""
    for source in sources:
        for line in source.skipped:
            run.console.say(f"skipped: {line}")


def write_skipped(run: ResumableRun, *sources: Any) -> None:
    """Write ``skipped.txt`` into the folder of a run (a collective call); nothing left out, no file."""
    lines = skipped_lines(*sources)
    path = run.output_dir / "skipped.txt"
    if run.is_main and lines:
        write_atomically(path, lambda file: file.write(("\n".join(lines) + "\n").encode()))
    elif run.is_main:
        path.unlink(missing_ok=True)
