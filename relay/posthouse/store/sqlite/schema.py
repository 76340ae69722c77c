"""The tables, their versions, and how a file is brought from one version to the next.

Expand, then contract: a step that only adds leaves ``writable_by`` at the version before, so that members of the
release before may go on with the file; a later step removes what nobody needs any more and raises it. A release
runs on every version from ``Schema.oldest`` to its own without touching the schema; ``migrate`` is called only
when somebody says that no older member will come back. What a release must not write it refuses.

What the tables hold is explained in docs/stores.md.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import apsw

from posthouse.store.interface import TOKEN_BYTES, StoreUnusable

APPLICATION_ID: Final = 0x504F5354
"""``POST``: what ``file`` and ``PRAGMA application_id`` show."""

_VERSIONS: Final = """
    CREATE TABLE schema (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        readable_by INTEGER NOT NULL,
        writable_by INTEGER NOT NULL
    ) STRICT"""
"""Beside ``user_version``; every release can read it."""

_TABLES: Final = (
    # One row, changed by every batch: the fence, and what a promotion has to know without scanning.
    """
    CREATE TABLE relay (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        id TEXT NOT NULL,
        incarnation BLOB NOT NULL,
        epoch INTEGER NOT NULL,
        token BLOB NOT NULL,
        batch INTEGER NOT NULL,
        clock_ms INTEGER NOT NULL,
        next_seq INTEGER NOT NULL,
        next_stamp INTEGER NOT NULL,
        count INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        guest_count INTEGER NOT NULL,
        guest_bytes INTEGER NOT NULL
    ) STRICT""",
    # Mailboxes that hold something.
    """
    CREATE TABLE mailbox (
        no INTEGER PRIMARY KEY,
        key BLOB NOT NULL UNIQUE,
        shelf INTEGER NOT NULL,
        count INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        guest_count INTEGER NOT NULL,
        guest_bytes INTEGER NOT NULL
    ) STRICT""",
    "CREATE INDEX mailbox_shelf ON mailbox (shelf)",
    # The ciphertext comes last, so that everything else is read without following its overflow pages.
    """
    CREATE TABLE message (
        seq INTEGER PRIMARY KEY,
        mailbox INTEGER NOT NULL,
        shelf INTEGER NOT NULL,
        expires_at INTEGER NOT NULL,
        received_at INTEGER NOT NULL,
        guest INTEGER NOT NULL,
        slot INTEGER NOT NULL,
        id BLOB NOT NULL,
        ciphertext BLOB NOT NULL
    ) STRICT""",
    # Finds duplicates: a hash table of (mailbox, id), see slots.py. A table by a number costs half of what an
    # index by the id does, and its entries lie at random places, so its size is what a deep backlog costs.
    "CREATE TABLE slot (no INTEGER PRIMARY KEY, seq INTEGER NOT NULL) STRICT",
    "CREATE INDEX message_order ON message (shelf, seq, mailbox)",
    "CREATE INDEX message_expiry ON message (expires_at)",
    # Readers that have marked something that is still there. Numbers are never used twice: the marks of a reader
    # that was forgotten stay until their message goes, and mean nothing.
    """
    CREATE TABLE reader (
        no INTEGER PRIMARY KEY AUTOINCREMENT,
        bucket TEXT NOT NULL,
        name TEXT NOT NULL,
        stamp INTEGER NOT NULL,
        count INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        UNIQUE (bucket, name)
    ) STRICT""",
    "CREATE INDEX reader_stamp ON reader (stamp)",
    """
    CREATE TABLE mark (
        seq INTEGER NOT NULL,
        reader INTEGER NOT NULL,
        PRIMARY KEY (seq, reader)
    ) STRICT, WITHOUT ROWID""",
)


@dataclass(frozen=True, slots=True)
class Step:
    """From the version before to this one."""

    statements: tuple[str, ...]
    readable_by: int
    """Releases whose own version is at least this can read the file after the step."""
    writable_by: int
    """Releases whose own version is at least this can write the file after the step."""


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


SCHEMA: Final = Schema((Step(_TABLES, readable_by=1, writable_by=1),), oldest=1)


@contextmanager
def transaction(connection: apsw.Connection) -> Iterator[None]:
    """Begin by taking the write lock; commit at the end, roll back on any exception."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        roll_back(connection)
        raise


def roll_back(connection: apsw.Connection) -> None:
    """End a transaction that failed, if SQLite has not done so itself."""
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    except apsw.Error:
        pass  # the connection is of no use any more, and is not used


def create(connection: apsw.Connection, schema: Schema) -> None:
    """Make a new store, in one transaction, unless another process has just done so."""
    with transaction(connection):
        if not is_new(connection):
            return
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(_VERSIONS)
        connection.execute("INSERT INTO schema VALUES (1, 1, 1)")
        for version, step in enumerate(schema.steps, 1):
            _apply(connection, step, version)
        connection.execute(
            "INSERT INTO relay VALUES (1, ?, ?, 0, x'', 0, 0, 1, 1, 0, 0, 0, 0)",
            (secrets.token_hex(8), secrets.token_bytes(TOKEN_BYTES)),
        )


def migrate(connection: apsw.Connection, schema: Schema) -> int:
    """Bring the file to this release's version, in one transaction; returns the version that it had.

    Only when no member of an older release will come back. Raises what ``check_version`` does.
    """
    with transaction(connection):
        found = check_version(connection, schema, writing=True)
        for version, step in enumerate(schema.steps[found:], found + 1):
            _apply(connection, step, version)
    return found


def _apply(connection: apsw.Connection, step: Step, version: int) -> None:
    for statement in step.statements:
        connection.execute(statement)
    connection.execute(
        "UPDATE schema SET readable_by = ?, writable_by = ?", (step.readable_by, step.writable_by)
    )
    connection.execute(f"PRAGMA user_version = {version}")


def is_new(connection: apsw.Connection) -> bool:
    """Whether the file holds nothing at all yet. Raises StoreUnusable if it holds something that is not a store."""
    if connection.execute("PRAGMA application_id").get == APPLICATION_ID:
        return False
    if connection.execute("SELECT count(*) FROM sqlite_schema").get:
        raise StoreUnusable("it is an SQLite database, but not a store of Posthouse")
    return True


def check_version(connection: apsw.Connection, schema: Schema, writing: bool) -> int:
    """The file's version. Raises StoreUnusable if this release must not use it."""
    found = connection.execute("PRAGMA user_version").get
    readable_by, writable_by = connection.execute("SELECT readable_by, writable_by FROM schema").get
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
    assert isinstance(found, int)
    return found
