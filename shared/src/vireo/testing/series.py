"""Runs of console scripts one after the other, some of them killed, and runs of several processes.

:func:`series` starts one process that imports the packages once and forks for each run, so that a test of resuming does
not pay for torch again and again.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple


class Task(NamedTuple):
    """A run.

    Attributes:
        module: of an entry point, with ``main``.
        arguments: its command line.
        step: after which the process gets a signal, before anything is saved for it; None for none.
        signal: which one.
    """

    module: str
    arguments: list[str]
    step: int | None = None
    signal: int = signal.SIGKILL


def environment() -> dict[str, str]:
    """Of a subprocess with one thread."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def series(
    *tasks: Task, preload: Sequence[str] = (), without: Sequence[str] = (), timeout: float = 300
) -> tuple[list[int], str]:
    """Run one task after the other.

    Args:
        tasks: the runs.
        preload: modules that all of them need.
        without: functions, ``package.module.name``, that do nothing in these runs (reports, say).
        timeout: seconds for all.

    Returns:
        Exit statuses (negative: the signal that ended a run), and everything that was said on stderr.
    """
    order = {"tasks": [task._asdict() for task in tasks], "preload": list(preload), "without": list(without)}
    done = subprocess.run(
        [sys.executable, "-m", "vireo.testing.series"],
        input=json.dumps(order),
        capture_output=True,
        text=True,
        env=environment(),
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def torchrun(*command: str, processes: int = 2, timeout: float = 400) -> None:
    """Run a module with its arguments in several processes that form a group; it must end well."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    done = subprocess.run([*launcher, *command], capture_output=True, text=True, env=environment(), timeout=timeout)
    assert done.returncode == 0, done.stderr[-4000:]


def _signal_after(step: int, number: int) -> None:
    """Let this process get a signal once it has done ``step``."""
    from vireo.engine.run import Run

    done = Run._log_train

    def log_and_signal(run: Any) -> None:
        done(run)
        if run.step_count == step:
            os.kill(os.getpid(), number)

    setattr(Run, "_log_train", log_and_signal)  # noqa: B010


def _do(task: dict[str, Any]) -> int:
    """What a fork does; its exit status."""
    if task["step"] is not None:
        _signal_after(task["step"], task["signal"])
    sys.argv = [task["module"], *task["arguments"]]
    try:
        importlib.import_module(task["module"]).main()
    except SystemExit as end:
        return int(end.code or 0)
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def main() -> None:
    """Do what stdin says."""
    order = json.load(sys.stdin)
    for name in order["preload"]:
        importlib.import_module(name)
    for name in order["without"]:
        module, _, function = name.rpartition(".")
        setattr(importlib.import_module(module), function, lambda *_args, **_options: None)
    statuses = []
    for task in order["tasks"]:
        process = os.fork()
        if process == 0:
            status = _do(task)
            sys.stderr.flush()
            os._exit(status)
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
    print(json.dumps(statuses))


if __name__ == "__main__":
    main()
