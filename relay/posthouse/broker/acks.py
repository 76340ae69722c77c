"""Acks and nacks of readers.

An owner's ack ends the message for everybody: before its commit it never reaches the store and the sender
hears ``delivered``; after it the message is deleted. A bucket reader's ack marks that reader only.

Source: docs/protocol.md 0, 2.2 and 2.4.
"""

from __future__ import annotations

import heapq
from typing import assert_never

from posthouse.broker.backlog import Backlog
from posthouse.broker.counters import Counters
from posthouse.broker.delivery import Delivery
from posthouse.broker.directory import Directory
from posthouse.broker.ledger import Ledger
from posthouse.broker.recent import Recent
from posthouse.broker.records import BACKLOG, COMMITTING, DONE, PENDING, STORED, Bucket, Entry, Loan, Session
from posthouse.broker.results import Results
from posthouse.broker.settings import BrokerSettings
from posthouse.exchange import Held
from posthouse.identity import BucketKey
from posthouse.store.interface import Mark
from posthouse.wire.messages import Nack

UNDECRYPTABLE = "its owner could not decrypt it"


class Acks:
    """What readers say of messages they were sent."""

    def __init__(
        self,
        settings: BrokerSettings,
        directory: Directory,
        delivery: Delivery,
        backlog: Backlog,
        ledger: Ledger,
        results: Results,
        recent: Recent,
        counters: Counters,
    ) -> None:
        self.now = 0.0
        self._settings = settings
        self._directory = directory
        self._delivery = delivery
        self._backlog = backlog
        self._ledger = ledger
        self._results = results
        self._recent = recent
        self._counters = counters
        self._busy: list[tuple[float, int, Session, str]] = []
        self._busy_number = 0
        self._gone_busy = 0
        """How many of ``_busy`` are no longer wanted."""

    def ack(self, session: Session, ids: list[str]) -> None:
        """The session has processed these messages. Ids that it was not sent are passed over."""
        out, lent = session.out, session.lent
        if session.put_off:
            self._settled(session, ids)
        if session.before:
            for message in ids:
                held = session.before.pop(message, None)
                if held is not None:
                    self.acked_before(session, held)
        elide, remember = self._results.elide, self._recent.add
        elided = 0
        for message in ids:
            entry = out.pop(message, None)
            if entry is not None:
                if entry.state is PENDING:
                    elided += 1
                    remember(entry.box.name, message)
                    elide(entry)
                else:
                    self._acked(entry)
            if lent:
                loan = lent.pop(message, None)
                while loan is not None:
                    self._mark(session, loan)
                    loan = loan.more
        self._counters.elided += elided
        for subscription in session.subscriptions.values():
            if subscription.mode is BACKLOG:
                self._backlog.pump_session(session)
                break

    def acked_before(self, session: Session, held: Held) -> None:
        """An ack of a message that an earlier broker sent, and that this one has not come across.

        ``held.reader`` names the owner where it is not this session that has acknowledged it. ``held.seq`` 0: the
        earlier broker has deleted it.
        """
        if held.bucket is not None:
            if held.reader is not None:
                self._mark_for(held.seq, held.bucket, held.reader)
            return
        name = held.reader or session.address
        assert name is not None
        self._recent.add(name, held.id)
        box = self._directory.addresses.get(name)
        pending = box.pending.get(held.id) if box is not None else None
        if pending is not None:  # its sender has published it again
            if pending.state is COMMITTING:
                self._delete(pending)
            self._results.leave(pending)
            self._results.delivered(pending)
            self._counters.delivered_late += 1
        if held.seq:
            self._counters.acked_late += 1
            self._ledger.delete_unseen(held.seq)
            self._delivery.attempts.forget(name, held.seq)
        self._results.was_delivered(name, held.id)

    def was_acked(self, place: str, message: str) -> bool:
        """Whether the owner of a mailbox is known to have acknowledged a message lately."""
        return self._recent.has(place, message)

    def _acked(self, entry: Entry) -> None:
        """An ack of a message that is, or is about to be, in the store."""
        state = entry.state
        if state is DONE:
            return
        box = entry.box
        self._counters.acked_late += 1
        self._recent.add(box.name, entry.id)
        pending = box.pending.get(entry.id)
        if pending is not None:
            self._results.leave(pending)
        self._delete(entry)
        if state is COMMITTING:
            self._counters.delivered_late += 1
            self._results.delivered(entry)
            return
        entry.state = DONE
        self._delivery.settle(box, entry.id, entry.seq)
        self._results.was_delivered(box.name, entry.id)
        if pending is not None:
            if pending.state is COMMITTING:
                self._delete(pending)
            self._results.duplicate_of_delivered(pending)

    def _delete(self, entry: Entry) -> None:
        self._ledger.delete(entry)
        self._delivery.attempts.forget(entry.box.name, entry.seq)

    def _mark(self, session: Session, loan: Loan) -> None:
        """Mark it for the bucket by which it came and every other one of the session that covers it."""
        seqs = [loan.seq]
        repeat = self._directory.pending(loan.mailbox, loan.id)
        if repeat is not None and repeat.seq != loan.seq:
            seqs.append(repeat.seq)
        for seq in seqs:
            if loan.reader is not None:
                self._mark_for(seq, loan.bucket, loan.reader)
            self._mark_covering(session, seq, loan.shelf)

    def _mark_covering(self, session: Session, seq: int, shelf: int) -> None:
        for subscription in session.subscriptions.values():
            place, reader = subscription.place, subscription.reader
            if reader is not None and isinstance(place, Bucket) and shelf in place.shelves:
                self._mark_for(seq, place.key, reader)

    def _mark_for(self, seq: int, bucket: BucketKey, reader: str) -> None:
        if self._ledger.mark(Mark(seq, bucket, reader)):
            self._counters.marked += 1
            self._delivery.attempts.forget(reader, seq)

    def nack(self, session: Session, nack: Nack) -> None:
        """The session will not process these messages, or not now."""
        if session.put_off and nack.code != "busy":
            self._settled(session, nack.ids)
        if session.before:
            self._nack_before(session, nack)
        for message in nack.ids:
            if message not in session.out and message not in session.lent:
                continue
            self._counters.nacked[nack.code] += 1
            match nack.code:
                case "busy":
                    self._put_off(session, message, nack.retry_after_ms)
                case "not-mine":
                    self._not_mine(session, message)
                case "undecryptable":
                    entry = session.out.pop(message, None)
                    if entry is not None:
                        self._undecryptable(entry)
                    self._not_mine(session, message)
                case _:
                    assert_never(nack.code)
        self._backlog.pump_session(session)

    def _nack_before(self, session: Session, nack: Nack) -> None:
        """A nack of messages that an earlier broker sent, and that this one has not come across."""
        assert session.before is not None
        for message in nack.ids:
            held = session.before.get(message)
            if held is None:
                continue
            self._counters.nacked[nack.code] += 1
            if nack.code == "busy":
                self._put_off(session, message, nack.retry_after_ms)
                continue
            del session.before[message]
            if held.bucket is not None:
                if held.reader is not None:
                    self._mark_for(held.seq, held.bucket, held.reader)
            elif nack.code == "undecryptable":
                self._ledger.delete_unseen(held.seq)
                self._results.is_gone(session.address, held.id)

    def _put_off(self, session: Session, message: str, retry_after_ms: int | None) -> None:
        if session.put_off is None:
            session.put_off = {}
        elif message in session.put_off:
            return  # the first delay counts
        delay_ms = self._settings.busy_retry_ms if retry_after_ms is None else retry_after_ms
        self._busy_number += 1
        session.put_off[message] = self._busy_number
        heapq.heappush(self._busy, (self.now + delay_ms / 1000, self._busy_number, session, message))

    def _not_mine(self, session: Session, message: str) -> None:
        entry = session.out.pop(message, None)
        if entry is not None and entry.state is not DONE:
            self._mark_covering(session, entry.seq, entry.box.shelf)
        loan = session.lent.pop(message, None)
        while loan is not None:
            self._mark(session, loan)
            loan = loan.more

    def _undecryptable(self, entry: Entry) -> None:
        state = entry.state
        if state is DONE:
            return
        pending = entry.box.pending.get(entry.id)
        if pending is not None:
            if pending.state is COMMITTING:
                self._delete(pending)
            self._results.leave(pending)
            self._results.undeliverable(pending, UNDECRYPTABLE)
        entry.state = DONE
        if state is STORED:
            self._delete(entry)
            self._delivery.settle(entry.box, entry.id, entry.seq)
            self._results.is_gone(entry.box.name, entry.id)

    # --- time

    def tick(self, now: float) -> None:
        """Offer again what was put off until now."""
        while self._busy and self._busy[0][0] <= now:
            _, number, session, message = heapq.heappop(self._busy)
            if session.put_off is not None and session.put_off.get(message) == number:
                del session.put_off[message]
                self._backlog.send_again(session, message)
            else:
                self._gone_busy -= 1

    def forget(self, session: Session) -> None:
        """The session has ended: nothing is offered to it again."""
        if session.put_off:
            self._settled(session, list(session.put_off))
        session.put_off = None

    def _settled(self, session: Session, ids: list[str]) -> None:
        """These need not be offered again."""
        put_off = session.put_off
        assert put_off is not None
        before = len(put_off)
        for message in ids:
            put_off.pop(message, None)
        self._gone_busy += before - len(put_off)
        if self._gone_busy * 2 > len(self._busy):
            self._busy = [
                offer
                for offer in self._busy
                if offer[2].put_off and offer[2].put_off.get(offer[3]) == offer[1]
            ]
            heapq.heapify(self._busy)
            self._gone_busy = 0

    @property
    def next_deadline(self) -> float | None:
        """When ``tick`` has something to do."""
        return self._busy[0][0] if self._busy else None
