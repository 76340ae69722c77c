"""Reading: pages of backlog, and how much waits.

Every call is one statement or two, on a session that cannot write; when the connection is lost, it is asked once more
over a new one. A page is chosen and cut to its size by the engine, in one statement.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from posthouse.store.interface import (
    MailboxNo,
    Page,
    Source,
    StoredMessage,
    StoreUnavailable,
    Tally,
    Waiting,
)
from posthouse.store.postgres.arrays import byteas, int8s
from posthouse.store.postgres.connection import Connection, ConnectionLost, Parameter, Refused, Rows
from posthouse.store.postgres.places import Places

CROWDED: Final = 16
"""A mailbox is listed in the order of its shelf, unless its neighbours there have this many times as much:
otherwise somebody could fill a neighbour's mailbox to make reading this one slow."""
CROWD: Final = 4096
"""Below this many neighbours' messages that is no matter."""
_NOBODY: Final = 0

_MAILBOXES: Final = """
    SELECT key, no, count, bytes, guest_count, guest_bytes FROM mailbox WHERE key = ANY($1::bytea[])"""
_CROWD: Final = """
    SELECT count, (SELECT sum(near.count)::int8 FROM mailbox AS near WHERE near.shelf = mailbox.shelf), shelf
    FROM mailbox WHERE no = $1::int8"""
_COLUMNS: Final = "seq, id, mailbox, shelf, ciphertext, received_at, expires_at"
_RANGE: Final = "seq > $1::int8 AND seq <= $2::int8 AND expires_at > $3::int8"
_CUT: Final = f"""
    SELECT {_COLUMNS}, chosen FROM (
        SELECT {_COLUMNS}, count(*) OVER () AS chosen, row_number() OVER place AS place,
            sum(octet_length(ciphertext)) OVER place AS size
        FROM (%s) AS listed WINDOW place AS (ORDER BY seq)) AS measured
    WHERE place < $4::int8 AND (place = 1 OR size <= $5::int8) ORDER BY seq"""
"""$4 is one more than the page may have: that one only tells that there is more."""
_OF_MAILBOX: Final = _CUT % (
    f"SELECT {_COLUMNS} FROM message WHERE shelf = $6::int8 AND mailbox = $7::int8 AND {_RANGE} "
    "ORDER BY seq LIMIT $4::int8"
)
_IN_A_CROWD: Final = _CUT % (
    # With nothing but the mailbox to go by, it is found through the index of ids, in which it lies together.
    f"SELECT {_COLUMNS} FROM message WHERE shelf + 0 = $6::int8 AND mailbox = $7::int8 "
    "AND seq + 0 > $1::int8 AND seq + 0 <= $2::int8 AND expires_at + 0 > $3::int8 ORDER BY seq + 0 LIMIT $4::int8"
)
_UNMARKED: Final = "NOT EXISTS (SELECT FROM mark WHERE mark.seq = message.seq AND mark.reader = $%d::int8)"
_OF_SHELVES: Final = (
    _CUT
    % f"""
    SELECT {_COLUMNS} FROM unnest($6::int8[]) AS wanted (its_shelf) CROSS JOIN LATERAL (
        SELECT {_COLUMNS} FROM message WHERE shelf = its_shelf AND {_RANGE} AND {_UNMARKED % 7}
        ORDER BY seq LIMIT $4::int8) AS of_one
    ORDER BY seq LIMIT $4::int8"""
)
_HOLDS: Final = """
    SELECT EXISTS (SELECT FROM message WHERE mailbox = $1::int8 AND id = $2::bytea AND expires_at > $3::int8)"""
_READER: Final = "SELECT no, count, bytes FROM reader WHERE bucket = $1::text AND name = $2::text"
_HELD: Final = "SELECT coalesce(sum(count), 0)::int8, coalesce(sum(bytes), 0)::int8 FROM mailbox WHERE "
_HELD_BY_MAILBOX: Final = _HELD + "no = $1::int8 AND shelf = ANY($2::int8[])"
_HELD_BY_SHELVES: Final = _HELD + "shelf = ANY($1::int8[])"
_NEWEST_OF_MAILBOX: Final = """
    SELECT min(seq) FROM (
        SELECT seq FROM message WHERE mailbox = $1::int8 AND shelf = ANY($2::int8[])
        ORDER BY seq DESC LIMIT $3::int8) AS newest"""
