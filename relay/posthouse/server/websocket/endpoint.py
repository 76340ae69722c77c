"""What all WebSocket connections of one event loop share: receive buffer, timer, limits, callbacks, the flush.

One receive buffer is enough because a transport asks for it, fills it and reports it within one call. One flush a
loop turn writes for every connection that has something to say: `mark_dirty` collects, the turn's end runs it once.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import structlog

from posthouse.server.turn import Turn
from posthouse.server.websocket.connection import Connection
from posthouse.server.websocket.interface import Choose, Information, SessionFactory, WebSocketLimits
from posthouse.server.websocket.outgoing import Outgoing
from posthouse.server.websocket.timer_wheel import TimerWheel

RECEIVE_BUFFER_BYTES: Final = 256 * 1024
_SLACK_BYTES: Final = 16
"""Behind the buffer, so that the parser may look at a frame's head before it knows that all of it has come."""
_COARSEST_TICK_S: Final = 0.25
_TLS_LINGER_S: Final = 0.5
"""How long a refused peer over TLS, which knows no half-closed connection, may still send before its socket closes."""

_log = structlog.get_logger()


@dataclass(slots=True)
class Counts:
    """What an endpoint has seen since its start; for metrics."""

    bytes_received: int = 0
    bytes_sent: int = 0
    opened: int = 0
    """Handshakes accepted."""
    answered: Counter[int] = field(default_factory=Counter)
    """HTTP answers that were no handshake, by status."""
    crowded_out: int = 0
    """Half-open connections ended to make room for newer ones."""
    tls_failures: int = 0
    """Connections ended because their TLS was not good."""
    closed: Counter[int] = field(default_factory=Counter)
    """Ends of sessions, by close code."""


class Endpoint:
    """Makes connections: `loop.create_server(endpoint.new_connection, …)`, with or without `ssl`."""

    def __init__(
        self,
        limits: WebSocketLimits,
        *,
        choose: Choose,
        information: Information,
        session_factory: SessionFactory,
        turn: Turn | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.limits = limits
        self.max_frame_bytes = limits.max_frame_bytes
        self.choose = choose
        self.information = information
        self.session_factory = session_factory
        self.loop = asyncio.get_running_loop() if loop is None else loop
        self.turn = Turn(self.loop) if turn is None else turn
        self.counts = Counts()
        self.sent_before = 0
        """Bytes given to connections that are gone."""
        self.buffer = bytearray(RECEIVE_BUFFER_BYTES + _SLACK_BYTES)
        self.buffer_view = memoryview(self.buffer)
        self.receive_view = self.buffer_view[:RECEIVE_BUFFER_BYTES]
        shortest_s = min(
            limits.handshake_timeout_s, limits.close_timeout_s, limits.idle_timeout_s, limits.slow_reader_s
        )
        self.wheel = TimerWheel(self.loop, min(_COARSEST_TICK_S, shortest_s / 8))
        self.handshake_ticks = self.wheel.ticks(limits.handshake_timeout_s)
        self.close_ticks = self.wheel.ticks(limits.close_timeout_s)
        self.tls_linger_ticks = min(self.close_ticks, self.wheel.ticks(_TLS_LINGER_S))
        self.idle_ticks = self.wheel.ticks(limits.idle_timeout_s)
        self.slow_ticks = self.wheel.ticks(limits.slow_reader_s)
        self.opening: dict[Outgoing, None] = {}
        """Connections whose request is not complete, the oldest first."""
        self._dirty: list[Outgoing] = []

    def new_connection(self) -> Connection:
        """A connection for a transport that is about to be made."""
        return Connection(self)

    def connections(self) -> list[Connection]:
        """Every connection there is, those that open or close included."""
        return [item for item in self.wheel.items() if isinstance(item, Connection)]

    def counted(self) -> Counts:
        """The counts, as they are now."""
        self.counts.bytes_sent = self.sent_before + sum(one.offered_bytes for one in self.connections())
        return self.counts

    def entered(self, connection: Outgoing) -> None:
        """A transport was made. Too many half-open ones: the oldest goes, because real clients are quick."""
        if len(self.opening) >= self.limits.max_handshakes:
            self.counts.crowded_out += 1
            next(iter(self.opening)).crowd_out()
        self.opening[connection] = None

    def mark_dirty(self, connection: Outgoing) -> None:
        """Have `connection.flush()` called once at the end of this loop turn. The connection calls this once for it."""
        dirty = self._dirty
        dirty.append(connection)
        if len(dirty) == 1:
            self.turn.at_end(self._flush)

    def _flush(self) -> None:
        dirty = self._dirty
        self._dirty = []
        for connection in dirty:
            try:
                connection.flush()
            except Exception:
                _log.exception("session failed", remote=connection.remote)
                connection.fail_session()
