"""No lease: this process is alone, and knows it because somebody says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from msgspec.structs import replace

from posthouse.single_active.leases.interface import LeaseConflict, Record


class NoneLease:
    """A lease in this process. It is free at the start, so a claim waits for nobody."""

    def __init__(self) -> None:
        self._record = Record("", 0, 0, 0.0, released=True, version="0")
        self._writes = 0

    async def read(self) -> Record | None:
        """The record as it is now."""
        return self._record

    async def write(self, record: Record, expected: str | None) -> Record:
        """Replace the record. Raises LeaseConflict."""
        if expected != self._record.version:
            raise LeaseConflict(f"the lease has version {self._record.version}, not {expected}")
        self._writes += 1
        self._record = replace(record, version=str(self._writes))
        return self._record

    async def watch(self) -> AsyncGenerator[Record | None, None]:
        """Nobody else writes: there is never anything to see."""
        await asyncio.Event().wait()
        yield None

    async def close(self) -> None:
        """Nothing is held open."""
