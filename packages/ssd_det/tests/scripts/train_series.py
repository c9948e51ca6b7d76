"""Training runs one after the other, each in a fork, so that torch is imported once.

On stdin, a JSON list of ``{"arguments": [...], "kill_at": step or null}``: the command line of ``ssd-det-train``, and
the step after which the process sends itself SIGKILL. On stdout, the exit statuses (negative: the signal that ended
it).
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from ssd_det import build, data, eval, report  # noqa: F401  what train.py imports when it runs
from ssd_det.train import main
from vireo.engine.run import Run


def kill_after(step: int) -> None:
    """Let this process die once it has done ``step``, before anything is saved for it."""
    done = Run._log_train

    def log_and_die(run: Any) -> None:
        done(run)
        if run.step_count == step:
            os.kill(os.getpid(), signal.SIGKILL)

    setattr(Run, "_log_train", log_and_die)  # noqa: B010


def child(arguments: list[str], kill_at: int | None) -> int:
    """What the fork does; its exit status."""
    if kill_at is not None:
        kill_after(kill_at)
    sys.argv = ["ssd-det-train", *arguments]
    report.write_run_report = lambda *_: Path()  # curves take longer than these runs
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def run_all() -> None:
    """Do what stdin says."""
    statuses = []
    for task in json.load(sys.stdin):
        process = os.fork()
        if process == 0:
            status = child(task["arguments"], task["kill_at"])
            sys.stderr.flush()
            os._exit(status)
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
    print(json.dumps(statuses))


if __name__ == "__main__":
    run_all()
