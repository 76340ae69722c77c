"""One batch as statements, and their answers as the batch's answer.

What a batch does is defined by ``interface.Batch``. Here the engine does it: the tallies are added up where the rows
are, so that nothing has to come back before COMMIT is sent. Only when a message is there already its batch takes a
second way: ask which ones are, decide, and send what is left (``settle``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from posthouse.store.interface import Append, Batch, Committed, Fence, Gone, Mailbox, MailboxNo, Tally
from posthouse.store.postgres import statements as sql
from posthouse.store.postgres.arrays import bools, byteas, int8s, texts
from posthouse.store.postgres.connection import Rows, Statement
from posthouse.store.postgres.places import Places

FOREVER: Final = (1 << 63) - 1


class Known(Struct):
    """What the writer knows of the store that it alone writes to."""

    fence: Fence
    batch: int = 0
    """The last batch that was confirmed."""
    attempt: int = 0
    highest_seq: int = 0
    next_expiry: int = 0
    marks: bool = False
    """Whether there may be marks: it spares stores without any the statements about them."""
    readers_per_bucket: int | None = None
    """The limit that holds everywhere."""


class Applying:
    """A batch on its way. The statements are those of the parts that its owner asks for, in the interface's order."""

    def __init__(self, batch: Batch, known: Known, places: Places) -> None:
        self.batch = batch
        self._places = places
        self._known = known
        self._marks = known.marks or bool(batch.marks)
        self.duplicates: dict[int, int] = {}
        self.gone: list[Gone] = []
        self.boxes: dict[MailboxNo, Mailbox] = {}
        """Those that something was appended to."""
        self.tallies: dict[MailboxNo, Tally] = {}
        self._appends: Sequence[Append] = batch.appends
        self._expiry: dict[int, int] = {}
        """Of those that were appended and raised in the same batch."""
        self._raised: dict[int, tuple[MailboxNo, int]] = {}
        self._replaced: list[int] = []

    @property
    def is_due(self) -> bool:
        """Whether something expires or is purged: the engine alone knows what, and its answer must be heard first."""
        batch = self.batch
        if not batch.expire_limit:
            return False
        return bool(batch.purges) or self._soonest() <= batch.clock_ms

    def _soonest(self) -> int:
        """Nothing expires before."""
        appended = min((m.expires_at for m in self.batch.appends), default=FOREVER)
        return min(self._known.next_expiry or FOREVER, appended)

    def summary(self) -> Statement:
        """What the answer says of the whole store."""
        return sql.SUMMARY, (self._soonest(),)

    # --- statements ------------------------------------------------------------------------------------------

    def advance(self) -> list[Statement]:
        """The fence, and what was acknowledged."""
        batch, known = self.batch, self._known
        fence = known.fence
        last = batch.appends[-1].seq if batch.appends else 0
        next_seq = max(last + 1, batch.reserve_seq or 0)
        found = (fence.epoch, fence.token, fence.incarnation)
        becoming = (batch.number, batch.clock_ms, next_seq, len(batch.marks), known.batch, known.attempt)
        statements: list[Statement] = [(sql.ADVANCE, (*found, *becoming))]
        there, anywhere = self._places.find(batch.deletes)
        if there:
            rows = (int8s(there), int8s(there.values()))
            statements.append(sql.leaving("deleted there", self._marks, *rows))
        if anywhere:
            statements.append(sql.leaving("deleted", self._marks, int8s(anywhere)))
        return statements

    def ask_known(self) -> Statement:
        """Which of the appended ones are there already."""
        appends = self.batch.appends
        ids = byteas(bytes.fromhex(m.id) for m in appends)
        return sql.KNOWN, (int8s(m.mailbox.no for m in appends), ids)

    def rest(self) -> list[Statement]:
        """Everything after the deletes but COMMIT."""
        batch = self.batch
        statements: list[Statement] = []
        if self._replaced:
            statements.append(sql.leaving("replaced", self._marks, int8s(self._replaced)))
        if self._raised:
            boxes, times = zip(*self._raised.values(), strict=True)
            statements.append((sql.RAISE, (int8s(self._raised), int8s(boxes), int8s(times))))
        if self._appends:
            statements += self._append(self._appends)
        if batch.marks:
            statements += self._mark()
        if batch.expire_limit and self.is_due:
            limit = batch.expire_limit
            statements += [sql.leaving("purged", self._marks, no, limit) for no in batch.purges]
            statements.append(sql.leaving("expired", self._marks, batch.clock_ms, limit, self._soonest()))
        statements.append(self.summary())
        return statements

    def _append(self, appends: Sequence[Append]) -> list[Statement]:
        statements: list[Statement] = []
        low = [m.seq for m in appends if m.seq <= self._known.highest_seq]
        if low:
            statements.append((sql.FREE, (int8s(low),)))
        expiry = self._expiry
        # Neighbours in the indexes one after the other: 2 µs of the engine's a row.
        appends = sorted(appends, key=lambda m: m.mailbox.no)
        rows = (
            int8s([m.seq for m in appends]),
            int8s([m.mailbox.no for m in appends]),
            int8s([m.mailbox.shelf for m in appends]),
            int8s([expiry.get(m.seq, m.expires_at) for m in appends]),
            int8s([m.received_at for m in appends]),
            bools([m.guest for m in appends]),
            byteas([bytes.fromhex(m.id) for m in appends]),
            byteas([m.ciphertext for m in appends]),
        )
        return [*statements, (sql.INSERT, rows), self._fill(appends)]

    def _fill(self, appends: Sequence[Append]) -> Statement:
        filled: dict[MailboxNo, Tally] = {}
        total = Tally()
        for m in appends:
            box = m.mailbox
            tally = filled.get(box.no)
            if tally is None:
                tally = filled[box.no] = Tally()
                self.boxes[box.no] = box
            size = len(m.ciphertext)
            tally.count += 1
            tally.bytes += size
            total.bytes += size
            if m.guest:
                tally.guest_count += 1
                tally.guest_bytes += size
                total.guest_count += 1
                total.guest_bytes += size
        boxes = [self.boxes[no] for no in filled]
        tallies = filled.values()
        rows = (
            int8s(filled),
            byteas([box.key for box in boxes]),
            int8s([box.shelf for box in boxes]),
            int8s([tally.count for tally in tallies]),
            int8s([tally.bytes for tally in tallies]),
            int8s([tally.guest_count for tally in tallies]),
            int8s([tally.guest_bytes for tally in tallies]),
        )
        return sql.FILL, (*rows, len(appends), total.bytes, total.guest_count, total.guest_bytes)

    def _mark(self) -> list[Statement]:
        batch = self.batch
        marks, limit = batch.marks, batch.readers_per_bucket
        rows = (
            int8s([mark.seq for mark in marks]),
            texts([mark.bucket for mark in marks]),
            texts([mark.reader for mark in marks]),
        )
        forget: Statement = (sql.FORGET, (texts(dict.fromkeys(mark.bucket for mark in marks)), limit))
        if limit != self._known.readers_per_bucket:
            forget = (sql.FORGET_EVERYWHERE, (limit,))
        return [(sql.MARKING_READERS, (*rows, len(marks))), (sql.MARKS, rows), forget]

    # --- answers ---------------------------------------------------------------------------------------------

    def settle(self, known: Rows) -> None:
        """Decide on every append, as one after the other, by which ones were there: (place, seq, expiry)."""
        batch = self.batch
        there: dict[tuple[MailboxNo, str], tuple[int, int]] = {}
        for place, seq, expires_at in known:
            m = batch.appends[place]
            there[m.mailbox.no, m.id] = (seq, expires_at)
        fresh: dict[int, Append] = {}
        for m in batch.appends:
            key = (m.mailbox.no, m.id)
            found = there.get(key)
            if found is None or found[1] <= batch.clock_ms:
                if found is not None:
                    self._replace(found[0], m, fresh)
                fresh[m.seq] = m
                there[key] = (m.seq, m.expires_at)
                continue
            seq, expires_at = found
            self.duplicates[m.seq] = seq
            if m.expires_at > expires_at:
                there[key] = (seq, m.expires_at)
                if seq in fresh:
                    self._expiry[seq] = m.expires_at
                else:
                    self._raised[seq] = (m.mailbox.no, m.expires_at)
        self._appends = list(fresh.values())

    def _replace(self, seq: int, by: Append, fresh: dict[int, Append]) -> None:
        """An expired one goes; one of this very batch need not be written first."""
        if fresh.pop(seq, None) is None:
            self._replaced.append(seq)
        else:
            self.gone.append(Gone(seq, by.id, by.mailbox.no))

    def hear(self, answers: Sequence[Rows]) -> None:
        """What the statements that change tallies have answered; others answer with other widths."""
        for rows in answers:
            for row in rows:
                if len(row) != 7:
                    break
                no, *tally, seq, message_id = row
                if seq is None:
                    self.tallies[MailboxNo(no)] = Tally(*tally)
                else:
                    self.gone.append(Gone(seq, message_id.hex(), MailboxNo(no)))

    def answer(self, summary: Rows) -> Committed:
        """For the case that it commits."""
        *total, next_expiry = summary[0]
        return Committed(self.duplicates, self.gone, self.tallies, Tally(*total), next_expiry)
