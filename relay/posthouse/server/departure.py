"""How a relay that stops parts from its clients: everything it holds is answered, then they go, one after another.

Clients that hear ``goaway`` come back elsewhere or later; spread over ``drain_s``, they do not come all at once.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from posthouse.server.engine import Engine
from posthouse.server.front import Client, Front
from posthouse.server.websocket.endpoint import Endpoint
from posthouse.wire.codes import CloseCode

PACE_S: Final = 0.05
"""How often the next clients are sent away."""
EARLIEST_RETURN_MS: Final = 1000
LATEST_RETURN_MS: Final = 5000
"""A relay that only restarts is back within seconds; more clients than a few come back over ``drain_s``."""
LOOK_S: Final = 0.02
HURRIED_S: Final = 0.5
"""How long to wait for the store when everybody is sent away at once."""
_log = structlog.get_logger()


class Departure:
    """One stop. ``hurry`` makes what is left of it quick."""

    def __init__(
        self, engine: Engine, front: Front, endpoint: Endpoint, *, drain_s: float, patience_s: float
    ) -> None:
        """``patience_s``: how long to wait for the store, or for senders' results, before going on without."""
        self._engine = engine
        self._front = front
        self._endpoint = endpoint
        self._drain_s = drain_s
        self._patience_s = patience_s
        self._hurried = asyncio.Event()
        self._limit: asyncio.Timeout | None = None
        """Of the wait for the store that is under way."""

    def hurry(self) -> None:
        """Send everybody away now."""
        self._hurried.set()
        if self._limit is not None and not self._limit.expired():
            soon = asyncio.get_running_loop().time() + HURRIED_S
            self._limit.reschedule(min(soon, self._limit.when() or soon))

    async def settle(self) -> bool:
        """Have everything that waits committed and answered; False if the store did not take it in time."""
        try:
            async with asyncio.timeout(
                HURRIED_S if self._hurried.is_set() else self._patience_s
            ) as self._limit:
                await self._engine.drain()
                # Messages of mode live have no commit to wait for, but a time of their own.
                while self._waits_for_results():  # noqa: ASYNC110 - the broker has no events
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            _log.error("stopping without the store: it did not take what waited")
            return False
        finally:
            self._limit = None
        # What the last commit answered goes out in the turn after it.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return self._engine.store_healthy

    async def linger(self, seconds: float) -> None:
        """Wait so long, unless hurried."""
        try:
            async with asyncio.timeout(seconds):
                await self._hurried.wait()
        except TimeoutError:
            pass

    async def send_away(self) -> None:
        """Say ``goaway`` to every client and close its connection, over ``drain_s``."""
        clients = list(self._front.clients())
        loop = asyncio.get_running_loop()
        began = loop.time()
        latest_ms = max(LATEST_RETURN_MS, EARLIEST_RETURN_MS + int(self._drain_s * 1000))
        gone = 0
        while gone < len(clients):
            due = len(clients)
            if self._drain_s > 0 and not self._hurried.is_set():
                due = min(due, 1 + int(len(clients) * (loop.time() - began) / self._drain_s))
            for client in clients[gone:due]:
                self._goaway(client, latest_ms)
            gone = due
            if gone < len(clients):
                await self.linger(PACE_S)

    async def wait_until_gone(self, timeout_s: float) -> None:
        """Wait until the peers have ended their side; those that have not in time are dropped."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while (left := self._endpoint.connections()) and loop.time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_S)
        for connection in left:
            connection.abort()

    def _waits_for_results(self) -> bool:
        if self._hurried.is_set() or not self._engine.store_healthy:
            return False
        return self._front.upstream.awaits_results()

    def _goaway(self, client: Client, latest_ms: int) -> None:
        self._front.goaway(client, "drain", (EARLIEST_RETURN_MS, latest_ms), CloseCode.RESTART)
