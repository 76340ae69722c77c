"""Acks and nacks of readers.

An owner's ack ends the message for everybody: before its commit it never reaches the store and the sender
hears ``delivered``; after it the message is deleted. A bucket reader's ack marks that reader only.

Source: docs/protocol.md 0, 2.2 and 2.4.
"""

from __future__ import annotations

import heapq
from typing import assert_never

from posthouse.broker.counters import Counters
from posthouse.broker.delivery import Delivery
from posthouse.broker.ledger import Ledger
from posthouse.broker.recent import Recent
from posthouse.broker.records import COMMITTING, DONE, PENDING, STORED, Bucket, Entry, Loan, Session
from posthouse.broker.results import Results
from posthouse.broker.settings import BrokerSettings
from posthouse.store.interface import Gone, Mark
from posthouse.wire.messages import Nack

UNDECRYPTABLE = "its owner could not decrypt it"


class Acks:
    """What readers say of messages they were sent."""

    def __init__(
        self,
        settings: BrokerSettings,
        delivery: Delivery,
        ledger: Ledger,
        results: Results,
        recent: Recent,
        counters: Counters,
    ) -> None:
        self.now = 0.0
        self._settings = settings
        self._delivery = delivery
        self._departures = delivery.departures
        self._ledger = ledger
        self._results = results
        self._recent = recent
        self._counters = counters
        self._busy: list[tuple[float, int, Session, str]] = []
        self._busy_number = 0

    def ack(self, session: Session, ids: list[str]) -> None:
        """The session has processed these messages. Ids that it was not sent are passed over."""
        out, lent = session.out, session.lent
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
        self._counters.acked += elided
        self._delivery.pump_session(session)

    def _acked(self, entry: Entry) -> None:
        """An ack of a message that is, or is about to be, in the store."""
        state = entry.state
        if state is DONE:
            return
        box = entry.box
        self._counters.acked += 1
        self._recent.add(box.name, entry.id)
        pending = box.pending.get(entry.id)
        if pending is not None:
            self._results.leave(pending)
        if state is COMMITTING:
            self._delete(entry)
            self._results.delivered(entry)
            return
        entry.state = DONE
        for reader in box.readers:  # other sessions of the key that were sent it from the store
            other = reader.session.out.get(entry.id)
            if other is not None and other.seq == entry.seq:
                other.state = DONE
        self._delete(entry)
        self._results.was_delivered(entry.seq)
        if pending is not None:
            if pending.state is COMMITTING:
                self._delete(pending)
            self._results.duplicate_of_delivered(pending)

    def _delete(self, entry: Entry) -> None:
        if entry.seq not in self._departures.seqs:
            self._departures.seqs.add(entry.seq)
            self._ledger.delete(entry)
        self._delivery.attempts.forget(entry.box.name, entry.seq)

    def _mark(self, session: Session, loan: Loan) -> None:
        """Mark it for every bucket of the session that covers it: it was sent once for all of them."""
        for subscription in session.subscriptions.values():
            place = subscription.place
            if not isinstance(place, Bucket) or loan.shelf not in place.shelves:
                continue
            reader = subscription.reader
            if reader is None:
                continue
            self._counters.marked += 1
            mark = Mark(loan.seq, place.key, reader)
            if mark not in self._departures.marks:
                self._departures.marks.add(mark)
                self._ledger.marks.append(mark)
            self._delivery.attempts.forget(reader, loan.seq)

    def nack(self, session: Session, nack: Nack) -> None:
        """The session will not process these messages, or not now."""
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
        self._delivery.pump_session(session)

    def _put_off(self, session: Session, message: str, retry_after_ms: int | None) -> None:
        delay_ms = self._settings.busy_retry_ms if retry_after_ms is None else retry_after_ms
        self._busy_number += 1
        heapq.heappush(self._busy, (self.now + delay_ms / 1000, self._busy_number, session, message))

    def _not_mine(self, session: Session, message: str) -> None:
        session.out.pop(message, None)
        loan = session.lent.pop(message, None)
        while loan is not None:
            self._mark(session, loan)
            loan = loan.more

    def _undecryptable(self, entry: Entry) -> None:
        if entry.state is DONE:
            return
        if entry.state is PENDING:
            self._results.leave(entry)
            self._results.undeliverable(entry, UNDECRYPTABLE)
            return
        state, entry.state = entry.state, DONE
        self._delete(entry)
        if state is COMMITTING:
            self._results.leave(entry)
            self._results.undeliverable(entry, UNDECRYPTABLE)
        elif state is STORED:
            self._results.is_gone(Gone(entry.seq, entry.id, entry.box.no))

    def tick(self, now: float) -> None:
        """Offer again what was put off until now."""
        while self._busy and self._busy[0][0] <= now:
            _, _, session, message = heapq.heappop(self._busy)
            if not session.closed:
                self._delivery.send_again(session, message)

    @property
    def next_deadline(self) -> float | None:
        """When ``tick`` has something to do."""
        return self._busy[0][0] if self._busy else None
