"""One timer for all connections: deadlines in ticks, kept in one set a tick.

A deadline is never early and at most two ticks late. Ticks are counted, not read from a clock: when the process was
stopped or its loop was blocked, every deadline moves by as much, so that nobody is closed for a silence of our own.
The timer runs only while something waits for it.
"""

from __future__ import annotations

import asyncio
import math
from typing import Protocol


class Timed(Protocol):
    """Something with at most one deadline."""

    due_tick: int
    """Kept by the wheel; 0 while there is no deadline."""

    def expired(self) -> None:
        """The deadline has come; it is no longer in the wheel."""


class TimerWheel:
    """Deadlines of one event loop, `tick_s` seconds apart."""

    def __init__(self, loop: asyncio.AbstractEventLoop, tick_s: float) -> None:
        self.tick = 1
        """The current tick: what a connection stamps itself with when it hears from its peer."""
        self._loop = loop
        self._tick_s = tick_s
        self._slots: dict[int, set[Timed]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def ticks(self, seconds: float) -> int:
        """How many ticks cover a time, at least one."""
        return max(1, math.ceil(seconds / self._tick_s))

    def schedule(self, item: Timed, ticks: int) -> None:
        """Call `item.expired()` after at least so many ticks, instead of at its deadline until now."""
        self.cancel(item)
        # One more: the current tick has begun already.
        item.due_tick = due = self.tick + ticks + 1
        slot = self._slots.get(due)
        if slot is None:
            slot = self._slots[due] = set()
        slot.add(item)
        if self._timer is None:
            self._timer = self._loop.call_later(self._tick_s, self._advance)

    def cancel(self, item: Timed) -> None:
        """Forget the deadline of an item, if it has one."""
        slot = self._slots.get(item.due_tick)
        if slot is not None:
            slot.discard(item)
            if not slot:
                del self._slots[item.due_tick]
        item.due_tick = 0

    def items(self) -> list[Timed]:
        """Everything that has a deadline."""
        return [item for slot in self._slots.values() for item in slot]

    def stop(self) -> None:
        """Forget all deadlines."""
        for item in self.items():
            self.cancel(item)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _advance(self) -> None:
        self._timer = None
        self.tick += 1
        try:
            for item in self._slots.pop(self.tick, ()):
                if item.due_tick == self.tick:  # else another's expiry has cancelled or moved it
                    item.due_tick = 0
                    item.expired()
        finally:
            if self._slots and self._timer is None:
                self._timer = self._loop.call_later(self._tick_s, self._advance)
