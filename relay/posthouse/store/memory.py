"""The store in memory: nothing survives the process, so ``stored`` is never answered from it.

It is also the plain model that the conformance suite holds the other engines against: ``Applying`` says what a
batch does, one method a field. Writers and readers of one ``MemoryStore`` share its state under a lock, each call
holding it once.
"""

from __future__ import annotations

from bisect import bisect_right
from heapq import merge
from itertools import islice
from typing import NoReturn

from posthouse.store.interface import (
    FENCED,
    Append,
    Batch,
    Committed,
    Doubt,
    Fence,
    Gone,
    MailboxNo,
    Mark,
    Page,
    Recovered,
    Source,
    StoreUnavailable,
    StoreUnusable,
    Tally,
    Waiting,
    check_promotion,
)
from posthouse.store.memory_state import Box, State, copy_of


class Applying:
    """One batch being applied to the state; collects the answer."""

    def __init__(self, state: State, batch: Batch) -> None:
        self.state = state
        self.batch = batch
        self.duplicates: dict[int, int] = {}
        self.gone: list[Gone] = []
        self.changed: set[MailboxNo] = set()

    def run(self) -> Committed:
        batch, state = self.batch, self.state
        for seq in batch.deletes:
            if seq in state.messages:
                self.changed.add(state.remove(seq).mailbox)
        for append in batch.appends:
            self.append(append)
        for mark in batch.marks:
            self.mark(mark)
        for bucket in list(state.marks) if batch.marks else ():
            self.forget_readers(bucket)
        for no in batch.purges:
            box = state.boxes.get(no)
            for seq in box.seqs[: batch.expire_limit] if box else ():
                self.drop(seq)
        for _ in range(batch.expire_limit):
            expires_at, seq = state.first_due()
            if not seq or expires_at > batch.clock_ms:
                break
            self.drop(seq)
        tallies = {no: self.tally(no) for no in self.changed}
        return Committed(self.duplicates, self.gone, tallies, copy_of(state.total), state.first_due()[0])

    def tally(self, no: MailboxNo) -> Tally:
        box = self.state.boxes.get(no)
        return copy_of(box.tally) if box else Tally()

    def append(self, append: Append) -> None:
        there = self.state.seq_of.get((append.mailbox.no, append.id))
        if there is not None:
            message = self.state.messages[there]
            if message.row.expires_at > self.batch.clock_ms:
                self.state.raise_expiry(message, append.expires_at)
                self.duplicates[append.seq] = there
                return
            self.drop(there)
        self.state.insert(append)
        self.changed.add(append.mailbox.no)

    def drop(self, seq: int) -> None:
        row = self.state.remove(seq)
        self.gone.append(Gone(seq, row.id, row.mailbox))
        self.changed.add(row.mailbox)

    def mark(self, mark: Mark) -> None:
        message = self.state.messages.get(mark.seq)
        if message is None:
            return
        readers = self.state.marks.setdefault(mark.bucket, {})
        marked = readers.pop(mark.reader, set())  # goes to the end: it is the one that marked last
        marked.add(mark.seq)
        readers[mark.reader] = marked
        message.marked_by.add((mark.bucket, mark.reader))

    def forget_readers(self, bucket: str) -> None:
        """Beyond the limit, those that marked longest ago lose their marks."""
        readers = self.state.marks[bucket]
        excess = max(0, len(readers) - self.batch.readers_per_bucket)
        for reader in list(islice(readers, excess)):
            for seq in readers.pop(reader):
                self.state.messages[seq].marked_by.discard((bucket, reader))
        if not readers:
            del self.state.marks[bucket]


