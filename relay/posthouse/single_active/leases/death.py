"""Hearing at once that a process has ended."""

from __future__ import annotations

import asyncio
import os

from posthouse.single_active.leases import processes
from posthouse.single_active.leases.interface import Process


class DeathWatch:
    """Waits with the event loop for the end of one process at a time."""

    def __init__(self) -> None:
        self._process: Process | None = None
        self._descriptor: int | None = None
        self._ended = asyncio.Event()

    def follow(self, process: Process | None) -> None:
        """From now on this process; None: nobody. One that cannot be seen from here is never heard to end."""
        if process == self._process:
            return
        self.close()
        self._ended.clear()
        self._process = process
        self._descriptor = None if process is None else processes.handle(process)
        if self._descriptor is not None:
            asyncio.get_running_loop().add_reader(self._descriptor, self._end)

    async def within(self, timeout_s: float) -> bool:
        """Wait so long; True as soon as the process has ended, once."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._ended.wait()
        except TimeoutError:
            return False
        self._ended.clear()
        return True

    def close(self) -> None:
        """Wait for nobody."""
        self._process = None
        if self._descriptor is not None:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def _end(self) -> None:
        if self._descriptor is not None:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None
        self._ended.set()
