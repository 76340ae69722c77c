"""One member of the demonstration: a real `posthouse serve` in a process of its own."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posthouse.cli.connecting import beside_the_loop
from posthouse.errors import PosthouseError

STOP_S = 15.0
"""How long a member may take to stop."""
DRAIN_S = 0.2
"""How long a member that stops takes to send its clients away."""
_LOOK_S = 1.0


class MemberEnded(PosthouseError):
    """A member of the demonstration ended by itself, or did not stop."""

    def __init__(self, name: str, exit_code: int | None, last_words: str) -> None:
        super().__init__(name, exit_code, last_words)
        self.name = name
        self.exit_code = exit_code
        self.last_words = last_words

    def __str__(self) -> str:
        what = "did not stop" if self.exit_code is None else f"ended with exit code {self.exit_code}"
        return f"member {self.name} {what}: {self.last_words or 'it said nothing'}"


@dataclass(frozen=True, slots=True)
class View:
    """What a member says of itself."""

    role: str
    epoch: int
    """Of the active member, as far as this one knows; else 0."""
    clients: int
    """Connections of clients."""
    ready: int
    """How many members it knows to be ready, itself included."""


class DemoMember:
    """Starts, kills and stops one member; ``kill`` leaves no process behind, whatever happened before."""

    def __init__(self, name: str, folder: Path, store: Path) -> None:
        """``folder``: for its log. ``store``: the SQLite file that all members share."""
        self.name = name
        listen, self._metrics_port = _free_port(), _free_port()
        self.url = f"ws://127.0.0.1:{listen}"
        self._log = folder / f"{name}.log"
        self._command = [
            *(sys.executable, "-m", "posthouse", "serve"),
            *("--listen", f"127.0.0.1:{listen}"),
            *("--metrics-listen", f"127.0.0.1:{self._metrics_port}"),
            *("--store", f"sqlite:///{store}"),
            *("--log-format", "json"),
        ]
        self.stopping = False
        """Whether it was told to stop and has not yet."""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process, or 0 if there is none."""
        return self._process.pid if self._process is not None else 0

    def start(self) -> None:
        """Start the process. That it serves is for a client to see."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("POSTHOUSE_")}
        environment["POSTHOUSE_SERVER_MEMBER"] = self.name
        environment["POSTHOUSE_SERVER_DRAIN_S"] = str(DRAIN_S)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the demonstration, which then ends the members itself
            )

    def check(self) -> None:
        """Raises MemberEnded if the process ended by itself."""
        exit_code = self._process.poll() if self._process is not None else None
        if exit_code is not None:
            raise MemberEnded(self.name, exit_code, self._last_words())

    def look(self) -> View | None:
        """What it says of itself; None if it says nothing, as while it starts. Blocks for at most a second."""
        if self._process is None:
            return None
        connection = http.client.HTTPConnection("127.0.0.1", self._metrics_port, timeout=_LOOK_S)
        try:
            connection.request("GET", "/status")
            status: dict[str, Any] = json.loads(connection.getresponse().read())
        except (OSError, http.client.HTTPException, ValueError):
            return None
        finally:
            connection.close()
        ready = sum(member["ready"] for member in status["members"])
        return View(status["role"], status["epoch"], status["connections"], ready)

    def kill(self) -> None:
        """kill -9, if it runs: no word to anybody, no last write."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGKILL)
            process.wait()

    async def stop(self) -> float:
        """SIGTERM, as a service manager stops it: how many seconds it took. Raises MemberEnded if it went wrong."""
        process = self._process
        assert process is not None
        began = time.monotonic()
        process.terminate()
        self.stopping = True
        try:
            exit_code = await beside_the_loop(lambda: process.wait(STOP_S))
        except subprocess.TimeoutExpired:
            raise MemberEnded(self.name, None, self._last_words()) from None
        finally:
            self.stopping = False
        if exit_code != 0:
            raise MemberEnded(self.name, exit_code, self._last_words())
        self._process = None
        return time.monotonic() - began

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()
        return lines[-1] if lines else ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
