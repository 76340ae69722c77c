"""What every store does, as values and two blocking objects: one ``Writer`` and any number of ``Reader``s.

Promises, the same for every engine (the conformance suite in tests/store holds each to them):

* ``commit`` is all or nothing, checks and locks the fence in the same transaction, and returns
  ``Committed`` only when a durable store has synced. It *raises* ``StoreUnavailable`` when it is certain
  that nothing was written, and returns ``UNKNOWN`` when that is not certain; then no further commit is
  taken until ``resolve`` has said what became of it.
* Nothing is written under a fence that another promotion has replaced: ``FENCED``.
* A ``Reader`` never delays a commit, and sees only what is committed.

Blocking and not thread-safe: a ``Writer`` lives on one thread, each ``Reader`` on one of its own
(``threads.py``). Times are milliseconds of the store clock, sizes are bytes of ciphertext.

Source: DESIGN 3 and 4, now docs/architecture.md and docs/stores.md.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, NewType, Protocol

from msgspec import Struct

from posthouse.errors import PosthouseError
from posthouse.store.lease_rows import LeaseRows

MailboxNo = NewType("MailboxNo", int)

TOKEN_BYTES: Final = 16
"""Of the random tokens in a fence: a promotion's and an incarnation's."""

SHELVES_OF_ADDRESSES: Final = 1 << 16
"""Shelf numbers below this are the 16-bit prefixes of addresses."""


class StoreUnavailable(PosthouseError):
    """The store did not take the write, for certain; it may take the next one. The text says why."""


class StoreUnusable(PosthouseError):
    """The store cannot be opened as it is: corrupt, from a later release, on a network file system, read-only."""


class Mailbox:
    """A mailbox as stores know it. ``key`` is ``b"a"`` + digest of the address or ``b"b"`` + multihash of the bucket.

    ``shelf`` groups mailboxes by what buckets cover: the 16-bit prefix of an address, or a shelf of its own
    (``SHELVES_OF_ADDRESSES + no``) for messages published to a bucket.
    """

    __slots__ = ("key", "no", "shelf")

    def __init__(self, no: MailboxNo, key: bytes, shelf: int) -> None:
        self.no = no
        self.key = key
        self.shelf = shelf


class Tally(Struct, gc=False):
    """How much a mailbox holds in the store; the guest part is of anonymous and legacy senders."""

    count: int = 0
    bytes: int = 0
    guest_count: int = 0
    guest_bytes: int = 0


class Append(Struct, gc=False):
    """One message to be written. ``seq`` is unique and rises within each mailbox."""

    seq: int
    mailbox: Mailbox
    id: str
    ciphertext: bytes
    received_at: int
    expires_at: int
    guest: bool


class Mark(Struct, gc=False, frozen=True):
    """A bucket reader has acknowledged a message of its bucket: it is not offered to this reader again."""

    seq: int
    bucket: str
    reader: str


class Batch(Struct):
    """One transaction. Applied in the order of the fields."""

    number: int
    """Rises by one with every batch under one fence; recorded in the fence row."""
    clock_ms: int
    """The store clock, saved with the batch; expiry goes by it."""
    deletes: list[int] = []
    """Sequence numbers of acknowledged messages. Unknown ones are passed over. Their marks go too."""
    appends: list[Append] = []
    """In ``seq`` order. One whose (mailbox, id) is there already and has not expired is not written
    again: the later ``expires_at`` is kept, and the answer names it in ``duplicates``. One whose
    predecessor has expired replaces it."""
    marks: list[Mark] = []
    """Marks of messages that are not there are passed over."""
    readers_per_bucket: int = 1000
    """Distinct reader names that may have marks in a bucket after a batch with marks; beyond, the name that
    marked longest ago loses its marks."""
    purges: list[MailboxNo] = []
    """Mailboxes to empty, at most ``expire_limit`` messages of each; the answer's tallies say what is left."""
    expire_limit: int = 0
    """Delete at most this many messages with ``expires_at <= clock_ms``, oldest expiry first."""
    reserve_seq: int | None = None
    """Sequence numbers below this will never be given out by a later promotion."""


class Gone(Struct, gc=False):
    """A message that left by expiry or purge."""

    seq: int
    id: str
    mailbox: MailboxNo


class Committed(Struct):
    """The batch is in the store, durably if the store is durable."""

    duplicates: dict[int, int]
    """``seq`` of an append that was not written → ``seq`` of the message that was there."""
    gone: list[Gone]
    """What expired or was purged."""
    tallies: dict[MailboxNo, Tally]
    """Of every mailbox that the batch changed, as it is now (zero when empty)."""
    total: Tally
    """Of the whole store."""
    next_expiry: int = 0
    """The lowest ``expires_at`` in the store; 0 when it is empty."""


class Doubt(Enum):
    """Outcomes that are no commit."""

    FENCED = "fenced"
    """Another promotion has replaced this fence: nothing was written, nothing ever will be under it."""
    UNKNOWN = "unknown"
    """The store broke while committing: the batch may be there or not. ``resolve`` finds out."""


