"""What the broker holds in memory: messages under way, attached sessions, mailboxes, buckets, subscriptions.

Plain records; the rules are in the modules beside. A mailbox's ``pending`` holds, in ``seq`` order, what is
not committed yet and has no result; what is committed leaves it and lives in the store alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import IntEnum
from typing import Final

from msgspec import Struct

from posthouse.exchange import UNLIMITED_WINDOW, Attend, Effect, Held, Open, Outcomes
from posthouse.identity import Address, BucketKey
from posthouse.store.interface import SHELVES_OF_ADDRESSES, Append, MailboxNo, Tally
from posthouse.store.interface import Mailbox as StoredMailbox
from posthouse.wire.messages import Pending, StatusRequest, Unsubscribe

PUBLISH_OVERHEAD_BYTES: Final = 512
"""What a publish without a result counts beside its ciphertext: about what the broker holds for it."""


class State(IntEnum):
    """Where a message under way is."""

    PENDING = 0
    """In memory, no result yet, not given to the store."""
    COMMITTING = 1
    """In the batch that the store is writing."""
    STORED = 2
    """Committed; in memory only because a reader has it."""
    DONE = 3
    """Acknowledged, rejected or undeliverable: nothing more is to be said about it."""


PENDING: Final = State.PENDING
COMMITTING: Final = State.COMMITTING
STORED: Final = State.STORED
DONE: Final = State.DONE


class Repeat(Struct, gc=False):
    """A publish of a message that is pending already: it shares the outcome."""

    sender: Sender
    ref: int
    size: int
    receipts: list[str] | None


class Entry(Append, gc=False):
    """A message under way: a row of the store to be, and who waits for its result."""

    box: Mailbox
    size: int
    storable: bool
    """Goes to the store if nobody acknowledges it; else it becomes undeliverable at its time limit."""
    sender: Sender | None
    ref: int
    receipts: list[str] | None
    state: State = PENDING
    urgent: bool = False
    """Is in line for the next batch already."""
    repeats: list[Repeat] | None = None
    deliveries: int = 1


class Loan(Struct, gc=False):
    """A message that a bucket reader has: never its own, so only marks come of it."""

    seq: int
    id: str
    mailbox: MailboxNo
    shelf: int
    bucket: BucketKey
    """The bucket by which it came."""
    reader: str | None
    """The name under which that bucket is read."""
    deliveries: int
    more: Loan | None = None
    """Another message with the same ciphertext, from another mailbox of the bucket."""


class Mailbox(StoredMailbox):
    """One mailbox that is in use. ``stored`` is what the store said last."""

    __slots__ = (
        "committed",
        "leaving_bytes",
        "leaving_count",
        "lively",
        "name",
        "pending",
        "pending_bytes",
        "pending_guest",
        "pending_guest_bytes",
        "readers",
        "stored",
    )

    def __init__(
        self, no: MailboxNo, key: bytes, shelf: int, name: str, stored: Tally, committed: int
    ) -> None:
        super().__init__(no, key, shelf)
        self.name = name
        self.stored = stored
        self.committed = committed
        """All messages of it up to this ``seq`` are in the store or gone; all above are in ``pending``."""
        self.pending: dict[str, Entry] = {}
        self.pending_bytes = 0
        self.pending_guest = 0
        self.pending_guest_bytes = 0
        self.leaving_count = 0
        """What of ``stored`` its owner has acknowledged: its deletion is not committed yet."""
        self.leaving_bytes = 0
        self.lively = False
        """Some of ``pending`` may wait for an ack before they go to the store."""
        self.readers: list[Subscription] = []

    @property
    def of_address(self) -> bool:
        """Whether it has owners; else it holds what was published to a bucket."""
        return self.shelf < SHELVES_OF_ADDRESSES

    @property
    def waiting(self) -> Pending:
        """What its owner has not acknowledged, committed or not."""
        return Pending(
            max(0, self.stored.count - self.leaving_count) + len(self.pending),
            max(0, self.stored.bytes - self.leaving_bytes) + self.pending_bytes,
        )

    @property
    def idle(self) -> bool:
        """Nothing but the store's own count is known of it: it can be forgotten."""
        return not self.pending and not self.readers and not self.leaving_count


