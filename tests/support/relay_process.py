"""A real relay in a process of its own: started, seen ready, stopped or killed by its own pid."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

START_S = 30.0
STOP_S = 20.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RelayProcess:
    """One `posthouse serve` with its files in a folder. It keeps its ports and its store over restarts."""

    def __init__(self, folder: Path, *arguments: str, store: str | None = None) -> None:
        self.folder = folder
        self.port = free_port()
        self.metrics_port = free_port()
        self.store = store or f"sqlite:///{folder / 'relay.db'}"
        self.arguments = arguments
        self.environment: dict[str, str] = {}
        self.log = folder / "relay.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    @property
    def metrics_url(self) -> str:
        return f"http://127.0.0.1:{self.metrics_port}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Start it and wait until it says that it is ready."""
        self.start_unseen()
        deadline = time.monotonic() + START_S
        while not self.is_ready():
            assert self.process is not None
            assert self.process.poll() is None, f"the relay ended: {self.log_text()}"
            assert time.monotonic() < deadline, f"the relay was not ready in time: {self.log_text()}"
            time.sleep(0.02)

    def start_unseen(self) -> None:
        """Start it without waiting."""
        assert self.process is None or self.process.poll() is not None, "it runs already"
        command = [sys.executable, "-m", "posthouse", "serve", "--log-format", "json", "--store", self.store]
        command += [
            "--listen",
            f"127.0.0.1:{self.port}",
            "--metrics-listen",
            f"127.0.0.1:{self.metrics_port}",
        ]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )

    def is_ready(self) -> bool:
        try:
            return self.get("/readyz")[0] == 200
        except OSError:
            return False

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body of a GET on the metrics port."""
        connection = http.client.HTTPConnection("127.0.0.1", self.metrics_port, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self.get("/status")[1])
        return status

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM, and its exit code."""
        self.signal(signal.SIGTERM)
        assert self.process is not None
        return self.process.wait(STOP_S)

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def close(self) -> None:
        """Leave no process behind."""
        if self.process is not None and self.process.poll() is None:
            self.kill()

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""
