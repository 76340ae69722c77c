"""The writer's session with the engine: made anew when it is lost, and named so that a later promotion can end it.

A session of an older epoch, or a lost one of this process, may hold the fence row locked: its process is stopped, or
its network is cut. Those who come after it ask the engine to end it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import structlog

from posthouse.store.interface import Fence, StoreUnavailable
from posthouse.store.postgres import statements as sql
from posthouse.store.postgres.connection import Connection, ConnectionLost, Refused, Statement

END_S: Final = 1.0
"""How long to wait for sessions that were ended; the lock's timeout comes on top."""
END_EVERY_S: Final = 0.005

_log = structlog.get_logger()


class WritingSession:
    """``connect`` gives a new connection and raises ConnectionLost and Refused."""

    def __init__(self, place: str, connect: Callable[[], Connection], connection: Connection) -> None:
        self.place = place
        self._connect = connect
        self._connection = connection
        self._name = b""

    def unavailable(self, error: object) -> StoreUnavailable:
        """An error that names the store."""
        return StoreUnavailable(f"store {self.place}: {error}")

    def sound(self) -> Connection:
        """The connection, a new one if it was lost. Raises StoreUnavailable."""
        if not self._connection.has_ended():
            return self._connection
        lost = self._connection.pid
        try:
            connection = self._connection = self._connect()
            if self._name:
                self._end(connection, (sql.END_OWN, (lost, self._name)))
                connection.one(sql.NAME, self._name)
        except (ConnectionLost, Refused) as error:
            raise self.unavailable(error) from error
        return connection

    def take_over(self, connection: Connection, seen: Fence, epoch: int) -> None:
        """End the sessions of older epochs, and bear the name of this one. Raises ConnectionLost and Refused."""
        store = seen.incarnation.hex()[:16]
        self._name = f"posthouse {store} epoch {epoch}".encode()
        self._end(connection, (sql.END_OLDER, (store.encode(), epoch)))
        connection.one(sql.NAME, self._name)

    def _end(self, connection: Connection, statement: Statement) -> None:
        """End sessions and wait until they have ended; an engine may forbid it or not know how."""
        deadline = time.monotonic() + END_S
        try:
            while connection.run([statement])[0][0][0] and time.monotonic() < deadline:
                time.sleep(END_EVERY_S)
        except Refused as refused:
            if refused.fatal:
                raise
            _log.warning("the engine does not let sessions be ended", reason=str(refused))

    def state(self) -> tuple[Fence, int, int]:
        """Fence, batch and attempt, over a new connection if need be. Raises StoreUnavailable."""
        *fence, batch, attempt = self._ask(sql.STATE)
        return Fence(*fence), batch, attempt

    def relay_id(self) -> str:
        """The relay's id, over a new connection if need be. Raises StoreUnavailable."""
        found: str = self._ask(sql.RELAY_ID)[0]
        return found

    def _ask(self, question: str) -> Sequence[Any]:
        for again in (True, False):
            try:
                return self.sound().one(question)[0]
            except ConnectionLost as error:
                if not again:
                    raise self.unavailable(error) from error
            except Refused as refused:
                if not (again and refused.fatal):
                    raise self.unavailable(refused) from refused
        raise AssertionError("the second try returns or raises")

    def close(self) -> None:
        """End it; ``sound`` makes another."""
        self._connection.close()


def roll_back(connection: Connection) -> None:
    """End a transaction that failed; if that fails too, it ends with its session."""
    with suppress(ConnectionLost, Refused):
        connection.run([sql.ROLLBACK])