class Bucket:
    """A bucket that somebody reads. ``home`` holds what was published to the bucket itself."""

    __slots__ = ("committed", "holds", "home", "key", "readers", "shelves")

    def __init__(self, key: BucketKey, prefixes: tuple[int, ...], home: Mailbox, committed: int) -> None:
        self.key = key
        self.home = home
        self.shelves: tuple[int, ...] = (*prefixes, home.shelf)
        self.committed = committed
        """The highest ``seq`` committed to one of its mailboxes; lower ones may still be pending."""
        self.readers: list[Subscription] = []
        self.holds = 0
        """Requests under way that need it to stay."""


class Mode(IntEnum):
    """How a subscription gets its messages."""

    BACKLOG = 0
    """From the store, in pages, from ``position`` on."""
    LIVE = 1
    """As they are published."""
    ENDED = 2
    """It asked for the backlog only and has it, or it was ended."""


BACKLOG: Final = Mode.BACKLOG
LIVE: Final = Mode.LIVE
ENDED: Final = Mode.ENDED


class Catchup:
    """One ``subscribe`` whose ``caught_up`` is due: ``waiting`` subscriptions have backlog up to ``target`` left."""

    __slots__ = ("ref", "target", "waiting")

    def __init__(self, ref: int, target: int, waiting: int) -> None:
        self.ref = ref
        self.target = target
        self.waiting = waiting


class Merge:
    """Several places of one ``subscribe``: their backlogs go out as one, in ``seq`` order, up to ``upto``."""

    __slots__ = ("members", "reading", "upto")

    def __init__(self, members: list[Subscription], upto: int) -> None:
        self.members = members
        self.upto = upto
        self.reading = False


class Subscription:
    """One session reads one mailbox as its owner, or one bucket under a reader name."""

    __slots__ = (
        "catchups",
        "live",
        "merge",
        "mode",
        "place",
        "position",
        "reader",
        "reading",
        "rewind",
        "session",
        "target",
    )

    def __init__(
        self, session: Session, place: Mailbox | Bucket, reader: str | None, live: bool, position: int
    ) -> None:
        self.session = session
        self.place = place
        self.reader = reader
        self.live = live
        self.mode: Mode = BACKLOG
        self.position = position
        """In mode BACKLOG: everything up to this ``seq`` has been sent or needs no sending."""
        self.reading = False
        """A page was asked for and has not been answered."""
        self.rewind: int | None = None
        """Where to go back to, so that a message comes once more."""
        self.target = 0
        """Where the backlog that it asked for ends."""
        self.merge: Merge | None = None
        self.catchups: list[Catchup] | None = None

    @property
    def limit(self) -> int:
        """The highest ``seq`` that it brings."""
        return sys.maxsize if self.live else self.target

    def brings(self, seq: int) -> bool:
        """Whether a message of its place comes, or came, by it."""
        return self.mode is not ENDED and seq <= self.limit


class Sender:
    """The publishing side of a session, made with its first publish: what it is owed, and what it is about to hear."""

    __slots__ = (
        "delivered_ids",
        "delivered_refs",
        "guest",
        "inflight_bytes",
        "receipts",
        "session",
        "stored_ids",
        "stored_refs",
    )

    def __init__(self, session: Session) -> None:
        self.session = session
        self.guest = session.guest
        self.inflight_bytes = 0
        """Of its publishes that have no result."""
        self.receipts: set[tuple[str, str]] = set()
        """Ids and mailboxes of the stored messages for which it wants receipts."""
        self.delivered_refs: list[int] = []
        self.delivered_ids: list[str] = []
        self.stored_refs: list[int] = []
        self.stored_ids: list[str] = []

    def take(self, effects: list[Effect]) -> None:
        """Put the plain results that wait before the other effects."""
        if self.stored_refs:
            effects.insert(0, Outcomes("stored", self.stored_refs, self.stored_ids))
            self.stored_refs, self.stored_ids = [], []
        if self.delivered_refs:
            effects.insert(0, Outcomes("delivered", self.delivered_refs, self.delivered_ids))
            self.delivered_refs, self.delivered_ids = [], []


