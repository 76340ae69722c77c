"""Reading: pages of backlog, and how much waits.

Every call is one short read transaction, so that the log can always be used up; a commit never waits for it. A page
takes two statements: the first chooses sequence numbers and measures, the second fetches what fits.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Final

import apsw

from posthouse.store.interface import MailboxNo, Page, Source, StoredMessage, Tally, Waiting
from posthouse.store.sqlite.connection import snapshot, unavailable
from posthouse.store.sqlite.slots import OCCUPANT, next_slot, slot_of, slots_of
from posthouse.store.sqlite.statements import JOINED_CIPHERTEXT, JOINED_ID, columns, numbers

CROWDED: Final = 16
"""A mailbox is listed in the order of its shelf, unless its neighbours there have this many times as much:
otherwise somebody could fill a neighbour's mailbox to make reading this one slow."""
CROWD: Final = 4096
"""Below this many neighbours' messages that is no matter."""

_MAILBOXES: Final = """
    SELECT group_concat(hex(key)), group_concat(no), group_concat(count), group_concat(bytes),
        group_concat(guest_count), group_concat(guest_bytes)
    FROM mailbox WHERE key IN carray(?)"""
_CROWD: Final = """
    SELECT count, (SELECT sum(near.count) FROM mailbox AS near WHERE near.shelf = mailbox.shelf)
    FROM mailbox WHERE no = ?"""
_RANGE: Final = "seq > :after AND seq <= :upto"
_OWN: Final = f"""
    SELECT seq FROM slot CROSS JOIN message USING (seq)
    WHERE no BETWEEN :first AND :last AND mailbox = :mailbox AND {_RANGE} ORDER BY seq LIMIT :limit"""
_SHELF: Final = f"SELECT seq FROM message INDEXED BY message_order WHERE shelf = :shelf%d AND {_RANGE} %s"
_MEASURE: Final = """
    SELECT group_concat(seq), group_concat(length(ciphertext)), group_concat(expires_at)
    FROM (%s) AS chosen CROSS JOIN message USING (seq)"""
_FETCH: Final = f"""
    SELECT group_concat(seq), group_concat(mailbox), group_concat(shelf), group_concat(received_at),
        group_concat(expires_at), group_concat(length(ciphertext)), {JOINED_ID}, {JOINED_CIPHERTEXT}
    FROM carray(?) AS chosen CROSS JOIN message ON seq = chosen.value"""
_HELD: Final = "SELECT ifnull(sum(count), 0), ifnull(sum(bytes), 0) FROM mailbox WHERE %s"
_EVERYTHING: Final = (1 << 63) - 1
_NO_SHELF: Final = (-1,)


@cache
def _in_order(shelves: int, condition: str, direction: str) -> str:
    """The first ``:limit`` sequence numbers of some shelves, each read no further than that."""
    parts = [
        f"SELECT seq FROM ({_SHELF % (at, condition)} ORDER BY seq {direction} LIMIT :limit)"
        for at in range(shelves)
    ]
    return f"{' UNION ALL '.join(parts)} ORDER BY seq {direction} LIMIT :limit"


_OF_MAILBOX: Final = "AND mailbox = :mailbox"
_UNMARKED: Final = (
    "AND NOT EXISTS (SELECT 1 FROM mark WHERE mark.seq = message.seq AND mark.reader = :reader)"
)


