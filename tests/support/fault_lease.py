"""A lease in memory: compare-and-set as it has to be, and a way to it that loses, delays and refuses.

``LeaseTable`` is the lease itself. ``FaultLease`` is a member's way to it for code that awaits.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

from msgspec.structs import replace
from posthouse.single_active.leases.interface import LeaseConflict, LeaseUnavailable, Record


class LeaseTable:
    """The record and its versions: one that was replaced never comes back."""

    def __init__(self) -> None:
        self.record: Record | None = None
        self.changed: list[Callable[[Record | None], None]] = []
        self._versions = 0

    def write(self, record: Record, expected: str | None) -> Record | None:
        """Compare and set; None is a conflict."""
        if expected != (self.record.version if self.record else None):
            return None
        self._versions += 1
        self._set(replace(record, version=f"v{self._versions}"))
        return self.record

    def delete(self) -> None:
        """Somebody deletes the lease."""
        self._set(None)

    def _set(self, record: Record | None) -> None:
        self.record = record
        for changed in self.changed:
            changed(record)


class FaultLease:
    """One member's way to a table. Faults are switched on by setting them."""

    def __init__(self, table: LeaseTable) -> None:
        self.down = False
        """Every call fails at once, and the watch breaks."""
        self.lose_requests = 0
        """So many of the next calls never arrive; they hang until they are cancelled."""
        self.lose_answers = 0
        """So many of the next calls arrive, but are not answered; they hang until they are cancelled."""
        self.conflicts = 0
        """So many of the next writes are refused without a reason."""
        self.delay_s = 0.0
        self.reads = 0
        self.writes = 0
        self._table = table
        self._watchers: set[asyncio.Queue[Record | None]] = set()
        table.changed.append(self._tell)

    async def read(self) -> Record | None:
        self.reads += 1
        await self._arrive()
        record = self._table.record
        await self._answer()
        return record

    async def write(self, record: Record, expected: str | None) -> Record:
        self.writes += 1
        await self._arrive()
        if self.conflicts:
            self.conflicts -= 1
            raise LeaseConflict("refused")
        written = self._table.write(record, expected)
        await self._answer()
        if written is None:
            raise LeaseConflict("the lease has another version")
        return written

    async def watch(self) -> AsyncGenerator[Record | None, None]:
        queue: asyncio.Queue[Record | None] = asyncio.Queue()
        self._watchers.add(queue)
        try:
            while True:
                record = await queue.get()
                if self.down:
                    raise LeaseUnavailable("the watch broke")
                yield record
        finally:
            self._watchers.discard(queue)

    async def close(self) -> None:
        self._table.changed.remove(self._tell)

    def break_watches(self) -> None:
        """The lease goes away, and watches notice."""
        self.down = True
        self._tell(None)

    def _tell(self, record: Record | None) -> None:
        for queue in self._watchers:
            queue.put_nowait(record)

    async def _arrive(self) -> None:
        await asyncio.sleep(self.delay_s)
        if self.down:
            raise LeaseUnavailable("the lease is away")
        if self.lose_requests:
            self.lose_requests -= 1
            await asyncio.Event().wait()

    async def _answer(self) -> None:
        if self.lose_answers:
            self.lose_answers -= 1
            await asyncio.Event().wait()
        await asyncio.sleep(self.delay_s)
