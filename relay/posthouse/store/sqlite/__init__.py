"""One SQLite file on a disk of this machine: what is committed survives the process and the power.

``schema`` says what is in the file, ``connection`` which settings must hold; ``writer`` decides what a failure
means, ``applying`` and ``marking`` turn a batch into statements; ``reader`` serves pages; ``checks`` and ``copies``
serve the command line.
"""

from __future__ import annotations

from pathlib import Path

from posthouse.store.locks import share_open
from posthouse.store.sqlite.connection import BUSY_MS, How, open_to_read, open_to_write, unusable
from posthouse.store.sqlite.files import check_place
from posthouse.store.sqlite.lease_rows import SqliteLeaseRows
from posthouse.store.sqlite.reader import SqliteReader
from posthouse.store.sqlite.schema import SCHEMA, Schema
from posthouse.store.sqlite.writer import SqliteWriter

__all__ = ["SqliteStore"]


class SqliteStore:
    """See ``interface.Store``. While a writer is open, this process shares the lock that a restore needs alone."""

    durable = True

    def __init__(
        self, path: Path, schema: Schema = SCHEMA, *, busy_timeout_ms: int = BUSY_MS, vfs: str | None = None
    ) -> None:
        self.path = path.resolve()
        self._how = How(schema, busy_timeout_ms, vfs)

    def open_writer(self) -> SqliteWriter:
        check_place(self.path)
        lock = share_open(self.path)
        try:
            with unusable(self.path):
                return SqliteWriter(self.path, lambda: open_to_write(self.path, self._how), lock)
        except BaseException:
            lock.release()
            raise

    def open_reader(self) -> SqliteReader:
        return SqliteReader(self.path, open_to_read(self.path, self._how))

    def open_lease_rows(self) -> SqliteLeaseRows:
        """The row of the relay's lease, on a connection of its own. Raises StoreUnusable."""
        return SqliteLeaseRows(self.path)
