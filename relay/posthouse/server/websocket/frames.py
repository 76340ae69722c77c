"""WebSocket frames (RFC 6455 section 5), seen from a server: masked ones in, unmasked ones out, no extensions.

The connection reads the common frame itself: final, a data frame, whole in the receive buffer. `Incoming` reads all
others and holds what must wait between reads: a frame of which a part has come, a message of which some fragments
have come. Invariants: it never holds more than the message limit and one frame's head, and it refuses a frame as
soon as its head shows the fault, so before its payload is held.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from posthouse.server.websocket.interface import MAX_CONTROL_BYTES
from posthouse.wire.codes import CloseCode

try:
    from websockets.speedups import apply_mask
except ImportError:  # a platform without the compiled wheel
    from websockets.utils import apply_mask

__all__ = ["FrameError", "Incoming", "apply_mask", "close_payload", "control_frame", "data_header"]

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA
NOTHING: Final = -1
"""In place of an opcode: no message and no control frame is complete yet."""

FINAL: Final = 0x80
_RESERVED: Final = 0x70
_MASKED: Final = 0x80

NO_CODE: Final = 1005
"""How a close frame without a code is reported (RFC 6455 7.1.5)."""
ABNORMAL: Final = 1006
"""How a connection lost without a close frame is reported (RFC 6455 7.1.5)."""
_CODES_ON_THE_WIRE: Final = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)})

_short_header = Struct("!BB").pack
_medium_header = Struct("!BBH").pack
_long_header = Struct("!BBQ").pack
_code = Struct("!H")


class FrameError(ValueError):
    """The peer broke the protocol or a limit: `code` is the close code that says so, `reason` its text."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


def _header(first: int, length: int) -> bytes:
    if length < 126:
        return _short_header(first, length)
    if length < 65536:
        return _medium_header(first, 126, length)
    return _long_header(first, 127, length)


_COMMON_LENGTHS: Final = 2048
_BINARY_HEADERS: Final = tuple(_header(FINAL | BINARY, length) for length in range(_COMMON_LENGTHS))
_TEXT_HEADERS: Final = tuple(_header(FINAL | TEXT, length) for length in range(_COMMON_LENGTHS))


def data_header(length: int, binary: bool) -> bytes:
    """Header of a whole, unmasked message of `length` payload bytes."""
    if length < _COMMON_LENGTHS:
        return (_BINARY_HEADERS if binary else _TEXT_HEADERS)[length]
    return _header(FINAL | (BINARY if binary else TEXT), length)


def control_frame(opcode: int, payload: bytes) -> bytes:
    """A whole control frame; `payload` has at most 125 bytes."""
    return _short_header(FINAL | opcode, len(payload)) + payload


def close_payload(code: int, reason: str) -> bytes:
    """Payload of a close frame, its reason cut to what fits, between two characters."""
    text = reason.encode()[: MAX_CONTROL_BYTES - 2]
    return _code.pack(code) + text.decode(errors="ignore").encode()


def close_code(payload: bytes) -> int:
    """Code in the payload of a close frame, 1005 if it is empty.

    Raises FrameError for half a code, a code that must not be sent, or a reason that is not UTF-8.
    """
    if not payload:
        return NO_CODE
    if len(payload) == 1:
        raise FrameError(CloseCode.PROTOCOL_ERROR, "close frame too short")
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        raise FrameError(CloseCode.INVALID_TEXT, "close reason is not UTF-8") from None
    code: int = _code.unpack_from(payload)[0]
    if code not in _CODES_ON_THE_WIRE:
        raise FrameError(CloseCode.PROTOCOL_ERROR, "invalid close code")
    return code


