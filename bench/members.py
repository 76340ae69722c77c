"""Several relays on one store, told apart by their role and brought into trouble, each by its own process id."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.errors import RunFailed
from bench.machine import on_core
from bench.servers import free_ports, posthouse_arguments, stop

READY_LIMIT_S = 30.0
POLL_S = 0.02
STATUS_LIMIT_S = 0.5


class Member:
    """One relay. It keeps its ports and its log over restarts."""

    def __init__(self, name: str, log: Path, store: str, extra: Sequence[str], core: int | None) -> None:
        self.name = name
        self.log = log
        self.port, self.metrics_port = free_ports(2)
        self._store = store
        self._extra = extra
        self._core = core
        self._process: subprocess.Popen[bytes] | None = None
        self.frozen = False

    @property
    def address(self) -> str:
        """Where clients connect."""
        return f"127.0.0.1:{self.port}"

    @property
    def metrics_url(self) -> str:
        """Where its pages are."""
        return f"http://127.0.0.1:{self.metrics_port}"

    @property
    def pid(self) -> int:
        """Of its process. Raises RunFailed when it was never started."""
        if self._process is None:
            raise RunFailed(f"{self.name} was never started")
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether it has a process that has not ended, frozen or not."""
        return self._process is not None and self._process.poll() is None

    def start(self, environment: Mapping[str, str]) -> None:
        """Start it, without waiting."""
        command = [
            *(on_core(self._core) if self._core is not None else ()),
            sys.executable,
            "-m",
            "posthouse",
        ]
        command += [*posthouse_arguments(self._store, self.port, self.metrics_port), "--log-format", "json"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *self._extra], cwd=self.log.parent, env={**os.environ, **environment},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self.frozen = False

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        if self._process is not None and self.runs:
            self._process.kill()
            self._process.wait()

    def terminate(self) -> int:
        """SIGTERM, and its exit code."""
        assert self._process is not None
        stop(self._process)
        return self._process.returncode

    def freeze(self) -> None:
        """SIGSTOP."""
        os.kill(self.pid, signal.SIGSTOP)
        self.frozen = True

    def thaw(self) -> None:
        """SIGCONT, if it still lives."""
        self.frozen = False
        if self.runs:
            os.kill(self.pid, signal.SIGCONT)

    def status(self) -> dict[str, Any] | None:
        """Its /status; None when it does not answer."""
        if self.frozen or not self.runs:
            return None
        answer = self._get("/status")
        return None if answer is None else json.loads(answer)

    def ready(self) -> bool:
        """Whether it calls itself a healthy member."""
        return not self.frozen and self.runs and self._get("/readyz") is not None

    def last_words(self) -> str:
        """The end of its log."""
        lines = self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
        return (lines or ["nothing in its log"])[-1][:300]

    def _get(self, path: str) -> bytes | None:
        connection = http.client.HTTPConnection("127.0.0.1", self.metrics_port, timeout=STATUS_LIMIT_S)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
            return body if response.status == 200 else None
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()


class Members:
    """All relays of one store."""

    def __init__(
        self, folder: Path, count: int, store: str, *, extra: Sequence[str] = (), cores: Sequence[int] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        """`extra` are further arguments of `serve`; `cores` one for each member, or none for no pinning."""
        self._environment = environment or {}
        self.all = [
            Member(f"member {n}", folder / f"member-{n}.log", store, extra, cores[n] if cores else None)
            for n in range(count)
        ]

    def start_in_order(self) -> None:
        """The first becomes active before the others are there. Raises RunFailed."""
        self.start(self.all[0])
        self.wait(lambda: self.active() is self.all[0], "the first member is not active")
        for member in self.all[1:]:
            self.start(member)
        self.wait_all_ready()

    def start(self, member: Member) -> None:
        """Start one, without waiting."""
        member.start(self._environment)

    def active(self) -> Member | None:
        """The member that calls itself active now: the one of the highest epoch if several do."""
        found = [(epoch, member) for member in self.all if (epoch := self.active_epoch(member)) is not None]
        return max(found, key=lambda pair: pair[0])[1] if found else None

    def active_epoch(self, member: Member) -> int | None:
        """Its epoch if it is active."""
        status = member.status()
        return None if status is None or status.get("role") != "active" else int(status["epoch"])

    def wait_active(self, above: int = -1, among: Sequence[Member] | None = None) -> tuple[Member, int]:
        """The active member and its epoch, once that is above a number. Raises RunFailed."""
        found: list[tuple[Member, int]] = []

        def look() -> bool:
            for member in self.all if among is None else among:
                epoch = self.active_epoch(member)
                if epoch is not None and epoch > above:
                    found.append((member, epoch))
            return bool(found)

        self.wait(look, f"no member became active after epoch {above}")
        return max(found, key=lambda pair: pair[1])

    def wait_all_ready(self) -> None:
        """Every member is ready and one is active. Raises RunFailed."""
        self.wait(
            lambda: all(member.ready() for member in self.all) and self.active() is not None,
            "not all members became ready",
        )

    def wait(self, done: Callable[[], bool], problem: str) -> None:
        """Ask until it is so. Raises RunFailed with the members' last words."""
        end = time.monotonic() + READY_LIMIT_S
        while not done():
            if time.monotonic() > end:
                words = "; ".join(f"{member.name}: {member.last_words()}" for member in self.all)
                raise RunFailed(f"{problem} within {READY_LIMIT_S:.0f} s: {words}")
            time.sleep(POLL_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for member in self.all:
            member.kill()
