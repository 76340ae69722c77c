"""A schema of a PostgreSQL database: what is committed survives the machine, if the engine's does.

``schema`` says what is in it, ``sessions`` how the engine is spoken to and ``connection`` how never to wait for it for
ever; ``applying`` turns a batch into ``statements``, ``writer`` decides what a failure means, ``writing_session`` gets
past it; ``reader`` serves pages, ``lease_rows`` a timed lease; ``durability`` says what the engine's settings are
worth; ``checks`` serves the command line.

Only what most engines behind PostgreSQL's protocol have: no LISTEN, no advisory locks, no stored procedures.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from posthouse.store.interface import StoreUnusable
from posthouse.store.postgres import durability
from posthouse.store.postgres.address import Address, parse
from posthouse.store.postgres.connection import Connection, ConnectionLost, Refused
from posthouse.store.postgres.lease_rows import RELAY, PostgresLeaseRows, make_lease_table
from posthouse.store.postgres.places import Places
from posthouse.store.postgres.reader import PostgresReader
from posthouse.store.postgres.schema import SCHEMA, Schema, check_version, create, is_new
from posthouse.store.postgres.sessions import Patience, open_session
from posthouse.store.postgres.writer import PostgresWriter
from posthouse.store.postgres.writing_session import WritingSession

__all__ = ["PostgresStore"]


class PostgresStore:
    """See ``interface.Store``. ``lock_ms``: how long to wait for a lock, ``commit_ms``: how long for a commit."""

    durable = True

    def __init__(
        self, url: str, schema: Schema = SCHEMA, *, lock_ms: int = 2000, commit_ms: int = 10_000
    ) -> None:
        self.address: Address = parse(url)
        self._schema = schema
        self._patience = Patience(lock_ms, commit_ms)
        self._places = Places()

    @contextmanager
    def _unusable(self) -> Iterator[None]:
        try:
            yield
        except (ConnectionLost, Refused, StoreUnusable) as error:
            raise StoreUnusable(f"cannot use {self.address}: {error}") from error

    def open_writer(self) -> PostgresWriter:
        connection = self._open_made()
        try:
            with self._unusable():
                durability.warn(durability.look(connection))
        except BaseException:
            connection.close()
            raise
        session = WritingSession(str(self.address), self._connect_to_write, connection)
        return PostgresWriter(session, self._places)

    def open_lease_rows(self, name: str = RELAY) -> PostgresLeaseRows:
        """The row of one lease, on a connection of its own; makes the store if there is none. Raises StoreUnusable."""
        connection = self._open_made()
        try:
            with self._unusable():
                make_lease_table(connection)
        except BaseException:
            connection.close()
            raise
        return PostgresLeaseRows(str(self.address), self._connect_to_write, connection, name)

    def _open_made(self) -> Connection:
        """A writing session of a store that is there and that this release may write."""
        with self._unusable():
            connection = self._connect_to_write()
            try:
                if is_new(connection, self.address.schema):
                    create(connection, self.address.schema, self._schema)
                check_version(connection, self._schema, writing=True)
            except BaseException:
                connection.close()
                raise
        return connection

    def open_reader(self) -> PostgresReader:
        with self._unusable():
            connection = self._connect_to_read()
            try:
                check_version(connection, self._schema, writing=False)
            except BaseException:
                connection.close()
                raise
        return PostgresReader(str(self.address), self._connect_to_read, connection, self._places)

    def _connect_to_write(self) -> Connection:
        connection = open_session(self.address, "posthouse writer", self._patience)
        try:
            durability.force(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect_to_read(self) -> Connection:
        return open_session(self.address, "posthouse reader", self._patience, reading=True)
