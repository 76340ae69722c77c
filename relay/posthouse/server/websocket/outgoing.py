"""The half of a connection that sends, keeps alive and ends; `connection` adds the half that receives.

Sending is one write a loop turn, whatever was queued in it. A socket that does not take everything at once is a stall:
it is timed, the session is told when too much waits, and pings are answered again when it has passed.

Invariants: nothing is written behind a close frame; at most one pong waits; after `closed` the session hears nothing;
every state but LOST has a deadline in the endpoint's timer wheel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import structlog

from posthouse.server.websocket.frames import (
    ABNORMAL,
    CLOSE,
    PING,
    PONG,
    close_payload,
    control_frame,
    data_header,
)
from posthouse.server.websocket.handshake import Answered, http_answer
from posthouse.server.websocket.states import NO_SESSION, Stall, State
from posthouse.wire.codes import CloseCode

if TYPE_CHECKING:
    from posthouse.server.websocket.endpoint import Endpoint

_log = structlog.get_logger()
OVERHEAD: Final = "overhead"
"""What a transport that writes more than it is given (TLS) says by `get_extra_info`: how many bytes more, so far."""
_OPEN: Final = State.OPEN
_EMPTY_PING: Final = control_frame(PING, b"")


class Outgoing(asyncio.BufferedProtocol):
    """What of a connection does not depend on what its peer says."""

    __slots__ = (
        "_code",
        "_endpoint",
        "_heard",
        "_offered",
        "_out",
        "_plain",
        "_pong",
        "_session",
        "_stall",
        "_state",
        "_transport",
        "due_tick",
    )

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._transport: asyncio.Transport | None = None
        self._session = NO_SESSION
        self._state = State.OPENING
        self._plain = False  # whether only whole, final data frames need looking at
        self._out: list[bytes | bytearray] | None = None  # not None: this loop turn's flush will come
        self._pong: bytes | None = None  # payload of the latest ping that has no answer
        self._stall: Stall | None = None
        self._offered = 0  # bytes given to the transport
        self._heard = 0  # the tick of the last byte from the peer
        self._code = 0  # the close code, once it is known
        self.due_tick = 0

    # What the session uses.

    @property
    def state(self) -> State:
        """Where the connection stands."""
        return self._state

    @property
    def remote(self) -> str:
        """The peer's address as `host:port`, or empty where there is none."""
        peer = None if self._transport is None else self._transport.get_extra_info("peername")
        if not isinstance(peer, tuple):
            return ""
        host = f"[{peer[0]}]" if ":" in peer[0] else peer[0]
        return f"{host}:{peer[1]}"

    @property
    def unsent_bytes(self) -> int:
        """Bytes given to this connection that the operating system has not taken yet."""
        # Without a stall the transport holds nothing: it reports the first byte that it could not pass on.
        unsent = 0
        if self._stall is not None and self._transport is not None:
            unsent = self._transport.get_write_buffer_size()
        if self._out:
            unsent += sum(map(len, self._out))
        return unsent

    @property
    def offered_bytes(self) -> int:
        """Bytes given to this connection's transport so far."""
        return self._offered

    def send_frame(self, payload: bytes | bytearray, binary: bool) -> None:
        """Send a frame at the end of this loop turn, with all others of this turn in one write."""
        if self._state is State.OPEN:
            out = self._queue()
            out.append(data_header(len(payload), binary))
            out.append(payload)

    def write_frames(self, payloads: Sequence[bytes | bytearray], binary: bool) -> bool:
        """Send frames now, with those already waiting, in one write; False if something of it waits (`unsent_bytes`).

        May call `Session.writable` before it returns.
        """
        if self._state is _OPEN:
            if self._out is None and len(payloads) == 1:
                # `_write`, written out: this is the way of nearly all messages.
                payload = payloads[0]
                data = data_header(len(payload), binary) + payload
                self._offered += len(data)
                self._transport.write(data)  # type: ignore[union-attr] # an open connection has one
                if self._stall is not None:
                    self._tell_pressure()
            else:
                out = self._take_queue()
                for payload in payloads:
                    out.append(data_header(len(payload), binary))
                    out.append(payload)
                self._write(b"".join(out))
        return self._stall is None

    def close(self, code: int, reason: str = "") -> None:
        """Send what waits and a close frame; abort when the peer's does not come within `close_timeout_s`."""
        if self._state is State.OPENING:
            self._respond(http_answer(503, "The server is shutting down."))
        elif self._state is State.OPEN:
            self._close_open(code, reason)

    def abort(self) -> None:
        """Drop the connection without a word."""
        if self._transport is not None:
            self._code = self._code or ABNORMAL
            self._leave_open(State.ENDING)
            self._transport.abort()
            self._endpoint.loop.call_soon(self._report_end)

    # What the endpoint uses.

    def flush(self) -> None:
        """Write what this loop turn has queued."""
        out = self._out
        if out is not None:
            self._out = None
            if self._pong is not None and self._stall is None:
                out.append(control_frame(PONG, self._pong))
                self._pong = None
            if out:
                self._write(b"".join(out))

    def fail_session(self) -> None:
        """End the connection because its session raised."""
        self._fail(CloseCode.KEEP_ALIVE, "internal error")

    def crowd_out(self) -> None:
        """End a half-open connection that newer ones push out."""
        self._respond(http_answer(503, "Too many connections are opening."))
        self._finish()

    def expired(self) -> None:
        """The deadline of this state has come."""
        match self._state:
            case State.OPENING:
                self._respond(http_answer(408, "The request took too long."))
            case State.OPEN:
                self._check_liveness()
            case State.CLOSING:
                self.abort()
            case State.ENDING:
                if self._transport is None or self._transport.is_closing():
                    self.abort()
                else:
                    self._finish()
            case State.LOST:
                pass

    # Back-pressure.

    def pause_writing(self) -> None:
        """The socket does not take all that it is given."""
        endpoint = self._endpoint
        assert self._transport is not None
        tick = endpoint.wheel.tick
        self._stall = Stall(self._taken(self._transport), tick)
        soon = self._stall_check_ticks()
        if self._state is State.OPEN and self.due_tick > tick + soon + 1:
            endpoint.wheel.schedule(self, soon)
        self._tell_pressure()

    def resume_writing(self) -> None:
        """The socket has taken everything."""
        stall = self._stall
        self._stall = None
        if self._state is State.OPEN:
            if self._pong is not None:
                self._queue()
            if stall is not None and stall.blocked:
                self._session.writable(True)

    # Sending.

    def _queue(self) -> list[bytes | bytearray]:
        out = self._out
        if out is None:
            out = self._out = []
            self._endpoint.mark_dirty(self)
        return out

    def _take_queue(self) -> list[bytes | bytearray]:
        out = self._out
        if out is None:
            return []
        self._out = []
        return out

    def _write(self, data: bytes) -> None:
        transport = self._transport
        if transport is not None and data:
            self._offered += len(data)
            transport.write(data)
            if self._stall is not None:
                self._tell_pressure()

    def _write_close(self, payload: bytes) -> None:
        out = self._take_queue()
        if self._pong is not None:
            out.append(control_frame(PONG, self._pong))
            self._pong = None
        out.append(control_frame(CLOSE, payload))
        self._write(b"".join(out))

    def _tell_pressure(self) -> None:
        stall = self._stall
        if stall is not None and not stall.blocked and self._state is State.OPEN:
            assert self._transport is not None
            if self._transport.get_write_buffer_size() > self._endpoint.limits.write_high_water_bytes:
                stall.blocked = True
                self._session.writable(False)

    # Liveness.

    def _check_liveness(self) -> None:
        """Ping a silent peer, close a dead one or one that does not read, and say when to look again."""
        endpoint = self._endpoint
        tick = endpoint.wheel.tick
        silent = tick - self._heard
        if silent > endpoint.idle_ticks:
            self._close_open(CloseCode.KEEP_ALIVE, "keep-alive timeout")
            return
        if silent >= endpoint.idle_ticks // 2:
            self._queue().append(_EMPTY_PING)
            next_look = endpoint.idle_ticks - silent
        else:
            next_look = endpoint.idle_ticks // 2 - silent
        stall = self._stall
        if stall is not None and self._transport is not None:
            taken = self._taken(self._transport)
            if taken != stall.taken:
                stall.taken = taken
                stall.since = tick
            elif tick - stall.since > endpoint.slow_ticks:
                self._close_open(CloseCode.TOO_SLOW, "too slow")
                return
            next_look = min(next_look, self._stall_check_ticks())
        endpoint.wheel.schedule(self, next_look)

    def _taken(self, transport: asyncio.Transport) -> int:
        """Bytes that the operating system has taken: more of them, and only that, is no standstill."""
        overhead: int = transport.get_extra_info(OVERHEAD, 0)
        return self._offered + overhead - transport.get_write_buffer_size()

    def _stall_check_ticks(self) -> int:
        return max(1, self._endpoint.slow_ticks // 4)

    # Ending.

    def _close_open(self, code: int, reason: str) -> None:
        """Send what waits and a close frame, and wait for the peer's."""
        self._code = int(code)
        self._write_close(close_payload(code, reason))
        self._leave_open(State.CLOSING)
        # Later, because a session may be the caller.
        self._endpoint.loop.call_soon(self._report_end)

    def _fail(self, code: int, reason: str) -> None:
        """End the connection for a fault, without waiting for the peer's close frame (RFC 6455 7.1.7)."""
        if self._state is State.LOST:
            return
        if self._state is State.OPEN:
            self._code = int(code)
            self._write_close(close_payload(code, reason))
        self._linger()
        self._report_end()

    def _respond(self, answered: Answered) -> None:
        self._endpoint.opening.pop(self, None)
        self._endpoint.counts.answered[answered.status] += 1
        self._write(answered.response)
        self._linger()

    def _leave_open(self, state: State) -> None:
        self._state = state
        self._plain = False
        self._endpoint.opening.pop(self, None)
        self._endpoint.wheel.schedule(self, self._endpoint.close_ticks)

    def _linger(self) -> None:
        """Let go of the socket when the peer has: closing it at once, with unread bytes, would reset the connection,
        and the peer would never read why."""
        self._leave_open(State.ENDING)
        transport = self._transport
        if transport is None:
            return
        if transport.can_write_eof():
            try:
                transport.write_eof()
            except OSError:
                transport.abort()
        else:  # TLS: without the end of our side some peers would wait as long as we do
            self._endpoint.wheel.schedule(self, self._endpoint.tls_linger_ticks)

    def _finish(self) -> None:
        """Let go of the socket as soon as everything is written."""
        self._leave_open(State.ENDING)
        if self._transport is not None:
            self._transport.close()

    def _report_end(self) -> None:
        session = self._session
        if session is not NO_SESSION:
            self._session = NO_SESSION
            self._endpoint.counts.closed[self._code] += 1
            try:
                session.closed(self._code)
            except Exception:
                _log.exception("session failed", remote=self.remote)
