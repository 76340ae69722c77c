"""Sessions come and go; they subscribe, unsubscribe and ask what waits.

Requests of one session that need the store are answered in the order in which they were made: while one is
open, the next ones wait in the session's queue.

Source: docs/protocol.md 2.2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

from posthouse.broker.attendance import Attendance, Found, count_waiting
from posthouse.broker.backlog import Backlog
from posthouse.broker.delivery import Delivery
from posthouse.broker.directory import Directory, Read
from posthouse.broker.ledger import Ledger
from posthouse.broker.records import (
    BACKLOG,
    DONE,
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
from posthouse.store.interface import Waiting
from posthouse.wire.codes import RETRYABLE, Code
from posthouse.wire.messages import Error, Pending, Status, StatusRequest, Subscribed, Unsubscribe

MAX_QUEUED_REQUESTS = 256
MAX_CATCHUPS = 64
TOO_MANY_REQUESTS = "too many requests at once"
STORE_SILENT = "the store does not answer at the moment"
Request = Attend | Unsubscribe | StatusRequest


class Attending:
    """Sessions and their subscriptions."""

    def __init__(
        self,
        settings: BrokerSettings,
        directory: Directory,
        delivery: Delivery,
        backlog: Backlog,
        ledger: Ledger,
        results: Results,
        reads: list[Read],
        epoch: int,
    ) -> None:
        self._settings = settings
        self._directory = directory
        self._delivery = delivery
        self._backlog = backlog
        self._ledger = ledger
        self._results = results
        self._reads = reads
        self._epoch = epoch
        self._late: list[tuple[Session, Attend]] = []

    # --- sessions

    def open(self, port: Port, number: int, opened: Open) -> None:
        """A session begins; of too many with one key the oldest has to end."""
        session = Session(port, number, opened)
        port.sessions[number] = session
        if opened.address is None:
            return
        siblings = self._directory.sessions.setdefault(opened.address, [])
        siblings.append(session)
        staying = [sibling for sibling in siblings if not sibling.superseded]
        if len(staying) > self._settings.connections_per_key:
            staying[0].superseded = True
            staying[0].emit(Superseded())

    def close(self, session: Session) -> None:
        """A session has ended: what it has not acknowledged is offered elsewhere."""
        session.closed = True
        del session.port.sessions[session.number]
        self._note_attempts(session)
        for subscription in list(session.subscriptions.values()):
            self._end(subscription)
        if session.address is not None:
            siblings = self._directory.sessions[session.address]
            siblings.remove(session)
            if not siblings:
                del self._directory.sessions[session.address]
        session.queue = None
        session.out.clear()
        session.lent.clear()
        session.before = None
        if session.sender is not None:
            self._results.forget(session.sender)

    def _note_attempts(self, session: Session) -> None:
        note = self._delivery.attempts.note
        for entry in session.out.values():
            if entry.state is not DONE:
                note(entry.box.name, entry.seq, entry.deliveries)
        for loan in session.lent.values():
            if loan.reader is not None:
                note(loan.reader, loan.seq, loan.deliveries)
        for held in (session.before or {}).values():
            name = session.address if held.bucket is None else held.reader
            if name is not None:
                note(name, held.seq, held.deliveries)

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
            _refuse(session, request.ref, Code.RATE_LIMITED, TOO_MANY_REQUESTS)

    def _take(self, session: Session, request: Request) -> None:
        session.request = request
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

    def tick(self) -> None:
        """Try again what the store did not answer, of sessions that go on from an earlier broker."""
        late, self._late = self._late, []
        for session, request in late:
            if session.closed:
                self.done(session)
            else:
                self._take(session, request)

    def done(self, session: Session) -> None:
        """The open request has been answered: go on with the next."""
        session.opening = False
        session.request = None
        if session.draining:
            return  # one that was answered at once: the loop below goes on
        session.draining = True
        while session.queue and not session.opening and not session.closed:
            self._take(session, session.queue.pop(0))
        session.draining = False

    def _unsubscribe(self, session: Session, request: Unsubscribe) -> None:
        if not request.addresses and not request.buckets:
            names = list(session.subscriptions)
        else:
            names = [*(request.addresses or ()), *(request.buckets or ())]
        for name in names:
            subscription = session.subscriptions.get(name)
            if subscription is not None:
                self._end(subscription)

    def _end(self, subscription: Subscription) -> None:
        behind = subscription.mode is BACKLOG
        subscription.mode = ENDED
        session, place = subscription.session, subscription.place
        if not session.closed:
            self._backlog.note_caught_up(subscription)
        del session.subscriptions[place.name if isinstance(place, Mailbox) else place.key]
        place.readers.remove(subscription)
        if isinstance(place, Bucket):
            self._directory.left(place)
            return
        session.own = None
        if behind and not session.closed:
            self._backlog.go_back(session, subscription.position)
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
        session.opening = True

        def counted(pending: Pending | None, _: list[Waiting]) -> None:
            if not session.closed:
                if pending is not None:
                    tell(pending)
                else:
                    _refuse(session, ref, Code.STORE_UNAVAILABLE, STORE_SILENT)
            self.done(session)

        mailbox = own.place if own is not None and isinstance(own.place, Mailbox) else None
        count_waiting(self._reads, places, mailbox, 0, counted)

    # --- subscribing

    def _attended(self, session: Session, request: Attend, found: Found | None) -> None:
        if not session.closed:
            if found is None and request.due is not None:
                self._late.append(
                    (session, request)
                )  # its client was told that it is subscribed: try until it is
                return
            if found is None:
                _refuse(session, request.ref, Code.STORE_UNAVAILABLE, STORE_SILENT)
            elif request.due is None and _too_many(session, found):
                _refuse(session, request.ref, Code.RATE_LIMITED, TOO_MANY_REQUESTS)
            else:
                self._start(session, request, found)
        self.done(session)

    def _start(self, session: Session, request: Attend, found: Found) -> None:
        """Everything is known: register, answer, and begin with the backlog."""
        begun = [self._subscription(session, box, None, request.live) for box in found.boxes]
        for bucket, held in zip(found.buckets, found.waiting, strict=True):
            subscription = self._subscription(session, bucket, request.reader, request.live)
            if request.newest is not None and held.newest_from:
                subscription.position = max(subscription.position, held.newest_from - 1)
            subscription.position = max(subscription.position, request.after)
            begun.append(subscription)
        if request.due is None:
            session.emit(Subscribed(request.ref, found.pending))
            catchups = [Catchup(request.ref, self._delivery.last_seq, len(begun))]
        else:
            catchups = [(session.catchups or {})[ref] for ref in request.due]
        for subscription in begun:
            subscription.target = self._delivery.last_seq
            subscription.catchups = [*(subscription.catchups or ()), *catchups]
        if len(begun) > 1:
            self._backlog.join(begun)
        for subscription in begun:
            if subscription.mode is BACKLOG:
                self._backlog.pump(subscription)
            else:
                self._backlog.note_caught_up(subscription)

    def _subscription(
        self, session: Session, place: Mailbox | Bucket, reader: str | None, live: bool
    ) -> Subscription:
        name = place.name if isinstance(place, Mailbox) else place.key
        known = session.subscriptions.get(name)
        if known is not None and known.reader != reader:
            self._end(known)
        elif known is not None:
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


def _too_many(session: Session, found: Found) -> bool:
    """Whether too many requests for one of these places wait for their ``caught_up`` already."""
    names = [*(box.name for box in found.boxes), *(bucket.key for bucket in found.buckets)]
    known = [session.subscriptions[name] for name in names if name in session.subscriptions]
    return any(len(subscription.catchups or ()) >= MAX_CATCHUPS for subscription in known)


def _refuse(session: Session, ref: int, code: Code, detail: str) -> None:
    session.emit(Error(code.value, detail, code in RETRYABLE, ref))
