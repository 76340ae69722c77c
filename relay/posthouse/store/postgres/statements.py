"""What the writer says to the engine: each text is prepared once a connection and planned once.

A statement that must not go on raises an error of its own by dividing by zero: so all statements of a batch, COMMIT
among them, can be sent at once, and the first that fails leaves out the others.
"""

from __future__ import annotations

from typing import Final

from posthouse.store.postgres.connection import Parameter, Statement

BEGIN: Final[Statement] = ("BEGIN ISOLATION LEVEL READ COMMITTED", ())
COMMIT: Final[Statement] = ("COMMIT", ())
ROLLBACK: Final[Statement] = ("ROLLBACK", ())

GUARD_FAILED: Final = "22012"
"""What the engine says when a statement found that the batch must not go on."""
TAKEN: Final = "23505"
"""What the engine says of a second row with the same key."""

_MATCHES: Final = "epoch = $1::int8 AND token = $2::bytea AND incarnation = $3::bytea"

RELAY_ID: Final = "SELECT id FROM relay"
STATE: Final = "SELECT epoch, token, incarnation, batch, attempt FROM relay"

ADVANCE: Final = f"""
    WITH ours AS (
        UPDATE relay SET batch = $4::int8, clock_ms = $5::int8, next_seq = greatest(next_seq, $6::int8),
            next_stamp = next_stamp + $7::int8, touched = '{{}}'
        WHERE {_MATCHES} AND batch < $4::int8 AND batch >= $8::int8 AND attempt = $9::int8
        RETURNING 1)
    SELECT 1 / count(*) FROM ours"""
"""First, as it locks the row: under another fence nothing after it is done."""

_TALLY: Final = "count, bytes, guest_count, guest_bytes"
_SUMS: Final = """
    sums AS (
        SELECT mailbox, count(*) AS n, sum(size)::int8 AS size, count(*) FILTER (WHERE guest) AS guest_n,
            coalesce(sum(size) FILTER (WHERE guest), 0)::int8 AS guest_size
        FROM gone GROUP BY mailbox),
    emptied AS (DELETE FROM mailbox USING sums WHERE no = mailbox AND count = n RETURNING no),
    changed AS (
        UPDATE mailbox SET count = count - n, bytes = bytes - size, guest_count = guest_count - guest_n,
            guest_bytes = guest_bytes - guest_size
        FROM sums WHERE no = mailbox AND count > n RETURNING no, count, bytes, guest_count, guest_bytes),
    total AS (
        UPDATE relay SET count = count - n, bytes = bytes - size, guest_count = guest_count - guest_n,
            guest_bytes = guest_bytes - guest_size, touched = touched || boxes
        FROM (
            SELECT sum(n)::int8 AS n, sum(size)::int8 AS size, sum(guest_n)::int8 AS guest_n,
                sum(guest_size)::int8 AS guest_size, array_agg(mailbox) AS boxes
            FROM sums HAVING count(*) > 0) AS all_sums)"""
_UNMARK: Final = """,
    unmarked AS (DELETE FROM mark USING gone WHERE mark.seq = gone.seq RETURNING mark.reader, gone.size),
    fewer AS (SELECT reader AS who, count(*) AS n, sum(size)::int8 AS size FROM unmarked GROUP BY reader),
    forgotten AS (DELETE FROM reader USING fewer WHERE no = who AND count = n),
    counted AS (
        UPDATE reader SET count = count - n, bytes = bytes - size FROM fewer WHERE no = who AND count > n)"""
_LEFT: Final = "RETURNING seq, id, mailbox, guest, octet_length(ciphertext) AS size"
_OF_CHOSEN: Final = "WHERE message.seq = chosen_seq AND message.mailbox = chosen_mailbox"
_BY_SEQ: Final = f"gone AS (DELETE FROM message WHERE seq = ANY($1::int8[]) {_LEFT})"
_BY_PLACE: Final = f"""
    given AS MATERIALIZED (
        SELECT unnest($1::int8[]) AS chosen_seq, unnest($2::int8[]) AS chosen_mailbox),
    gone AS (DELETE FROM message USING given {_OF_CHOSEN} {_LEFT})"""
