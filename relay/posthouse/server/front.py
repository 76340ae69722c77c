"""The front of this process: puts a session behind every connection and carries its words to the broker and back.

One flush a loop turn: whatever the broker had for the sessions of this front, and whatever the sessions said
themselves, goes out as one write per connection. Nothing here knows what a message means.
"""

from __future__ import annotations

import asyncio
import heapq
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import structlog

from posthouse.exchange import Effect
from posthouse.server.engine import Engine, boot_s
from posthouse.server.websocket.interface import Outlet, Refusal, RequestInfo
from posthouse.session.dialect import Dialect, choose_dialect
from posthouse.session.dialect import Refusal as DialectRefusal
from posthouse.session.legacy import LegacySession
from posthouse.session.settings import Conditions, SessionSettings
from posthouse.session.v2 import V2Session
from posthouse.wire.codec import JSON, MSGPACK
from posthouse.wire.codes import CloseCode, Code
from posthouse.wire.messages import GoawayReason

TIMER_S: Final = 0.25
_log = structlog.get_logger()
Conversation = V2Session | LegacySession


@dataclass(frozen=True, slots=True)
class FrontLimits:
    """What a front allows in all."""

    max_connections: int = 20_000
    max_unsent_bytes: int = 16 * 2**20
    """A connection that leaves more than this unread, though its credit is spent, is closed 4001."""


class Client:
    """One connection and its session: what the WebSocket endpoint calls a session."""

    __slots__ = (
        "connection",
        "conversation",
        "dialect",
        "front",
        "number",
        "received_count",
        "sent_count",
        "since",
    )

    def __init__(self, front: Front, number: int, dialect: Dialect, connection: Outlet) -> None:
        self.front = front
        self.number = number
        self.dialect = dialect
        self.connection = connection
        self.since = boot_s()
        self.received_count = 0
        self.sent_count = 0
        self.conversation: Conversation

    def received(self, data: bytes, binary: bool) -> None:
        """A message of the client."""
        front, conversation = self.front, self.conversation
        engine = front.engine
        self.received_count += 1
        conversation.received(data, engine.now)
        commands = conversation.commands
        if commands:
            conversation.commands = []
            engine.submit(front.port, self.number, commands)
        if conversation.outgoing or conversation.closing is not None:
            front.mark(self)

    def submit(self) -> None:
        """Pass the commands that the session has made on to the broker."""
        conversation = self.conversation
        commands, conversation.commands = conversation.commands, []
        self.front.engine.submit(self.front.port, self.number, commands)

    def deliver(self, effects: list[Effect], now: float) -> None:
        """Send what the broker had, and the session's own words, in one write."""
        conversation = self.conversation
        frames = conversation.flush(effects, now)
        if frames:
            connection = self.connection
            self.sent_count += 1
            connection.write_frames(frames, conversation.binary)
            unsent = connection.unsent_bytes
            conversation.wrote(unsent)
            if unsent and unsent > self.front.limits.max_unsent_bytes:
                connection.close(CloseCode.TOO_SLOW, "too slow")
        if conversation.commands:
            self.submit()
        if conversation.closing is not None:
            self.connection.close(*conversation.closing)

    def writable(self, writable: bool) -> None:
        """The socket has taken everything, or has stopped taking."""
        if writable:
            self.conversation.wrote(self.connection.unsent_bytes)
            if self.conversation.commands:
                self.submit()

    def closed(self, code: int) -> None:
        """The connection is over."""
        self.conversation.transport_closed()
        if self.conversation.commands:
            self.submit()
        self.front.forget(self, code)


