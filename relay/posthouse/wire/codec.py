"""The two encodings of dialect v2: a frame's bytes to messages and back (docs/protocol.md 1 and 2).

A frame holds one message or an array of them. A good frame is decoded in one call; only when that fails is it
taken apart, so that a wrong item is reported alone and the others keep their meaning. Whatever bytes come in,
nothing but ``FrameError`` goes out. Both sides of a connection use the same two objects, ``MSGPACK`` and ``JSON``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, TypeVar

import msgspec
from msgspec import Struct

from posthouse.wire.messages import ClientMessage, Ref, ServerMessage

Data = bytes | bytearray | memoryview

MAX_INVALID_ITEMS: Final = 4096
"""Invalid items of one frame that are answered; an array of more nonsense counts as not parsing.
Without it the answers would be a hundred times as large as the question."""
MAX_DETAIL_CHARS: Final = 160

_M = TypeVar("_M")


class FrameError(ValueError):
    """A frame is not JSON or MessagePack, is too deeply nested, has bytes behind its end, or is all nonsense."""


class Invalid(Struct, gc=False):
    """An item of a frame that is no message: of unknown type, or with a missing or wrongly typed field."""

    ref: int | None
    """Its ``ref``, where that was usable."""
    type: str | None
    """Its ``type``, where that was a text."""
    detail: str


class _Hint(Struct, gc=False):
    """What can be told of an item that did not decode."""

    type: str
    ref: Ref | None = None


class _TypeOnly(Struct, gc=False):
    type: str


class _Reader(Generic[_M]):
    """Decodes frames of one union of messages in one encoding."""

    __slots__ = ("_hint", "_item", "_list", "_raw", "_type_only", "_whole")

    def __init__(self, decoder: Callable[[Any], Any], union: Any) -> None:
        self._whole: Callable[[Data], Any] = decoder(list[union] | union).decode
        self._item: Callable[[Data], _M] = decoder(union).decode
        self._list: Callable[[Data], list[msgspec.Raw]] = decoder(list[msgspec.Raw]).decode
        self._raw: Callable[[Data], msgspec.Raw] = decoder(msgspec.Raw).decode
        self._hint: Callable[[Data], _Hint] = decoder(_Hint).decode
        self._type_only: Callable[[Data], _TypeOnly] = decoder(_TypeOnly).decode

    def frame(self, data: Data) -> list[_M | Invalid]:
        try:
            items = self._whole(data)
        except (ValueError, RecursionError):
            return self._apart(data)
        return items if type(items) is list else [items]

    def _apart(self, data: Data) -> list[_M | Invalid]:
        """Decode item by item: one of them is wrong, or all is."""
        try:
            raw = self._raw(data)
            try:
                raws = self._list(data)
            except msgspec.ValidationError:
                raws = [raw]
        except (ValueError, RecursionError) as error:
            raise FrameError(_detail(error)) from None
        items: list[_M | Invalid] = []
        invalid = 0
        for raw in raws:
            try:
                items.append(self._item(raw))
            except (ValueError, RecursionError) as error:
                invalid += 1
                if invalid > MAX_INVALID_ITEMS:
                    raise FrameError("too many invalid items in one frame") from None
                items.append(self._invalid(raw, error))
        return items

    def _invalid(self, raw: msgspec.Raw, error: Exception) -> Invalid:
        view = memoryview(raw)
        try:
            hint = self._hint(view)
            return Invalid(hint.ref, hint.type, _detail(error))
        except (ValueError, RecursionError):
            pass
        try:
            return Invalid(None, self._type_only(view).type, _detail(error))
        except (ValueError, RecursionError):
            return Invalid(None, None, _detail(error))


def _detail(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "too deeply nested"
    if isinstance(error, UnicodeDecodeError):
        return "a text is not UTF-8"
    return str(error)[:MAX_DETAIL_CHARS]


class Codec:
    """One encoding of dialect v2."""

    __slots__ = ("_encode_list", "_server", "binary", "decode", "encode_one", "subprotocol")

    def __init__(self, subprotocol: str, binary: bool, decoder: Callable[[Any], Any], encoder: Any) -> None:
        self.subprotocol = subprotocol
        """The name under which WebSocket clients offer it."""
        self.binary = binary
        """Whether its frames are binary rather than text."""
        client: _Reader[ClientMessage] = _Reader(decoder, ClientMessage)
        self._server: _Reader[ServerMessage] = _Reader(decoder, ServerMessage)
        self.decode: Callable[[Data], list[ClientMessage | Invalid]] = client.frame
        """A client's frame, for the relay: its items in order. Raises FrameError."""
        self._encode_list: Callable[[Any], bytes] = encoder.encode
        self.encode_one: Callable[[ClientMessage | ServerMessage], bytes] = encoder.encode
        """A frame with one item in it."""

    def decode_from_server(self, data: Data) -> list[ServerMessage]:
        """A relay's frame, for a client: the items that it knows, in order. Raises FrameError."""
        items = self._server.frame(data)
        return [item for item in items if not isinstance(item, Invalid)]

    def encode(
        self, items: Sequence[ClientMessage] | Sequence[ServerMessage], max_frame_bytes: int
    ) -> list[bytes]:
        """Frames that hold all items in order: as few as the limit allows; one item alone is not put in an array.

        A single item that is over the limit is returned all the same: limits on its parts keep it below.
        """
        if not items:
            return []
        if len(items) == 1:
            return [self.encode_one(items[0])]
        data = self._encode_list(items)
        if len(data) <= max_frame_bytes:
            return [data]
        pieces = len(data) // max_frame_bytes + 1
        step = max(1, len(items) // pieces)
        frames: list[bytes] = []
        for start in range(0, len(items), step):
            frames += self.encode(items[start : start + step], max_frame_bytes)
        return frames


MSGPACK: Final = Codec("posthouse.v2.msgpack", True, msgspec.msgpack.Decoder, msgspec.msgpack.Encoder())
JSON: Final = Codec("posthouse.v2.json", False, msgspec.json.Decoder, msgspec.json.Encoder())
CODECS: Final = {codec.subprotocol: codec for codec in (MSGPACK, JSON)}
