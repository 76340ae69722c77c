"""What is written down beside a run of faults: what a reader received, and which epochs the store has seen."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg
from posthouse.identity import DeviceKey

from bench.wire import Closed, Connection

SILENT_S = 6.0
EPOCH_POLL_S = 0.1
PROMOTED = ("promoted", "took over")
"""What a member logs, with its epoch, when it has become active."""


class LiveReader:
    """A thread that reads a mailbox as its owner and acknowledges everything, wherever it finds a member."""

    def __init__(self, key: DeviceKey, addresses: Sequence[str]) -> None:
        self._key = key
        self._addresses = list(addresses)
        self._moved = False
        self._ended = False
        self.received: set[str] = set()
        self.connections = 0
        """How many it has made."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def move(self, addresses: Sequence[str]) -> None:
        """Connect anew: the first address first."""
        self._addresses, self._moved = list(addresses), True

    def end(self) -> None:
        """Read no more."""
        self._ended = True
        self._thread.join()

    def _run(self) -> None:
        while not self._ended:
            self._moved = False
            try:
                with Connection(self._addresses[0], self._key, SILENT_S) as connection:
                    self.connections += 1
                    connection.send({"type": "subscribe", "ref": 1})
                    self._read(connection)
            except Closed:
                self._addresses = self._addresses[1:] + self._addresses[:1]
                time.sleep(0.01)

    def _read(self, connection: Connection) -> None:
        heard = time.monotonic()
        while not self._ended and not self._moved:
            items = connection.receive(0.1)
            ids = [item["id"] for item in items if item["type"] == "message"]
            if items:
                heard = time.monotonic()
            elif time.monotonic() - heard > SILENT_S:
                raise Closed("silent")
            if ids:
                self.received.update(ids)
                connection.send({"type": "ack", "ids": ids})


class EpochWatch:
    """A thread that reads the epoch in the store all the time: it may only rise."""

    def __init__(self, read: Callable[[], int]) -> None:
        self._read = read
        self._ended = threading.Event()
        self.seen = 0
        """How often it could be read."""
        self.latest = -1
        self.fallen: list[str] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._ended.wait(EPOCH_POLL_S):
            try:
                epoch = self._read()
            except (sqlite3.Error, psycopg.Error, TypeError):
                continue  # a store that is away is one of the faults
            self.seen += 1
            if epoch < self.latest:
                self.fallen.append(f"the epoch in the store fell from {self.latest} to {epoch}")
            self.latest = max(self.latest, epoch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()


def sqlite_epoch(file: Path) -> int:
    """What stands in the fence row. Raises sqlite3.Error."""
    connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=1)
    try:
        return int(connection.execute("SELECT epoch FROM relay").fetchone()[0])
    finally:
        connection.close()


def postgres_epoch(dsn: str) -> int:
    """What stands in the fence row. Raises psycopg.Error."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute("SELECT epoch FROM posthouse.relay").fetchone()
    if row is None:
        raise psycopg.DataError("no fence row")
    return int(row[0])


def promotions(logs: Sequence[Path]) -> tuple[list[int], list[str]]:
    """The epochs of all promotions, in the order of their time, and what is wrong with that order."""
    lines: list[tuple[str, int, str]] = []
    told: set[tuple[int, str]] = set()
    for log in logs:
        for text in log.read_text(errors="replace").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue  # what the interpreter says by itself is no JSON
            if isinstance(line, dict) and line.get("event") in PROMOTED:
                epoch = int(line["epoch"])
                if (epoch, log.stem) not in told:
                    lines.append((str(line["time"]), epoch, log.stem))
                told.add((epoch, log.stem))
    lines.sort()
    wrong = [
        f"{later[2]} was promoted with epoch {later[1]} after {earlier[2]} with {earlier[1]}"
        for earlier, later in pairwise(lines)
        if later[1] <= earlier[1]
    ]
    return [epoch for _, epoch, _ in lines], wrong