class Front:
    """All sessions of this process."""

    def __init__(
        self,
        engine: Engine,
        settings: SessionSettings,
        conditions: Conditions,
        *,
        legacy_enabled: bool,
        audience: Callable[[str], str],
        limits: FrontLimits,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.engine = engine
        self.conditions = conditions
        self.limits = limits
        self.overloaded = False
        """New connections are closed 1013."""
        self.draining = False
        """New connections are closed 1012."""
        self.sessions: Counter[str] = Counter()
        """Sessions that there are, by dialect."""
        self.on_session_end: Callable[[Client, int], None] = lambda client, code: None
        self._settings = settings
        self._legacy_enabled = legacy_enabled
        self._audience = audience
        self._loop = loop or asyncio.get_running_loop()
        self._clients: dict[int, Client] = {}
        self._next_number = 1
        self._marked: dict[int, Client] = {}
        self._turn = engine.turn
        self._flush_soon = False
        self._deadlines: list[tuple[float, int]] = []
        self._timer: asyncio.TimerHandle | None = None
        self.port = engine.open_port(self._wake)

    # --- connections

    @property
    def count(self) -> int:
        """Connections with a session."""
        return len(self._clients)

    def clients(self) -> Iterator[Client]:
        """All of them, as they are now."""
        return iter(list(self._clients.values()))

    def choose(self, request: RequestInfo) -> str | Refusal | None:
        """The subprotocol of a handshake, or why it is refused."""
        dialect = choose_dialect(request.offered, self._legacy_enabled)
        if isinstance(dialect, DialectRefusal):
            return Refusal(400, dialect.detail)
        return None if dialect is Dialect.LEGACY else dialect.value

    def session_factory(self, connection: Outlet, request: RequestInfo) -> Client:
        """A session for a connection whose handshake was accepted."""
        now = boot_s()
        dialect = Dialect(request.subprotocol) if request.subprotocol else Dialect.LEGACY
        number = self._next_number
        self._next_number += 1
        client = Client(self, number, dialect, connection)
        if dialect is Dialect.LEGACY:
            client.conversation = LegacySession(self._settings, self.conditions, now=now)
        else:
            client.conversation = V2Session(
                MSGPACK if dialect is Dialect.V2_MSGPACK else JSON,
                self._settings,
                self.conditions,
                session_id=secrets.token_hex(8),
                nonce=secrets.token_bytes(32),
                audience=self._audience(request.host),
                now=now,
            )
        self._clients[number] = client
        self.sessions[dialect.value] += 1
        if self.draining:
            connection.close(CloseCode.RESTART, Code.DRAINING)
        elif self.overloaded or len(self._clients) > self.limits.max_connections:
            connection.close(CloseCode.TRY_LATER, "overload")
        else:
            self._watch(client)
            self.mark(client)
        return client

    def forget(self, client: Client, code: int) -> None:
        """A connection is over."""
        if self._clients.pop(client.number, None) is not None:
            self._marked.pop(client.number, None)
            self.sessions[client.dialect.value] -= 1
            self.on_session_end(client, code)

    def goaway(
        self, client: Client, reason: GoawayReason, reconnect_after_ms: tuple[int, int], code: CloseCode
    ) -> None:
        """Tell a client to go, then close its connection."""
        client.conversation.goaway(reason, reconnect_after_ms, [])
        _deliver(client, [], boot_s())
        client.connection.close(code, "draining" if reason == "drain" else reason)

    def activated(self) -> None:
        """An instance is active: sessions that waited for one go on. ``conditions.epoch`` has been set."""
        now = boot_s()
        for client in self.clients():
            client.conversation.activated(now)
            if client.conversation.commands:
                client.submit()
            self.mark(client)

    # --- one flush a loop turn

    def mark(self, client: Client) -> None:
        """The session has words of its own, or wants to close."""
        self._marked[client.number] = client
        self._wake()

    def _wake(self) -> None:
        if not self._flush_soon:
            self._flush_soon = True
            self._turn.at_end(self._flush)

    def _flush(self) -> None:
        self._flush_soon = False
        now = self.engine.now
        marked, self._marked = self._marked, {}
        clients = self._clients
        for number, effects in self.engine.take_effects(self.port):
            client = clients.get(number)
            if client is not None:
                if marked:
                    marked.pop(number, None)
                _deliver(client, effects, now)
        for client in marked.values():
            _deliver(client, [], now)

    # --- deadlines of sessions

    def _watch(self, client: Client) -> None:
        deadline = client.conversation.next_deadline()
        if deadline is not None:
            heapq.heappush(self._deadlines, (deadline, client.number))
            if self._timer is None:
                self._timer = self._loop.call_later(TIMER_S, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = boot_s()
        while self._deadlines and self._deadlines[0][0] <= now:
            client = self._clients.get(heapq.heappop(self._deadlines)[1])
            if client is None:
                continue
            client.conversation.tick(now)
            if client.conversation.commands:
                client.submit()
            if client.conversation.closing is not None:
                self.mark(client)
            self._watch(client)
        if self._deadlines and self._timer is None:
            self._timer = self._loop.call_later(TIMER_S, self._tick)

    def stop(self) -> None:
        """No timer of this front fires after this."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _deliver(client: Client, effects: list[Effect], now: float) -> None:
    """A session that fails takes nobody else with it."""
    try:
        client.deliver(effects, now)
    except Exception:
        _log.exception("session failed", remote=client.connection.remote)
        client.connection.close(CloseCode.KEEP_ALIVE, Code.INTERNAL)
