"""What two members say to each other over a link, and its bytes.

A frame is four bytes of length, the highest first, and a MessagePack map with the names of the fields: a later release
may add fields with defaults, and what is not known is passed over. Commands and effects are the structs that sessions
and broker exchange, encoded and decoded in one call a frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
from msgspec import Struct, field

from posthouse.errors import PosthouseError
from posthouse.exchange import Command, Effect

VERSIONS: Final = (1, 1)
"""The lowest and the highest version of the link that this release speaks."""
HEADER_BYTES: Final = 4
MAX_FRAME_BYTES: Final = 64 * 1024 * 1024
"""Of a frame without its header."""
MAX_DETAIL_CHARS: Final = 160


class FrameTooLarge(PosthouseError):
    """A frame to be sent is above ``MAX_FRAME_BYTES``."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size

    def __str__(self) -> str:
        return f"a link's frame of {self.size} bytes is above {MAX_FRAME_BYTES}"


class BadFrame(PosthouseError, ValueError):
    """What came over a link is no frame of its kind; the text says why."""


class Hello(Struct, tag="hello", gc=False):
    """The dialer's first frame."""

    versions: tuple[int, int]
    """The lowest and the highest that it speaks."""
    relay: str
    """Which relay the member belongs to."""
    member: str
    generation: int
    """Of two links of one member, the one with the higher number is the newer."""


class Welcome(Struct, tag="welcome", gc=False):
    """The listener's answer: the link is established."""

    version: int
    member: str


class Refused(Struct, tag="refused", gc=False):
    """The listener's other answer; then it closes."""

    reason: str


class MemberState(Struct, gc=False):
    """One member, as the listener knows it."""

    name: str
    role: str
    ready: bool


class Handover(Struct, gc=False):
    """A change of the active member."""

    reason: str
    before: str = field(name="from")
    to: str
    epoch: int
    gap_ms: int | None
    """For how long nobody was active, as the new one can tell."""
    at: int
    """Milliseconds of the Unix epoch."""


class Standing(Struct, tag="standing", gc=False):
    """Listener to dialer, whenever it changes: what it is, and what it knows of all."""

    serving: bool
    """Whether its broker takes commands."""
    epoch: int
    members: list[MemberState]
    last_handover: Handover | None
    reason: str = ""
    """Why it serves no more, if it has."""
    successor: str = ""
    """Peer address of the member that it hands over to, if it does."""


class Report(Struct, tag="report", gc=False):
    """Dialer to listener, whenever it changes."""

    role: str
    ready: bool
    address: str = ""
    """Of its peer port."""
    store_answers: bool = False
    """Whether the store answers it; found out only while the listener's takes no writes."""


class Commands(Struct, tag="commands", gc=False):
    """Dialer to listener: one batch for the broker of this epoch, by number of the session."""

    epoch: int
    batch: list[tuple[int, list[Command]]]


class Effects(Struct, tag="effects", gc=False):
    """Listener to dialer: what the broker of this epoch has for sessions, by number."""

    epoch: int
    batch: list[tuple[int, list[Effect]]]
    confirmed: int
    """So many batches have no ack that the loss of the broker would undo."""
    failed: list[int] = []
    """Sessions that have to end: the broker could not take what they said."""


class Ask(Struct, tag="ask", gc=False):
    """Dialer to listener: hand over to this member."""

    number: int
    successor: str


class Answer(Struct, tag="answer", gc=False):
    """Listener to dialer: what became of the request with this number."""

    number: int
    error: str | None


class Ping(Struct, tag="ping", gc=False):
    """Either side, when it has had nothing to say for a while."""


class Pong(Struct, tag="pong", gc=False):
    """Answers ``Ping``."""


FromDialer = Commands | Report | Ask | Ping | Pong | Hello
FromListener = Effects | Standing | Answer | Ping | Pong | Welcome | Refused
Frame = FromDialer | FromListener

_encode: Final = msgspec.msgpack.Encoder().encode
_decode_from_dialer: Final = msgspec.msgpack.Decoder[FromDialer](FromDialer).decode
_decode_from_listener: Final = msgspec.msgpack.Decoder[FromListener](FromListener).decode


def pack(frame: Frame) -> bytes:
    """A frame with its header. Raises FrameTooLarge."""
    body = _encode(frame)
    size = len(body)
    if size > MAX_FRAME_BYTES:
        raise FrameTooLarge(size)
    return size.to_bytes(HEADER_BYTES, "big") + body


def decode_from_dialer(body: bytes | memoryview) -> FromDialer:
    """A dialer's frame without its header. Raises BadFrame."""
    frame: FromDialer = _decoded(_decode_from_dialer, body)
    return frame


def decode_from_listener(body: bytes | memoryview) -> FromListener:
    """A listener's frame without its header. Raises BadFrame."""
    frame: FromListener = _decoded(_decode_from_listener, body)
    return frame


class Splitter:
    """Cuts what arrives into frames."""

    __slots__ = ("_partial", "max_frame_bytes")

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self.max_frame_bytes = max_frame_bytes
        """May be changed at any time, and counts from the next header on."""
        self._partial = bytearray()
        """A frame that is not whole, with as much of its header as has come."""

    def feed(self, data: bytes | bytearray | memoryview) -> Iterator[memoryview]:
        """The bodies of the frames that are whole now, each good until the next is asked for. Raises BadFrame.

        A frame within ``data`` is not copied; one that comes in pieces is, once.
        """
        view = memoryview(data)
        at, end = 0, len(view)
        if self._partial:
            at = self._continue(view)
            if at < 0:
                return
            whole, self._partial = self._partial, bytearray()
            yield memoryview(whole)[HEADER_BYTES:]
        while end - at >= HEADER_BYTES:
            begin = at + HEADER_BYTES
            stop = begin + self._size(view[at:begin])
            if stop > end:
                break
            yield view[begin:stop]
            at = stop
        self._partial += view[at:]

    def _continue(self, view: memoryview) -> int:
        """Add to the frame that is not whole: how much of ``view`` that took, or -1 if it is not whole yet."""
        partial = self._partial
        at = max(0, HEADER_BYTES - len(partial))
        partial += view[:at]
        if len(partial) < HEADER_BYTES:
            return -1
        stop = at + HEADER_BYTES + self._size(partial[:HEADER_BYTES]) - len(partial)
        partial += view[at:stop]
        return stop if stop <= len(view) else -1

    def _size(self, header: bytearray | memoryview) -> int:
        size = int.from_bytes(header, "big")
        if size > self.max_frame_bytes:
            raise BadFrame(f"a frame of {size} bytes is above {self.max_frame_bytes}")
        return size


def _decoded(decode: Callable[[Any], Any], body: bytes | memoryview) -> Any:
    try:
        return decode(body)
    except RecursionError:
        raise BadFrame("a frame is too deeply nested") from None
    except UnicodeDecodeError:
        raise BadFrame("a frame has a text that is not UTF-8") from None
    except msgspec.DecodeError as error:
        raise BadFrame(f"a frame cannot be read: {error}"[:MAX_DETAIL_CHARS]) from None
