"""The messages of dialect v2 as structs (docs/protocol.md 2.1 to 2.3).

A struct's fields are the message's fields; ``type`` is its tag. Optional fields that are ``None`` are
left out when encoded. Byte strings are ``bin`` in MessagePack and standard base64 in JSON.
The structs of a client are at the same time the commands of the broker: nothing is copied on the way.
``gc=False``: none of them is ever part of a reference cycle.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

Ref = Annotated[int, Meta(ge=0, lt=2**53)]
Mode = Literal["store", "live", "network"]
ReceiptKind = Literal["delivered", "published", "expired"]
ResultStatus = Literal["delivered", "stored", "published", "duplicate", "undeliverable", "rejected"]
PromiseState = Literal["stored", "delivered", "published"]
NackCode = Literal["not-mine", "undecryptable", "busy"]
PlainStatus = Literal["stored", "delivered"]
GoawayReason = Literal["drain", "overload", "superseded"]

Echo = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | float | Annotated[str, Meta(max_length=256)] | None
"""What a ping may carry: bounded, because it is sent back."""

MAX_TTL_S = 2**31
MAX_NACK_DELAY_MS = 24 * 3600 * 1000


class Pending(Struct, gc=False):
    """How much waits: messages and bytes of ciphertext."""

    count: int
    bytes: int


# --- client to server


class Hello(Struct, tag="hello", gc=False, omit_defaults=True):
    """Opens a session, with a proof of a key or anonymously."""

    client: Annotated[str, Meta(max_length=64)]
    key: Annotated[bytes, Meta(min_length=32, max_length=32)] | None = None
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)] | None = None
    window: Annotated[int, Meta(ge=1)] | None = None
    compact_results: bool = False


class Subscribe(Struct, tag="subscribe", gc=False, omit_defaults=True):
    """Asks for the backlog of addresses and buckets and, if ``live``, for what follows."""

    ref: Ref
    addresses: list[str] | None = None
    buckets: list[str] | None = None
    reader: Annotated[str, Meta(max_length=256)] | None = None
    live: bool = True


class Unsubscribe(Struct, tag="unsubscribe", gc=False, omit_defaults=True):
    """Ends subscriptions; naming nothing ends all of them."""

    ref: Ref
    addresses: list[str] | None = None
    buckets: list[str] | None = None


class Publish(Struct, tag="publish", gc=False, omit_defaults=True):
    """Hands over one message for an address or a bucket."""

    ref: Ref
    ciphertext: bytes
    recipient: str | None = None
    bucket: str | None = None
    mode: Mode = "store"
    ttl_s: Annotated[int, Meta(ge=1, le=MAX_TTL_S)] | None = None
    receipts: list[ReceiptKind] | None = None
    id: str = field(default="", name="relay:id")
    """The message's id, which the session of the relay fills in. Its name on the wire is one that no client uses."""


class Ack(Struct, tag="ack", gc=False):
    """The reader has processed these ids."""

    ids: list[str]


class Nack(Struct, tag="nack", gc=False, omit_defaults=True):
    """The reader will not process these ids, or not now."""

    ids: list[str]
    code: NackCode
    retry_after_ms: Annotated[int, Meta(ge=0, le=MAX_NACK_DELAY_MS)] | None = None


class StatusRequest(Struct, tag="status", gc=False):
    """Asks what waits for this session."""

    ref: Ref


class Ping(Struct, tag="ping", gc=False):
    """A client's own liveness check; ``t`` is echoed."""

    t: Echo = None


ClientMessage = Publish | Ack | Nack | Subscribe | Unsubscribe | StatusRequest | Ping | Hello

# --- server to client


class Challenge(Struct, tag="challenge", gc=False):
    """The server's first word: what ``hello`` signs."""

    nonce: bytes
    audience: str
    server_time: int


class Welcome(Struct, tag="welcome", gc=False):
    """The session is open."""

    session: str
    relay: str
    epoch: int
    addresses: list[str]
    limits: dict[str, int]
    features: list[str]


class Message(Struct, tag="message", gc=False, omit_defaults=True):
    """One message for this reader. Times are milliseconds of the Unix epoch."""

    id: str
    seq: int
    ciphertext: bytes
    received_at: int
    expires_at: int
    deliveries: int
    recipient: str | None = None
    bucket: str | None = None


class Result(Struct, tag="result", gc=False, omit_defaults=True):
    """What became of one publish. ``fallback`` tells the sender to take the OFFLINE route."""

    ref: int
    status: ResultStatus
    fallback: bool
    id: str | None = None
    state: str | None = None
    code: str | None = None
    detail: str | None = None
    retry_after_ms: int | None = None


class Results(Struct, tag="results", gc=False):
    """Many plain results in one item, for clients that asked for ``compact_results``."""

    status: PlainStatus
    refs: list[int]


class Receipt(Struct, tag="receipt", gc=False, omit_defaults=True):
    """What became of a message later."""

    id: str
    status: ReceiptKind
    at: int
    recipient: str | None = None
    cid: str | None = None


class Subscribed(Struct, tag="subscribed", gc=False):
    """Answers ``subscribe`` and ``unsubscribe``."""

    ref: int
    pending: Pending


class CaughtUp(Struct, tag="caught_up", gc=False):
    """All backlog of that subscription has been sent."""

    ref: int


class Status(Struct, tag="status", gc=False):
    """Answers a status request. ``quota`` holds used and allowed messages and bytes."""

    ref: int
    pending: Pending
    quota: dict[str, int]
    epoch: int


class Pong(Struct, tag="pong", gc=False):
    """Answers ``ping``."""

    t: Echo
    server_time: int


class EpochChanged(Struct, tag="epoch", gc=False):
    """Another instance is active now; the session goes on."""

    epoch: int


class Goaway(Struct, tag="goaway", gc=False):
    """This connection ends soon: reconnect within the range, here or at an alternate."""

    reason: GoawayReason
    reconnect_after_ms: tuple[int, int]
    alternates: list[str]


class Error(Struct, tag="error", gc=False, omit_defaults=True):
    """A request was refused, or the connection ends."""

    code: str
    detail: str
    retryable: bool
    ref: int | None = None


ServerMessage = (
    Message
    | Result
    | Results
    | Receipt
    | Subscribed
    | CaughtUp
    | Status
    | Pong
    | EpochChanged
    | Goaway
    | Error
    | Challenge
    | Welcome
)
