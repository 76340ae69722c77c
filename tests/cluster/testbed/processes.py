"""Processes by number and start time: a number alone may have passed to another process."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from testbed.commands import until

END_S = 20.0


@dataclass(frozen=True)
class Process:
    """One process of this machine. `started` is in clock ticks since the boot."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The process that has this number now."""
        found = _stat(pid)
        return cls(pid, found[1]) if found else None

    @property
    def state(self) -> str:
        """One letter, as in proc(5): T is stopped by a signal. Empty when there is no such process any more."""
        # A child of ours that ended keeps its number until somebody asks.
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)
        found = _stat(self.pid)
        return found[0] if found and found[1] == self.started else ""

    @property
    def lives(self) -> bool:
        """Whether it has not ended."""
        return self.state not in ("", "Z", "X")

    @property
    def frozen(self) -> bool:
        """Whether it is stopped by a signal."""
        return self.state == "T"

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal. False if the process has ended."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        try:
            if not self.lives:
                return False
            signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(descriptor)
        return True

    def kill(self) -> None:
        """End it at once, and wait until it has ended."""
        self.signal(signal.SIGKILL)
        until(lambda: not self.lives, f"end of process {self.pid}", END_S)

    def freeze(self) -> None:
        """Stop it, and wait until it stands still."""
        self.signal(signal.SIGSTOP)
        until(lambda: self.state in ("T", "", "Z"), f"stop of process {self.pid}", END_S)

    def thaw(self) -> None:
        """Let it go on."""
        self.signal(signal.SIGCONT)


def _stat(pid: int) -> tuple[str, int] | None:
    """State and start time."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (OSError, ValueError):
        return None
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[19])


def with_argument(word: str) -> Iterator[Process]:
    """The processes that were started with this word among their arguments."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            process = Process.of(int(entry.name))
            if word.encode() in words and process is not None:
                yield process