class MemoryWriter:
    """See ``interface.Writer``. It never fails, so it is never in doubt."""

    def __init__(self, state: State) -> None:
        self._state = state

    def relay_id(self) -> str:
        return self._state.relay_id

    def fence(self) -> Fence:
        with self._state.lock:
            return self._state.fence

    def promote(self, seen: Fence, epoch: int, token: bytes) -> Recovered | None:
        check_promotion(seen, epoch, token)
        state = self._state
        with state.lock:
            if state.fence != seen:
                return None
            state.fence = Fence(epoch, token, seen.incarnation)
            state.batch = 0
            return Recovered(
                fence=state.fence,
                batch=0,
                relay_id=state.relay_id,
                clock_ms=state.clock_ms,
                next_seq=state.next_seq,
                next_mailbox=MailboxNo(max(state.boxes, default=0) + 1),
                total=copy_of(state.total),
                next_expiry=state.first_due()[0],
            )

    def commit(self, batch: Batch, fence: Fence) -> Committed | Doubt:
        state = self._state
        with state.lock:
            if state.fence != fence or batch.number <= state.batch:
                return FENCED
            deleted = set(batch.deletes)
            for append in batch.appends:
                if append.seq in state.messages and append.seq not in deleted:
                    raise StoreUnavailable(f"the batch contradicts what is stored: {append.seq} is taken")
            state.batch = batch.number
            state.clock_ms = batch.clock_ms
            last = batch.appends[-1].seq if batch.appends else 0
            state.next_seq = max(state.next_seq, last + 1, batch.reserve_seq or 0)
            return Applying(state, batch).run()

    def resolve(self, batch: Batch, fence: Fence) -> Committed | Doubt:
        return self.commit(batch, fence)

    def tidy(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""


class MemoryReader:
    """See ``interface.Reader``."""

    def __init__(self, state: State) -> None:
        self._state = state

    def mailboxes(self, keys: list[bytes]) -> dict[bytes, tuple[MailboxNo, Tally]]:
        with self._state.lock:
            boxes = self._state.by_key
            return {key: (boxes[key].mailbox.no, copy_of(boxes[key].tally)) for key in keys if key in boxes}

    def _boxes(self, source: Source) -> list[Box]:
        if source.mailbox is not None:
            box = self._state.boxes.get(source.mailbox)
            return [box] if box is not None and box.mailbox.shelf in source.shelves else []
        shelves = (self._state.shelves.get(shelf, {}) for shelf in dict.fromkeys(source.shelves))
        return [box for shelf in shelves for box in shelf.values()]

    def _marked(self, source: Source) -> set[int]:
        if source.bucket is None or source.reader is None:
            return set()
        return self._state.marks.get(source.bucket, {}).get(source.reader, set())

    def page(self, source: Source, after: int, upto: int, clock_ms: int, limit: int, max_bytes: int) -> Page:
        page = Page([], complete=False)
        with self._state.lock:
            marked = self._marked(source)
            ranges = (
                islice(box.seqs, bisect_right(box.seqs, after), bisect_right(box.seqs, upto))
                for box in self._boxes(source)
            )
            for seq in merge(*ranges):
                row = self._state.messages[seq].row
                if seq in marked or row.expires_at <= clock_ms:
                    continue
                max_bytes -= len(row.ciphertext)
                if len(page.messages) == limit or (page.messages and max_bytes < 0):
                    return page
                page.messages.append(row)
        page.complete = True
        return page

    def holds(self, mailbox: MailboxNo, message: str, clock_ms: int) -> bool:
        with self._state.lock:
            seq = self._state.seq_of.get((mailbox, message))
            return seq is not None and self._state.messages[seq].row.expires_at > clock_ms

    def waiting(self, source: Source, newest: int) -> Waiting:
        with self._state.lock:
            marked = self._marked(source)
            seqs = sorted(seq for box in self._boxes(source) for seq in box.seqs if seq not in marked)
            size = sum(len(self._state.messages[seq].row.ciphertext) for seq in seqs)
        return Waiting(len(seqs), size, seqs[-newest] if 0 < newest < len(seqs) else 0)

    def close(self) -> None:
        """Nothing to do."""


class MemoryStore:
    """See ``interface.Store``."""

    durable = False

    def __init__(self) -> None:
        self._state = State()

    def open_writer(self) -> MemoryWriter:
        return MemoryWriter(self._state)

    def open_reader(self) -> MemoryReader:
        return MemoryReader(self._state)

    def open_lease_rows(self) -> NoReturn:
        """There is no place for them: raises StoreUnusable."""
        raise StoreUnusable("the store memory: has no place for a lease")
