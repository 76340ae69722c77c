"""Whether a store holds what it says it holds.

One read transaction, so a running relay may go on writing; it takes as long as reading everything does. Ciphertext is
hashed by the engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from msgspec import Struct

from posthouse.store.interface import StoreUnusable
from posthouse.store.postgres.address import Address
from posthouse.store.postgres.connection import Connection, ConnectionLost, Refused
from posthouse.store.postgres.schema import SCHEMA, check_version, is_new
from posthouse.store.postgres.sessions import Patience, open_to_look

SHOWN: Final = 20
"""At most this many lines about one kind of damage."""
PATIENCE: Final = Patience(lock_ms=10_000, commit_ms=24 * 3600 * 1000)

_QUESTIONS: Final = (
    (
        "mailbox {0} says {1} messages of {2} bytes (guests: {3} of {4}), but holds {5} of {6} ({7} of {8})",
        """
        SELECT no, said.count, said.bytes, said.guest_count, said.guest_bytes,
            coalesce(n, 0), coalesce(size, 0), coalesce(guest_n, 0), coalesce(guest_size, 0)
        FROM mailbox AS said LEFT JOIN (
            SELECT mailbox, count(*) AS n, sum(octet_length(ciphertext))::int8 AS size,
                count(*) FILTER (WHERE guest) AS guest_n,
                coalesce(sum(octet_length(ciphertext)) FILTER (WHERE guest), 0)::int8 AS guest_size
            FROM message GROUP BY mailbox) AS found ON mailbox = no
        WHERE (said.count, said.bytes, said.guest_count, said.guest_bytes)
            IS DISTINCT FROM (n, size, guest_n, guest_size)""",
    ),
    (
        "message {0} is of mailbox {1} on shelf {2}, which is not there",
        """
        SELECT seq, mailbox, shelf FROM message
        WHERE NOT EXISTS (SELECT FROM mailbox WHERE no = message.mailbox AND shelf = message.shelf)""",
    ),
    (
        "the store says {0} messages of {1} bytes (guests: {2} of {3}), but its mailboxes say {4} of {5} ({6} of {7})",
        """
        SELECT said.*, found.* FROM (SELECT count, bytes, guest_count, guest_bytes FROM relay) AS said, (
            SELECT coalesce(sum(count), 0)::int8 AS n, coalesce(sum(bytes), 0)::int8 AS size,
                coalesce(sum(guest_count), 0)::int8 AS guest_n, coalesce(sum(guest_bytes), 0)::int8 AS guest_size
            FROM mailbox) AS found
        WHERE (count, bytes, guest_count, guest_bytes) IS DISTINCT FROM (n, size, guest_n, guest_size)""",
    ),
    ("message {0} is there more than once", "SELECT seq FROM message GROUP BY seq HAVING count(*) > 1"),
    (
        "reader {1} has marked message {0}, which is not there",
        "SELECT seq, reader FROM mark WHERE NOT EXISTS (SELECT FROM message WHERE message.seq = mark.seq)",
    ),
    (
        "reader {0} says {1} marks of {2} bytes, but has {3} of {4}",
        """
        SELECT no, said.count, said.bytes, coalesce(n, 0), coalesce(size, 0) FROM reader AS said LEFT JOIN (
            SELECT reader, count(*) AS n, sum(octet_length(ciphertext))::int8 AS size
            FROM mark JOIN message ON message.seq = mark.seq GROUP BY reader) AS found ON reader = no
        WHERE (said.count, said.bytes) IS DISTINCT FROM (n, size)""",
    ),
    (
        "the next sequence number is {0}, but {1} is taken",
        """
        SELECT next_seq, highest FROM relay, (SELECT max(seq) AS highest FROM message) AS found
        WHERE next_seq <= highest""",
    ),
    (
        "message {0} is not what its id says",
        "SELECT seq FROM message WHERE sha256(ciphertext) <> id",
    ),
)
"""What to say of each row, and the query for the rows that should not be."""


class Report(Struct):
    """What is in the store, and what is wrong with it."""

    schema: int
    relay_id: str
    epoch: int
    messages: int
    bytes: int
    mailboxes: int
    marks: int
    problems: list[str]


_ACTIVE: Final = """
    SELECT count(*) > 0 FROM pg_stat_activity, relay
    WHERE datname = current_database()
        AND application_name = 'posthouse ' || left(encode(incarnation, 'hex'), 16) || ' epoch ' || epoch"""


def has_active_writer(address: Address) -> bool:
    """Whether a session of the present epoch is connected. Raises StoreUnusable."""
    with _looking(address, Patience(lock_ms=2000, commit_ms=10_000)) as connection:
        return bool(connection.one(_ACTIVE)[0][0])


def check(address: Address) -> Report:
    """Look at everything. Raises StoreUnusable."""
    with _looking(address, PATIENCE) as connection:
        return _look(connection)


@contextmanager
def _looking(address: Address, patience: Patience) -> Iterator[Connection]:
    try:
        connection = open_to_look(address, patience)
        try:
            if is_new(connection, address.schema):
                raise StoreUnusable("there is no store")
            yield connection
        finally:
            connection.close()
    except (ConnectionLost, Refused, StoreUnusable) as error:
        raise StoreUnusable(f"cannot use {address}: {error}") from error


def _look(connection: Connection) -> Report:
    connection.one("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    version = check_version(connection, SCHEMA, writing=False)
    relay_id, epoch, messages, size = connection.one("SELECT id, epoch, count, bytes FROM relay")[0]
    report = Report(
        schema=version,
        relay_id=relay_id,
        epoch=epoch,
        messages=messages,
        bytes=size,
        mailboxes=connection.one("SELECT count(*) FROM mailbox")[0][0],
        marks=connection.one("SELECT count(*) FROM mark")[0][0],
        problems=[],
    )
    for words, query in _QUESTIONS:
        rows: list[tuple[Any, ...]] = connection.one(f"SELECT * FROM ({query}) AS wrong LIMIT {SHOWN + 1}")
        report.problems += [words.format(*row) for row in rows[:SHOWN]]
        if len(rows) > SHOWN:
            report.problems.append("… and more of that kind")
    return report
