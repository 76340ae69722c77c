"""The broker as whoever runs it sees it: see the package's docstring."""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

from posthouse.broker.acks import Acks
from posthouse.broker.attending import Attending
from posthouse.broker.backlog import Backlog
from posthouse.broker.clock import StoreClock
from posthouse.broker.counters import Counters
from posthouse.broker.delivery import Delivery
from posthouse.broker.departures import Departures
from posthouse.broker.directory import Directory, Read
from posthouse.broker.ledger import Ledger
from posthouse.broker.publishing import Publishing
from posthouse.broker.purging import Purging
from posthouse.broker.recent import Recent
from posthouse.broker.records import Entry, Port, Session
from posthouse.broker.results import Results
from posthouse.broker.resuming import Resuming
from posthouse.broker.settings import BrokerSettings
from posthouse.exchange import Attend, Close, Command, Credit, Effect, Open, Resume
from posthouse.store.interface import Batch, Committed, Gone, Recovered, StoreUnavailable
from posthouse.wire.messages import Ack, Nack, Publish, StatusRequest, Unsubscribe

HOUSEKEEPING_S = 1.0
Seldom = Open | Resume | Close | Credit | Attend | Unsubscribe | StatusRequest | Nack


class Broker:
    """Made for one promotion from what the store recovered; dropped as a whole when it is fenced.

    ``now`` is seconds of a clock that runs through suspend; ``wall_ms`` milliseconds of the Unix epoch.
    It is ready when the batch that ``next_batch`` gives first (it reserves sequence numbers) is committed.
    """

    def __init__(
        self, settings: BrokerSettings, recovered: Recovered, durable: bool, now: float, wall_ms: int
    ) -> None:
        self.reads: list[Read] = []
        """Questions to the store, to be taken and asked in this order."""
        self.epoch = recovered.fence.epoch
        self.counters = Counters()
        self.clock = StoreClock(recovered.clock_ms, now, wall_ms)
        self._settings = settings
        self.directory = Directory(
            self.reads, recovered.next_mailbox, settings.cached_mailboxes, lambda: self._delivery.last_seq
        )
        departures = Departures()
        self._results = Results(self.counters)
        self.ledger = Ledger(
            settings,
            self.directory,
            departures,
            self._results,
            self.counters,
            recovered.next_seq,
            recovered.next_expiry,
            recovered.total,
        )
        self.ledger.on_gone = self._gone
        self._recent = Recent(settings.dedupe_window_s, settings.dedupe_entries)
        self._delivery = Delivery(
            settings, self.directory, departures, self.ledger, self._recent, self.counters
        )
        self._delivery.last_seq = recovered.next_seq - 1
        self._backlog = Backlog(settings, self.directory, self._delivery, self.ledger, self.reads)
        self._publishing = Publishing(
            settings,
            self.directory,
            self._delivery,
            self.ledger,
            self._results,
            self._recent,
            self.counters,
            durable,
            recovered.next_seq,
            self.reads,
        )
        self._acks = Acks(
            settings,
            self.directory,
            self._delivery,
            self._backlog,
            self.ledger,
            self._results,
            self._recent,
            self.counters,
        )
        self._attending = Attending(
            settings,
            self.directory,
            self._delivery,
            self._backlog,
            self.ledger,
            self._results,
            self.reads,
            self.epoch,
        )
        self._resuming = Resuming(self._attending, self._acks, self._results, self._publishing)
        self._purging = Purging(self.directory, self.ledger)
        self._ports: list[Port] = []
        self._confirming: list[tuple[Port, int]] = []
        """How much each port had given when the batch under way was begun."""
        self._next_tick = now + settings.tick_s
        self._next_housekeeping = now + HOUSEKEEPING_S
        self._set_time(now, wall_ms)

    # --- sessions

    def handle(
        self, port: Port, batch: list[tuple[int, list[Command]]], now: float, wall_ms: int
    ) -> list[tuple[int, Exception]]:
        """Take the commands of sessions of a port, each with its session's number, in this order.

        Commands of a session that is not open are passed over. Returns the sessions whose commands failed for a
        fault of ours, and how: they have to end; the others are served.
        """
        if now != self._now:
            self._set_time(now, wall_ms)
        if not port.handled:
            self._ports.append(port)
        port.handled += 1
        sessions = port.sessions
        publish, ack = self._publishing.publish, self._acks.ack
        published = 0
        failed: list[tuple[int, Exception]] = []
        for number, commands in batch:
            session = sessions.get(number)
            try:
                for command in commands:
                    if session is None:
                        if isinstance(command, Open):
                            self._attending.open(port, number, command)
                            session = sessions[number]
                        elif isinstance(command, Resume):
                            session = self._resuming.resume(port, number, command)
                    elif isinstance(command, Publish):
                        published += 1
                        publish(session, command)
                    elif isinstance(command, Ack):
                        ack(session, command.ids)
                    elif not session.closed:
                        self._seldom(session, command)
            except Exception as error:
                failed.append((number, error))
        self.counters.published += published
        if self.directory.unasked:
            self.directory.ask()
        return failed

    def _seldom(self, session: Session, command: Seldom) -> None:
        match command:
            case Credit(bytes=size):
                session.credit += size
                self._backlog.pump_session(session)
            case Nack():
                self._acks.nack(session, command)
            case Attend() | Unsubscribe() | StatusRequest():
                self._attending.request(session, command)
            case Close():
                self._close(session)
            case Open() | Resume():
                pass  # it is open already
            case _:
                assert_never(command)

    @staticmethod
    def take_effects(port: Port) -> list[tuple[int, list[Effect]]]:
        """The effects that wait at a port, by session; the port will be woken for the next."""
        dirty, port.dirty = port.dirty, []
        port.awake = False
        return [(session.number, session.take()) for session in dirty if not session.closed]

    def confirmed(self, port: Port) -> int:
        """How many of the batches of this port have no ack any more that the loss of this broker would undo."""
        if self.ledger.committing is None and not self.ledger.acks_wait:
            port.confirmed = port.handled
        return port.confirmed

    def export(self, port: Port) -> list[tuple[int, list[Command]]]:
        """All sessions of a port, for the next broker: see ``Resuming.export``. This one is dropped then."""
        return self._resuming.export(port, self.clock.now_ms)

    def close_port(self, port: Port) -> None:
        """A port is gone with all its sessions."""
        for session in list(port.sessions.values()):
            self._close(session)
        if port.handled:
            self._ports.remove(port)

    def _close(self, session: Session) -> None:
        self._attending.close(session)
        self._acks.forget(session)

    # --- the store

    @property
    def pressing(self) -> bool:
        """Whether a batch should start now, without waiting for a tick."""
        return self.ledger.pressing

    def next_batch(self, check: bool = False) -> Batch | None:
        """The next batch to commit; None while one is under way or there is nothing to write (unless ``check``)."""
        batch = self.ledger.next_batch(self._now, self.clock.now_ms, self._publishing.seq, check)
        if batch is not None and not self.ledger.acks_wait:
            self._confirming = [(port, port.handled) for port in self._ports]
        return batch

    def committed(self, outcome: Committed | None, now: float, wall_ms: int) -> None:
        """What became of the batch: committed, or (None) certainly not written."""
        self._set_time(now, wall_ms)
        batch = self.ledger.committing
        assert batch is not None
        if outcome is None:
            self.ledger.failed()
            self._purging.failed(batch)
        else:
            readers = [reader for box in self.ledger.committed(outcome) for reader in box.readers]
            if self.directory.buckets:
                self._committed_to_buckets(batch)
            self._delivery.departures.committed(batch.deletes, batch.marks)
            for reader in readers:
                self._backlog.pump(reader)
            self._purging.committed(batch, outcome)
            for port, handled in self._confirming:
                port.confirmed = handled
        self._confirming = []
        self._publishing.again()
        self._backlog.resume()
        self.directory.ask()

    def _committed_to_buckets(self, batch: Batch) -> None:
        touched = set()
        for entry in batch.appends:
            assert type(entry) is Entry
            for bucket in self.directory.watchers(entry.box):
                if entry.seq > bucket.committed:
                    bucket.committed = entry.seq
                touched.add(bucket)
        for bucket in touched:
            for reader in bucket.readers:
                self._backlog.pump(reader)

    def _gone(self, gone: Gone) -> None:
        box = self.directory.numbered.get(gone.mailbox)
        self._results.is_gone(box.name if box is not None else None, gone.id)
        if box is not None:
            self._delivery.settle(box, gone.id, gone.seq)

    def answer(self, read: Read, answer: object, now: float, wall_ms: int) -> None:
        """The store's answer to a question, or the exception that it ended with."""
        self._set_time(now, wall_ms)
        read.then(answer)
        self.directory.ask()

    def purge(self, address: str, purged: Callable[[int | StoreUnavailable], None]) -> None:
        """Empty the mailbox of a canonical address; ``purged`` is called with the number of messages deleted."""
        self._purging.purge(address, purged)
        self.directory.ask()

    # --- time

    def _set_time(self, now: float, wall_ms: int) -> None:
        self._now = now
        now_ms = self.clock.advance(now, wall_ms)
        self._backlog.now = now
        self._backlog.now_ms = now_ms
        self._results.now_ms = now_ms
        self._publishing.now_ms = now_ms
        self._publishing.now = now
        self._acks.now = now

    def tick(self, now: float, wall_ms: int) -> None:
        """Do what has become due; call at ``next_deadline``, then see to ``next_batch``."""
        self._set_time(now, wall_ms)
        self._publishing.tick(now)
        self._acks.tick(now)
        if now >= self._next_tick:
            self._next_tick = now + self._settings.tick_s
            self.ledger.tick()
            self._backlog.tick()
        if now >= self._next_housekeeping:
            self._next_housekeeping = now + HOUSEKEEPING_S
            self._recent.expire(now)
            self._attending.tick()
            self.directory.trim()
        self.directory.ask()

    def hurry(self) -> None:
        """Nothing waits for a tick any more: the next batch takes all that is to be written."""
        self.ledger.tick()
        self.ledger.tick()

    def next_deadline(self, now: float) -> float:
        """When to call ``tick`` again, in seconds of the clock of ``now``."""
        due = self._next_housekeeping
        if self.ledger.ticking or self._backlog.waiting:
            # A tick that has been due for long, because nothing waited, is not due at once.
            self._next_tick = due = (
                max(self._next_tick, now + self._settings.tick_s / 2)
                if self._next_tick < now
                else self._next_tick
            )
        for other in (self._publishing.next_deadline, self._acks.next_deadline):
            if other is not None and other < due:
                due = other
        return due
