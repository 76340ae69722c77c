"""A WebSocket connection without a socket or a clock: a loop run by hand, a transport that records, frames by hand."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from posthouse.server.websocket.connection import Connection
from posthouse.server.websocket.endpoint import Endpoint
from posthouse.server.websocket.interface import Outlet, Refusal, RequestInfo, Session, WebSocketLimits
from posthouse.server.websocket.states import State

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
V2 = "posthouse.v2.msgpack"
REQUEST = (
    b"GET /anything HTTP/1.1\r\nHost: relay.example:8080\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: posthouse.v2.msgpack\r\n\r\n"
)


class _Handle:
    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        self.callback = None


class ManualLoop:
    """`call_soon` and `call_later` of an event loop whose turns and time pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self._soon: list[_Handle] = []
        self._later: list[tuple[float, int, _Handle]] = []
        self._order = itertools.count()

    def call_soon(self, callback: Callable[..., object], *args: Any) -> _Handle:
        handle = _Handle(lambda: callback(*args))
        self._soon.append(handle)
        return handle

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> _Handle:
        handle = _Handle(lambda: callback(*args))
        heapq.heappush(self._later, (self.now + delay, next(self._order), handle))
        return handle

    def turn(self) -> None:
        """Run what waits, and what that asks for, until nothing does."""
        while self._soon:
            soon, self._soon = self._soon, []
            for handle in soon:
                if handle.callback is not None:
                    handle.callback()

    def sleep(self, seconds: float) -> None:
        """Let time pass, with every timer at its moment."""
        self.turn()
        until = self.now + seconds
        while self._later and self._later[0][0] <= until:
            due, _, handle = heapq.heappop(self._later)
            self.now = max(self.now, due)
            if handle.callback is not None:
                handle.callback()
            self.turn()
        self.now = until

    @property
    def timers(self) -> int:
        """How many timers are set."""
        return sum(handle.callback is not None for _, _, handle in self._later)


class RecordingTransport(asyncio.Transport):
    """Keeps what is written; takes everything at once unless `room` says how much the socket takes."""

    def __init__(self, loop: ManualLoop, connection: Connection, half_close: bool = True) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.sent_eof = False
        self.aborted = False
        self.room: int | None = None
        self._loop_by_hand = loop
        self._connection = connection
        self._half_close = half_close
        self._waiting = bytearray()
        self._closing = False
        self._paused = False
        self._high, self._low = 65536, 16384

    @property
    def data(self) -> bytes:
        """Everything written, taken or not."""
        return b"".join(self.writes)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 4321) if name == "peername" else default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high is not None and low is not None
        self._high, self._low = high, low

    def get_write_buffer_size(self) -> int:
        return len(self._waiting)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.sent_eof, "write after end"
        if self._closing:
            return
        self.writes.append(bytes(data))
        self._waiting += data
        self._move()

    def take(self, room: int | None) -> None:
        """The socket takes so many more bytes, or from now on everything."""
        self.room = room
        self._move()

    def _move(self) -> None:
        if self.room is None:
            self._waiting.clear()
        else:
            taken = min(self.room, len(self._waiting))
            del self._waiting[:taken]
            self.room -= taken
        if not self._paused and len(self._waiting) > self._high:
            self._paused = True
            self._connection.pause_writing()
        elif self._paused and len(self._waiting) <= self._low:
            self._paused = False
            self._connection.resume_writing()
        if self._closing and not self._waiting:
            self._lose()

    def can_write_eof(self) -> bool:
        return self._half_close

    def write_eof(self) -> None:
        self.sent_eof = True

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            if not self._waiting:
                self._lose()

    def abort(self) -> None:
        self.aborted = self._closing = True
        self._waiting.clear()
        self._lose()

    def _lose(self) -> None:
        connection, self._connection = self._connection, cast(Connection, _Deaf())
        self._loop_by_hand.call_soon(connection.connection_lost, None)


class _Deaf:
    def connection_lost(self, exc: Exception | None) -> None:
        """Told already."""


@dataclass
class RecordingSession:
    """Keeps what a connection tells it."""

    connection: Outlet
    request: RequestInfo
    messages: list[tuple[bytes, bool]] = field(default_factory=list)
    pressure: list[bool] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    on_message: Callable[[bytes], object] | None = None

    def received(self, data: bytes, binary: bool) -> None:
        assert not self.codes, "message after the end"
        assert type(data) is bytes
        self.messages.append((data, binary))
        if self.on_message is not None:
            self.on_message(data)

    def writable(self, writable: bool) -> None:
        assert not self.codes, "pressure after the end"
        self.pressure.append(writable)

    def closed(self, code: int) -> None:
        self.codes.append(code)