_EXPIRED: Final = f"""
    chosen AS MATERIALIZED (
        SELECT seq AS chosen_seq, mailbox AS chosen_mailbox FROM message
        WHERE expires_at BETWEEN $3::int8 AND $1::int8 ORDER BY expires_at, seq LIMIT $2::int8),
    gone AS (DELETE FROM message USING chosen {_OF_CHOSEN} {_LEFT})"""
_OF_MAILBOX: Final = f"""
    chosen AS MATERIALIZED (
        SELECT seq AS chosen_seq, mailbox AS chosen_mailbox FROM message
        WHERE mailbox = $1::int8 ORDER BY seq LIMIT $2::int8),
    gone AS (DELETE FROM message USING chosen {_OF_CHOSEN} {_LEFT})"""


def _leaving(gone: str, marks: bool, named: bool) -> str:
    names = " UNION ALL SELECT mailbox, 0, 0, 0, 0, seq, id FROM gone" if named else ""
    return f"""
        WITH {gone}, {_SUMS}{_UNMARK if marks else ""}
        SELECT no, {_TALLY}, NULL::int8 AS seq, NULL::bytea AS id FROM changed
        UNION ALL SELECT no, 0, 0, 0, 0, NULL, NULL FROM emptied{names}"""


_LEAVING: Final = {
    (which, marks): _leaving(gone, marks, named)
    for which, gone, named in (
        ("deleted", _BY_SEQ, False),
        ("deleted there", _BY_PLACE, False),
        ("replaced", _BY_SEQ, True),
        ("expired", _EXPIRED, True),
        ("purged", _OF_MAILBOX, True),
    )
    for marks in (False, True)
}


def leaving(which: str, marks: bool, *parameters: Parameter) -> Statement:
    """Messages go: ``deleted`` and ``replaced`` by sequence numbers, ``deleted there`` by those and their mailboxes,
    ``expired`` by clock, limit and the lowest expiry that there can be, ``purged`` by mailbox and limit.

    Rows: mailbox and its tally; for all that nobody has asked for also mailbox, zeros, seq and id of each.
    """
    return _LEAVING[which, marks], parameters


FREE: Final = "SELECT 1 / (NOT EXISTS (SELECT FROM message WHERE seq = ANY($1::int8[])))::int4"
"""Sequence numbers that must not be taken."""

KNOWN: Final = """
    SELECT asked.at - 1, message.seq, message.expires_at
    FROM unnest($1::int8[], $2::bytea[]) WITH ORDINALITY AS asked (mailbox, id, at)
    JOIN message ON message.mailbox = asked.mailbox AND message.id = asked.id"""
"""Which of these (mailbox, id) are there: place in the list, seq, expiry."""

INSERT: Final = """
    INSERT INTO message (seq, mailbox, shelf, expires_at, received_at, guest, id, ciphertext)
    SELECT unnest($1::int8[]), unnest($2::int8[]), unnest($3::int8[]), unnest($4::int8[]), unnest($5::int8[]),
        unnest($6::bool[]), unnest($7::bytea[]), unnest($8::bytea[])"""
"""Side by side, the lists are read as they come; as one table they would be written down first (3 µs a row)."""

RAISE: Final = """
    UPDATE message SET expires_at = later.expires_at
    FROM unnest($1::int8[], $2::int8[], $3::int8[]) AS later (seq, mailbox, expires_at)
    WHERE message.seq = later.seq AND message.mailbox = later.mailbox"""

FILL: Final = f"""
    WITH total AS (
        UPDATE relay SET count = count + $8::int8, bytes = bytes + $9::int8, guest_count = guest_count + $10::int8,
            guest_bytes = guest_bytes + $11::int8)
    INSERT INTO mailbox (no, key, shelf, {_TALLY})
    SELECT * FROM unnest(
        $1::int8[], $2::bytea[], $3::int8[], $4::int8[], $5::int8[], $6::int8[], $7::int8[])
    ON CONFLICT (no) DO UPDATE SET count = mailbox.count + excluded.count, bytes = mailbox.bytes + excluded.bytes,
        guest_count = mailbox.guest_count + excluded.guest_count,
        guest_bytes = mailbox.guest_bytes + excluded.guest_bytes
    RETURNING no, {_TALLY}, NULL::int8 AS seq, NULL::bytea AS id"""
