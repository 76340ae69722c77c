"""What a WebSocket connection needs from above and offers to it: limits, the request, sessions, callbacks.

Nothing here knows a dialect. A session gets whole messages and gives whole frames; a connection gives neither a
message nor a `writable` after `closed`, and `closed` exactly once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final, Protocol

MAX_CONTROL_BYTES: Final = 125
"""Largest payload of a control frame (RFC 6455 5.5)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSocketLimits:
    """Limits of every connection of an endpoint. Times are kept to an eighth of the shortest, at best 250 ms.

    Raises ValueError for a limit that is not positive, or a frame limit too small for control frames.
    """

    max_frame_bytes: int = 1024 * 1024
    """Largest message taken, in one frame or in many (docs/protocol.md 1: more closes 1009)."""
    max_handshake_bytes: int = 16 * 1024
    """Largest HTTP request head: enough for a browser's cookies."""
    max_handshakes: int = 1024
    """Connections at a time whose request is not complete; one more ends the oldest of them."""
    handshake_timeout_s: float = 5.0
    """From the TCP (or TLS) connection to the complete request; then it is answered 408."""
    close_timeout_s: float = 5.0
    """How long a closing connection waits for its peer before it is aborted."""
    idle_timeout_s: float = 60.0
    """A peer silent for this long is closed 1011; it is pinged at half of it (docs/protocol.md 1)."""
    slow_reader_s: float = 30.0
    """A socket that takes nothing for this long while something waits is closed 4001 (docs/protocol.md 2.5)."""
    write_high_water_bytes: int = 64 * 1024
    """Unsent bytes above which the session is told to stop; it may go on when all of them are sent."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) <= 0:
                raise ValueError(f"{field.name} must be positive")
        if self.max_frame_bytes < MAX_CONTROL_BYTES:
            raise ValueError(f"max_frame_bytes must be at least {MAX_CONTROL_BYTES}")


@dataclass(frozen=True, slots=True)
class RequestInfo:
    """What the HTTP request said: enough to choose a dialect and an audience."""

    method: str
    path: str
    """As sent, with its query."""
    host: str
    """The Host header as sent, or empty when there was none."""
    offered: tuple[str, ...] = ()
    """The subprotocols of Sec-WebSocket-Protocol, in the client's order."""
    subprotocol: str | None = None
    """The one that `choose` took; None before that, and for a client that offered none."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An HTTP answer instead of a WebSocket: a status such as 400 or 503, and one line of text for people."""

    status: int
    text: str


class Outlet(Protocol):
    """A connection as its session sees it. After the connection has begun to close, sending does nothing."""

    @property
    def remote(self) -> str:
        """The peer's address as `host:port`, or empty where there is none."""

    @property
    def unsent_bytes(self) -> int:
        """Bytes given to this connection that the operating system has not taken yet."""

    def send_frame(self, payload: bytes | bytearray, binary: bool) -> None:
        """Send a frame at the end of this loop turn, with all others of this turn in one write."""

    def write_frames(self, payloads: Sequence[bytes | bytearray], binary: bool) -> bool:
        """Send frames now, with those already waiting, in one write; False if something of it waits (`unsent_bytes`).

        May call `Session.writable` before it returns.
        """

    def close(self, code: int, reason: str = "") -> None:
        """Send what waits and a close frame. `Session.closed` follows in the next loop turn, with this code."""

    def abort(self) -> None:
        """Drop the connection without a word; `Session.closed` follows with 1006 unless another code is known."""


class Session(Protocol):
    """One connection's dialect. Its methods are called from the event loop only, and should not raise: if one does,
    the connection is closed 1011."""

    def received(self, data: bytes, binary: bool) -> None:
        """One complete message. Text is valid UTF-8. Several calls may come from one read of the socket."""

    def writable(self, writable: bool) -> None:
        """False: stop sending, the socket does not keep up. True, later: all is sent, go on."""

    def closed(self, code: int) -> None:
        """The connection is over for the session: the code of the first close frame either side sent (1005 for a
        frame without code), or 1006 when the connection was lost without one. Called exactly once, never from within
        a call that the session makes."""


class SessionFactory(Protocol):
    """Makes the session of a connection whose handshake was accepted; it may send or close at once."""

    def __call__(self, connection: Outlet, request: RequestInfo, /) -> Session: ...


class Choose(Protocol):
    """Chooses the subprotocol: one of `request.offered`, None for a connection without one, or a refusal."""

    def __call__(self, request: RequestInfo, /) -> str | Refusal | None: ...


class Information(Protocol):
    """Gives the relay information document, encoded as JSON (docs/protocol.md 1)."""

    def __call__(self, request: RequestInfo, /) -> bytes: ...
