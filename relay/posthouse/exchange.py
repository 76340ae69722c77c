"""What sessions and the broker say to each other: plain values, so that either may be in another process.

A front hands the broker batches of *commands* of one session; the broker hands a port batches of
*effects* per session. The hot ones are the wire's own structs, passed on as they were decoded.

What a session has made sure of before it passes a command on:

* addresses are canonical and, in ``Subscribe``, proved; buckets are well-formed;
* ``Publish`` has exactly one of ``recipient`` (canonical) and ``bucket``, its ``id`` is the hash of its
  ciphertext, its size is within the limits, and the policy lets this sender publish in that mode;
* reader names carry their name space, so that two kinds of readers never share marks.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from posthouse.identity import Address, BucketKey
from posthouse.wire.messages import (
    Ack,
    CaughtUp,
    EpochChanged,
    Error,
    Message,
    Nack,
    Publish,
    Receipt,
    Result,
    Status,
    StatusRequest,
    Subscribed,
    Unsubscribe,
)

UNLIMITED_WINDOW = 0


class Open(Struct, tag="open", gc=False):
    """A session begins. Always its first command."""

    address: Address | None
    """The address its key proves; None for anonymous and legacy sessions."""
    guest: bool
    """Its messages count against the smaller quota of anonymous and legacy senders."""
    window: int
    """Messages that may be outstanding; ``UNLIMITED_WINDOW`` for legacy sessions."""
    credit: int
    """Bytes of ciphertext that may be under way to it before ``Credit`` returns some."""


class Close(Struct, tag="close", gc=False):
    """The session is over. Always its last command."""


class Credit(Struct, tag="credit", gc=False):
    """The session's socket has taken this many bytes of ciphertext more."""

    bytes: int


class Attend(Struct, tag="attend", gc=False):
    """A checked ``subscribe``."""

    ref: int
    addresses: list[Address]
    buckets: list[BucketKey]
    reader: str | None
    """Under which name acks of buckets are kept; None: for this session only."""
    live: bool
    newest: int | None = None
    """Begin with at most this many of the newest stored messages of each bucket (legacy); None: all."""


Command = Publish | Ack | Nack | Attend | Unsubscribe | StatusRequest | Credit | Open | Close


class Outcomes(Struct, tag="outcomes", gc=False):
    """Plain results, by column: publish ``refs[i]`` of message ``ids[i]`` has this status."""

    status: Literal["stored", "delivered"]
    refs: list[int]
    ids: list[str]


class Superseded(Struct, tag="superseded", gc=False):
    """Too many sessions of this key: this, the oldest, has to end."""


Effect = (
    Message | Outcomes | Result | Receipt | Subscribed | CaughtUp | Status | Error | EpochChanged | Superseded
)
