"""What goes to the store and when: generations, batches, and the results that a commit allows.

* A message that no owner was there for is *urgent*: it goes into the next batch, which starts as soon as the
  one before is done.
* A message that is out with an online owner waits for the ack: one tick in the *young* generation, one in the
  *old*; what is pending after that is written. What is acknowledged before then never touches the store.
* Within a mailbox commits follow ``seq``: when a message becomes urgent, those pending before it do too.
* Nothing is answered before its commit is confirmed. If the store takes no batch, its messages that no owner
  has acknowledged are rejected; acks and marks are kept for the next batch.

Source: docs/architecture.md, "Publish" and "Commit".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import attrgetter

from msgspec import Struct

from posthouse.broker.counters import Counters
from posthouse.broker.departures import Departures
from posthouse.broker.directory import Directory
from posthouse.broker.records import COMMITTING, DONE, PENDING, STORED, Entry, Mailbox, Sender
from posthouse.broker.results import Results
from posthouse.broker.settings import BrokerSettings
from posthouse.store.interface import Batch, Committed, Gone, MailboxNo, Mark, Tally
from posthouse.wire.messages import Publish

BY_SEQ = attrgetter("seq")
RETRY_S = 1.0
"""After a failed batch, what nobody waits for is tried again no sooner than this."""


class Confirmation(Struct, gc=False):
    """A ``duplicate`` whose state is known, waiting for a checked commit to say that we may answer."""

    sender: Sender
    ref: int
    id: str
    state: str
    size: int
    publish: Publish


class Ledger:
    """Everything on its way to the store."""

    def __init__(
        self,
        settings: BrokerSettings,
        directory: Directory,
        departures: Departures,
        results: Results,
        counters: Counters,
        first_seq: int,
        next_expiry_ms: int,
        total: Tally,
    ) -> None:
        self.urgent: list[Entry] = []
        self.young: list[Entry] = []
        self.old: list[Entry] = []
        self.deletes: list[int] = []
        self.marks: list[Mark] = []
        self.confirmations: list[Confirmation] = []
        self.purges: list[MailboxNo] = []
        self.committing: Batch | None = None
        self.stalled = False
        self.total = total
        self.nearly_full = settings.quotas.nearly_full(total)
        """Whether what waits counts for the limits of the whole store."""
        self.reserved = first_seq
        self.on_gone: Callable[[Gone], None] = lambda gone: None
        """Told of each message that left by expiry or purge."""
        self._settings = settings
        self._directory = directory
        self._departures = departures
        self._results = results
        self._counters = counters
        self._number = 0
        self._unsorted = False
        self._confirming: list[Confirmation] = []
        self._leaving: dict[Mailbox, Tally] = {}
        """What ``deletes`` takes from each mailbox."""
        self._leaving_now: dict[Mailbox, Tally] = {}
        """What the batch under way takes from each."""
        self._next_expiry_ms = next_expiry_ms
        self._retry_at = 0.0
        self._rest_until = 0.0

    # --- in

    def hold(self, entry: Entry) -> None:
        """A storable message is out with an online owner."""
        entry.box.lively = True
        self.young.append(entry)

    def hurry(self, entry: Entry) -> None:
        """A storable message has nobody to wait for."""
        if self.stalled:
            self._refuse(entry)
            return
        if entry.box.lively:
            self.hurry_mailbox(entry.box)
        if not entry.urgent:
            entry.urgent = True
            self.urgent.append(entry)

    def hurry_mailbox(self, box: Mailbox) -> None:
        """All that is pending in a mailbox goes into the next batch."""
        box.lively = False
        for entry in box.pending.values():
            if entry.state is PENDING and entry.storable and not entry.urgent:
                entry.urgent = True
                self.urgent.append(entry)
                self._unsorted = True

    def delete(self, entry: Entry) -> None:
        """An owner has ended a message that is, or will be, in the store."""
        if entry.seq in self._departures.seqs:
            return
        self._departures.seqs.add(entry.seq)
        self.deletes.append(entry.seq)
        box = entry.box
        box.leaving_count += 1
        box.leaving_bytes += entry.size
        part = self._leaving.get(box)
        if part is None:
            part = self._leaving[box] = Tally()
        part.count += 1
        part.bytes += entry.size

    def delete_unseen(self, seq: int) -> None:
        """An owner has ended a message of which only the number is known here; it may not be in the store at all."""
        if seq not in self._departures.seqs:
            self._departures.seqs.add(seq)
            self.deletes.append(seq)

    def mark(self, mark: Mark) -> bool:
        """A bucket reader is done with a message; False if that is known."""
        if mark in self._departures.marks:
            return False
        self._departures.marks.add(mark)
        self.marks.append(mark)
        return True

    @property
    def acks_wait(self) -> bool:
        """Whether an ack waits for the next batch."""
        return bool(self.deletes or self.marks)

    def unconfirmed(self) -> list[Confirmation]:
        """The duplicates that wait for a checked commit."""
        return self._confirming + self.confirmations

    def uncommitted(self) -> Iterator[Entry]:
        """Every message that is to be committed and is not yet."""
        for entries in (
            self.committing.appends if self.committing else [],
            self.urgent,
            self.old,
            self.young,
        ):
            for entry in entries:
                assert isinstance(entry, Entry)
                if entry.state is PENDING or entry.state is COMMITTING:
                    yield entry

    @property
    def waiting(self) -> int:
        """At most so many messages are to be committed and are not yet."""
        committing = len(self.committing.appends) if self.committing else 0
        return committing + len(self.urgent) + len(self.old) + len(self.young)

    # --- time

    def tick(self) -> None:
        """One generation ends: what the old one still holds is written, the young one grows old."""
        if self.stalled:
            self._refuse_waiting()
        for entry in self.old:
            if entry.state is PENDING and not entry.urgent:
                entry.urgent = True
                self.urgent.append(entry)
                self._unsorted = True
        self.old = self.young
        self.young = []

    def stall(self) -> None:
        """The batch under way takes too long: until it ends, say at once that the store does not take messages."""
        self.stalled = True
        self._refuse_waiting()

    def _refuse_waiting(self) -> None:
        """Reject all that waits for the next batch; what is out with an online owner keeps its two ticks."""
        refused, self.urgent = self.urgent + self.old, []
        self.old = []
        for entry in refused:
            if entry.state is PENDING:
                self._refuse(entry)
        unconfirmed, self.confirmations = self.confirmations, []
        for confirmation in unconfirmed:
            self._results.unconfirmed(
                confirmation.sender, confirmation.ref, confirmation.id, confirmation.size
            )

    def _refuse(self, entry: Entry) -> None:
        self._results.leave(entry)
        self._results.store_unavailable(entry)

    @property
    def ticking(self) -> bool:
        """Whether something waits for a tick."""
        return bool(self.young or self.old or self.deletes or self.marks)

    def expiry_due(self, now_ms: int) -> bool:
        """Whether something in the store has expired and a batch should remove it."""
        return bool(self._next_expiry_ms) and self._next_expiry_ms <= now_ms

    # --- batches

    @property
    def pressing(self) -> bool:
        """Whether a batch should start without waiting for a tick."""
        return self.committing is None and bool(self.urgent or self.confirmations or self.purges)

    def next_batch(self, now: float, now_ms: int, next_seq: int, check: bool = False) -> Batch | None:
        """The next batch for the store, or None while one is under way or nothing waits.

        ``now`` is in seconds of the running clock, ``now_ms`` in milliseconds of the store clock. ``check``: have
        one even if it writes nothing, for the sake of the fence that the store checks.
        """
        if self.committing is not None:
            return None
        if now < self._rest_until and not (self.urgent or self.confirmations or check):
            return None
        expire = self.expiry_due(now_ms)
        reserve = (
            next_seq + self._settings.seq_block
            if next_seq + self._settings.seq_block // 2 > self.reserved
            else None
        )
        marks = self._take_marks() if self.marks else []
        waits = self.urgent or self.deletes or marks or self.confirmations or self.purges
        if not (waits or expire or reserve or check):
            return None
        self._number += 1
        batch = Batch(
            self._number,
            now_ms,
            self.deletes,
            list(self._take_urgent()),
            marks,
            self._settings.readers_per_bucket,
            self.purges,
            self._settings.expire_limit if expire or self.purges else 0,
            reserve,
        )
        self.deletes, self.purges = [], []
        self._leaving_now, self._leaving = self._leaving, {}
        self._confirming, self.confirmations = self.confirmations, []
        self.committing = batch
        self._retry_at = now + RETRY_S
        return batch

    def _take_marks(self) -> list[Mark]:
        """The marks of messages that are in the store by now; those of later ones would be passed over."""
        first = min((entry.seq for entry in self.uncommitted()), default=None)
        if first is None:
            ready, self.marks = self.marks, []
        else:
            ready = [mark for mark in self.marks if mark.seq < first]
            self.marks = [mark for mark in self.marks if mark.seq >= first]
        return ready

    def _take_urgent(self) -> list[Entry]:
        settings = self._settings
        taken: list[Entry] = []
        size = 0
        for at, entry in enumerate(self.urgent):
            if len(taken) >= settings.batch_messages or size >= settings.batch_bytes:
                self.urgent = self.urgent[at:]
                break
            if entry.state is PENDING:
                entry.state = COMMITTING
                size += entry.size
                taken.append(entry)
        else:
            self.urgent = []
        if self._unsorted:
            taken.sort(key=BY_SEQ)
            self._unsorted = bool(self.urgent)
        return taken

    def committed(self, outcome: Committed) -> set[Mailbox]:
        """The batch is in the store: answer. Returns the mailboxes whose readers may go on."""
        batch = self.committing
        assert batch is not None
        self.committing = None
        self.stalled = False
        counters = self._counters
        counters.appended += len(batch.appends) - len(outcome.duplicates)
        counters.deleted += len(batch.deletes)
        duplicates = outcome.duplicates
        stored = self._results.stored
        touched: set[Mailbox] = set()
        for entry in batch.appends:
            assert type(entry) is Entry
            box = entry.box
            box.committed = entry.seq
            if box.pending.get(entry.id) is entry:
                self._results.leave(entry)
            if box.readers:
                touched.add(box)
            if entry.state is DONE:
                if entry.seq in duplicates:  # acknowledged meanwhile: what the store holds of it has to go
                    entry.seq = duplicates[entry.seq]
                    self.delete(entry)
                continue
            entry.state = STORED
            entry.ciphertext = b""  # the store has it: what a reader still holds needs only its number
            if duplicates and entry.seq in duplicates:
                entry.seq = duplicates[entry.seq]
                self._results.duplicate_of_stored(entry)
            else:
                stored(entry)
        self._settle(outcome, batch)
        for confirmation in self._confirming:
            self._results.confirm(
                confirmation.sender, confirmation.ref, confirmation.id, confirmation.state, confirmation.size
            )
        self._confirming = []
        for gone in outcome.gone:
            if gone.mailbox not in batch.purges:
                counters.expired += 1
            self.on_gone(gone)
        return touched

    def _settle(self, outcome: Committed, batch: Batch) -> None:
        self._directory.counted(outcome.tallies)
        for box, part in self._leaving_now.items():
            box.leaving_count -= part.count
            box.leaving_bytes -= part.bytes
        self._leaving_now = {}
        self.total = outcome.total
        self.nearly_full = self._settings.quotas.nearly_full(outcome.total)
        self._next_expiry_ms = outcome.next_expiry
        if batch.reserve_seq is not None:
            self.reserved = batch.reserve_seq
        self._rest_until = 0.0

    def failed(self) -> None:
        """The store did not take the batch: reject what nobody has acknowledged, keep the rest for the next."""
        batch = self.committing
        assert batch is not None
        self.committing = None
        self.stalled = False
        self._counters.store_failures += 1
        self._rest_until = self._retry_at
        self.deletes = batch.deletes + self.deletes
        for box, part in self._leaving_now.items():
            waiting = self._leaving.setdefault(box, Tally())
            waiting.count += part.count
            waiting.bytes += part.bytes
        self.marks = batch.marks + self.marks
        for entry in batch.appends:
            assert type(entry) is Entry
            if entry.box.pending.get(entry.id) is entry:
                self._results.leave(entry)
            if entry.state is not DONE:
                self._results.store_unavailable(entry)
        for confirmation in self._confirming:
            self._results.unconfirmed(
                confirmation.sender, confirmation.ref, confirmation.id, confirmation.size
            )
        self._confirming = []
