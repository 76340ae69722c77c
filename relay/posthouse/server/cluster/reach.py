"""A store that another member reaches, and the active one does not: then the other one is to be active.

The active tells by its readiness that its store takes no writes. The others see whether it answers them, and report it.
Where it answers nobody, or where all are on one machine with it, a change would gain nothing.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import Final

import structlog

from posthouse.server.engine import Engine
from posthouse.store.interface import StoreUnavailable, StoreUnusable

PATIENCE_S: Final = 5.0
"""For so long the active waits for its store: an engine that fails over is back at all members together."""
AGAIN_S: Final = 60.0
"""From one hand-over for this reason to the next: what answers may still refuse to be written."""
REASON: Final = "its store is out of reach"
_log = structlog.get_logger()


class StoreReach:
    """What this member knows of it."""

    def __init__(self, engine: Engine) -> None:
        self.answers = False
        """Whether the store answers this member; found out only while the active one's takes no writes."""
        self._engine = engine
        self._asking: asyncio.Task[None] | None = None
        self._failing_since = inf
        self._not_before = -inf

    def look_beside(self, *, needed: bool) -> None:
        """As a member that is not active. ``needed``: the active one's store takes no writes."""
        if not needed:
            self.answers = False
        elif (
            self._asking is None or self._asking.done()
        ):  # one question at a time: a store may be slow to fail
            self._asking = asyncio.get_running_loop().create_task(self._ask())

    def should_hand_over(self, now: float) -> bool:
        """As the active one: whether somebody who reaches the store should be it."""
        if self._engine.store_healthy:
            self._failing_since = inf
            return False
        self._failing_since = min(self._failing_since, now)
        return now >= self._failing_since + PATIENCE_S and now >= self._not_before

    def handed_over(self, now: float) -> None:
        """It was done."""
        self._failing_since = inf
        self._not_before = now + AGAIN_S

    def stop(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.cancel()

    async def _ask(self) -> None:
        try:
            self.answers = await self._engine.store_answers()
        except (StoreUnavailable, StoreUnusable) as error:
            self.answers = False
            _log.info("the store does not answer here either", reason=str(error))
