"""CPU of processes, as /proc tells it: a process with all that it has started."""

from __future__ import annotations

import os
from pathlib import Path


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its descendants, the ended ones that were waited for included."""
    ticks = 0
    for one in process_tree(pid):
        try:
            text = Path(f"/proc/{one}/stat").read_text()
        except OSError:
            continue
        # The command name may hold blanks: count fields after its bracket.
        fields = text.rpartition(")")[2].split()
        ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def process_tree(pid: int) -> list[int]:
    """The process and its descendants that live now."""
    tree = [pid]
    for one in tree:
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            try:
                tree += map(int, task.read_text().split())
            except OSError:
                continue
    return tree
