"""Sessions that go on at another broker: what one gives away of them, and how the next one takes them up.

What a client holds from before is not sent to it again: until this broker comes across such a message, in the store
or because its sender publishes it again, it is in ``Session.before``. An ack of it then counts by the ``seq`` that
the earlier broker gave it: numbers are never given twice, so that deleting by it can hit no other message. Where its
sender's publish was stored anew meanwhile, an owner's ack counts for that too, when it is come across (``Recent``); a
bucket reader's mark names a number, and such a message may come to him once more.

Source: docs/architecture.md, "When the active changes".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from msgspec import structs

from posthouse.broker.acks import Acks
from posthouse.broker.attending import Attending
from posthouse.broker.publishing import Publishing
from posthouse.broker.records import ENDED, LIVE, Catchup, Mailbox, Port, Sender, Session
from posthouse.broker.results import Results
from posthouse.exchange import UNLIMITED_WINDOW, Attend, Close, Command, Held, Open, Resume
from posthouse.identity import Address, BucketKey
from posthouse.wire.messages import StatusRequest, Unsubscribe

NOBODY: Final = 0
"""The number of no session: under it a broker is told of acks that are nobody's to tell any more."""


class Resuming:
    """Both ends of a change of the active, as far as brokers have a part in it."""

    def __init__(self, attending: Attending, acks: Acks, results: Results, publishing: Publishing) -> None:
        self._attending = attending
        self._acks = acks
        self._results = results
        self._publishing = publishing

    def resume(self, port: Port, number: int, resume: Resume) -> Session:
        """A session goes on here. Its subscriptions, and what had no answer, follow as commands."""
        self._attending.open(port, number, resume.opened)
        session = port.sessions[number]
        for held in resume.acked:
            self._acks.acked_before(session, held)
        session.before = {held.id: held for held in resume.held}
        target = self._publishing.seq - 1
        session.catchups = {ref: Catchup(ref, target, count) for ref, count in resume.catchups.items()}
        if resume.wanted:
            session.sender = Sender(session)
            for wanted in resume.wanted:
                self._results.want_again(session.sender, wanted)
                if self._acks.was_acked(
                    wanted.place, wanted.id
                ):  # the earlier broker's receipt did not get here
                    self._results.was_delivered(wanted.place, wanted.id)
        return session

    def export(self, port: Port, now_ms: int) -> list[tuple[int, list[Command]]]:
        """All sessions of a port, as commands for the next broker, in the order in which it should take them.

        To be called when the port has taken its effects: they are true whatever becomes of this broker, and what
        is among them is not given away once more.
        """
        sessions = list(port.sessions.values())
        batch: list[tuple[int, list[Command]]] = [
            (one.number, [_resumed(one, self._results)]) for one in sessions
        ]
        last_seq = self._publishing.seq - 1
        for session in sessions:
            requests: list[Command] = list(_attends(session, last_seq))
            requests += _requests(session)
            if requests:
                batch.append((session.number, requests))
        waiting: dict[int, list[Command]] = {}
        acked: list[Held] = []
        for sender, publish in self._publishing.unanswered(now_ms):
            if sender.session.port is port and not sender.session.closed:
                waiting.setdefault(sender.session.number, []).append(publish)
                owner = publish.recipient
                if owner is not None and self._acks.was_acked(owner, publish.id):
                    acked.append(Held(publish.id, 0, None, owner, 1))
        if acked:
            tell = Resume(Open(None, False, 1, 0), [], acked, [], {})
            batch.insert(0, (NOBODY, [tell, Close()]))
        return batch + list(waiting.items())


def _resumed(session: Session, results: Results) -> Resume:
    window = UNLIMITED_WINDOW if session.unlimited else session.window
    put_off = session.put_off or {}
    held = [
        structs.replace(one, again=one.again or one.id in put_off) for one in (session.before or {}).values()
    ]
    for entry in session.out.values():
        held.append(Held(entry.id, entry.seq, None, session.address, entry.deliveries, entry.id in put_off))
    for loan in session.lent.values():
        if loan.id not in session.out:
            again = loan.id in put_off
            held.append(Held(loan.id, loan.seq, loan.bucket, loan.reader, loan.deliveries, again))
    catchups = Counter(
        catchup.ref for one in session.subscriptions.values() for catchup in one.catchups or ()
    )
    for request in _requests(session):
        if isinstance(request, Attend):
            catchups.update(request.due or ())
    return Resume(
        Open(session.address, session.guest, window, session.credit),
        held,
        [],
        results.wanted(session.sender) if session.sender is not None else [],
        dict(catchups),
    )


def _requests(session: Session) -> list[Attend | Unsubscribe | StatusRequest]:
    """What the session has asked and not been answered."""
    return [*([session.request] if session.request is not None else ()), *(session.queue or ())]


def _attends(session: Session, last_seq: int) -> Iterator[Attend]:
    """Its subscriptions, each by itself, and which requests wait for it to have caught up."""
    for subscription in session.subscriptions.values():
        if subscription.mode is ENDED:
            continue
        place, after = subscription.place, 0
        if isinstance(place, Mailbox):
            addresses, buckets = [Address(place.name)], []
        else:
            addresses, buckets = [], [BucketKey(place.key)]
            if subscription.reader is None:  # its acks leave no trace in the store: only the position tells
                after = last_seq if subscription.mode is LIVE else subscription.position
        due = [catchup.ref for catchup in subscription.catchups or ()]
        yield Attend(0, addresses, buckets, subscription.reader, subscription.live, due=due, after=after)
