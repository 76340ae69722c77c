"""Handing messages to readers: live, or from the store in pages, never beyond a reader's room.

A subscription is either LIVE, then every message of its place goes to it when it is published, or in BACKLOG,
then it reads the store from ``position`` on. It changes from BACKLOG to LIVE within one turn of the broker: when
everything committed has been sent it is given what is still pending in memory, and from then on is told of
what comes. It falls back when there is no room. Nothing is missed, because a mailbox commits in the order
of ``seq``; a bucket's mailboxes do not commit in one order, so a bucket is read only below the
lowest ``seq`` that is still pending anywhere (``Delivery.floor``).

Source: docs/protocol.md 2.2, 2.4 and 2.5; docs/architecture.md, "Subscribe".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial

from posthouse.broker.attempts import Attempts
from posthouse.broker.attendance import source_of
from posthouse.broker.counters import Counters
from posthouse.broker.departures import Departures
from posthouse.broker.directory import Directory, Read
from posthouse.broker.records import (
    BACKLOG,
    DONE,
    ENDED,
    LIVE,
    STORED,
    Bucket,
    Entry,
    Loan,
    Mailbox,
    Session,
    Subscription,
)
from posthouse.broker.settings import BrokerSettings
from posthouse.store.interface import Mark, Page, Source, StoredMessage
from posthouse.wire.messages import CaughtUp, Message

RETRY_READ_MS = 500


class Delivery:
    """All sending of messages to sessions."""

    def __init__(
        self,
        settings: BrokerSettings,
        directory: Directory,
        reads: list[Read],
        counters: Counters,
        uncommitted: Callable[[], Iterable[Entry]],
    ) -> None:
        self.now_ms = 0
        self.last_seq = 0
        self.departures = Departures()
        self.attempts = Attempts(settings.remembered_attempts)
        self._settings = settings
        self._directory = directory
        self._buckets = directory.buckets
        self._reads = reads
        self._counters = counters
        self._uncommitted = uncommitted
        self._below_floor: set[Subscription] = set()
        self._patient: set[Subscription] = set()
        self._failed: deque[tuple[int, Subscription]] = deque()

    # --- live

    def offer(self, entry: Entry) -> bool:
        """Send a new message to everybody who reads its mailbox live; whether an owner got it."""
        box = entry.box
        got = False
        for subscription in box.readers:
            if subscription.mode is not LIVE:
                continue
            session = subscription.session
            out = session.out
            if entry.id in out and out[entry.id].state is not DONE:
                got = True  # a repeat of a stored message that this reader has not acknowledged yet
            elif session.credit > 0 and len(out) + len(session.lent) < session.window:
                self._send(session, entry, entry.ciphertext)
                got = True
            else:
                _fall_back(subscription, entry.seq - 1)
        if self._buckets:
            for bucket in self._directory.watchers(box):
                self._offer_bucket(bucket, entry)
        return got

    def _send(self, session: Session, entry: Entry, ciphertext: bytes) -> None:
        session.out[entry.id] = entry
        session.credit -= entry.size
        self._counters.sent += 1
        session.effects.append(
            Message(
                entry.id,
                entry.seq,
                ciphertext,
                entry.received_at,
                entry.expires_at,
                entry.deliveries,
                entry.box.name,
            )
        )
        if not session.dirty:
            session.touch()

    def _offer_bucket(self, bucket: Bucket, entry: Entry) -> None:
        for subscription in bucket.readers:
            if subscription.mode is not LIVE or _owns(subscription.session, entry.box):
                continue
            session = subscription.session
            if session.room > 0:
                self._lend(subscription, entry, entry.box.shelf, 1)
            else:
                _fall_back(subscription, entry.seq - 1)

    def _lend(
        self, subscription: Subscription, message: Entry | StoredMessage, shelf: int, deliveries: int
    ) -> None:
        session = subscription.session
        held = session.lent.get(message.id)
        loan = held
        while loan is not None:
            if loan.seq == message.seq:
                return  # it came by another bucket of this session already
            loan = loan.more
        session.lent[message.id] = Loan(message.seq, message.id, shelf, deliveries, held)
        if session.unlimited and len(session.lent) > self._settings.remembered_ids:
            session.lent.pop(next(iter(session.lent)))
        self._tell(subscription, message, deliveries)

    def _tell(self, subscription: Subscription, message: Entry | StoredMessage, deliveries: int) -> None:
        session = subscription.session
        session.credit -= len(message.ciphertext)
        self._counters.sent += 1
        session.emit(
            Message(
                message.id,
                message.seq,
                message.ciphertext,
                message.received_at,
                message.expires_at,
                deliveries,
                None,
                subscription.place.key if isinstance(subscription.place, Bucket) else None,
            )
        )

    # --- once more

    def send_again(self, session: Session, message: str) -> None:
        """Offer a message again that the session put off with ``busy`` and still has not acknowledged.

        What is stored is not kept in memory for this: it is read again.
        """
        entry = session.out.get(message)
        if entry is not None:
            if entry.state is STORED:
                self._read_again(source_of(entry.box, None), entry.seq, partial(self._again, session, entry))
            elif entry.state is not DONE:
                entry.deliveries += 1
                self._send(session, entry, entry.ciphertext)
        loan = session.lent.get(message)
        while loan is not None:
            for subscription in session.subscriptions.values():
                place = subscription.place
                if isinstance(place, Bucket) and loan.shelf in place.shelves:
                    again = partial(self._lend_again, subscription, loan)
                    self._read_again(source_of(place, subscription.reader), loan.seq, again)
                    break
            loan = loan.more

    def _read_again(self, source: Source, seq: int, again: Callable[[StoredMessage], None]) -> None:
        now_ms = self.now_ms

        def answered(answer: object) -> None:
            if isinstance(answer, Page):
                for row in answer.messages:
                    again(row)

        self._reads.append(Read(lambda reader: reader.page(source, seq - 1, seq, now_ms, 1, 0), answered))

    def _again(self, session: Session, entry: Entry, row: StoredMessage) -> None:
        if session.out.get(entry.id) is entry and entry.state is not DONE:
            entry.deliveries += 1
            self._send(session, entry, row.ciphertext)

    def _lend_again(self, subscription: Subscription, loan: Loan, row: StoredMessage) -> None:
        session = subscription.session
        held = session.lent.get(loan.id)
        while held is not None and held is not loan:
            held = held.more
        if held is None:
            return  # acknowledged while the store was asked
        loan.deliveries += 1
        self._tell(subscription, row, loan.deliveries)

    # --- backlog

    def pump(self, subscription: Subscription, patient: bool = True) -> None:
        """Go on with the backlog of a subscription as far as there is room.

        ``patient``: rather than read a small page now, wait one tick for acks to make room for a larger one.
        """
        if subscription.mode is not BACKLOG or subscription.reading:
            return
        session = subscription.session
        room = session.room
        if room <= 0:
            return
        place = subscription.place
        upto = place.committed
        if not subscription.live and upto > subscription.target:
            upto = subscription.target  # what came later is not part of the backlog that it asked for
        if upto <= subscription.position:
            self._catch_up(subscription)
            return
        held = len(session.out) + len(session.lent)
        if patient and held and room < min(self._settings.page_rows, session.window) // 2:
            self._patient.add(subscription)
            return
        if isinstance(place, Bucket):
            upto = min(upto, self.floor())
            if upto <= subscription.position:
                self._below_floor.add(subscription)
                return
        self._read(subscription, upto, min(room, self._settings.page_rows))

    def pump_session(self, session: Session) -> None:
        """Go on with every backlog of a session: it has room again."""
        for subscription in session.subscriptions.values():
            if subscription.mode is BACKLOG:
                self.pump(subscription)

    def floor(self) -> int:
        """Every message up to this ``seq`` is committed or gone."""
        return min((entry.seq for entry in self._uncommitted()), default=self.last_seq + 1) - 1

    def resume(self, now_ms: int) -> None:
        """Something was committed or a tick has passed: whoever waited for that goes on."""
        if self._below_floor:
            waiting, self._below_floor = self._below_floor, set()
            for subscription in waiting:
                self.pump(subscription)
        while self._failed and self._failed[0][0] <= now_ms:
            subscription = self._failed.popleft()[1]
            subscription.reading = False
            self.pump(subscription)

    def tick(self, now_ms: int) -> None:
        """A tick has passed."""
        self.resume(now_ms)
        if self._patient:
            waiting, self._patient = self._patient, set()
            for subscription in waiting:
                self.pump(subscription, patient=False)

    @property
    def waiting(self) -> bool:
        """Whether a tick is due for somebody's backlog."""
        return bool(self._below_floor or self._patient or self._failed)

    def _read(self, subscription: Subscription, upto: int, limit: int) -> None:
        place = subscription.place
        source = source_of(place, subscription.reader)
        after, now_ms = subscription.position, self.now_ms
        size = min(self._settings.page_bytes, subscription.session.credit)
        number = self.departures.ask()
        subscription.reading = True
        self._reads.append(
            Read(
                lambda reader: reader.page(source, after, upto, now_ms, limit, size),
                lambda answer: self._answered(number, subscription, upto, answer),
            )
        )

    def _answered(self, number: int, subscription: Subscription, upto: int, answer: object) -> None:
        self._page(subscription, upto, answer)
        self.departures.answer(number)

    def _page(self, subscription: Subscription, upto: int, answer: object) -> None:
        if subscription.mode is not BACKLOG:
            subscription.reading = False
            return
        if not isinstance(answer, Page):
            self._failed.append((self.now_ms + RETRY_READ_MS, subscription))
            return
        subscription.reading = False
        session = subscription.session
        leaving = self.departures.seqs
        for row in answer.messages:
            if session.room <= 0:
                return  # acks or credit will bring the rest
            if row.seq not in leaving:
                if isinstance(subscription.place, Bucket):
                    self._lend_stored(subscription, row)
                else:
                    self._send_stored(session, subscription.place, row)
            subscription.position = row.seq
        if answer.complete:
            subscription.position = upto
        self.note_caught_up(subscription)
        self.pump(subscription)

    def _send_stored(self, session: Session, box: Mailbox, row: StoredMessage) -> None:
        held = session.out.get(row.id)
        if held is not None and held.seq == row.seq and held.state is not DONE:
            return  # it went out live, or under a subscription before this one
        self._send(
            session,
            Entry(
                row.seq,
                box,
                row.id,
                b"",
                row.received_at,
                row.expires_at,
                False,
                box,
                len(row.ciphertext),
                True,
                None,
                0,
                None,
                STORED,
                deliveries=self.attempts.of(box.name, row.seq) + 1,
            ),
            row.ciphertext,
        )

    def _lend_stored(self, subscription: Subscription, row: StoredMessage) -> None:
        session, place = subscription.session, subscription.place
        assert isinstance(place, Bucket)
        own = session.own
        if own is not None and own.mode is not ENDED and own.place.no == row.mailbox:  # type: ignore[union-attr]
            return  # it comes by address
        reader = subscription.reader
        if reader is not None and Mark(row.seq, place.key, reader) in self.departures.marks:
            return
        deliveries = self.attempts.of(reader, row.seq) + 1 if reader is not None else 1
        self._lend(subscription, row, row.shelf, deliveries)

    def _catch_up(self, subscription: Subscription) -> None:
        """All that is committed has been sent: now what is pending in memory, then live."""
        session, place = subscription.session, subscription.place
        for entry in self._pending_of(place, subscription.position):
            if not subscription.live and entry.seq > subscription.target:
                break
            if session.room <= 0:
                return
            if isinstance(place, Bucket):
                if not _owns(session, entry.box):
                    self._lend(subscription, entry, entry.box.shelf, 1)
            else:
                held = session.out.get(entry.id)
                if held is None or held.state is DONE:
                    self._send(session, entry, entry.ciphertext)
            subscription.position = entry.seq
        subscription.mode = LIVE if subscription.live else ENDED
        self.note_caught_up(subscription)

    def _pending_of(self, place: Mailbox | Bucket, after: int) -> list[Entry]:
        if isinstance(place, Mailbox):
            return [entry for entry in place.pending.values() if entry.seq > after]
        shelves = place.shelves
        found = {
            entry.seq: entry
            for entry in self._uncommitted()
            if entry.seq > after and entry.box.shelf in shelves
        }
        return [found[seq] for seq in sorted(found)]

    def note_caught_up(self, subscription: Subscription) -> None:
        """Say ``caught_up`` if this was the last subscription that its request waits for."""
        if subscription.mode is BACKLOG and subscription.position < subscription.target:
            return
        catchups, subscription.catchups = subscription.catchups, ()
        for catchup in catchups:
            catchup.waiting -= 1
            if not catchup.waiting:
                subscription.session.emit(CaughtUp(catchup.ref))


def _fall_back(subscription: Subscription, position: int) -> None:
    subscription.mode = BACKLOG
    subscription.position = position


def _owns(session: Session, box: Mailbox) -> bool:
    """Whether the session gets this mailbox by address, so that its bucket must not bring it a second time."""
    own = session.own
    return own is not None and own.place is box and own.mode is not ENDED
