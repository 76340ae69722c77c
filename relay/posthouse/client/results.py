"""What the core of a client tells its shell, and what the shell hands to the caller: plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from posthouse.client.errors import PosthouseClientError, Refused
from posthouse.wire.messages import Pending, PromiseState, ReceiptKind, ResultStatus, Status


@dataclass(frozen=True, slots=True)
class Receipt:
    """The relay has the message, and what it promises holds now (docs/protocol.md 2.4)."""

    id: str
    """Lower-case hex sha256 of the ciphertext."""
    status: ResultStatus
    """The relay's word: ``delivered``, ``stored``, ``published`` or ``duplicate``."""
    state: PromiseState
    """Which promise holds: the status itself, or what a ``duplicate`` had reached before."""
    took_ms: float
    """From handing it to the client until the result."""
    cid: str | None = None
    """Under which name it is on the network, where ``status`` is ``published``."""

    @property
    def duplicate(self) -> bool:
        """The relay had taken the same message before."""
        return self.status == "duplicate"


@dataclass(frozen=True, slots=True)
class LaterReceipt:
    """What became of a message after its result; only what was asked for with ``receipts``."""

    id: str
    status: ReceiptKind
    at_ms: int
    """Milliseconds of the Unix epoch, by the relay's clock."""
    recipient: str | None
    cid: str | None


Outcome = Receipt | PosthouseClientError
"""How one send ended."""


class Opened(NamedTuple):
    """The relay has said welcome."""


class Resolved(NamedTuple):
    """A publish that somebody waits for has ended."""

    ref: int
    outcome: Outcome


class Answered(NamedTuple):
    """A request that is not a publish has its answer."""

    ref: int
    answer: Pending | Status | Refused | None


class Arrived(NamedTuple):
    """There is something for whoever waits for messages: a message, or the end of a backlog."""


class Later(NamedTuple):
    """A later receipt."""

    receipt: LaterReceipt


class Leaving(NamedTuple):
    """The relay asks this client to go, after a time within the range."""

    range_ms: tuple[int, int]
    alternates: list[str]


class OpeningRefused(NamedTuple):
    """This side will not go on with this connection."""

    error: PosthouseClientError


Event = Opened | Resolved | Answered | Arrived | Later | Leaving | OpeningRefused
