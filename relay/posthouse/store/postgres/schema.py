"""The tables, their versions, and how a store is brought from one version to the next.

Expand, then contract, as in the file of SQLite: a step that only adds leaves ``writable_by`` at the version before, so
that members of the release before may go on; a later step removes what nobody needs any more and raises it. What a
release must not use it refuses. Everything lies in a schema of its own, which may share its database with others.

What the tables hold is explained in docs/stores.md.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Final

from posthouse.store.interface import TOKEN_BYTES, StoreUnusable
from posthouse.store.postgres.connection import Connection, Refused, Statement

PARTITIONS: Final = 16
"""Tables that the messages are spread over, by mailbox: each is vacuumed by itself, and an engine that spreads its
tables over machines can spread these. It is fixed when the store is made."""

_TABLES: Final = (
    # One row, changed by every batch: the fence, and what a promotion has to know without scanning. ``attempt`` rises
    # when the outcome of a commit is looked into: a commit that was sent before and arrives later finds another one.
    """
    CREATE TABLE relay (
        one int8 PRIMARY KEY CHECK (one = 1),
        id text NOT NULL,
        incarnation bytea NOT NULL,
        epoch int8 NOT NULL,
        token bytea NOT NULL,
        attempt int8 NOT NULL,
        batch int8 NOT NULL,
        clock_ms int8 NOT NULL,
        next_seq int8 NOT NULL,
        next_stamp int8 NOT NULL,
        count int8 NOT NULL,
        bytes int8 NOT NULL,
        guest_count int8 NOT NULL,
        guest_bytes int8 NOT NULL,
        touched int8[] NOT NULL
    ) WITH (fillfactor = 10)""",
    # Mailboxes that hold something.
    """
    CREATE TABLE mailbox (
        no int8 PRIMARY KEY,
        key bytea NOT NULL UNIQUE,
        shelf int8 NOT NULL,
        count int8 NOT NULL,
        bytes int8 NOT NULL,
        guest_count int8 NOT NULL,
        guest_bytes int8 NOT NULL
    ) WITH (fillfactor = 60)""",
    "CREATE INDEX mailbox_shelf ON mailbox (shelf)",
    """
    CREATE TABLE message (
        seq int8 NOT NULL,
        mailbox int8 NOT NULL,
        shelf int8 NOT NULL,
        expires_at int8 NOT NULL,
        received_at int8 NOT NULL,
        guest bool NOT NULL,
        id bytea NOT NULL,
        ciphertext bytea NOT NULL,
        PRIMARY KEY (seq, mailbox)
    ) PARTITION BY HASH (mailbox)""",
    # Ciphertext does not get smaller: the engine need not try.
    "ALTER TABLE message ALTER COLUMN ciphertext SET STORAGE EXTERNAL",
    "CREATE UNIQUE INDEX message_id ON message (mailbox, id)",
    "CREATE INDEX message_order ON message (shelf, seq)",
    "CREATE INDEX message_expiry ON message (expires_at)",
    *(
        f"CREATE TABLE message_{at} PARTITION OF message FOR VALUES WITH (MODULUS {PARTITIONS}, REMAINDER {at})"
        for at in range(PARTITIONS)
    ),
    # Readers that have marked something that is still there. Numbers are never used twice: the marks of a reader
    # that was forgotten stay until their message goes, and mean nothing.
    """
    CREATE TABLE reader (
        no int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        bucket text NOT NULL,
        name text NOT NULL,
        stamp int8 NOT NULL,
        count int8 NOT NULL,
        bytes int8 NOT NULL,
        UNIQUE (bucket, name)
    )""",
    "CREATE INDEX reader_stamp ON reader (bucket, stamp)",
    "CREATE TABLE mark (seq int8 NOT NULL, reader int8 NOT NULL, PRIMARY KEY (seq, reader))",
)
_VERSIONS: Final = (
    """
    CREATE TABLE schema_version (
        one int8 PRIMARY KEY CHECK (one = 1),
        version int8 NOT NULL,
        readable_by int8 NOT NULL,
        writable_by int8 NOT NULL
    )""",
    "INSERT INTO schema_version VALUES (1, 0, 1, 1)",
)
_RELAY: Final = "INSERT INTO relay VALUES (1, $1::text, $2::bytea, 0, '', 0, 0, 0, 1, 1, 0, 0, 0, 0, '{}')"
_TABLES_THERE: Final = "SELECT table_name::text FROM information_schema.tables WHERE table_schema = $1::text"
_STEP: Final = "UPDATE schema_version SET version = $1::int8, readable_by = $2::int8, writable_by = $3::int8"
MADE_BY_ANOTHER: Final = frozenset({"23505", "42P06", "42P07", "42710", "40001"})
"""What the engine says when two members make the same thing at the same moment."""


@dataclass(frozen=True, slots=True)
class Step:
    """From the version before to this one."""

    statements: tuple[str, ...]
    readable_by: int
    """Releases whose own version is at least this can read the store after the step."""
    writable_by: int
    """Releases whose own version is at least this can write the store after the step."""


@dataclass(frozen=True, slots=True)
class Schema:
    """What a release knows: step *n* (from 1) makes version *n*; its own version is the last."""

    steps: tuple[Step, ...]
    oldest: int
    """The oldest version that this release can run on as it is."""

    @property
    def version(self) -> int:
        """The version that this release makes."""
        return len(self.steps)

    def applying(self, found: int) -> list[Statement]:
        """The statements that lead from a version to this release's own."""
        statements: list[Statement] = []
        for version, step in enumerate(self.steps[found:], found + 1):
            statements += [(text, ()) for text in step.statements]
            statements.append((_STEP, (version, step.readable_by, step.writable_by)))
        return statements


