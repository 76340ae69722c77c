"""The store clock: what expiry goes by.

It advances with a clock that runs through suspend and is pulled towards the wall clock by at most one hour
an hour, so that a wall clock which jumps a month deletes nothing at once. It is saved with every commit and
never runs backwards.

Source: docs/architecture.md, "Clock".
"""

from __future__ import annotations

from typing import Final

MAX_PULL: Final = 1.0
"""Milliseconds of correction for each millisecond that passes: one hour an hour."""
LEAD_WORTH_A_WARNING_MS: Final = 3_600_000


class StoreClock:
    """Milliseconds of the Unix epoch as the store counts them.

    ``saved_ms`` is what the store saved last (0: a new store), ``boot_s`` a reading of the running clock,
    ``wall_ms`` one of the wall clock.
    """

    __slots__ = ("_at_s", "_wall_ms", "now_ms")

    def __init__(self, saved_ms: int, boot_s: float, wall_ms: int) -> None:
        self.now_ms: int = saved_ms or wall_ms
        self._at_s = boot_s
        self._wall_ms = wall_ms

    def advance(self, boot_s: float, wall_ms: int) -> int:
        """Move on to these readings and return the new time in milliseconds."""
        passed_ms = max(0.0, (boot_s - self._at_s) * 1000.0)
        running = self.now_ms + passed_ms
        pull = max(-passed_ms * MAX_PULL, min(passed_ms * MAX_PULL, wall_ms - running))
        advanced = int(running + pull)
        # The fraction of a millisecond that is not counted yet stays with the reading.
        if advanced > self.now_ms:
            self.now_ms = advanced
            self._at_s = boot_s
        self._wall_ms = wall_ms
        return self.now_ms

    @property
    def lead_ms(self) -> int:
        """How far this clock is ahead of the wall clock (negative: behind)."""
        return self.now_ms - self._wall_ms
