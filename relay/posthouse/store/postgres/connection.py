"""A connection to the engine on which nothing waits for ever, and on which many statements are one round trip.

psycopg connects; what follows is libpq's pipeline mode with a poll of our own, so that every trip has a deadline:
an engine whose machine is gone, or which was stopped, answers nothing and says nothing. Then the connection is given
up (``ConnectionLost``), and whoever asked knows what that means for what it sent.
"""

from __future__ import annotations

import select
import time
from collections.abc import Sequence
from typing import Any, Final

import psycopg
from psycopg import pq
from psycopg.pq.abc import PGconn, PGresult

from posthouse.errors import PosthouseError
from posthouse.store.postgres.address import Address
from posthouse.store.postgres.arrays import rows_of

Parameter = int | bytes
Statement = tuple[str, Sequence[Parameter]]
"""Its text, with ``$1`` and so on, and what stands there: numbers as text, bytes as the type's binary form."""
Rows = list[tuple[Any, ...]]

KEEPALIVE_IDLE_S: Final = 5
KEEPALIVE_EVERY_S: Final = 2
KEEPALIVE_COUNT: Final = 3
_DONE: Final = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK, pq.ExecStatus.EMPTY_QUERY)


class ConnectionLost(PosthouseError):
    """The engine did not answer in time, or the connection ended. What was sent may have been done or not."""


class Refused(PosthouseError):
    """The engine answered with an error. ``at`` is the number of the statement in its trip."""

    def __init__(self, text: str, sqlstate: str, at: int, fatal: bool) -> None:
        super().__init__(text)
        self.sqlstate = sqlstate
        self.at = at
        self.fatal = fatal
        """The engine ended the connection with it."""


