"""One batch as statements, inside a transaction that the writer has begun and will end.

Tallies are kept as differences while the batch is applied and written once at its end. What a batch does is
defined by ``interface.Batch``; ``memory.Applying`` says the same without SQL.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import apsw

from posthouse.store.interface import (
    Append,
    Batch,
    Committed,
    Gone,
    Mailbox,
    MailboxNo,
    StoreUnavailable,
    Tally,
)
from posthouse.store.sqlite.marking import Marking
from posthouse.store.sqlite.slots import OCCUPANT, next_slot, slot_of
from posthouse.store.sqlite.statements import JOINED_ID, columns, numbers, slices, values

_SLOTS: Final = "INSERT OR IGNORE INTO slot (no, seq) %s"
_INSERT: Final = (  # OR ROLLBACK, as the default would copy every page before changing it
    "INSERT OR ROLLBACK INTO message (seq, mailbox, shelf, expires_at, received_at, guest, slot, id, ciphertext) %s"
)
_LEAVING: Final = """
    SELECT group_concat(seq), group_concat(mailbox), group_concat(guest), group_concat(slot),
        group_concat(length(ciphertext)), %s
    FROM message WHERE seq IN carray(?)"""
_OCCUPIED: Final = "SELECT group_concat(no) FROM slot WHERE no IN carray(?) AND seq NOT IN carray(?)"
_EXPIRED: Final = """
    SELECT group_concat(seq) FROM (
        SELECT seq FROM message WHERE expires_at <= ? ORDER BY expires_at, seq LIMIT ?)"""
_OF_MAILBOX: Final = """
    SELECT group_concat(seq) FROM (
        SELECT seq FROM message INDEXED BY message_order
        WHERE shelf = ?2 AND mailbox = ?1 ORDER BY seq LIMIT ?3)"""
_TALLIES: Final = """
    SELECT group_concat(no), group_concat(count), group_concat(bytes), group_concat(guest_count),
        group_concat(guest_bytes)
    FROM mailbox WHERE no IN carray(?)"""
_NEW_MAILBOXES: Final = "INSERT INTO mailbox (no, key, shelf, count, bytes, guest_count, guest_bytes) %s"
_CHANGED_MAILBOXES: Final = """
    UPDATE mailbox SET count = column2, bytes = column3, guest_count = column4, guest_bytes = column5
    FROM (%s) WHERE no = column1"""


class Applying:
    """A batch being applied; ``run`` gives the answer for the case that the transaction commits."""

    def __init__(self, connection: apsw.Connection, batch: Batch, total: Tally, marking: Marking) -> None:
        self._connection = connection
        self._execute: Callable[..., apsw.Cursor] = connection.execute
        self._batch = batch
        self._total = total
        self._marking = marking
        self._differences: dict[MailboxNo, Tally] = {}
        self._mailboxes: dict[MailboxNo, Mailbox] = {}
        """Those that got something: the ones that may have to be made."""
        self._duplicates: dict[int, int] = {}
        self._gone: list[Gone] = []

    def run(self) -> Committed:
        """Apply everything. Raises apsw.Error, and StoreUnavailable when a sequence number is taken."""
        batch = self._batch
        if batch.deletes:
            self._remove(batch.deletes, gone=False)
        if batch.appends:
            self._append(batch.appends)
        if batch.marks:
            self._marking.mark(batch.marks, batch.readers_per_bucket)
        if batch.expire_limit:
            for no in batch.purges:
                self._remove_chosen(_OF_MAILBOX, no, self._shelf(no), batch.expire_limit)
            self._remove_chosen(_EXPIRED, batch.clock_ms, batch.expire_limit)
        tallies = self._write_tallies() if self._differences else {}
        next_expiry = self._execute("SELECT min(expires_at) FROM message").get or 0
        return Committed(self._duplicates, self._gone, tallies, self._total, next_expiry)

    # --- messages that come ----------------------------------------------------------------------------------

    def _append(self, appends: Sequence[Append]) -> None:
        slots = [slot_of(m.mailbox.no, m.id) for m in appends]
        free = 0
        # In the order of the table, so that each of its pages is looked up once.
        for piece in slices(sorted(zip(slots, [m.seq for m in appends], strict=True))):
            self._execute(_SLOTS % values(2, len(piece)), [value for row in piece for value in row])
            free += self._connection.changes()
        if free == len(appends):
            self._insert(appends, slots)
        else:
            self._look_closer(appends, slots)

    def _insert(self, messages: Sequence[Append], slots: Sequence[int]) -> None:
        for m in messages:
            no = m.mailbox.no
            self._mailboxes[no] = m.mailbox
            self._add(no, 1, len(m.ciphertext), m.guest)
        try:
            for piece in slices(list(zip(messages, slots, strict=True))):
                self._insert_rows(piece)
        except apsw.ConstraintError as error:
            raise StoreUnavailable(f"the batch contradicts what is stored: {error}") from error

    def _insert_rows(self, piece: Sequence[tuple[Append, int]]) -> None:
        rows: list[Any] = []
        fromhex = bytes.fromhex
        for m, slot in piece:
            mailbox, message_id = m.mailbox, fromhex(m.id)
            rows += (m.seq, mailbox.no, mailbox.shelf, m.expires_at, m.received_at, m.guest, slot, message_id)
            rows.append(m.ciphertext)
        self._execute(_INSERT % values(9, len(piece)), rows)

    def _look_closer(self, appends: Sequence[Append], slots: Sequence[int]) -> None:
        """Some slots were occupied: write what got one of its own, then the others one by one."""
        seqs = numbers(m.seq for m in appends)
        (found,) = columns(self._execute(_OCCUPIED, (numbers(slots), seqs)).get)
        occupied = set(found)
        free: dict[int, Append] = {}
        others: list[Append] = []
        for m, slot in zip(appends, slots, strict=True):
            if slot in occupied or slot in free:
                others.append(m)
            else:
                free[slot] = m
        if free:
            self._insert(list(free.values()), list(free))
        for m in others:
            self._append_singly(m)

    def _append_singly(self, m: Append) -> None:
        """Look for a free slot from the message's own one on; what lies before is the same message or another."""
        slot = slot_of(m.mailbox.no, m.id)
        message_id = bytes.fromhex(m.id)
        while True:
            self._execute(_SLOTS % values(2, 1), (slot, m.seq))
            if self._connection.changes():
                return self._insert([m], [slot])
            seq, mailbox, there, expires_at = self._execute(OCCUPANT, (slot,)).get
            if (mailbox, there) != (m.mailbox.no, message_id):
                slot = next_slot(slot)
            elif expires_at <= self._batch.clock_ms:
                self._remove([seq], gone=True)
            else:
                self._duplicates[m.seq] = seq
                if m.expires_at > expires_at:
                    self._execute("UPDATE message SET expires_at = ? WHERE seq = ?", (m.expires_at, seq))
                return None

    # --- messages that go ------------------------------------------------------------------------------------

    def _shelf(self, no: MailboxNo) -> int:
        """The shelf of a mailbox that has messages; one that has none has no shelf either."""
        mailbox = self._mailboxes.get(no)
        if mailbox is not None:
            return mailbox.shelf
        shelf: int | None = self._execute("SELECT shelf FROM mailbox WHERE no = ?", (no,)).get
        return -1 if shelf is None else shelf

    def _remove_chosen(self, query: str, *bindings: int) -> None:
        (seqs,) = columns(self._execute(query, bindings).get)
        if seqs:
            self._remove(seqs, gone=True)

    def _remove(self, chosen: Sequence[int], gone: bool) -> None:
        bound = numbers(chosen)
        *joined, ids = self._execute(_LEAVING % (JOINED_ID if gone else "NULL"), (bound,)).get
        seqs, mailboxes, guests, slots, sizes = columns(*joined)
        if not seqs:
            return
        for no, guest, size in zip(mailboxes, guests, sizes, strict=True):
            self._add(MailboxNo(no), -1, -size, guest)
        if gone:
            names = ids.hex()
            self._gone += [
                Gone(seq, names[at * 64 : at * 64 + 64], MailboxNo(mailboxes[at]))
                for at, seq in enumerate(seqs)
            ]
        self._marking.leave(bound)
        self._execute("DELETE FROM slot WHERE no IN carray(?)", (numbers(slots),))
        self._execute("DELETE FROM message WHERE seq IN carray(?)", (bound,))

    # --- tallies ---------------------------------------------------------------------------------------------

    def _add(self, no: MailboxNo, count: int, size: int, guest: bool | int) -> None:
        difference = self._differences.get(no)
        if difference is None:
            difference = self._differences[no] = Tally()
        difference.count += count
        difference.bytes += size
        if guest:
            difference.guest_count += count
            difference.guest_bytes += size

    def _write_tallies(self) -> dict[MailboxNo, Tally]:
        joined = self._execute(_TALLIES, (numbers(self._differences),)).get
        found = {row[0]: Tally(*row[1:]) for row in zip(*columns(*joined), strict=True)}
        tallies: dict[MailboxNo, Tally] = {}
        made: list[tuple[Any, ...]] = []
        changed: list[tuple[int, ...]] = []
        emptied: list[int] = []
        for no, difference in self._differences.items():
            there = found.get(no)
            tally = tallies[no] = _sum(there, difference) if there else difference
            if there is None:
                mailbox = self._mailboxes[no]
                if tally.count:
                    made.append((no, mailbox.key, mailbox.shelf, *_row(tally)))
            elif tally.count:
                changed.append((no, *_row(tally)))
            else:
                emptied.append(no)
            self._total = _sum(self._total, difference)
        self._many(_NEW_MAILBOXES, made)
        self._many(_CHANGED_MAILBOXES, changed)
        if emptied:
            self._execute("DELETE FROM mailbox WHERE no IN carray(?)", (numbers(emptied),))
        return tallies

    def _many(self, statement: str, rows: list[tuple[Any, ...]]) -> None:
        for piece in slices(rows):
            self._execute(
                statement % values(len(piece[0]), len(piece)), [value for row in piece for value in row]
            )


def _row(tally: Tally) -> tuple[int, int, int, int]:
    return tally.count, tally.bytes, tally.guest_count, tally.guest_bytes


def _sum(a: Tally, b: Tally) -> Tally:
    return Tally(
        a.count + b.count, a.bytes + b.bytes, a.guest_count + b.guest_count, a.guest_bytes + b.guest_bytes
    )
