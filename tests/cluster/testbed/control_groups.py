"""The control groups of a node's pods: one tree a node, in version 1 of the interface one in each hierarchy."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from testbed.commands import until
from testbed.places import Node
from testbed.processes import Process

_ROOT = Path("/sys/fs/cgroup")
_VERSION_1 = (
    "cpu",
    "cpuacct",
    "cpuset",
    "memory",
    "devices",
    "freezer",
    "blkio",
    "pids",
    "systemd",
    "hugetlb",
    "unified",
)
END_S = 20.0


def _trees(node: Node) -> list[Path]:
    if (_ROOT / "cgroup.controllers").exists():
        return [_ROOT / node.cgroup]
    return [_ROOT / name / node.cgroup for name in _VERSION_1 if (_ROOT / name).is_dir()]


def make(node: Node) -> None:
    """Make the trees: kubelet wants its root to exist."""
    for tree in _trees(node):
        tree.mkdir(exist_ok=True)
        for name in ("cpuset.cpus", "cpuset.mems"):
            if tree.parent.name == "cpuset":  # a new set has no processors, and nothing could run in it
                (tree / name).write_text((tree.parent / name).read_text())


def processes(node: Node) -> Iterator[Process]:
    """All processes in the node's containers."""
    pids: set[int] = set()
    for tree in _trees(node):
        for file in tree.rglob("cgroup.procs"):
            with contextlib.suppress(OSError):
                pids.update(int(word) for word in file.read_text().split())
    for pid in pids:
        process = Process.of(pid)
        if process is not None:
            yield process


def kill(node: Node) -> None:
    """End all of them, also those that are being started meanwhile."""

    def none_left() -> bool:
        left = [process for process in processes(node) if process.lives]
        for process in left:
            process.kill()
        return not left

    until(none_left, f"end of the containers of {node.name}", END_S)


def remove(node: Node) -> None:
    """Remove the trees, which are empty."""
    for tree in _trees(node):
        for folder, _, _ in os.walk(tree, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()
