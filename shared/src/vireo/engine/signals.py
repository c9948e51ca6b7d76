"""SIGTERM and SIGUSR1 as a request to save and stop."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Any

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class StopRequest:
    """Notes the first SIGTERM or SIGUSR1; a second one ends the process at once. Bool: whether one has arrived."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._pid = os.getpid()
        self._before: dict[int, Any] = {}

    def install(self) -> None:
        """Take over the signals (only possible in the main thread; elsewhere a no-op)."""
        try:
            self._before = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
        except ValueError:
            self._before = {}

    def remove(self) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid or self.signal is not None:  # a forked loader worker, or asked twice
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.signal = number

    def __bool__(self) -> bool:
        return self.signal is not None
