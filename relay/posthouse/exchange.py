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
    due: list[int] | None = None
    """A list: an earlier broker has answered it, and these requests still wait for their ``caught_up``."""
    after: int = 0
    """Begin behind this ``seq``."""


class Held(Struct, gc=False, frozen=True, array_like=True):
    """A message that an earlier broker has sent to a client."""

    id: str
    seq: int
    """The number that it was sent under. 0: it is gone from the store, there is nothing to delete."""
    bucket: BucketKey | None
    """The bucket by which it came; None: it came to its owner."""
    reader: str | None
    """The name under which that bucket is read; for a message that came to its owner, the owner's address.

    None: no name, and acks are remembered nowhere; or the owner is the session's own address.
    """
    deliveries: int
    again: bool = False
    """Its client has put it off: it is to be sent once more."""


class Wanted(Struct, gc=False, frozen=True, array_like=True):
    """A stored message for which a client wants receipts."""

    id: str
    place: str
    """Name of its mailbox: an address or a bucket."""
    recipient: str | None
    kinds: list[str]


class Resume(Struct, tag="resume", gc=False):
    """A session that was open at another broker goes on at this one. Always its first command here."""

    opened: Open
    """``credit``: what the earlier broker had left of it."""
    held: list[Held]
    """What its client has and has not acknowledged: it is not sent again. Each has its ``seq``."""
    acked: list[Held]
    """What was acknowledged: with a ``seq``, no broker has confirmed that for good; with 0, only a repeat is answered.

    A session without an address tells of everybody's acks: each of an owner's then names him as ``reader``.
    """
    wanted: list[Wanted]
    catchups: dict[int, int]
    """Requests that wait for their ``caught_up``, and how many subscriptions each waits for."""


Command = Publish | Ack | Nack | Attend | Unsubscribe | StatusRequest | Credit | Open | Resume | Close


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

Commands = list[tuple[int, list[Command]]]
"""Commands of sessions, each with its session's number, in the order in which they were given."""
Effects = list[tuple[int, list[Effect]]]
"""Effects for sessions, by number."""