def choose(request: RequestInfo) -> str | Refusal | None:
    """As a relay with the legacy dialect does (docs/protocol.md 1)."""
    for name in request.offered:
        if name in (V2, "posthouse.v2.json"):
            return name
    return Refusal(400, "No known subprotocol.") if request.offered else None


class Peer:
    """One connection and the client's end of it, in the hands of a test."""

    def __init__(
        self,
        limits: WebSocketLimits | None = None,
        endpoint: Endpoint | None = None,
        half_close: bool = True,
        factory: Callable[[Outlet, RequestInfo], Session] | None = None,
    ) -> None:
        self.sessions: list[RecordingSession] = []
        if endpoint is None:
            endpoint = Endpoint(
                limits or WebSocketLimits(),
                choose=choose,
                information=lambda _: b'{"name":"test"}',
                session_factory=factory or self.make_session,
                loop=cast(asyncio.AbstractEventLoop, ManualLoop()),
            )
        else:
            endpoint.session_factory = factory or self.make_session
        self.endpoint = endpoint
        self.loop = cast(ManualLoop, endpoint.loop)
        self.connection = endpoint.new_connection()
        self.transport = RecordingTransport(self.loop, self.connection, half_close)
        self.connection.connection_made(self.transport)

    def make_session(self, connection: Outlet, request: RequestInfo) -> RecordingSession:
        session = RecordingSession(connection, request)
        self.sessions.append(session)
        return session

    @property
    def session(self) -> RecordingSession:
        return self.sessions[0]

    def open(self) -> Peer:
        """Do the handshake and forget the answer."""
        self.feed(REQUEST)
        assert self.transport.data.startswith(b"HTTP/1.1 101 "), self.transport.data
        self.transport.writes.clear()
        return self

    def feed(self, data: bytes, turn: bool = True) -> None:
        """One read of the socket, or more where the receive buffer is too small for one."""
        view = self.connection.get_buffer(-1)
        for start in range(0, len(data), len(view)):
            piece = data[start : start + len(view)]
            if self.transport.is_closing():
                return
            # What an earlier read left behind must not matter: here it looks like the best of frames.
            stale = memoryview(b"\x82\xfe\x00\x01" * 16)[: len(view) - len(piece)]
            view[len(piece) : len(piece) + len(stale)] = stale
            view[: len(piece)] = piece
            self.connection.buffer_updated(len(piece))
            if turn:
                self.loop.turn()

    def feed_all(self, pieces: Iterable[bytes]) -> None:
        for piece in pieces:
            self.feed(piece)

    @property
    def frames(self) -> list[tuple[int, bytes]]:
        """What the server has sent since the handshake."""
        return server_frames(self.transport.data)

    def is_lost(self) -> bool:
        """Whether the connection has no socket any more."""
        return self.connection.state is State.LOST

    @property
    def ended(self) -> bool:
        """Whether the server has ended its side."""
        return self.transport.sent_eof or self.transport.is_closing()


def client_frame(
    opcode: int,
    payload: bytes,
    *,
    fin: bool = True,
    reserved: int = 0,
    mask: bytes | None = b"\x01\x80\xfe\x5a",
    length_form: int | None = None,
    length: int | None = None,
) -> bytes:
    """A frame as a client sends it, with faults on request: without mask, reserved bits, a long form of a short
    length (`length_form` 126 or 127), a length that is not the payload's."""
    length = len(payload) if length is None else length
    if length_form is None:
        length_form = 0 if length < 126 else 126 if length < 65536 else 127
    masked = 0 if mask is None else 0x80
    head = bytes([(0x80 if fin else 0) | (reserved << 4) | opcode])
    if length_form == 0:
        head += bytes([masked | length])
    else:
        head += bytes([masked | length_form]) + length.to_bytes(2 if length_form == 126 else 8, "big")
    if mask is None:
        return head + payload
    return head + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))


def server_frames(data: bytes) -> list[tuple[int, bytes]]:
    """Opcodes and payloads of whole, final, unmasked frames; anything else fails."""
    frames = []
    while data:
        assert data[0] & 0x80 and not data[0] & 0x70 and not data[1] & 0x80, data[:16]
        length, start = data[1], 2
        if length == 126:
            length, start = int.from_bytes(data[2:4], "big"), 4
        elif length == 127:
            length, start = int.from_bytes(data[2:10], "big"), 10
        assert len(data) >= start + length, "half a frame"
        frames.append((data[0] & 0x0F, data[start : start + length]))
        data = data[start + length :]
    return frames


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """The same bytes in pieces, cut at these places (those beyond the end are ignored)."""
    edges = [0, *sorted({place for place in places if 0 < place < len(data)}), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges) if end > start]
