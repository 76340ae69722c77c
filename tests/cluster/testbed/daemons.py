"""The processes that the cluster consists of: each with a log, and a file that says which process it is."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from testbed import places
from testbed.commands import ClusterError, tail
from testbed.processes import Process

_ALL_SIGNALS = [number for number in signal.valid_signals() if number not in (signal.SIGKILL, signal.SIGSTOP)]


@dataclass(frozen=True)
class Daemon:
    """One long-lived process of the cluster, started here or by an earlier run."""

    name: str

    @property
    def log(self) -> Path:
        """Everything that it wrote."""
        return places.logs() / f"{self.name}.log"

    @property
    def record(self) -> Path:
        """The file that says which process it is."""
        return places.run() / "processes" / self.name

    @property
    def process(self) -> Process | None:
        """Its process, if it was started and has not ended."""
        try:
            found = Process(**json.loads(self.record.read_text()))
        except (OSError, ValueError, TypeError):
            return None
        return found if found.lives else None

    @property
    def healthy(self) -> bool:
        """Whether it runs and is not stopped."""
        process = self.process
        return process is not None and not process.frozen

    def start(self, command: Sequence[str | Path], netns: str | None = None) -> None:
        """Start it, in a network namespace if one is named. Raises ClusterError if it cannot be started."""
        words = [str(word) for word in command]
        if netns is not None:
            # Not `ip netns exec`: that mounts another /sys, without the control groups that kubelet works in.
            words = ["nsenter", f"--net={places.netns_path(netns)}", *words]
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.record.parent.mkdir(parents=True, exist_ok=True)
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(self.log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        try:
            # It outlives whoever starts it, in a session of its own and with no signal ignored.
            pid = os.posix_spawnp(
                words[0],
                words,
                os.environ,
                file_actions=actions,
                setsid=True,
                setsigmask=[],
                setsigdef=_ALL_SIGNALS,
            )
        except OSError as error:
            raise ClusterError(f"{words[0]} does not start: {error.strerror}") from None
        process = Process.of(pid)
        if process is None:
            raise ClusterError(f"{self.name} ended at once; {tail(self.log)}")
        self.record.write_text(json.dumps({"pid": process.pid, "started": process.started}))

    def kill(self) -> None:
        """End it without ceremony: the API server would take a minute on SIGTERM, and nothing here is worth keeping."""
        process = self.process
        if process is not None:
            process.kill()
        self.record.unlink(missing_ok=True)
