"""The front of this process: puts a session behind every connection and carries its words to the broker and back.

Once a loop turn: what all sessions have made of their clients' words goes to the broker as one batch; then whatever the
broker has for them, and whatever they say themselves, goes out as one write per connection. Which broker that is, of
this process, of another member's or none for the moment, is the upstream's affair (`upstream.py`). Nothing here knows
what a message means.
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

from posthouse.errors import PosthouseError
from posthouse.exchange import Commands, Effect, Effects
from posthouse.server.cluster.nobody import HeldTooMuch
from posthouse.server.cluster.upstream import Upstream
from posthouse.server.engine import Engine, boot_s
from posthouse.server.websocket.interface import Outlet, Refusal, RequestInfo
from posthouse.session.base import Phase
from posthouse.session.dialect import Dialect, choose_dialect
from posthouse.session.dialect import Refusal as DialectRefusal
from posthouse.session.legacy import LegacySession
from posthouse.session.settings import Conditions, SessionSettings
from posthouse.session.v2 import V2Session
from posthouse.wire.codec import JSON, MSGPACK
from posthouse.wire.codes import CloseCode, Code
from posthouse.wire.messages import EpochChanged, GoawayReason

TIMER_S: Final = 0.25
TOLD_AT_ONCE: Final = 64
TOLD_EVERY_S: Final = 0.01
"""So many clients hear of another active instance at a time: messages must not wait for all of them."""
_log = structlog.get_logger()
Conversation = V2Session | LegacySession


@dataclass(frozen=True, slots=True)
class FrontLimits:
    """What a front allows in all."""

    max_connections: int = 20_000
    max_unsent_bytes: int = 16 * 2**20
    """A connection that leaves more than this unread, though its credit is spent, is closed 4001."""


class SessionFailed(PosthouseError):
    """The active member could not take what a session said."""

    def __str__(self) -> str:
        return "the active member could not take what this session said; its log says why"


class Client:
    """One connection and its session: what the WebSocket endpoint calls a session."""

    __slots__ = (
        "connection",
        "conversation",
        "dialect",
        "front",
        "marked",
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
        self.marked = False
        """Its session has something for the broker or for its client; kept by the front."""
        self.conversation: Conversation

    def received(self, data: bytes, binary: bool) -> None:
        """A message of the client."""
        self.received_count += 1
        self.conversation.received(data, self.front.engine.now)
        if not self.marked:
            self.front.mark(self)

    def deliver(self, effects: list[Effect], now: float) -> None:
        """Send what the broker had, and the session's own words, in one write."""
        conversation = self.conversation
        frames = conversation.flush(effects, now)
        if frames:
            connection = self.connection
            self.sent_count += 1
            sent = connection.write_frames(frames, conversation.binary)
            if not sent or conversation.handed >= self.front.credit_bytes:
                self._look_at_unsent()
        if conversation.closing is not None:
            self.connection.close(*conversation.closing)

    def _look_at_unsent(self) -> None:
        unsent = self.connection.unsent_bytes
        self.conversation.wrote(unsent)
        if self.conversation.commands:
            self.front.mark(self)
        if unsent > self.front.limits.max_unsent_bytes:
            self.connection.close(CloseCode.TOO_SLOW, "too slow")

    def writable(self, writable: bool) -> None:
        """The socket has taken everything, or has stopped taking."""
        if writable:
            self._look_at_unsent()

    def closed(self, code: int) -> None:
        """The connection is over."""
        self.conversation.transport_closed()
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
        self.upstream: Upstream
        """Set by whoever knows which instance is active, before the first connection."""
        self.conditions = conditions
        self.limits = limits
        self.overloaded = False
        """New connections are closed 1013."""
        self.draining = False
        """New connections are closed 1012."""
        self.sessions: Counter[str] = Counter()
        """Sessions that there are, by dialect."""
        self.on_session_end: Callable[[Client, int], None] = lambda client, code: None
        self.credit_bytes = settings.credit_bytes
        self._settings = settings
        self._legacy_enabled = legacy_enabled
        self._audience = audience
        self._loop = loop or asyncio.get_running_loop()
        self._clients: dict[int, Client] = {}
        self._next_number = 1
        self._marked: list[Client] = []
        self._turn = engine.turn
        self._flush_soon = False
        self._told_epoch = 0
        self._deadlines: list[tuple[float, int]] = []
        self._timer: asyncio.TimerHandle | None = None

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
            self.mark(client)  # its last commands
            self.sessions[client.dialect.value] -= 1
            self.on_session_end(client, code)

    def goaway(
        self, client: Client, reason: GoawayReason, reconnect_after_ms: tuple[int, int], code: CloseCode
    ) -> None:
        """Tell a client to go, then close its connection."""
        self._flush()  # what the broker has for it comes before its farewell
        client.conversation.goaway(reason, reconnect_after_ms, [])
        self.mark(client)
        self._flush()
        client.connection.close(code, "draining" if reason == "drain" else reason)

    def activated(self, epoch: int) -> None:
        """An instance is active: sessions that waited for one go on, the others are told if it is another."""
        now = boot_s()
        open_ones = []
        for client in self.clients():
            if client.conversation.phase is Phase.OPEN:
                open_ones.append(client)
                continue
            try:
                client.conversation.activated(now)
            except Exception as failure:
                self._failed(client, failure)
            else:
                self.mark(client)
        if epoch != self._told_epoch:
            self._told_epoch = epoch
            self._tell(epoch, open_ones)

    def _tell(self, epoch: int, clients: list[Client]) -> None:
        if epoch != self._told_epoch:
            return  # there is a later one already
        now = boot_s()
        for client in clients[:TOLD_AT_ONCE]:
            self._deliver(client, [EpochChanged(epoch)], now)
        if len(clients) > TOLD_AT_ONCE:
            self._loop.call_later(TOLD_EVERY_S, self._tell, epoch, clients[TOLD_AT_ONCE:])

    def hand_out(self, effects: Effects) -> None:
        """Send effects to their clients."""
        now, clients = self.engine.now, self._clients
        for number, some in effects:
            addressed = clients.get(number)
            if addressed is not None:
                self._deliver(addressed, some, now)

    def _deliver(self, client: Client, effects: list[Effect], now: float) -> None:
        try:
            client.deliver(effects, now)
        except Exception as failure:
            self._failed(client, failure)

    # --- one flush a loop turn

    def mark(self, client: Client) -> None:
        """The session has something for the broker or for its client, or wants to close."""
        if not client.marked:
            client.marked = True
            self._marked.append(client)
            self.wake()

    def wake(self) -> None:
        """Have a flush at the end of this turn."""
        if not self._flush_soon:
            self._flush_soon = True
            self._turn.at_end(self._flush)

    def _flush(self) -> None:
        self._flush_soon = False
        engine, clients, upstream = self.engine, self._clients, self.upstream
        marked, self._marked = self._marked, []
        batch: Commands = []
        for client in marked:
            client.marked = False
            conversation = client.conversation
            commands = conversation.commands
            if commands:
                conversation.commands = []
                batch.append((client.number, commands))
        for number, error in upstream.submit(batch):
            self._failed(clients.get(number), error)
        now = engine.now
        for number, effects in upstream.take():
            addressed = clients.get(number)
            if addressed is not None:
                try:
                    addressed.deliver(effects, now)
                except Exception as failure:
                    self._failed(addressed, failure)
        for client in marked:
            conversation = client.conversation
            if conversation.outgoing or conversation.closing is not None:
                self._deliver(client, [], now)

    def fail(self, number: int) -> None:
        """The broker elsewhere could not take what this session said."""
        self._failed(self._clients.get(number), SessionFailed())

    @staticmethod
    def _failed(client: Client | None, error: Exception) -> None:
        """A session that fails takes nobody else with it."""
        if client is None:
            return
        if isinstance(error, HeldTooMuch):
            client.connection.close(CloseCode.TRY_LATER, Code.NOT_ACTIVE)
        else:
            _log.error("session failed", remote=client.connection.remote, exc_info=error)
            client.connection.close(CloseCode.KEEP_ALIVE, Code.INTERNAL)

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
            self.mark(client)
            self._watch(client)
        if self._deadlines and self._timer is None:
            self._timer = self._loop.call_later(TIMER_S, self._tick)

    def stop(self) -> None:
        """No timer of this front fires after this."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
