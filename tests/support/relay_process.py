"""A real relay: `python -m posthouse serve` as a process on free ports, its log, its HTTP pages, its end.

Signals go to this process by its id and to no other. Waiting is for something that the process says, never for time.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

START_S = 30.0
STOP_S = 30.0


def free_port() -> int:
    """A port of 127.0.0.1 where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RelayProcess:
    """One relay with its files in a folder. It keeps its ports and its store over restarts."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        store: str | None = None,
        config: str = "",
        host: str = "127.0.0.1",
        environment: dict[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        """`config` is TOML for a file of its own; `store` a URL (a SQLite file in `folder` unless given); `prefix`
        goes before the command, such as `("prlimit", "--nofile=64")`."""
        self.folder = folder
        self.store = store or f"sqlite:///{folder / 'relay.db'}"
        self.arguments = arguments
        self.config = config
        self.host = host
        self.environment = environment or {}
        self.prefix = prefix
        self.port = 0
        """The client port: any free one on the first start, then the same again."""
        self.metrics_port = 0
        self.lines: list[dict[str, Any]] = []
        """The log of this start. A line that is no JSON (a traceback, a usage error) is `{"text": …}`."""
        self.process: subprocess.Popen[bytes] | None = None
        self._said = threading.Condition()
        self._ended = True
        self._reader: threading.Thread | None = None

    # --- its life

    def start_unseen(self) -> RelayProcess:
        """Start it and wait for nothing."""
        assert not self.running, "it runs already"
        config = self.folder / "posthouse.toml"
        config.write_text(self.config)
        with self._said:
            self.lines = []
            self._ended = False
        command = [sys.executable, "-m", "posthouse", "serve", "--log-format", "json"]
        command += ["--config", str(config), "--store", self.store]
        command += ["--listen", f"{self.host}:{self.port}"]
        command += ["--metrics-listen", f"127.0.0.1:{self.metrics_port}"]
        self.process = subprocess.Popen(
            [*self.prefix, *command, *self.arguments],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, **self.environment},
            cwd=self.folder,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read_log, args=(self.process,), daemon=True)
        self._reader.start()
        return self

    def start(self) -> RelayProcess:
        """Start it and wait until it is ready: it serves, or has reached the one that does."""
        self.start_unseen()
        listening = self.wait_for("listening", START_S)
        self.port = int(listening["address"].rpartition(":")[2])
        self.metrics_port = int(listening["metrics"].rpartition(":")[2])
        end = time.monotonic() + START_S
        while (answer := self.get("/readyz"))[0] != 200:
            assert time.monotonic() < end, answer
            time.sleep(0.02)
        return self

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to this process."""
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        self.wait()

    def stop(self) -> int:
        """SIGTERM, and its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def wait(self, timeout_s: float = STOP_S) -> int:
        """Wait for its end, and for the end of its log; the exit code."""
        assert self.process is not None and self._reader is not None
        code = self.process.wait(timeout_s)
        self._reader.join(timeout_s)
        return code

    def clean_up(self) -> None:
        """Leave no process behind, whatever happened."""
        if self.process is not None:
            if self.process.poll() is None:
                self.process.kill()
            self.wait()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self.process is not None
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether there is a process that has not ended."""
        return self.process is not None and self.process.poll() is None

    # --- where it is

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"{'wss' if '--tls-cert' in self.arguments else 'ws'}://{self.host}:{self.port}"

    @property
    def metrics_url(self) -> str:
        """Where its pages are."""
        return f"http://127.0.0.1:{self.metrics_port}"

    # --- what it says

    def wait_for(
        self,
        event: str,
        timeout_s: float = STOP_S,
        where: Callable[[dict[str, Any]], bool] = lambda line: True,
    ) -> dict[str, Any]:
        """The first line of its log with this event; fails when it ends without, or does not say so in time."""

        def found() -> dict[str, Any] | None:
            return next((line for line in self.lines if line.get("event") == event and where(line)), None)

        with self._said:
            self._said.wait_for(lambda: found() or self._ended, timeout_s)
            line = found()
        assert line is not None, f"no line {event!r} in {self.lines}"
        return line

    def events(self) -> list[str]:
        """The events of its log so far, or the texts of what is no log."""
        with self._said:
            return [str(line.get("event", line.get("text"))) for line in self.lines]

    def get(self, path: str, method: str = "GET", port: int | None = None) -> tuple[int, bytes]:
        """Status and body of an HTTP answer of its metrics port, or of another one."""
        connection = http.client.HTTPConnection("127.0.0.1", port or self.metrics_port, timeout=10)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def status(self) -> dict[str, Any]:
        """Its /status."""
        status: dict[str, Any] = json.loads(self.get("/status")[1])
        return status

    def metrics(self) -> dict[str, float]:
        """Its /metrics: names, with their labels as they are written there."""
        lines = self.get("/metrics")[1].decode().splitlines()
        samples = [line.rpartition(" ") for line in lines if not line.startswith("#")]
        return {name: float(value) for name, _, value in samples}

    def _read_log(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr is not None
        with process.stderr:
            for raw in process.stderr:
                try:
                    line = json.loads(raw)
                except ValueError:
                    line = {"text": raw.decode(errors="replace").rstrip("\n")}
                with self._said:
                    self.lines.append(line)
                    self._said.notify_all()
        with self._said:
            self._ended = True
            self._said.notify_all()