class Connection:
    """One session of the engine. ``patience_s`` bounds a trip. Raises ConnectionLost when there is none to be had."""

    def __init__(self, address: Address, name: str, connect_s: float, patience_s: float) -> None:
        self._patience_s = patience_s
        milliseconds = str(max(1000, round(patience_s * 1000)))
        fixed: dict[str, str] = {
            "application_name": name,
            "connect_timeout": str(max(2, round(connect_s))),
            "keepalives_idle": str(KEEPALIVE_IDLE_S),
            "keepalives_interval": str(KEEPALIVE_EVERY_S),
            "keepalives_count": str(KEEPALIVE_COUNT),
            "tcp_user_timeout": milliseconds,
            "client_encoding": "UTF8",
            # With several hosts, and after a failover: never a standby.
            "target_session_attrs": "read-write",
        }
        try:
            self._psycopg = psycopg.Connection.connect(**{**fixed, **address.options}, autocommit=True)  # type: ignore[arg-type]
        except psycopg.Error as error:
            raise ConnectionLost(f"cannot connect: {one_line(error)}") from None
        pgconn: PGconn = self._psycopg.pgconn
        self._pgconn = pgconn
        pgconn.notice_handler = self._notice
        pgconn.enter_pipeline_mode()
        self.pid = pgconn.backend_pid
        self.warned = False
        """Whether the engine warned in the last trip: a commit may be less safe than it was asked to be."""
        self._names: dict[str, bytes] = {}
        self._prepared = 0
        self._poll = select.poll()
        self._poll.register(pgconn.socket, select.POLLIN)
        self._events = select.POLLIN

    @property
    def lost(self) -> bool:
        """Whether it is of no use any more, as far as that is known."""
        return self._psycopg.closed or self._pgconn.status != pq.ConnStatus.OK

    def has_ended(self) -> bool:
        """Whether it is lost; an idle one is asked, as the engine may have said good-bye meanwhile."""
        if not self.lost and self._poll.poll(0):
            try:
                self._pgconn.consume_input()
                self._pgconn.is_busy()  # takes in what has arrived, such as a farewell
                if self._poll.poll(0):  # the end itself
                    self._pgconn.consume_input()
            except psycopg.Error:
                self.close()
        return self.lost

    def close(self) -> None:
        """End it; what is not committed is rolled back by the engine as soon as it notices."""
        self._psycopg.close()

    def run(self, statements: Sequence[Statement]) -> list[Rows]:
        """All statements in one trip; the rows of each. Raises Refused for the first that fails (none after it is
        done) and ConnectionLost."""
        self.warned = False
        try:
            return self._trip(statements)
        except (psycopg.Error, OSError) as error:
            self.close()
            raise ConnectionLost(one_line(error)) from None
        except ConnectionLost:
            self.close()
            raise

    def one(self, text: str, *parameters: Parameter) -> Rows:
        """One statement in a trip of its own. Raises as ``run`` does."""
        return self.run([(text, parameters)])[0]

    def _trip(self, statements: Sequence[Statement]) -> list[Rows]:
        pgconn = self._pgconn
        if self.lost:
            raise ConnectionLost("the connection has ended")
        awaited: list[tuple[int, str | None]] = []
        """For each answer to come: the number of its statement, and its text if it was only prepared."""
        for at, (text, parameters) in enumerate(statements):
            name = self._names.get(text)
            if name is None:
                self._prepared += 1
                name = self._names[text] = b"posthouse-%d" % self._prepared
                pgconn.send_prepare(name, text.encode())
                awaited.append((at, text))
            values = [value if isinstance(value, bytes) else b"%d" % value for value in parameters]
            formats = [int(isinstance(value, bytes)) for value in parameters]
            pgconn.send_query_prepared(name, values or None, formats or None, result_format=1)
            awaited.append((at, None))
        pgconn.pipeline_sync()
        return self._answers(awaited, time.monotonic() + self._patience_s)

    def _answers(self, awaited: list[tuple[int, str | None]], deadline: float) -> list[Rows]:
        while self._pgconn.flush():
            self._wait(deadline, writing=True)
        answers: list[Rows] = []
        failure: Refused | None = None
        waiting = iter(awaited)
        while (result := self._next(deadline)).status != pq.ExecStatus.PIPELINE_SYNC:
            at, only_prepared = next(
                waiting, (len(awaited), None)
            )  # beyond the last: the end of the trip itself
            if result.status in _DONE:
                if only_prepared is None:
                    answers.append(rows_of(result))
                continue
            if only_prepared is not None:
                del self._names[only_prepared]
            if failure is None:
                failure = _refused(result, at)
                if failure.fatal:
                    self.close()
                    raise failure
        if failure is not None:
            raise failure
        return answers

    def _next(self, deadline: float) -> PGresult:
        """The next answer; what stands between two of them is passed over."""
        pgconn = self._pgconn
        while True:
            while pgconn.is_busy():
                self._wait(deadline, writing=False)
            result = pgconn.get_result()
            if result is not None:
                return result
            if pgconn.status != pq.ConnStatus.OK:
                raise ConnectionLost("the connection has ended")

    def _wait(self, deadline: float, writing: bool) -> None:
        events = select.POLLIN | select.POLLOUT if writing else select.POLLIN
        if events != self._events:
            self._poll.modify(self._pgconn.socket, events)
            self._events = events
        left = deadline - time.monotonic()
        if left <= 0 or not (ready := self._poll.poll(left * 1000)):
            raise ConnectionLost(f"no answer within {self._patience_s:g} s")
        if ready[0][1] & ~select.POLLOUT:
            self._pgconn.consume_input()

    def _notice(self, notice: PGresult) -> None:
        if notice.error_field(pq.DiagnosticField.SEVERITY_NONLOCALIZED) == b"WARNING":
            self.warned = True


def _refused(result: PGresult, at: int) -> Refused:
    """What an answer that is no success says. Raises ConnectionLost if it is libpq's own word, not the engine's."""
    fields = pq.DiagnosticField
    text = one_line((result.error_field(fields.MESSAGE_PRIMARY) or b"").decode(errors="replace"))
    state = (result.error_field(fields.SQLSTATE) or b"").decode()
    if not state:
        raise ConnectionLost(text or one_line(result.get_error_message()))
    severity = result.error_field(fields.SEVERITY_NONLOCALIZED) or result.error_field(fields.SEVERITY)
    return Refused(text, state, at, fatal=severity in (b"FATAL", b"PANIC"))


def one_line(error: object) -> str:
    """The text of an error without line breaks."""
    return " ".join(str(error).split())