class SqliteReader:
    """See ``interface.Reader``."""

    def __init__(self, path: Path, connection: apsw.Connection) -> None:
        self._path = path
        self._connection = connection

    def close(self) -> None:
        self._connection.close(force=True)

    def mailboxes(self, keys: list[bytes]) -> dict[bytes, tuple[MailboxNo, Tally]]:
        if not keys:
            return {}
        with unavailable(self._path):
            names, *joined = self._connection.execute(_MAILBOXES, (apsw.carray(tuple(keys)),)).get
        if names is None:
            return {}
        rows = zip(names.split(","), *columns(*joined), strict=True)
        return {bytes.fromhex(key): (MailboxNo(no), Tally(*tally)) for key, no, *tally in rows}

    def page(self, source: Source, after: int, upto: int, clock_ms: int, limit: int, max_bytes: int) -> Page:
        with unavailable(self._path), snapshot(self._connection):
            choice, bindings = self._choice(source)
            bindings |= {"after": after, "upto": upto, "limit": limit + 1}
            while True:
                joined = self._connection.execute(_MEASURE % choice, bindings).get
                rows = sorted(zip(*columns(*joined), strict=True))
                chosen, complete = _fitting(rows, clock_ms, limit, max_bytes)
                if chosen:
                    return Page(self._fetch(chosen), complete)
                if complete:
                    return Page([], True)
                bindings["after"] = rows[limit - 1][0]  # all of these had expired

    def holds(self, mailbox: MailboxNo, message: str, clock_ms: int) -> bool:
        slot, message_id = slot_of(mailbox, message), bytes.fromhex(message)
        with unavailable(self._path), snapshot(self._connection):
            while True:
                found = self._connection.execute(OCCUPANT, (slot,)).get
                if found is None:
                    return False
                _, occupied_by, there, expires_at = found
                if (occupied_by, there) == (mailbox, message_id):
                    return bool(expires_at > clock_ms)
                slot = next_slot(slot)

    def _choice(self, source: Source) -> tuple[str, dict[str, Any]]:
        """The query for the lowest sequence numbers of a source, and its bindings but for the range."""
        if source.mailbox is not None:
            count, crowd = self._connection.execute(_CROWD, (source.mailbox,)).get or (0, 0)
            if crowd > max(CROWD, CROWDED * count):
                first, last = slots_of(source.mailbox)
                return _OWN, {"mailbox": source.mailbox, "first": first, "last": last}
        return self._listing(source, "ASC")

    def _listing(self, source: Source, direction: str) -> tuple[str, dict[str, Any]]:
        shelves = tuple(dict.fromkeys(source.shelves)) or _NO_SHELF
        bindings: dict[str, Any] = {f"shelf{at}": shelf for at, shelf in enumerate(shelves)}
        condition = ""
        if source.mailbox is not None:
            bindings["mailbox"] = source.mailbox
            condition = _OF_MAILBOX
        elif source.bucket is not None and source.reader is not None:
            reader = self._reader(source)
            if reader is not None:
                bindings["reader"] = reader[0]
                condition = _UNMARKED
        return _in_order(len(shelves), condition, direction), bindings

    def _reader(self, source: Source) -> tuple[int, int, int] | None:
        """Number of a bucket's reader, and how much it has marked; None if nothing."""
        row: tuple[int, int, int] | None = self._connection.execute(
            "SELECT no, count, bytes FROM reader WHERE bucket = ? AND name = ?",
            (source.bucket, source.reader),
        ).get
        return row

    def _fetch(self, seqs: list[int]) -> list[StoredMessage]:
        *joined, ids, ciphertexts = self._connection.execute(_FETCH, (numbers(seqs),)).get
        names = ids.hex()
        messages: list[StoredMessage] = []
        name = at = 0
        for seq, mailbox, shelf, received, expires, size in zip(*columns(*joined), strict=True):
            end = at + size
            body = ciphertexts[at:end]
            messages.append(
                StoredMessage(
                    seq, names[name : name + 64], MailboxNo(mailbox), shelf, body, received, expires
                )
            )
            at = end
            name += 64
        return messages

    def waiting(self, source: Source, newest: int) -> Waiting:
        with unavailable(self._path), snapshot(self._connection):
            count, size = self._held(source)
            if not 0 < newest < count:
                return Waiting(count, size, 0)
            query, bindings = self._listing(source, "DESC")
            bindings |= {"after": -1, "upto": _EVERYTHING, "limit": newest}
            newest_from = self._connection.execute(f"SELECT min(seq) FROM ({query})", bindings).get
            return Waiting(count, size, newest_from or 0)

    def _held(self, source: Source) -> tuple[int, int]:
        connection = self._connection
        if source.mailbox is not None:
            held: tuple[int, int] = connection.execute(_HELD % "no = ?", (source.mailbox,)).get
            return held
        shelves = numbers(source.shelves or _NO_SHELF)
        count, size = connection.execute(_HELD % "shelf IN carray(?)", (shelves,)).get
        reader = self._reader(source) if source.bucket is not None and source.reader is not None else None
        return (count - reader[1], size - reader[2]) if reader else (count, size)


def _fitting(
    rows: list[tuple[int, ...]], clock_ms: int, limit: int, max_bytes: int
) -> tuple[list[int], bool]:
    """Of (seq, size, expires_at), one more than ``limit`` if there are: which make a page, and whether that is all."""
    chosen: list[int] = []
    for seq, size, expires_at in rows[:limit]:
        if expires_at <= clock_ms:
            continue
        max_bytes -= size
        if chosen and max_bytes < 0:
            return chosen, False
        chosen.append(seq)
    return chosen, len(rows) <= limit