"""Mailboxes get something; rows as those of ``leaving``."""

SUMMARY: Final = f"""
    SELECT {_TALLY}, coalesce((SELECT min(expires_at) FROM message WHERE expires_at >= $1::int8), 0) FROM relay"""
"""Totals and next expiry. It begins where the last one was: before that lie only the traces of what is gone, of which
there are many until the engine cleans up."""

_MARKED: Final = """
    given AS (
        SELECT * FROM unnest($1::int8[], $2::text[], $3::text[]) WITH ORDINALITY AS g (seq, bucket, name, at)),
    there AS (
        SELECT given.*, octet_length(ciphertext) AS size FROM given JOIN message ON message.seq = given.seq)"""

MARKING_READERS: Final = f"""
    WITH {_MARKED},
    who AS (SELECT bucket, name, max(at) AS at FROM there GROUP BY bucket, name)
    INSERT INTO reader (bucket, name, stamp, count, bytes)
    SELECT bucket, name, (SELECT next_stamp FROM relay) - $4::int8 + at, 0, 0 FROM who
    ON CONFLICT (bucket, name) DO UPDATE SET stamp = excluded.stamp"""

MARKS: Final = f"""
    WITH {_MARKED},
    marked AS (
        INSERT INTO mark (seq, reader)
        SELECT DISTINCT there.seq, reader.no FROM there
        JOIN reader ON reader.bucket = there.bucket AND reader.name = there.name
        ON CONFLICT DO NOTHING RETURNING seq, reader),
    more AS (
        SELECT marked.reader AS who, count(*) AS n, sum(octet_length(ciphertext))::int8 AS size
        FROM marked JOIN message ON message.seq = marked.seq GROUP BY marked.reader)
    UPDATE reader SET count = count + n, bytes = bytes + size FROM more WHERE no = who"""

FORGET: Final = """
    DELETE FROM reader WHERE no = ANY(ARRAY(
        SELECT beyond.no FROM unnest($1::text[]) AS named (bucket)
        CROSS JOIN LATERAL (
            SELECT reader.no FROM reader WHERE reader.bucket = named.bucket
            ORDER BY reader.stamp DESC OFFSET $2::int8) AS beyond))"""
FORGET_EVERYWHERE: Final = """
    DELETE FROM reader WHERE no = ANY(ARRAY(
        SELECT no FROM (
            SELECT no, row_number() OVER (PARTITION BY bucket ORDER BY stamp DESC) AS place FROM reader) AS placed
        WHERE place > $1::int8))"""

PROMOTE: Final = f"""
    UPDATE relay SET epoch = $4::int8, token = $5::bytea, batch = 0, attempt = 0, touched = '{{}}' WHERE {_MATCHES}
    RETURNING id, clock_ms, next_seq, {_TALLY}"""
FOUND: Final = """
    SELECT (SELECT coalesce(max(no), 0) + 1 FROM mailbox), coalesce((SELECT min(expires_at) FROM message), 0),
        coalesce((SELECT max(seq) FROM message), 0), EXISTS (SELECT FROM mark)"""
"""Next mailbox, next expiry, highest sequence number, whether there are marks."""

ATTEMPT: Final = f"UPDATE relay SET attempt = attempt + 1 WHERE {_MATCHES} RETURNING batch, attempt"
"""Locks the row: it waits for a commit that is under way, and one that arrives later finds another attempt."""

TOUCHED: Final = """
    SELECT box.no, coalesce(count, 0), coalesce(bytes, 0), coalesce(guest_count, 0), coalesce(guest_bytes, 0)
    FROM (SELECT unnest($1::int8[]) AS no UNION SELECT unnest(touched) FROM relay) AS box
    LEFT JOIN mailbox ON mailbox.no = box.no"""
"""The tallies of some mailboxes and of those that the last batch deleted from."""

END_OLDER: Final = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE pid <> pg_backend_pid() AND datname = current_database()
        AND substring(application_name FROM '^posthouse ' || $1::text || ' epoch ([0-9]+)$')::int8 < $2::int8"""
END_OWN: Final = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE pid = $1::int4 AND application_name = $2::text"""
NAME: Final = "SELECT set_config('application_name', $1::text, false)"