SCHEMA: Final = Schema((Step(_TABLES, readable_by=1, writable_by=1),), oldest=1)


def is_new(connection: Connection, name: str) -> bool:
    """Whether nothing is there yet. Raises StoreUnusable if the schema holds something that is not a store."""
    there = {row[0] for row in connection.one(_TABLES_THERE, name.encode())}
    if there and "schema_version" not in there:
        raise StoreUnusable(f"the schema {name} holds tables, but not a store of Posthouse")
    return not there


def create(connection: Connection, name: str, schema: Schema) -> None:
    """Make a new store, in one transaction, unless another member has just done so. Raises Refused."""
    statements: list[Statement] = [("BEGIN", ()), (f"CREATE SCHEMA IF NOT EXISTS {name}", ())]
    statements += [(text, ()) for text in _VERSIONS]
    statements += schema.applying(0)
    statements.append((_RELAY, (secrets.token_hex(8).encode(), secrets.token_bytes(TOKEN_BYTES))))
    statements.append(("COMMIT", ()))
    try:
        for statement in statements:  # each is planned when it is sent: those before it must be done
            connection.run([statement])
    except Refused as refused:
        if refused.fatal:
            raise
        connection.one("ROLLBACK")
        if refused.sqlstate not in MADE_BY_ANOTHER or is_new(connection, name):
            raise


def migrate(connection: Connection, schema: Schema) -> int:
    """Bring the store to this release's version, in one transaction; returns the version that it had.

    Only when no member of an older release will come back. Raises Refused, and what ``check_version`` does.
    """
    connection.one("BEGIN")
    try:
        found = check_version(connection, schema, writing=True)
        for statement in [*schema.applying(found), ("COMMIT", ())]:
            connection.run([statement])
    except (Refused, StoreUnusable):
        if not connection.lost:
            connection.one("ROLLBACK")
        raise
    return found


def check_version(connection: Connection, schema: Schema, writing: bool) -> int:
    """The store's version. Raises StoreUnusable if this release must not use it."""
    row: tuple[int, int, int] = connection.one(
        "SELECT version, readable_by, writable_by FROM schema_version"
    )[0]
    found, readable_by, writable_by = row
    needed = writable_by if writing else readable_by
    if needed > schema.version:
        raise StoreUnusable(
            f"it is of a later release (its schema is {found} and needs a release of schema {needed}; "
            f"this one has {schema.version})"
        )
    if found < schema.oldest:
        raise StoreUnusable(
            f"it is of a release too old (its schema is {found}, the oldest that this release knows is "
            f"{schema.oldest}); migrate it with a release in between"
        )
    return found
