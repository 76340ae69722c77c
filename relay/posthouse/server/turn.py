"""The end of a turn of the event loop: where what a turn has gathered is flushed, committed and asked for.

Under load a turn reads many sockets, and its end comes once for all of them. When only one socket had something to
say the end comes right behind its read: waiting for the next turn would cost another look at all sockets, which at
light load is a fifth of the work for a message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sized


class Turn:
    """Callbacks for the end of the turn. ``reading`` is set by whoever is in the middle of a read."""

    __slots__ = ("_loop", "_ready", "_scheduled", "last", "reading", "waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        # What else this turn still has to run. Not public; without it every end waits for the next turn.
        self._ready: Sized | None = getattr(loop, "_ready", None)
        self._scheduled = False
        self.reading = False
        self.waiting: list[Callable[[], None]] = []
        self.last: Callable[[], None] = _nothing
        """Called when nothing else waits any more."""

    def come(self) -> None:
        """Have the turn end, for the sake of ``last`` alone."""
        self.at_end(_nothing)

    def at_end(self, call: Callable[[], None]) -> None:
        """Have this called at the end of the turn; once for each time it is given."""
        self.waiting.append(call)
        if not self.reading and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._end)

    def read(self) -> None:
        """A read is over, and something waits for the end of the turn."""
        if self._scheduled:
            return
        if self._ready is not None and not self._ready:
            self._end()
        else:
            self._scheduled = True
            self._loop.call_soon(self._end)

    def _end(self) -> None:
        self._scheduled = True  # what its calls give is called here too: no turn has to be asked for
        while self.waiting:
            calls, self.waiting = self.waiting, []
            for call in calls:
                self._run(call)
            if not self.waiting:
                self._run(self.last)
        self._scheduled = False

    def _run(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            context = {"message": "the end of a turn failed", "exception": error}
            self._loop.call_exception_handler(context)


def _nothing() -> None:
    """Does nothing."""
