"""The relay of the demonstration: a real `posthouse serve` in a process of its own, with its files in one folder."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from posthouse.cli.connecting import beside_the_loop
from posthouse.errors import PosthouseError

_STOP_S = 5.0


class RelayEnded(PosthouseError):
    """The relay of the demonstration ended by itself."""

    def __init__(self, exit_code: int, last_words: str) -> None:
        super().__init__(exit_code, last_words)
        self.exit_code = exit_code
        self.last_words = last_words

    def __str__(self) -> str:
        return f"the relay ended with exit code {self.exit_code}: {self.last_words or 'it said nothing'}"


class DemoRelay:
    """Starts, kills and stops the relay; ``close`` leaves no process behind, whatever happened before."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "relay.log"
        listen, metrics = _free_port(), _free_port()
        self.url = f"ws://127.0.0.1:{listen}"
        self._command = [
            *(sys.executable, "-m", "posthouse", "serve"),
            *("--listen", f"127.0.0.1:{listen}"),
            *("--metrics-listen", f"127.0.0.1:{metrics}"),
            *("--store", f"sqlite:///{folder / 'relay.db'}"),
            *("--log-format", "json"),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process, or 0 if there is none."""
        return self._process.pid if self._process is not None else 0

    def start(self) -> None:
        """Start the process. That it serves is for a client to see."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("POSTHOUSE_")}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the demonstration, which then ends the relay itself
            )

    def check(self) -> None:
        """Raises RelayEnded if the process is no more."""
        exit_code = self._process.poll() if self._process is not None else None
        if exit_code is not None:
            lines = self._log.read_text(errors="replace").splitlines()
            raise RelayEnded(exit_code, lines[-1] if lines else "")

    def kill(self) -> None:
        """kill -9: no word to anybody, no last write."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    async def stop(self) -> float:
        """SIGTERM, as a service manager stops it: how many seconds it took."""
        process = self._process
        assert process is not None
        began = time.monotonic()
        process.terminate()
        await beside_the_loop(lambda: process.wait(_STOP_S))
        return time.monotonic() - began

    def close(self) -> None:
        """End the process if it still runs."""
        if self._process is not None and self._process.poll() is None:
            self.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
