"""The backlog of readers: from the store in pages, then what is pending in memory, then live.

A subscription is either LIVE, then every message of its place goes to it when it is published, or in BACKLOG,
then it reads the store from ``position`` on. It changes from BACKLOG to LIVE within one turn of the broker: when
everything committed has been sent it is given what is still pending in memory, and from then on is told of
what comes. It falls back when there is no room. Nothing is missed, because a mailbox commits in the order
of ``seq``; a bucket's mailboxes do not commit in one order, so a bucket is read only below the
lowest ``seq`` that is still pending anywhere (``Backlog.floor``). Messages that are never committed (mode
``live``) stay in memory below what is; they are put in where their ``seq`` belongs.

Several places named by one ``subscribe`` are read as one (``Merge``), until each has all that was there then.

Source: docs/protocol.md 2.2 and 2.5; docs/architecture.md, "Subscribe".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from heapq import merge as merged
from operator import attrgetter, itemgetter

from msgspec import structs

from posthouse.broker.attendance import source_of
from posthouse.broker.delivery import Delivery
from posthouse.broker.directory import Directory, Read
from posthouse.broker.ledger import Ledger
from posthouse.broker.records import (
    BACKLOG,
    DONE,
    ENDED,
    LIVE,
    Bucket,
    Entry,
    Loan,
    Mailbox,
    Merge,
    Session,
    Subscription,
)
from posthouse.broker.settings import BrokerSettings
from posthouse.store.interface import Page, Source, StoredMessage
from posthouse.wire.messages import CaughtUp

RETRY_READ_S = 0.5
FEW_UNCOMMITTED = 1000
"""So many messages are looked through at any time to find the lowest; more only once a commit or tick."""
BY_SEQ = attrgetter("seq")
FIRST = itemgetter(0)


class Backlog:
    """All subscriptions that are not live."""

    def __init__(
        self,
        settings: BrokerSettings,
        directory: Directory,
        delivery: Delivery,
        ledger: Ledger,
        reads: list[Read],
    ) -> None:
        self.now = 0.0
        self.now_ms = 0
        self._settings = settings
        self._directory = directory
        self._delivery = delivery
        self._ledger = ledger
        self._reads = reads
        self._floor = 0
        self._floor_fresh = False
        self._below_floor: set[Subscription] = set()
        self._patient: set[Subscription] = set()
        self._failed: deque[tuple[float, Subscription | Merge]] = deque()

    # --- going on

    def pump(self, subscription: Subscription, patient: bool = True) -> None:
        """Go on with the backlog of a subscription as far as there is room.

        ``patient``: rather than read a small page now, wait one tick for acks to make room for a larger one.
        """
        if subscription.mode is not BACKLOG or subscription.reading:
            return
        if subscription.merge is not None:
            self._pump_merge(subscription.merge, patient)
            return
        _rewind(subscription)
        place = subscription.place
        upto = min(place.committed, subscription.limit)
        if upto <= subscription.position:
            self._catch_up(subscription)
            return
        limit = self._page_rows(subscription, patient)
        if not limit:
            return
        if isinstance(place, Bucket):
            upto = min(upto, self.floor(upto))
            if upto <= subscription.position:
                self._below_floor.add(subscription)
                return
        self._read(subscription, upto, limit)

    def pump_session(self, session: Session) -> None:
        """Go on with every backlog of a session: it has room again."""
        for subscription in session.subscriptions.values():
            if subscription.mode is BACKLOG:
                self.pump(subscription)

    def _page_rows(self, subscription: Subscription, patient: bool) -> int:
        session = subscription.session
        room = session.room
        if room <= 0:
            return 0  # acks or credit will bring the rest
        held = len(session.out) + len(session.lent)
        if patient and held and room < min(self._settings.page_rows, session.window) // 2:
            self._patient.add(subscription)
            return 0
        return min(room, self._settings.page_rows)

    def floor(self, wanted: int) -> int:
        """Every message up to this ``seq`` is committed or gone.

        It may be too low: once it reaches ``wanted``, and until a commit or tick while many messages wait.
        """
        if self._floor < wanted and (not self._floor_fresh or self._ledger.waiting <= FEW_UNCOMMITTED):
            uncommitted = self._ledger.uncommitted()
            self._floor = min((entry.seq for entry in uncommitted), default=self._delivery.last_seq + 1) - 1
            self._floor_fresh = True
        return self._floor

    def resume(self) -> None:
        """Something was committed or a tick has passed: whoever waited for that goes on."""
        self._floor_fresh = False
        if self._below_floor:
            waiting, self._below_floor = self._below_floor, set()
            for subscription in waiting:
                self.pump(subscription)
        while self._failed and self._failed[0][0] <= self.now:
            reading = self._failed.popleft()[1]
            reading.reading = False
            if isinstance(reading, Merge):
                self._pump_merge(reading, patient=False)
            else:
                self.pump(reading)

    def tick(self) -> None:
        """A tick has passed."""
        self.resume()
        if self._patient:
            waiting, self._patient = self._patient, set()
            for subscription in waiting:
                self.pump(subscription, patient=False)

    @property
    def waiting(self) -> bool:
        """Whether a tick is due for somebody's backlog."""
        return bool(self._below_floor or self._patient or self._failed)

    # --- pages of one place

    def _read(self, subscription: Subscription, upto: int, limit: int) -> None:
        source = source_of(subscription.place, subscription.reader)
        after, now_ms = subscription.position, self.now_ms
        size = min(self._settings.page_bytes, subscription.session.credit)
        number = self._delivery.departures.ask()
        subscription.reading = True

        def answered(answer: object) -> None:
            if isinstance(answer, Page):
                subscription.reading = False
                if subscription.mode is BACKLOG:
                    self._page(subscription, upto, answer)
            else:
                self._failed.append((self.now + RETRY_READ_S, subscription))
            self._delivery.departures.answer(number)

        self._reads.append(
            Read(lambda reader: reader.page(source, after, upto, now_ms, limit, size), answered)
        )

    def _page(self, subscription: Subscription, upto: int, page: Page) -> None:
        rows = page.messages
        if not page.complete and rows:
            upto = rows[-1].seq
        give = self._delivery.give
        for message in _with_early(subscription, rows, upto):
            if not give(subscription, message):
                return
            subscription.position = message.seq
        subscription.position = max(subscription.position, upto)
        self.note_caught_up(subscription)
        self.pump(subscription)

    def _catch_up(self, subscription: Subscription) -> None:
        """All that is committed has been sent: now what is pending in memory, then live."""
        for entry in self._pending_of(subscription.place, subscription.position):
            if entry.seq > subscription.limit:
                break
            if not self._delivery.give(subscription, entry):
                return
            subscription.position = entry.seq
        subscription.mode = LIVE if subscription.live else ENDED
        self.note_caught_up(subscription)

    def _pending_of(self, place: Mailbox | Bucket, after: int) -> list[Entry]:
        if isinstance(place, Mailbox):
            return [entry for entry in place.pending.values() if entry.seq > after]
        shelves = place.shelves
        found = {
            entry.seq: entry
            for entry in self._ledger.uncommitted()
            if entry.seq > after and entry.box.shelf in shelves
        }
        return [found[seq] for seq in sorted(found)]

    # --- pages of several places

    def join(self, subscriptions: Iterable[Subscription]) -> None:
        """These begin together: what is in the store for them goes out in one order."""
        members = [s for s in subscriptions if s.mode is BACKLOG and not s.reading and s.merge is None]
        if len(members) > 1:
            last_seq = self._delivery.last_seq
            together = Merge(members, self.floor(last_seq))
            for member in members:
                member.merge = together

    def _pump_merge(self, merge: Merge, patient: bool) -> None:
        if merge.reading:
            return
        members = [member for member in merge.members if member.mode is BACKLOG]
        for member in members:
            _rewind(member)
        behind = [m for m in members if m.position < min(merge.upto, m.place.committed, m.limit)]
        if not behind:
            for member in members:
                member.merge = None
            for member in members:
                self.pump(member)
            return
        limit = self._page_rows(behind[0], patient)
        if limit:
            self._read_merge(merge, behind, limit)

    def _read_merge(self, merge: Merge, members: list[Subscription], limit: int) -> None:
        asked = [(source_of(member.place, member.reader), member.position) for member in members]
        upto, now_ms = merge.upto, self.now_ms
        limit = max(1, limit // len(members))
        size = min(self._settings.page_bytes, members[0].session.credit) // len(members)
        number = self._delivery.departures.ask()
        merge.reading = True

        def answered(answer: object) -> None:
            if isinstance(answer, list):
                merge.reading = False
                self._pages(merge, members, answer)
            else:
                self._failed.append((self.now + RETRY_READ_S, merge))
            self._delivery.departures.answer(number)

        self._reads.append(
            Read(
                lambda reader: [
                    reader.page(source, after, upto, now_ms, limit, size) for source, after in asked
                ],
                answered,
            )
        )

    def _pages(self, merge: Merge, members: list[Subscription], pages: list[Page]) -> None:
        upto = min(
            (page.messages[-1].seq for page in pages if not page.complete and page.messages),
            default=merge.upto,
        )
        columns = [
            [(message.seq, member, message) for message in _with_early(member, page.messages, upto)]
            for member, page in zip(members, pages, strict=True)
            if member.mode is BACKLOG
        ]
        done = upto
        for seq, member, message in merged(*columns, key=FIRST):
            if not self._delivery.give(member, message):
                done = seq - 1
                break
        for member in members:
            member.position = max(member.position, done)
            self.note_caught_up(member)
        if done == upto:
            self._pump_merge(merge, patient=True)

    # --- once more

    def go_back(self, session: Session, position: int) -> None:
        """Read what is behind ``position`` once more for all that a session reads, and send what it does not have."""
        for subscription in session.subscriptions.values():
            if subscription.mode is not ENDED:
                before = subscription.rewind
                subscription.rewind = position if before is None else min(before, position)
                subscription.mode = BACKLOG
        self.pump_session(session)

    def send_again(self, session: Session, message: str) -> None:
        """Offer a message again that the session put off and still holds. What is stored is read again."""
        before = session.before.get(message) if session.before else None
        if before is not None and session.before is not None:
            session.before[message] = structs.replace(before, again=True)
            self.go_back(session, before.seq - 1)
        entry = session.out.get(message)
        if entry is not None and entry.state is not DONE:
            if entry.ciphertext:
                self._delivery.send_again(session, entry, entry.ciphertext)
            else:
                source = Source((entry.box.shelf,))
                self._read_again(source, entry.seq, partial(self._again, session, entry))
        loan = session.lent.get(message)
        while loan is not None:
            pending = self._directory.pending(loan.mailbox, loan.id)
            if pending is not None:
                self._lend_again(session, loan, pending)
            else:
                source = Source((loan.shelf,), None, loan.bucket, loan.reader)
                self._read_again(source, loan.seq, partial(self._lend_again, session, loan))
            loan = loan.more

    def _read_again(self, source: Source, seq: int, again: Callable[[StoredMessage], None]) -> None:
        now_ms = self.now_ms
        number = self._delivery.departures.ask()

        def answered(answer: object) -> None:
            for message in answer.messages if isinstance(answer, Page) else ():
                if message.seq not in self._delivery.departures.seqs:
                    again(message)
            self._delivery.departures.answer(number)

        self._reads.append(Read(lambda reader: reader.page(source, seq - 1, seq, now_ms, 1, 0), answered))

    def _again(self, session: Session, entry: Entry, row: StoredMessage) -> None:
        if session.out.get(entry.id) is entry and entry.state is not DONE:
            self._delivery.send_again(session, entry, row.ciphertext)

    def _lend_again(self, session: Session, loan: Loan, message: Entry | StoredMessage) -> None:
        held = session.lent.get(loan.id)
        while held is not None and held is not loan:
            held = held.more
        if held is not None and not self._delivery.is_marked(message.seq, loan.bucket, loan.reader):
            self._delivery.lend_again(session, loan, message)

    # --- caught up

    def note_caught_up(self, subscription: Subscription) -> None:
        """Say ``caught_up`` where this was the last subscription that a request waits for."""
        if not subscription.catchups:
            return
        behind = subscription.mode is BACKLOG
        left = []
        for catchup in subscription.catchups:
            if behind and subscription.position < catchup.target:
                left.append(catchup)
                continue
            catchup.waiting -= 1
            if not catchup.waiting:
                subscription.session.emit(CaughtUp(catchup.ref))
        subscription.catchups = left or None


def _rewind(subscription: Subscription) -> None:
    if subscription.rewind is not None:
        subscription.position = min(subscription.position, subscription.rewind)
        subscription.rewind = None


def _with_early(
    subscription: Subscription, rows: list[StoredMessage], upto: int
) -> Iterable[Entry | StoredMessage]:
    """The rows up to a ``seq``, and with them the messages in memory that are older than what is committed."""
    if rows and rows[-1].seq > upto:
        rows = [row for row in rows if row.seq <= upto]
    place = subscription.place
    if isinstance(place, Bucket) or not place.pending:
        return rows
    early = []
    for entry in place.pending.values():
        if entry.seq > upto:
            break
        if entry.seq > subscription.position:
            early.append(entry)
    return merged(rows, early, key=BY_SEQ) if early else rows
