"""Lease rows in the SQLite file, in a table that the first write makes.

A commit here is not synced: a lease need not outlive the power, as no member would. It goes through the same log as the
messages, so the next commit of a batch syncs it on the way.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final

import apsw

from posthouse.store.lease_rows import LeaseRow
from posthouse.store.locks import share_open
from posthouse.store.sqlite.connection import How, open_to_write, pragma, unavailable
from posthouse.store.sqlite.files import check_place
from posthouse.store.sqlite.schema import SCHEMA, roll_back

RELAY: Final = "relay"
BUSY_MS: Final = 500
"""How long to wait for a batch that is being committed. Longer, and the elector has given up waiting."""
CACHE_KIB: Final = 256

_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS lease (name TEXT PRIMARY KEY, version TEXT NOT NULL, payload BLOB NOT NULL) "
    "STRICT, WITHOUT ROWID"
)
_EXISTS: Final = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'lease'"


class SqliteLeaseRows:
    """The row of one lease in a store's file."""

    def __init__(self, path: Path, name: str = RELAY) -> None:
        """Open, and make the store if there is none. Raises StoreUnusable."""
        self._path = path.resolve()
        self._name = name
        check_place(self._path)
        self._open = share_open(self._path)
        try:
            self._connection = open_to_write(self._path, How(SCHEMA, busy_ms=BUSY_MS))
        except BaseException:
            self._open.release()
            raise
        pragma(self._connection, "synchronous", "normal")
        pragma(self._connection, "cache_size", -CACHE_KIB)
        # Copying the log is the writer's business, and not to be waited for here.
        self._connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)

    def read(self) -> LeaseRow | None:
        """The row; None if there is none. Raises StoreUnavailable."""
        with unavailable(self._path):
            return self._read()

    def compare_and_set(self, payload: bytes, expected: str | None) -> str | None:
        """Replace the row; its new version, or None if it has another one. Raises StoreUnavailable."""
        version = secrets.token_hex(8)
        with unavailable(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                before = self._read()
                if (before.version if before else None) != expected:
                    return None
                self._connection.execute(_TABLE)
                self._connection.execute(
                    "INSERT OR REPLACE INTO lease VALUES (?, ?, ?)", (self._name, version, payload)
                )
                self._connection.execute("COMMIT")
                return version
            finally:
                roll_back(self._connection)

    def close(self) -> None:
        """Close. The row stays."""
        self._connection.close(force=True)
        self._open.release()

    def _read(self) -> LeaseRow | None:
        if self._connection.execute(_EXISTS).get is None:
            return None
        found = self._connection.execute(
            "SELECT version, payload FROM lease WHERE name = ?", (self._name,)
        ).fetchone()
        return LeaseRow(*found) if found else None
