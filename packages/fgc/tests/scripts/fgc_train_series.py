"""Training runs one after the other, each in a fork, so that torch is imported once.

On stdin, a JSON list of ``{"arguments": [...], "step": number or null, "signal": number}``: the command line of
``fgc-train``, and the step after which the process sends itself that signal. On stdout, the exit statuses (negative:
the signal that ended it).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from fgc import build, data, eval, load, macs, meters, neighborhoods, report  # noqa: F401  what train.py imports
from fgc.train import main
from vireo.engine.run import Run


def signal_after(step: int, number: int) -> None:
    """Let this process get a signal once it has done ``step``, before anything is saved for it."""
    done = Run._log_train

    def log_and_signal(run: Any) -> None:
        done(run)
        if run.step_count == step:
            os.kill(os.getpid(), number)

    setattr(Run, "_log_train", log_and_signal)  # noqa: B010


def child(task: dict[str, Any]) -> int:
    """What the fork does; its exit status."""
    if task["step"] is not None:
        signal_after(task["step"], task["signal"])
    sys.argv = ["fgc-train", *task["arguments"]]
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
            status = child(task)
            sys.stderr.flush()
            os._exit(status)
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
    print(json.dumps(statuses))


if __name__ == "__main__":
    run_all()
