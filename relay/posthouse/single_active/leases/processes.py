"""Processes of this machine: told apart by their start, and ended for sure."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path
from typing import Final

from posthouse.single_active.leases.interface import Process

PROC: Final = Path("/proc")
START_TICKS_FIELD: Final = 22
"""Of /proc/PID/stat, counted from one, as proc(5) does."""


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if there is none or the system does not tell."""
    try:
        stat = (PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    # The second field is the program's name in brackets, and may itself hold blanks and brackets.
    return int(stat.rpartition(")")[2].split()[START_TICKS_FIELD - 3])


def pid_namespace() -> int:
    """Where our process numbers count; 0 if the system does not tell."""
    try:
        return os.stat(PROC / "self" / "ns" / "pid").st_ino
    except OSError:
        return 0


def this_process() -> Process | None:
    """Ourselves; None on a system where processes cannot be told apart."""
    pid = os.getpid()
    ticks = start_ticks(pid)
    return None if ticks is None else Process(pid, ticks, pid_namespace())


def handle(process: Process) -> int | None:
    """A pidfd of exactly this process, to be closed by the caller; None if it is gone or not to be seen from here.

    The descriptor comes first, the start time second: while the number is ours to look up by the descriptor's
    process, no later process can have it; and if it has been reused before that, the start time is another.
    """
    if not hasattr(os, "pidfd_open") or process.namespace != pid_namespace():
        return None
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError:
        return None
    if start_ticks(process.pid) != process.start_ticks:
        os.close(descriptor)
        return None
    return descriptor


def kill(process: Process, wait_s: float) -> bool:
    """Kill exactly this process, stopped or not; whether it is gone within ``wait_s``. Blocks.

    False if it is not killed: it is another one by now, out of sight, not ours to kill, or does not end in time.
    """
    descriptor = handle(process)
    if descriptor is None:
        return False
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(wait_s * 1000))
    except (PermissionError, ProcessLookupError):
        return False
    finally:
        os.close(descriptor)