class Incoming:
    """Reads frames of every kind, and keeps the parts of messages that have not come as a whole."""

    __slots__ = ("_carry", "_fragments", "_kind", "_limit", "_need", "_start")

    def __init__(self, max_message_bytes: int) -> None:
        self._limit = max_message_bytes
        self._carry: bytearray | None = None  # the beginning of a frame
        self._need = 0  # bytes that the carry needs before it is worth looking at again
        self._start = 0  # where the payload of the frame in question begins
        self._fragments: bytearray | None = None  # unmasked payloads of a message's first fragments
        self._kind = NOTHING  # TEXT or BINARY while there are fragments

    @property
    def between_messages(self) -> bool:
        """Whether nothing is kept, so that this object may be dropped."""
        return self._carry is None and self._fragments is None

    def read(self, buffer: bytearray, view: memoryview, position: int, end: int) -> tuple[int, int, bytes]:
        """Take bytes of one frame from `buffer[position:end]`, of which `view` is a memoryview.

        Returns the position behind them, and TEXT, BINARY, CLOSE, PING or PONG with its payload, or NOTHING.
        Raises FrameError; what follows a faulty frame has no meaning.
        """
        carry = self._carry
        if carry is None:
            need = self._examine(buffer, position, end - position)
            if position + need > end:
                self._carry = bytearray(view[position:end])
                self._need = need
                return end, NOTHING, b""
            payload = self._unmask(buffer, view, position + need)
            return position + need, *self._complete(buffer[position], payload)
        while True:
            taken = min(self._need - len(carry), end - position)
            carry += view[position : position + taken]
            position += taken
            if len(carry) < self._need:
                return position, NOTHING, b""
            self._need = self._examine(carry, 0, len(carry))
            if self._need == len(carry):
                break
        self._carry = None
        payload = self._unmask(carry, memoryview(carry), len(carry))
        return position, *self._complete(carry[0], payload)

    def _examine(self, buffer: bytearray, position: int, available: int) -> int:
        """Check what has come of a frame's head; returns the frame's length as far as it is known yet.

        The order of the checks is that of websockets, so that a frame with two faults gets the same close code.
        """
        if available < 2:
            return 2
        first, second = buffer[position], buffer[position + 1]
        opcode = first & 0x0F
        if opcode not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
            raise FrameError(CloseCode.PROTOCOL_ERROR, "invalid opcode")
        if not second & _MASKED:
            raise FrameError(CloseCode.PROTOCOL_ERROR, "frame is not masked")
        length = second & 0x7F
        head = 2
        if length == 126:
            head = 4
        elif length == 127:
            head = 10
        if available < head:
            return head
        if head > 2:
            length = int.from_bytes(buffer[position + 2 : position + head], "big")
        self._check(opcode, first, length)
        self._start = position + head + 4
        return head + 4 + length

    def _check(self, opcode: int, first: int, length: int) -> None:
        is_control = opcode & 0x08
        held = 0 if self._fragments is None or is_control else len(self._fragments)
        if held + length > self._limit:
            raise FrameError(CloseCode.TOO_BIG, f"message over {self._limit} bytes")
        if first & _RESERVED:
            raise FrameError(CloseCode.PROTOCOL_ERROR, "reserved bits must be 0")
        if is_control:
            if length > MAX_CONTROL_BYTES:
                raise FrameError(CloseCode.PROTOCOL_ERROR, "control frame too long")
            if not first & FINAL:
                raise FrameError(CloseCode.PROTOCOL_ERROR, "fragmented control frame")
        elif (opcode == CONTINUATION) != (self._fragments is not None):
            raise FrameError(CloseCode.PROTOCOL_ERROR, "continuation frame out of place")

    def _unmask(self, buffer: bytearray, view: memoryview, end: int) -> bytes:
        start = self._start
        return apply_mask(view[start:end], buffer[start - 4 : start])

    def _complete(self, first: int, payload: bytes) -> tuple[int, bytes]:
        opcode = first & 0x0F
        if opcode & 0x08:
            if opcode == CLOSE:
                close_code(payload)
                if self._fragments is not None:
                    raise FrameError(CloseCode.PROTOCOL_ERROR, "message is not complete")
            return opcode, payload
        if self._fragments is not None:
            self._fragments += payload
            if not first & FINAL:
                return NOTHING, b""
            message = bytes(self._fragments)
            self._fragments = None
            return self._kind, message
        if first & FINAL:
            return opcode, payload
        self._fragments = bytearray(payload)
        self._kind = opcode
        return NOTHING, b""
