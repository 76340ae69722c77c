"""Sessions come and go; they subscribe, unsubscribe and ask what waits.

Requests of one session that need the store are answered in the order in which they were made: while one is
open, the next ones wait in the session's queue.

Source: docs/protocol.md 2.2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

from posthouse.broker.attendance import Attendance, Found, disjoint, total
from posthouse.broker.delivery import Delivery
from posthouse.broker.directory import Directory, Read
from posthouse.broker.ledger import Ledger
from posthouse.broker.records import (
    BACKLOG,
    ENDED,
    LIVE,
    Bucket,
    Catchup,
    Mailbox,
    Port,
    Session,
    Subscription,
)
from posthouse.broker.results import Results
from posthouse.broker.settings import BrokerSettings
from posthouse.exchange import Attend, Open, Superseded
from posthouse.wire.codes import RETRYABLE, Code
from posthouse.wire.messages import Error, Pending, Status, StatusRequest, Subscribed, Unsubscribe

MAX_QUEUED_REQUESTS = 256
STORE_SILENT = "the store does not answer at the moment"
Request = Attend | Unsubscribe | StatusRequest


class Attending:
    """Sessions and their subscriptions."""

    def __init__(
        self,
        settings: BrokerSettings,
        directory: Directory,
        delivery: Delivery,
        ledger: Ledger,
        results: Results,
        reads: list[Read],
        epoch: int,
    ) -> None:
        self._settings = settings
        self._directory = directory
        self._delivery = delivery
        self._ledger = ledger
        self._results = results
        self._reads = reads
        self._epoch = epoch
        self._of_key: dict[str, list[Session]] = {}

    # --- sessions

    def open(self, port: Port, number: int, opened: Open) -> None:
        """A session begins; of too many with one key the oldest has to end."""
        session = Session(port, number, opened)
        port.sessions[number] = session
        if opened.address is None:
            return
        siblings = self._of_key.setdefault(opened.address, [])
        siblings.append(session)
        if len(siblings) > self._settings.connections_per_key:
            siblings.pop(0).emit(Superseded())

    def close(self, session: Session) -> None:
        """A session has ended: what it has not acknowledged is offered elsewhere."""
        session.closed = True
        del session.port.sessions[session.number]
        if session.address is not None:
            siblings = self._of_key.get(session.address, [])
            if session in siblings:
                siblings.remove(session)
            if not siblings:
                self._of_key.pop(session.address, None)
        for subscription in list(session.subscriptions.values()):
            self._note_attempts(subscription)
            self._end(subscription)
        session.queue = None
        session.out.clear()
        session.lent.clear()
        if session.sender is not None:
            self._results.forget(session.sender)

    def _note_attempts(self, subscription: Subscription) -> None:
        session, place = subscription.session, subscription.place
        attempts = self._delivery.attempts
        if isinstance(place, Mailbox):
            for entry in session.out.values():
                attempts.note(place.name, entry.seq, entry.deliveries)
        elif subscription.reader is not None:
            for loan in session.lent.values():
                if loan.shelf in place.shelves:
                    attempts.note(subscription.reader, loan.seq, loan.deliveries)

    # --- requests

    def request(self, session: Session, request: Request) -> None:
        """Take a request now, or after the one that is open."""
        if not session.opening:
            self._take(session, request)
        elif session.queue is None:
            session.queue = [request]
        elif len(session.queue) < MAX_QUEUED_REQUESTS:
            session.queue.append(request)
        else:
            _refuse(session, request.ref, Code.RATE_LIMITED, "too many requests at once")

    def _take(self, session: Session, request: Request) -> None:
        match request:
            case Attend():
                session.opening = True
                Attendance(
                    self._directory,
                    self._reads,
                    request,
                    lambda found: self._attended(session, request, found),
                ).begin()
            case Unsubscribe():
                self._unsubscribe(session, request)
                self._tell_pending(
                    session, lambda pending: session.emit(Subscribed(request.ref, pending)), request.ref
                )
            case StatusRequest():
                self._tell_pending(
                    session,
                    lambda pending: session.emit(self._status(session, request, pending)),
                    request.ref,
                )
            case _:
                assert_never(request)

    def done(self, session: Session) -> None:
        """The open request has been answered: go on with the next."""
        session.opening = False
        while session.queue and not session.opening and not session.closed:
            self._take(session, session.queue.pop(0))

    def _unsubscribe(self, session: Session, request: Unsubscribe) -> None:
        if not request.addresses and not request.buckets:
            names = list(session.subscriptions)
        else:
            names = [*(request.addresses or ()), *(request.buckets or ())]
        for name in names:
            subscription = session.subscriptions.get(name)
            if subscription is not None:
                self._end(subscription)
                self._delivery.note_caught_up(subscription)

    def _end(self, subscription: Subscription) -> None:
        subscription.mode = ENDED
        session, place = subscription.session, subscription.place
        del session.subscriptions[place.name if isinstance(place, Mailbox) else place.key]
        place.readers.remove(subscription)
        if isinstance(place, Bucket):
            self._directory.left(place)
            return
        session.own = None
        if not any(reader.mode is LIVE for reader in place.readers):
            self._ledger.hurry_mailbox(place)

    def _status(self, session: Session, request: StatusRequest, pending: Pending) -> Status:
        quotas = self._settings.quotas
        quota = {"mailbox_messages": quotas.mailbox_messages, "mailbox_bytes": quotas.mailbox_bytes}
        own = session.own
        if own is not None and isinstance(own.place, Mailbox):
            used = own.place.waiting
            quota["used_messages"], quota["used_bytes"] = used.count, used.bytes
        return Status(request.ref, pending, quota, self._epoch)

    def _tell_pending(self, session: Session, tell: Callable[[Pending], None], ref: int) -> None:
        places = [
            (subscription.place, subscription.reader)
            for subscription in session.subscriptions.values()
            if isinstance(subscription.place, Bucket)
        ]
        own = session.own
        boxes = [own.place] if own is not None and isinstance(own.place, Mailbox) else []
        if not places:
            tell(total(boxes, [], []))
            return
        sources = disjoint(places)
        session.opening = True

        def answered(answer: object) -> None:
            if not session.closed:
                if isinstance(answer, list):
                    tell(total(boxes, [bucket for bucket, _ in places], answer))
                else:
                    _refuse(session, ref, Code.STORE_UNAVAILABLE, STORE_SILENT)
            self.done(session)

        self._reads.append(Read(lambda reader: [reader.waiting(source, 0) for source in sources], answered))

    # --- subscribing

    def _attended(self, session: Session, request: Attend, found: Found | None) -> None:
        if not session.closed:
            if found is not None:
                self._start(session, request, found)
            else:
                _refuse(session, request.ref, Code.STORE_UNAVAILABLE, STORE_SILENT)
        self.done(session)

    def _start(self, session: Session, request: Attend, found: Found) -> None:
        """Everything is known: register, answer, and begin with the backlog."""
        boxes, waiting = found.boxes, found.waiting
        last_seq = self._delivery.last_seq
        buckets = [self._directory.bucket(home) for home in found.homes]
        begun = [
            self._subscription(session, self._directory.current(box), None, request.live) for box in boxes
        ]
        for bucket, held in zip(buckets, waiting, strict=True):
            subscription = self._subscription(session, bucket, request.reader, request.live)
            if request.newest is not None and held.newest_from:
                subscription.position = max(subscription.position, held.newest_from - 1)
            begun.append(subscription)
        session.emit(Subscribed(request.ref, total(boxes, buckets, waiting)))
        catchup = Catchup(request.ref, len(begun))
        for subscription in begun:
            subscription.catchups = (*subscription.catchups, catchup)
            subscription.target = last_seq
        for subscription in begun:
            if subscription.mode is BACKLOG:
                self._delivery.pump(subscription)
            else:
                self._delivery.note_caught_up(subscription)

    def _subscription(
        self, session: Session, place: Mailbox | Bucket, reader: str | None, live: bool
    ) -> Subscription:
        name = place.name if isinstance(place, Mailbox) else place.key
        known = session.subscriptions.get(name)
        if known is not None:
            if known.mode is ENDED or known.live != live:
                known.live = live
                known.mode = BACKLOG
            return known
        subscription = Subscription(session, place, reader, live, 0)
        session.subscriptions[name] = subscription
        place.readers.append(subscription)
        if isinstance(place, Mailbox):
            session.own = subscription
        return subscription


def _refuse(session: Session, ref: int, code: Code, detail: str) -> None:
    session.emit(Error(code.value, detail, code in RETRYABLE, ref))
