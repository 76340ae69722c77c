"""A process that is stopped and continued in turns, which makes it slow."""

from __future__ import annotations

import threading
import time

from testbed.processes import Process

PERIOD_S = 0.1


class DutyCycle:
    """Stops a process for a part of each period. It ends with the limit, so that nothing is slow for ever."""

    def __init__(self, process: Process, stopped: float, limit_s: float) -> None:
        """`stopped` is the part, between 0 and 1. Raises ValueError."""
        if not 0 < stopped < 1:
            raise ValueError(f"the stopped part of the time must be between 0 and 1, not {stopped:g}")
        self._process = process
        self._stop_s = PERIOD_S * stopped
        self._limit_s = limit_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="duty cycle", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def end(self) -> None:
        """End it. The process goes on."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        limit = time.monotonic() + self._limit_s
        try:
            while not self._ended.is_set() and time.monotonic() < limit:
                self._process.freeze()
                self._ended.wait(self._stop_s)
                self._process.thaw()
                self._ended.wait(PERIOD_S - self._stop_s)
        finally:
            self._process.thaw()
