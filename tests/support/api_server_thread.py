"""The small API server beside a test that waits for processes: on a loop and a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from fake_api_server import FakeApiServer

T = TypeVar("T")


class ApiServerThread:
    """A server on a loop of its own, for a test that waits for processes."""

    def __init__(self) -> None:
        self.server: FakeApiServer
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Have this done there."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def do(self, call: Callable[[], T]) -> T:
        """Call this there."""

        async def called() -> T:
            return call()

        return self.run(called())

    async def make(self) -> None:
        """Make the server and start it."""
        self.server = FakeApiServer()
        await self.server.start()

    def close(self) -> None:
        """End the server and its loop."""
        self.run(self.server.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@contextmanager
def api_server_thread() -> Iterator[ApiServerThread]:
    """A server that runs beside the block."""
    thread = ApiServerThread()
    thread.run(thread.make())
    try:
        yield thread
    finally:
        thread.close()