_NEWEST_OF_SHELVES: Final = f"""
    SELECT min(seq) FROM (
        SELECT seq FROM unnest($1::int8[]) AS wanted (its_shelf) CROSS JOIN LATERAL (
            SELECT seq FROM message WHERE shelf = its_shelf AND {_UNMARKED % 2}
            ORDER BY seq DESC LIMIT $3::int8) AS of_one
        ORDER BY seq DESC LIMIT $3::int8) AS newest"""


class PostgresReader:
    """See ``interface.Reader``. ``connect`` gives a new reading session and raises ConnectionLost and Refused."""

    def __init__(
        self, place: str, connect: Callable[[], Connection], connection: Connection, places: Places
    ) -> None:
        self._places = places
        self._place = place
        self._connect = connect
        self._connection = connection

    def close(self) -> None:
        self._connection.close()

    def _ask(self, text: str, *parameters: Parameter) -> Rows:
        """Raises StoreUnavailable."""
        try:
            try:
                return self._connection.one(text, *parameters)
            except (ConnectionLost, Refused):
                if not self._connection.lost:
                    raise
            self._connection = self._connect()
            return self._connection.one(text, *parameters)
        except (ConnectionLost, Refused) as error:
            raise StoreUnavailable(f"store {self._place}: {error}") from error

    def mailboxes(self, keys: list[bytes]) -> dict[bytes, tuple[MailboxNo, Tally]]:
        if not keys:
            return {}
        rows = self._ask(_MAILBOXES, byteas(keys))
        return {key: (MailboxNo(no), Tally(*tally)) for key, no, *tally in rows}

    def page(self, source: Source, after: int, upto: int, clock_ms: int, limit: int, max_bytes: int) -> Page:
        bounds = (after, upto, clock_ms, limit + 1, max_bytes)
        if source.mailbox is None:
            rows = self._ask(_OF_SHELVES, *bounds, _shelves(source), self._reader(source)[0])
        else:
            found = self._ask(_CROWD, source.mailbox)
            if not found or found[0][2] not in source.shelves:
                return Page([], complete=True)
            count, crowd, shelf = found[0]
            text = _IN_A_CROWD if crowd > max(CROWD, CROWDED * count) else _OF_MAILBOX
            rows = self._ask(text, *bounds, shelf, source.mailbox)
        messages = [
            StoredMessage(seq, message_id.hex(), MailboxNo(no), shelf, body, received, expires)
            for seq, message_id, no, shelf, body, received, expires, _ in rows
        ]
        self._places.learn([(m.seq, m.mailbox) for m in messages])
        return Page(messages, complete=not rows or rows[0][-1] == len(rows))

    def holds(self, mailbox: MailboxNo, message: str, clock_ms: int) -> bool:
        return bool(self._ask(_HOLDS, mailbox, bytes.fromhex(message), clock_ms)[0][0])

    def _reader(self, source: Source) -> tuple[int, int, int]:
        """Number of a bucket's reader, and how much it has marked."""
        if source.bucket is None or source.reader is None:
            return _NOBODY, 0, 0
        rows: list[tuple[int, int, int]] = self._ask(_READER, source.bucket.encode(), source.reader.encode())
        return rows[0] if rows else (_NOBODY, 0, 0)

    def waiting(self, source: Source, newest: int) -> Waiting:
        shelves = _shelves(source)
        reader = _NOBODY
        if source.mailbox is not None:
            count, size = self._ask(_HELD_BY_MAILBOX, source.mailbox, shelves)[0]
        else:
            count, size = self._ask(_HELD_BY_SHELVES, shelves)[0]
            reader, marked, marked_bytes = self._reader(source)
            count, size = count - marked, size - marked_bytes
        if not 0 < newest < count:
            return Waiting(count, size, 0)
        if source.mailbox is not None:
            newest_from = self._ask(_NEWEST_OF_MAILBOX, source.mailbox, shelves, newest)[0][0]
        else:
            newest_from = self._ask(_NEWEST_OF_SHELVES, shelves, reader, newest)[0][0]
        return Waiting(count, size, newest_from or 0)


def _shelves(source: Source) -> bytes:
    return int8s(dict.fromkeys(source.shelves))
