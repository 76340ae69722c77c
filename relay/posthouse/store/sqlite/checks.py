"""Whether a file holds what it says it holds.

One read transaction, so a running relay may go on writing; it takes as long as reading the whole file does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Any, Final

import apsw
from msgspec import Struct

from posthouse.store.sqlite.connection import snapshot

SHOWN: Final = 20
"""At most this many lines about one kind of damage."""

_QUESTIONS: Final = (
    (
        "mailbox {0} says {1} messages of {2} bytes (guests: {3} of {4}), but holds {5} of {6} ({7} of {8})",
        """
        SELECT no, said.count, said.bytes, said.guest_count, said.guest_bytes,
            ifnull(n, 0), ifnull(size, 0), ifnull(guest_n, 0), ifnull(guest_size, 0)
        FROM mailbox AS said LEFT JOIN (
            SELECT mailbox, count(*) AS n, sum(length(ciphertext)) AS size, sum(guest) AS guest_n,
                sum(guest * length(ciphertext)) AS guest_size
            FROM message GROUP BY mailbox) ON mailbox = no
        WHERE (said.count, said.bytes, said.guest_count, said.guest_bytes)
            IS NOT (n, size, guest_n, guest_size)""",
    ),
    (
        "message {0} is of mailbox {1} on shelf {2}, which is not there",
        """
        SELECT seq, mailbox, shelf FROM message
        WHERE NOT EXISTS (SELECT 1 FROM mailbox WHERE no = message.mailbox AND shelf = message.shelf)""",
    ),
    (
        "the store says {0} messages of {1} bytes (guests: {2} of {3}), but its mailboxes say {4} of {5} ({6} of {7})",
        """
        SELECT * FROM (SELECT count, bytes, guest_count, guest_bytes FROM relay) AS said, (
            SELECT ifnull(sum(count), 0) AS n, ifnull(sum(bytes), 0) AS size, ifnull(sum(guest_count), 0) AS guest_n,
                ifnull(sum(guest_bytes), 0) AS guest_size FROM mailbox) AS found
        WHERE (said.count, said.bytes, guest_count, guest_bytes) IS NOT (n, size, guest_n, guest_size)""",
    ),
    (
        "message {0} has not the slot that it names",
        """
        SELECT seq FROM message
        WHERE NOT EXISTS (SELECT 1 FROM slot WHERE no = message.slot AND slot.seq = message.seq)""",
    ),
    (
        "slot {0} is of message {1}, which is not there",
        "SELECT no, seq FROM slot WHERE NOT EXISTS (SELECT 1 FROM message WHERE message.seq = slot.seq)",
    ),
    (
        "reader {1} has marked message {0}, which is not there",
        "SELECT seq, reader FROM mark WHERE NOT EXISTS (SELECT 1 FROM message WHERE message.seq = mark.seq)",
    ),
    (
        "reader {0} says {1} marks of {2} bytes, but has {3} of {4}",
        """
        SELECT no, said.count, said.bytes, ifnull(n, 0), ifnull(size, 0) FROM reader AS said LEFT JOIN (
            SELECT reader, count(*) AS n, sum(length(ciphertext)) AS size
            FROM mark JOIN message USING (seq) GROUP BY reader) ON reader = no
        WHERE (said.count, said.bytes) IS NOT (n, size)""",
    ),
    (
        "the next sequence number is {0}, but {1} is taken",
        """
        SELECT next_seq, (SELECT max(seq) FROM message) FROM relay
        WHERE next_seq <= (SELECT max(seq) FROM message)""",
    ),
)
"""What to say of each row, and the query for the rows that should not be."""


class Report(Struct):
    """What is in the file, and what is wrong with it."""

    schema: int
    relay_id: str
    epoch: int
    messages: int
    bytes: int
    mailboxes: int
    marks: int
    problems: list[str]


def check(
    connection: apsw.Connection, progress: Callable[[int, int], object] = lambda done, of: None
) -> Report:
    """Look at everything. ``progress`` is told how many messages have been hashed, of how many. Raises apsw.Error."""
    with snapshot(connection):
        relay_id, epoch, messages, size = connection.execute("SELECT id, epoch, count, bytes FROM relay").get
        report = Report(
            schema=connection.execute("PRAGMA user_version").get,
            relay_id=relay_id,
            epoch=epoch,
            messages=messages,
            bytes=size,
            mailboxes=connection.execute("SELECT count(*) FROM mailbox").get,
            marks=connection.execute("SELECT count(*) FROM mark").get,
            problems=[],
        )
        for line in connection.execute(f"PRAGMA integrity_check({SHOWN})"):
            if line[0] != "ok":
                report.problems.append(str(line[0]))
        for words, query in _QUESTIONS:
            report.problems += _some(words, connection.execute(query))
        report.problems += _some(
            "message {0} is not what its id says", _wrong_ids(connection, messages, progress)
        )
    return report


def _some(words: str, rows: Iterator[Any]) -> list[str]:
    lines: list[str] = []
    for row in rows:
        if len(lines) == SHOWN:
            lines.append("… and more of that kind")
            break
        lines.append(words.format(*row))
    return lines


def _wrong_ids(
    connection: apsw.Connection, of: int, progress: Callable[[int, int], object]
) -> Iterator[tuple[int]]:
    for done, (seq, message_id, ciphertext) in enumerate(
        connection.execute("SELECT seq, id, ciphertext FROM message"), 1
    ):
        if sha256(ciphertext).digest() != message_id:
            yield (seq,)
        if done % 1000 == 0:
            progress(done, of)
