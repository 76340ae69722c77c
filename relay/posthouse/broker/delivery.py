"""Handing messages to readers: to those who read live at once, and one by one to those who read their backlog.

A session is sent a message once for all the ways in which it matches, never beyond its room, and not again while
it is outstanding. What it holds as the owner is in ``Session.out``, what it holds by bucket in ``Session.lent``.

Source: docs/protocol.md 2.2, 2.4 and 2.5; docs/architecture.md, "Publish".
"""

from __future__ import annotations

from posthouse.broker.attempts import Attempts
from posthouse.broker.counters import Counters
from posthouse.broker.departures import Departures
from posthouse.broker.directory import Directory
from posthouse.broker.ledger import Ledger
from posthouse.broker.recent import Recent
from posthouse.broker.records import (
    BACKLOG,
    DONE,
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
from posthouse.identity import BucketKey
from posthouse.store.interface import MailboxNo, Mark, StoredMessage
from posthouse.wire.messages import Message


class Delivery:
    """All sending of messages to sessions."""

    def __init__(
        self,
        settings: BrokerSettings,
        directory: Directory,
        departures: Departures,
        ledger: Ledger,
        recent: Recent,
        counters: Counters,
    ) -> None:
        self.last_seq = 0
        self.departures = departures
        self.attempts = Attempts(settings.remembered_attempts)
        self._settings = settings
        self._directory = directory
        self._buckets = directory.buckets
        self._ledger = ledger
        self._recent = recent
        self._counters = counters

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
            if session.before:
                got = self._offer_resumed(subscription, entry) or got
            elif entry.id in out and out[entry.id].state is not DONE:
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

    def _offer_resumed(self, subscription: Subscription, entry: Entry) -> bool:
        """Send it to an owner who may have it from an earlier broker; whether he has it now."""
        if self.give(subscription, entry):
            return True
        _fall_back(subscription, entry.seq - 1)
        return False

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
            if subscription.mode is not LIVE or self._comes_otherwise(subscription, entry):
                continue
            session = subscription.session
            if self._has_before(subscription, entry):
                continue
            if session.room > 0:
                self._lend(subscription, entry, entry.box.no, entry.box.shelf, 1)
            else:
                _fall_back(subscription, entry.seq - 1)

    def _lend(
        self,
        subscription: Subscription,
        message: Entry | StoredMessage,
        mailbox: MailboxNo,
        shelf: int,
        deliveries: int,
    ) -> None:
        self._send_loan(
            subscription.session, self._note_loan(subscription, message, mailbox, shelf, deliveries), message
        )

    def _note_loan(
        self,
        subscription: Subscription,
        message: Entry | StoredMessage,
        mailbox: MailboxNo,
        shelf: int,
        deliveries: int,
    ) -> Loan:
        session, bucket = subscription.session, subscription.place
        assert isinstance(bucket, Bucket)
        lent = session.lent
        loan = Loan(message.seq, message.id, mailbox, shelf, bucket.key, subscription.reader, deliveries)
        loan.more = lent.get(message.id)
        lent[message.id] = loan
        if session.unlimited and len(lent) > self._settings.remembered_ids:
            del lent[next(iter(lent))]
        return loan

    def _send_loan(self, session: Session, loan: Loan, message: Entry | StoredMessage) -> None:
        session.credit -= len(message.ciphertext)
        self._counters.sent += 1
        session.emit(
            Message(
                message.id,
                loan.seq,
                message.ciphertext,
                message.received_at,
                message.expires_at,
                loan.deliveries,
                None,
                loan.bucket,
            )
        )

    # --- backlog

    def give(self, subscription: Subscription, message: Entry | StoredMessage) -> bool:
        """Send a message of the subscription's place unless that is needless; False if there is no room for it."""
        if self._needless(subscription, message):
            return True
        session = subscription.session
        if session.room <= 0:
            return False
        place = subscription.place
        if isinstance(place, Mailbox):
            self._send(session, self._owned(place, message), message.ciphertext)
        else:
            no, shelf = _home_of(message)
            name = subscription.reader
            deliveries = self.attempts.of(name, message.seq) + 1 if name is not None else 1
            self._lend(subscription, message, no, shelf, deliveries)
        return True

    def _owned(self, box: Mailbox, message: Entry | StoredMessage) -> Entry:
        deliveries = self.attempts.of(box.name, message.seq) + 1
        if isinstance(message, Entry):
            message.deliveries = max(message.deliveries, deliveries)
            return message
        return Entry(
            message.seq,
            box,
            message.id,
            b"",
            message.received_at,
            message.expires_at,
            False,
            box,
            len(message.ciphertext),
            True,
            None,
            0,
            None,
            STORED,
            deliveries=deliveries,
        )

    def _needless(self, subscription: Subscription, message: Entry | StoredMessage) -> bool:
        if message.seq in self.departures.seqs or self._is_over(message):
            return True
        place, session = subscription.place, subscription.session
        if isinstance(place, Bucket):
            return (
                self.is_marked(message.seq, place.key, subscription.reader)
                or self._comes_otherwise(subscription, message)
                or self._has_before(subscription, message)
            )
        held = session.out.get(message.id)
        if held is not None and held.state is not DONE:
            if held.seq != message.seq and isinstance(message, StoredMessage):
                # A repeat of it is out: from now on that ack is for the one in the store too.
                session.out[message.id] = self._owned(place, message)
            return True
        if message.id in session.lent and _take_loan(session, message.id, place.no):
            # It came by bucket before. From now on the session holds it as its owner.
            session.out[message.id] = self._owned(place, message)
            return True
        return self._has_before(subscription, message)

    def _is_over(self, message: Entry | StoredMessage) -> bool:
        """Whether its owner has acknowledged it lately, by another number than that under which it is stored.

        So it is when an earlier broker sent it, and its sender published it again before the ack. It is deleted now.
        """
        if isinstance(message, Entry) or message.id not in self._recent.known:
            return False
        box = self._directory.numbered.get(message.mailbox)
        if box is None or not self._recent.has(box.name, message.id):
            return False
        self._ledger.delete_unseen(message.seq)
        return True

    def _has_before(self, subscription: Subscription, message: Entry | StoredMessage) -> bool:
        """Whether the session was sent it by an earlier broker: from now on it holds it as if by this one."""
        session, place = subscription.session, subscription.place
        held = session.before.pop(message.id, None) if session.before else None
        if held is None or held.again:
            return False
        if isinstance(place, Mailbox):
            entry = session.out[message.id] = self._owned(place, message)
            entry.deliveries = max(entry.deliveries, held.deliveries)
        else:
            no, shelf = _home_of(message)
            self._note_loan(subscription, message, no, shelf, held.deliveries)
        return True

    def _comes_otherwise(self, subscription: Subscription, message: Entry | StoredMessage) -> bool:
        """Whether the session gets, or has, a message of a bucket by address or by another bucket."""
        session, (no, _) = subscription.session, _home_of(message)
        own = session.own
        if own is not None and own.place.no == no and own.brings(message.seq):  # type: ignore[union-attr]
            return True
        loan = session.lent.get(message.id)
        while loan is not None:
            if loan.mailbox == no:
                if isinstance(message, StoredMessage):
                    loan.seq = message.seq
                return True
            loan = loan.more
        if message.id in session.out:
            held = session.out[message.id]
            return held.box.no == no and held.state is not DONE
        return False

    def is_marked(self, seq: int, bucket: BucketKey, reader: str | None) -> bool:
        """Whether this reader has marked the message lately: the store may not show it yet."""
        marks = self.departures.marks
        return bool(marks) and reader is not None and Mark(seq, bucket, reader) in marks

    # --- once more

    def send_again(self, session: Session, entry: Entry, ciphertext: bytes) -> None:
        """Offer a message again that the session put off with ``busy``."""
        entry.deliveries += 1
        self._send(session, entry, ciphertext)

    def lend_again(self, session: Session, loan: Loan, message: Entry | StoredMessage) -> None:
        """The same for a message of a bucket."""
        loan.deliveries += 1
        self._send_loan(session, loan, message)

    def renumber(self, entry: Entry) -> None:
        """A pending message is to be stored after all and has another number now.

        Marks of those who hold it by bucket have to name that; who began to read a bucket live while it was not to
        be stored has not been sent it.
        """
        for bucket in self._directory.watchers(entry.box):
            for subscription in bucket.readers:
                loan = subscription.session.lent.get(entry.id)
                while loan is not None:
                    if loan.mailbox == entry.box.no:
                        loan.seq = entry.seq
                    loan = loan.more
            self._offer_bucket(bucket, entry)

    def settle(self, box: Mailbox, message: str, seq: int) -> None:
        """A stored message is done with for all sessions of its owner: who holds it holds nothing any more."""
        for session in self._directory.sessions.get(box.name, ()):
            held = session.out.get(message)
            if held is not None and held.seq == seq:
                held.state = DONE


def _home_of(message: Entry | StoredMessage) -> tuple[MailboxNo, int]:
    if isinstance(message, Entry):
        return message.box.no, message.box.shelf
    return message.mailbox, message.shelf


def _take_loan(session: Session, message: str, mailbox: MailboxNo) -> bool:
    """Take the loan of a message from this mailbox out of a session's; whether there was one."""
    before: Loan | None = None
    loan: Loan | None = session.lent[message]
    while loan is not None and loan.mailbox != mailbox:
        before, loan = loan, loan.more
    if loan is None:
        return False
    if before is not None:
        before.more = loan.more
    elif loan.more is not None:
        session.lent[message] = loan.more
    else:
        del session.lent[message]
    return True


def _fall_back(subscription: Subscription, position: int) -> None:
    subscription.mode = BACKLOG
    subscription.position = position
