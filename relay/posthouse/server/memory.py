"""The memory watermark: above it the relay takes nothing new until it has shrunk.

What is refused is new connections (1013) and publishes (``rate-limited``); acks, deliveries and deletions go on,
and they are what frees memory.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

RECOVERED_SHARE = 0.9
"""It ends below this share of the watermark: one message less must not open the gate for the next."""
DEFAULT_SHARE = 0.75
"""Of the memory there is; the rest is for the kernel's side of the sockets, and for a crowd within one second."""

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class MemoryWatermark:
    """Says whether the process is too large; asked once a second."""

    def __init__(self, limit_bytes: int, read_bytes: Callable[[], int]) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        """At the last look."""
        self.exceeded = False
        self._read_bytes = read_bytes

    def look(self) -> bool:
        """Measure; True if ``exceeded`` has changed."""
        self.used_bytes = self._read_bytes()
        before = self.exceeded
        bound = self.limit_bytes * (RECOVERED_SHARE if before else 1.0)
        self.exceeded = self.used_bytes > bound
        return self.exceeded != before


def resident_bytes() -> int:
    """Physical memory of this process; where the system cannot say, the most that it ever was."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError, ValueError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def default_limit_bytes() -> int:
    """``DEFAULT_SHARE`` of what the machine has or a control group above this process allows, whichever is less."""
    allowed = [
        os.sysconf("SC_PHYS_PAGES") * _PAGE_BYTES,
        *_group_limits(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")),
    ]
    return int(min(allowed) * DEFAULT_SHARE)


def _group_limits(membership: Path, root: Path) -> list[int]:
    """The limits of the control groups (version 2 and 1) that this process is in, and of those above them."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return []
    limits = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            top, name = root, "memory.max"
        elif "memory" in controllers.split(","):
            top, name = root / "memory", "memory.limit_in_bytes"
        else:
            continue
        # In a container the path is often that of the host, and the group itself is mounted at the top.
        place = top / group.lstrip("/")
        for folder in (place, *place.parents):
            if folder.is_relative_to(top):
                limits += _limit(folder / name)
    return limits


def _limit(file: Path) -> list[int]:
    try:
        text = file.read_text().strip()
    except OSError:
        return []
    return [int(text)] if text.isdigit() else []


def give_back() -> None:
    """Ask the C library to return to the system what the process has freed, where it can."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):
        pass
