"""The other end of a prober, and of the load generator that holds connections: processes that are told and asked."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.errors import RunFailed
from bench.wire import device_key

ROOT = Path(__file__).resolve().parents[1]
FLOW_LIMIT_S = 60.0
HOLD_LIMIT_S = 120.0


class ProberProcess:
    """A prober (`bench/prober.py`) that writes to a mailbox of its own."""

    def __init__(
        self, name: str, *, interval_ms: float = 1.0, window: int = 1, place: Sequence[str] = ()
    ) -> None:
        """``place``: the words before a command that put it into another network."""
        self.name = name
        self.reader = device_key(f"{name}'s reader")
        self._process = subprocess.Popen(
            [
                *place, sys.executable, "-m", "bench.prober", "--name", name, "--recipient", self.reader.address,
                "--interval-ms", str(interval_ms), "--window", str(window),
            ],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def connect(self, addresses: Sequence[str], patience_s: float | None = None) -> None:
        """The first address is tried first. With a patience, a silent connection is given up for the next address."""
        self._ask({"do": "connect", "addresses": list(addresses), "patience_s": patience_s})

    def run(self) -> None:
        """Publish from now on."""
        self._ask({"do": "run"})

    def mark(self) -> None:
        """Forget the longest wait so far."""
        self._ask({"do": "mark"})

    def peek(self) -> dict[str, Any]:
        """promised, longest_ms, closed, codes, local (its end of the connection, if there is one), epochs."""
        return self._ask({"do": "peek"})

    def pause(self) -> dict[str, Any]:
        """The figures and the ids that were promised. Raises RunFailed if a message got no promise in a minute."""
        answer = self._ask({"do": "pause"})
        if not answer["settled"]:
            raise RunFailed(f"{self.name} has messages without a promise: {answer['codes']}")
        return answer

    def wait_for_more(self, promises: int) -> None:
        """Until so many more messages were promised. Raises RunFailed."""
        wanted = self.peek()["promised"] + promises
        end = time.monotonic() + FLOW_LIMIT_S
        while (figures := self.peek())["promised"] < wanted:
            if time.monotonic() > end:
                raise RunFailed(f"{self.name} has no promises: {figures['codes']}")
            time.sleep(0.01)

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RunFailed(f"{self.name} has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()


class Held:
    """Subscribed connections that do nothing, held by the load generator; those that are lost come back."""

    def __init__(self, generator: Path, addresses: Sequence[str], count: int, spread_s: float = 5.0) -> None:
        """A lost one comes back within the spread."""
        self._count = count
        self._held = 0
        self.lost = 0
        """How many were lost since the start."""
        self._process = subprocess.Popen(
            [
                generator, "-workload", "hold", "-readers", str(count), "-address", ",".join(addresses),
                "-spread", f"{spread_s}s",
            ],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = json.loads(line)
            self._held, self.lost = told.get("held", self._held), told.get("lost", self.lost)

    def wait_for_all(self) -> None:
        """Until all are there. Raises RunFailed."""
        self._wait(lambda: self._held >= self._count)

    def wait_for_loss(self, count: int) -> None:
        """Until so many were lost since the start. Raises RunFailed."""
        self._wait(lambda: self.lost >= count)

    def _wait(self, done: Callable[[], bool]) -> None:
        end = time.monotonic() + HOLD_LIMIT_S
        while not done():
            if self._process.poll() is not None or time.monotonic() > end:
                raise RunFailed(
                    f"{self._held:,} of {self._count:,} sessions are held, {self.lost:,} were lost"
                )
            time.sleep(0.05)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._listener.join()
        self._process.communicate()
