"""Which dialect a connection speaks (docs/protocol.md 1)."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from posthouse.wire.codec import JSON, MSGPACK


class Dialect(Enum):
    """A dialect; its value is the subprotocol to answer, and a label for metrics and logs."""

    V2_MSGPACK = MSGPACK.subprotocol
    V2_JSON = JSON.subprotocol
    LEGACY = "legacy"
    """Answered without a subprotocol."""


class Refusal(NamedTuple):
    """The handshake is answered with HTTP 400 and this text."""

    detail: str


_V2 = {dialect.value: dialect for dialect in (Dialect.V2_MSGPACK, Dialect.V2_JSON)}


def choose_dialect(offered: Sequence[str], legacy_enabled: bool) -> Dialect | Refusal:
    """The dialect for the subprotocols that a client offers, in its order."""
    for name in offered:
        if name in _V2:
            return _V2[name]
    if offered:
        return Refusal(f"no subprotocol that is known here was offered; known: {', '.join(_V2)}")
    if legacy_enabled:
        return Dialect.LEGACY
    return Refusal(f"a subprotocol is needed: {' or '.join(_V2)}")
