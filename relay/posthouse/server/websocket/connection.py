"""One WebSocket connection of the server: bytes from a transport to messages for a session.

The object is small (slots, nothing made before it is needed) because thousands of idle ones are the common case, and
`buffer_updated` is the hottest loop of the server. Its fast branch takes a final, masked data frame that lies whole in
the shared receive buffer; `_plain` is true while only such frames need looking at. `_slow` takes everything else: the
HTTP request, parts of frames and messages, control frames, faults, and what comes after the end.

Reading never stops, however slowly the peer reads: its acks and pings must get through (docs/protocol.md 2.5).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import structlog

from posthouse.server.websocket.frames import (
    ABNORMAL,
    BINARY,
    CLOSE,
    PING,
    TEXT,
    FrameError,
    Incoming,
    apply_mask,
    close_code,
)
from posthouse.server.websocket.handshake import Accepted, Answered, RequestHead, answer, http_answer
from posthouse.server.websocket.outgoing import Outgoing
from posthouse.server.websocket.states import State
from posthouse.wire.codes import CloseCode

if TYPE_CHECKING:
    from posthouse.server.websocket.endpoint import Endpoint

_log = structlog.get_logger()


class Connection(Outgoing):
    """One connection from its first byte to its last. It offers its session what `interface.Outlet` says."""

    __slots__ = ("_head", "_incoming")

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self._head: RequestHead | None = None
        self._incoming: Incoming | None = None

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A socket was accepted, and TLS, if any, is set up."""
        self._transport = cast(asyncio.Transport, transport)
        # Any unsent byte counts as a stall, so that a socket that takes nothing is seen however little waits for it.
        self._transport.set_write_buffer_limits(high=1, low=0)
        self._endpoint.wheel.schedule(self, self._endpoint.handshake_ticks)
        self._endpoint.entered(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """The endpoint's one receive buffer: `buffer_updated` follows before anybody else asks for it."""
        return self._endpoint.receive_view

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes were received."""
        endpoint = self._endpoint
        endpoint.counts.bytes_received += nbytes
        self._heard = endpoint.wheel.tick
        buffer = endpoint.buffer
        position = 0
        try:
            while position < nbytes:
                if self._plain:
                    # The head may lie in part behind `nbytes`: then `end` does too, whatever stale bytes say.
                    length = buffer[position + 1]
                    if length < 0xFE:
                        start = position + 6
                        end = start + length - 0x80  # before `start` where the frame is not masked
                    elif length == 0xFE:
                        start = position + 8
                        end = start + (buffer[position + 2] << 8 | buffer[position + 3])
                    else:
                        start, end = 1, 0
                    if start <= end <= nbytes and end - start <= endpoint.max_frame_bytes:
                        first = buffer[position]
                        if first == 0x82:
                            position = end
                            view = endpoint.buffer_view
                            self._session.received(
                                apply_mask(view[start:end], buffer[start - 4 : start]), True
                            )
                            continue
                        if first == 0x81:
                            position = end
                            self._take(
                                TEXT, apply_mask(endpoint.buffer_view[start:end], buffer[start - 4 : start])
                            )
                            continue
                position = self._slow(position, nbytes)
        except Exception:
            _log.exception("session failed", remote=self.remote)
            self.fail_session()

    def eof_received(self) -> None:
        """The peer has sent its last byte. The transport closes itself behind what is still to be written."""
        self._code = self._code or ABNORMAL
        self._leave_open(State.ENDING)
        self._report_end()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._endpoint.wheel.cancel(self)
        self._endpoint.opening.pop(self, None)
        self._endpoint.sent_before += self._offered
        self._offered = 0
        self._code = self._code or ABNORMAL
        self._state = State.LOST
        self._plain = False
        self._transport = self._head = self._incoming = self._out = self._pong = self._stall = None
        self._report_end()

    # Receiving what the fast branch does not take.

    def _slow(self, position: int, end: int) -> int:
        """Take one request, frame or part of a frame from the shared buffer; returns the position behind it."""
        if self._state is State.OPENING:
            return self._read_request(end)
        if self._state is not State.OPEN and self._state is not State.CLOSING:
            return end
        endpoint = self._endpoint
        incoming = self._incoming
        if incoming is None:
            incoming = self._incoming = Incoming(endpoint.max_frame_bytes)
        try:
            position, opcode, payload = incoming.read(endpoint.buffer, endpoint.buffer_view, position, end)
        except FrameError as fault:
            self._incoming = None
            self._fail(fault.code, fault.reason)
            return end
        if incoming.between_messages:
            self._incoming = None
        self._plain = self._incoming is None and self._state is State.OPEN
        if opcode == CLOSE:
            self._peer_closes(payload)
        elif self._state is State.OPEN:
            self._take(opcode, payload)
        return position

    def _take(self, opcode: int, payload: bytes) -> None:
        if opcode == BINARY:
            self._session.received(payload, True)
        elif opcode == TEXT:
            if _is_utf8(payload):
                self._session.received(payload, False)
            else:
                self._fail(CloseCode.INVALID_TEXT, "text is not UTF-8")
        elif opcode == PING:
            # RFC 6455 5.5.3 lets a pong answer only the latest ping, so that a flood of pings costs one pong.
            self._pong = payload
            if self._stall is None:
                self._queue()

    def _peer_closes(self, payload: bytes) -> None:
        if self._state is State.OPEN:
            self._code = close_code(payload)
            self._write_close(payload)
        self._finish()
        self._report_end()

    # The HTTP request.

    def _read_request(self, end: int) -> int:
        endpoint = self._endpoint
        if self._head is None:
            self._head = RequestHead(endpoint.limits.max_handshake_bytes)
        try:
            head, used = self._head.feed(endpoint.buffer_view[:end])
        except ValueError:
            self._respond(http_answer(431, "The request is too long."))
            return end
        if head is None:
            return end
        self._head = None
        try:
            outcome = answer(head, endpoint.choose, endpoint.information)
        except Exception:
            _log.exception("handshake failed", remote=self.remote)
            outcome = http_answer(500, "The server could not answer.")
        if isinstance(outcome, Answered):
            self._respond(outcome)
        else:
            self._open(outcome)
        return used

    def _open(self, accepted: Accepted) -> None:
        endpoint = self._endpoint
        endpoint.opening.pop(self, None)
        endpoint.counts.opened += 1
        self._state = State.OPEN
        self._plain = True
        endpoint.wheel.schedule(self, endpoint.idle_ticks // 2)
        self._write(accepted.response)
        self._session = endpoint.session_factory(self, accepted.request)
        if self._code:  # the factory has closed the connection before there was a session to tell
            endpoint.loop.call_soon(self._report_end)


def _is_utf8(payload: bytes) -> bool:
    if payload.isascii():
        return True
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True