FENCED: Final = Doubt.FENCED
UNKNOWN: Final = Doubt.UNKNOWN


class Fence(Struct, frozen=True, gc=False):
    """What a commit must match: who may write, to which store."""

    epoch: int
    token: bytes
    """16 random bytes of the promotion; empty before the first."""
    incarnation: bytes
    """16 random bytes of the store; a restore makes new ones."""


class Recovered(Struct):
    """What a promotion finds."""

    fence: Fence
    batch: int
    """Number of the last committed batch under the fence before: 0 after a promotion."""
    relay_id: str
    """Id of the relay, made with the store, the same for all members and promotions."""
    clock_ms: int
    next_seq: int
    next_mailbox: MailboxNo
    total: Tally
    next_expiry: int = 0
    """The lowest ``expires_at`` in the store; 0 when it is empty."""


class Source(Struct, gc=False):
    """What a page is read from: some shelves; within them one mailbox, or what one reader has not marked."""

    shelves: tuple[int, ...]
    mailbox: MailboxNo | None = None
    bucket: str | None = None
    reader: str | None = None


class StoredMessage(Struct, gc=False):
    """A row of a page."""

    seq: int
    id: str
    mailbox: MailboxNo
    shelf: int
    ciphertext: bytes
    received_at: int
    expires_at: int


class Page(Struct):
    """Messages in ``seq`` order. ``complete``: nothing is left in the range that was asked for."""

    messages: list[StoredMessage]
    complete: bool


class Waiting(Struct, gc=False):
    """How much waits in a source, and where its newest messages begin."""

    count: int
    bytes: int
    newest_from: int
    """The lowest ``seq`` among the newest n messages of the source; 0 when it holds no more than n."""


class Writer(Protocol):
    """The one writing connection of a process."""

    def relay_id(self) -> str:
        """Id of the relay, made with the store, the same for all members. Raises StoreUnavailable."""

    def fence(self) -> Fence:
        """The fence as it is now. Raises StoreUnavailable."""

    def promote(self, seen: Fence, epoch: int, token: bytes) -> Recovered | None:
        """Replace the fence ``seen`` by a new epoch and token, by compare-and-set; None if it has changed.

        ``epoch`` must be greater than ``seen.epoch``. Raises StoreUnavailable.
        """

    def commit(self, batch: Batch, fence: Fence) -> Committed | Doubt:
        """Write one batch. Raises StoreUnavailable when certainly nothing was written."""

    def resolve(self, batch: Batch, fence: Fence) -> Committed | Doubt:
        """After UNKNOWN: verify the store, then say whether the batch is in it.

        ``Committed`` if so. If it is certainly not, it is tried again as a whole, with the outcomes of ``commit``:
        StoreUnavailable then means that it is not there. UNKNOWN while the store still cannot tell.
        Raises ValueError for a batch that is not in doubt.
        """

    def tidy(self) -> None:
        """Housekeeping that nobody waits for (a checkpoint): called between batches. Raises StoreUnavailable."""

    def close(self) -> None:
        """Close. Committed data stays."""


def check_promotion(seen: Fence, epoch: int, token: bytes) -> None:
    """Raise ValueError unless the epoch rises and the token is one."""
    if epoch <= seen.epoch:
        raise ValueError(f"epoch {epoch} is not above {seen.epoch}")
    if len(token) != TOKEN_BYTES:
        raise ValueError(f"a fence token has {TOKEN_BYTES} bytes")


class Reader(Protocol):
    """A read-only connection."""

    def mailboxes(self, keys: list[bytes]) -> dict[bytes, tuple[MailboxNo, Tally]]:
        """The known ones among these mailboxes. Raises StoreUnavailable."""

    def page(self, source: Source, after: int, upto: int, clock_ms: int, limit: int, max_bytes: int) -> Page:
        """Messages with ``after < seq <= upto`` that have not expired, lowest first.

        At most ``limit`` and, beyond the first, at most ``max_bytes`` of them. Raises StoreUnavailable.
        """

    def holds(self, mailbox: MailboxNo, message: str, clock_ms: int) -> bool:
        """Whether a message, by its id, is in a mailbox and has not expired. Raises StoreUnavailable."""

    def waiting(self, source: Source, newest: int) -> Waiting:
        """How much waits in a source (for a reader: without what it has marked). Raises StoreUnavailable."""

    def close(self) -> None:
        """Close."""


class Store(Protocol):
    """A store that can be opened. Opening checks it and raises StoreUnusable with one clear line."""

    durable: bool
    """Whether ``Committed`` survives the process: only then ``stored`` is ever answered."""

    def open_writer(self) -> Writer:
        """The writing connection; makes the store if it does not exist."""

    def open_reader(self) -> Reader:
        """A reading connection; only after ``open_writer`` has succeeded once."""

    def open_lease_rows(self) -> LeaseRows:
        """The row of the relay's lease, on a connection of its own. Raises StoreUnusable, also if it has no place."""