class Session:
    """One attached session: what it was sent and has not acknowledged, and the effects on their way to it."""

    __slots__ = (
        "address",
        "before",
        "catchups",
        "closed",
        "credit",
        "dirty",
        "draining",
        "effects",
        "guest",
        "lent",
        "number",
        "opening",
        "out",
        "own",
        "port",
        "put_off",
        "queue",
        "request",
        "sender",
        "subscriptions",
        "superseded",
        "unlimited",
        "window",
    )

    def __init__(self, port: Port, number: int, opened: Open) -> None:
        self.port = port
        self.number = number
        self.address: Address | None = opened.address
        self.guest = opened.guest
        self.unlimited = opened.window == UNLIMITED_WINDOW
        self.window = sys.maxsize if self.unlimited else opened.window
        self.credit = opened.credit
        self.closed = False
        self.out: dict[str, Entry] = {}
        """Messages of its own mailbox that it has not acknowledged, by id."""
        self.lent: dict[str, Loan] = {}
        """Messages of buckets that it has not acknowledged, by id."""
        self.before: dict[str, Held] | None = None
        """What it was sent by an earlier broker and this one has not come across yet, by id."""
        self.catchups: dict[int, Catchup] | None = None
        """Requests answered by an earlier broker that still wait for their ``caught_up``, by ref."""
        self.own: Subscription | None = None
        """Its subscription as the owner of its mailbox."""
        self.subscriptions: dict[str, Subscription] = {}
        """All its subscriptions, by the name of mailbox or bucket."""
        self.put_off: dict[str, int] | None = None
        """Ids that it is offered again after a while, because it was busy, and the number of that offer."""
        self.superseded = False
        self.sender: Sender | None = None
        self.opening = False
        """``request`` is waiting for the store; the next ones wait in ``queue``."""
        self.request: Attend | Unsubscribe | StatusRequest | None = None
        self.draining = False
        """Its queue is being worked off."""
        self.queue: list[Attend | Unsubscribe | StatusRequest] | None = None
        self.effects: list[Effect] = []
        self.dirty = False

    def touch(self) -> None:
        """Effects of this session wait: tell its port."""
        if not self.dirty:
            self.dirty = True
            port = self.port
            port.dirty.append(self)
            if not port.awake:
                port.awake = True
                port.wake()

    def emit(self, effect: Effect) -> None:
        """Add an effect, in order."""
        self.effects.append(effect)
        if not self.dirty:
            self.touch()

    @property
    def room(self) -> int:
        """Messages that may be sent to it now."""
        if self.credit <= 0:
            return 0
        return self.window - len(self.out) - len(self.lent) - len(self.before or ())

    @property
    def awaits_result(self) -> bool:
        """Whether one of its publishes has no result yet."""
        return self.sender is not None and self.sender.inflight_bytes > 0

    def take(self) -> list[Effect]:
        """All effects that wait, results first."""
        effects = self.effects
        self.dirty = False
        self.effects = []
        if self.sender is not None:
            self.sender.take(effects)
        return effects


class Port:
    """Where a group of sessions is attached: the front of this process or, over a link, of another member.

    ``wake`` is called once when effects begin to wait; ``Broker.take_effects`` collects them and re-arms it.
    """

    __slots__ = ("awake", "confirmed", "dirty", "handled", "sessions", "wake")

    def __init__(self, wake: Callable[[], None]) -> None:
        self.wake = wake
        self.awake = False
        self.handled = 0
        """Batches of commands that the broker has taken from it."""
        self.confirmed = 0
        """So many of them have no ack any more that the loss of the broker would undo."""
        self.sessions: dict[int, Session] = {}
        self.dirty: list[Session] = []
