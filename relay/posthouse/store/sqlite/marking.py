"""Which reader of a bucket has marked what.

A reader has a row while something that it marked is still there; the row counts those messages, so that what waits
for a reader needs no scan. A mark dies with its message. A reader that is forgotten loses its row: its number is
never used again, so its marks mean nothing from then on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import apsw

from posthouse.store.interface import Mark
from posthouse.store.sqlite.statements import columns, numbers, slices, values

_SIZES: Final = (
    "SELECT group_concat(seq), group_concat(length(ciphertext)) FROM message WHERE seq IN carray(?)"
)
_READERS: Final = """
    INSERT INTO reader (bucket, name, stamp, count, bytes) SELECT column1, column2, column3, 0, 0 FROM (%s) WHERE true
    ON CONFLICT (bucket, name) DO UPDATE SET stamp = excluded.stamp"""
_STAMPED: Final = "SELECT group_concat(stamp), group_concat(no) FROM reader WHERE stamp >= ?"
_MARKED: Final = "SELECT group_concat(seq), group_concat(reader) FROM mark WHERE (seq, reader) IN (%s)"
_COUNTED: Final = """
    UPDATE reader SET count = count + column2, bytes = bytes + column3 FROM (%s) WHERE no = column1"""
_LEAVING: Final = """
    SELECT group_concat(reader), group_concat(n), group_concat(size) FROM (
        SELECT reader, count(*) AS n, sum(length(ciphertext)) AS size
        FROM mark JOIN message USING (seq) JOIN reader ON reader.no = mark.reader
        WHERE mark.seq IN carray(?) GROUP BY reader)"""
_FORGET: Final = """
    DELETE FROM reader WHERE no IN (
        SELECT no FROM (
            SELECT no, row_number() OVER (PARTITION BY bucket ORDER BY stamp DESC) AS place FROM reader %s)
        WHERE place > ?)"""


class Marking:
    """The marks of a store, for its writer. ``any`` spares stores without marks the statements about them."""

    def __init__(self, connection: apsw.Connection, next_stamp: int) -> None:
        self._connection = connection
        self.next_stamp = next_stamp
        """Rises with every reader of every batch: who marked last has the highest."""
        self._any = bool(connection.execute("SELECT EXISTS (SELECT 1 FROM mark)").get)
        # The highest number used: a reader with a higher one is new.
        self._highest = connection.execute("SELECT ifnull(max(no), 0) FROM reader").get
        self._limit: int | None = None

    def mark(self, marks: Sequence[Mark], readers_per_bucket: int) -> None:
        """Write marks of messages that are there, then forget the readers beyond the limit."""
        sizes = dict(
            zip(*columns(*self._execute(_SIZES, (numbers({m.seq for m in marks}),)).get), strict=True)
        )
        by_reader: dict[tuple[str, str], set[int]] = {}
        for mark in marks:
            if mark.seq in sizes:
                key = (mark.bucket, mark.reader)
                seqs = by_reader.pop(key, set())  # goes to the end: it is the one that marked last
                seqs.add(mark.seq)
                by_reader[key] = seqs
        if by_reader:
            self._any = True
            numbered = self._number(by_reader)
            self._write(numbered, sizes)
            self._forget(numbered, by_reader, readers_per_bucket)
        if readers_per_bucket != self._limit:
            self._limit = readers_per_bucket
            self._execute(_FORGET % "", (readers_per_bucket,))

    def _execute(self, statement: str, bindings: Sequence[Any]) -> apsw.Cursor:
        return self._connection.execute(statement, bindings)

    def _number(self, by_reader: dict[tuple[str, str], set[int]]) -> dict[int, set[int]]:
        """Stamp the readers, making those that are new; their marks by reader number."""
        first = self.next_stamp
        rows = [(bucket, name, first + at) for at, (bucket, name) in enumerate(by_reader)]
        for piece in slices(rows):
            self._execute(_READERS % values(3, len(piece)), [value for row in piece for value in row])
        self.next_stamp += len(rows)
        stamped = dict(zip(*columns(*self._execute(_STAMPED, (first,)).get), strict=True))
        return {stamped[first + at]: seqs for at, seqs in enumerate(by_reader.values())}

    def _forget(
        self, numbered: dict[int, set[int]], by_reader: dict[tuple[str, str], set[int]], limit: int
    ) -> None:
        """Only where a reader is new there can be too many."""
        pairs = zip(numbered, by_reader, strict=True)
        buckets = {bucket for no, (bucket, _) in pairs if no > self._highest}
        if buckets:
            self._highest = max(numbered)
            self._execute(_FORGET % "WHERE bucket IN carray(?)", (apsw.carray(tuple(buckets)), limit))

    def _write(self, marked: dict[int, set[int]], sizes: dict[int, int]) -> None:
        rows = [(seq, reader) for reader, seqs in marked.items() for seq in sorted(seqs)]
        added: dict[int, list[int]] = {}
        for piece in slices(rows):
            flat = [value for row in piece for value in row]
            known = set(zip(*columns(*self._execute(_MARKED % values(2, len(piece)), flat).get), strict=True))
            for seq, reader in piece:
                if (seq, reader) not in known:
                    count_and_size = added.setdefault(reader, [0, 0])
                    count_and_size[0] += 1
                    count_and_size[1] += sizes[seq]
            self._execute(
                f"INSERT INTO mark (seq, reader) {values(2, len(piece))} ON CONFLICT DO NOTHING", flat
            )
        self._count([(reader, n, size) for reader, (n, size) in added.items()])

    def _count(self, differences: list[tuple[int, int, int]]) -> None:
        for piece in slices(differences):
            self._execute(_COUNTED % values(3, len(piece)), [value for row in piece for value in row])

    def leave(self, seqs: object) -> None:
        """The messages with these sequence numbers (a bound array) are about to be deleted."""
        if not self._any:
            return
        leaving = list(zip(*columns(*self._connection.execute(_LEAVING, (seqs,)).get), strict=True))
        self._connection.execute("DELETE FROM mark WHERE seq IN carray(?)", (seqs,))
        if leaving:
            self._count([(reader, -n, -size) for reader, n, size in leaving])
            self._connection.execute(
                "DELETE FROM reader WHERE count = 0 AND no IN carray(?)",
                (numbers(row[0] for row in leaving),),
            )
