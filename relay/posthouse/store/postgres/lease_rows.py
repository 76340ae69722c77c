"""Lease rows beside the store, in a table that the first session makes.

A change is one statement and its own transaction. It touches nothing that a batch touches, so neither waits for the
other.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final

from posthouse.store.interface import StoreUnavailable
from posthouse.store.lease_rows import LeaseRow
from posthouse.store.postgres.connection import Connection, ConnectionLost, Parameter, Refused, Rows
from posthouse.store.postgres.schema import MADE_BY_ANOTHER

RELAY: Final = "relay"

_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS lease (name text PRIMARY KEY, version text NOT NULL, payload bytea NOT NULL)"
)
_READ: Final = "SELECT version, payload FROM lease WHERE name = $1::text"
_MAKE: Final = """
    INSERT INTO lease VALUES ($1::text, $2::text, $3::bytea) ON CONFLICT (name) DO NOTHING RETURNING version"""
_REPLACE: Final = """
    UPDATE lease SET version = $2::text, payload = $3::bytea WHERE name = $1::text AND version = $4::text
    RETURNING version"""


class PostgresLeaseRows:
    """The row of one lease. ``connect`` gives a new session and raises ConnectionLost and Refused."""

    def __init__(
        self, place: str, connect: Callable[[], Connection], connection: Connection, name: str
    ) -> None:
        self._place = place
        self._connect = connect
        self._connection = connection
        self._name = name.encode()

    def read(self) -> LeaseRow | None:
        """The row; None if there is none. Raises StoreUnavailable."""
        rows = self._ask(_READ, self._name)
        return LeaseRow(*rows[0]) if rows else None

    def compare_and_set(self, payload: bytes, expected: str | None) -> str | None:
        """Replace the row; its new version, or None if it has another one. Raises StoreUnavailable."""
        version = secrets.token_hex(8)
        values = (self._name, version.encode(), payload)
        rows = (
            self._ask(_MAKE, *values) if expected is None else self._ask(_REPLACE, *values, expected.encode())
        )
        return version if rows else None

    def close(self) -> None:
        """Close. The row stays."""
        self._connection.close()

    def _ask(self, text: str, *parameters: Parameter) -> Rows:
        try:
            if self._connection.has_ended():
                self._connection = self._connect()
            rows = self._connection.one(text, *parameters)
        except (ConnectionLost, Refused) as error:
            raise StoreUnavailable(f"store {self._place}: {error}") from error
        if self._connection.warned:
            raise StoreUnavailable(f"store {self._place}: the engine did not wait for its standbys")
        return rows


def make_lease_table(connection: Connection) -> None:
    """Make the table unless it is there, or another member makes it at this moment. Raises ConnectionLost, Refused."""
    try:
        connection.one(_TABLE)
    except Refused as refused:
        if refused.sqlstate not in MADE_BY_ANOTHER:
            raise
