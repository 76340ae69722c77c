"""A timed row in the store: for several machines that share a database and have no Kubernetes.

It needs a store with ``LeaseRows`` and nothing of its clock. The watch is a read of one row, again and again: planned
hand-overs are told over the link between members as well, so it need not be quick.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import msgspec
from msgspec.structs import replace

from posthouse.single_active.leases.interface import LeaseConflict, LeaseUnavailable, Record
from posthouse.store.interface import StoreUnavailable, StoreUnusable
from posthouse.store.lease_rows import LeaseRow, LeaseRows

POLL_S: Final = 0.05
HOLDER_POLL_S: Final = 0.5
"""The holder hears of everything that matters by its renewals."""
T = TypeVar("T")


class StoreLease:
    """A lease whose record is a row. One thread asks the store, one question at a time."""

    def __init__(self, open_rows: Callable[[], LeaseRows], *, poll_s: float = POLL_S) -> None:
        """``open_rows`` opens a connection, on the thread; what it raises is tried again with the next question."""
        self._open_rows = open_rows
        self._poll_s = poll_s
        self._rows: LeaseRows | None = None
        self._ours = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="lease")

    async def read(self) -> Record | None:
        """The record as it is now. Raises LeaseUnavailable."""
        return _decode(await self._ask(lambda rows: rows.read()))

    async def write(self, record: Record, expected: str | None) -> Record:
        """Replace the record. Raises LeaseConflict, LeaseUnavailable."""
        payload = msgspec.json.encode(record)
        version = await self._ask(lambda rows: rows.compare_and_set(payload, expected))
        self._ours = version is not None and not record.released
        if version is None:
            raise LeaseConflict(f"the lease is not of version {expected} any more")
        return replace(record, version=version)

    async def watch(self) -> AsyncGenerator[Record | None, None]:
        """Records as they are found. Raises LeaseUnavailable."""
        row: LeaseRow | None = None
        first = True
        while True:
            found = await self._ask(lambda rows: rows.read())
            if first or found != row:
                first, row = False, found
                yield _decode(found)
            await asyncio.sleep(HOLDER_POLL_S if self._ours else self._poll_s)

    async def close(self) -> None:
        """Close the connection. Waits for a question that is being answered."""

        def close() -> None:
            if self._rows is not None:
                self._rows.close()
                self._rows = None

        await asyncio.get_running_loop().run_in_executor(self._thread, close)
        self._thread.shutdown(wait=False)

    async def _ask(self, question: Callable[[LeaseRows], T]) -> T:
        def ask() -> T:
            if self._rows is None:
                self._rows = self._open_rows()
            return question(self._rows)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, ask)
        except (StoreUnavailable, StoreUnusable) as error:
            raise LeaseUnavailable(str(error)) from error


def _decode(row: LeaseRow | None) -> Record | None:
    if row is None:
        return None
    try:
        return replace(msgspec.json.decode(row.payload, type=Record), version=row.version)
    except msgspec.DecodeError as error:
        raise LeaseUnavailable(f"the lease in the store cannot be read: {error}") from error
