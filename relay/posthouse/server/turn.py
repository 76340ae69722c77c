"""The end of a turn of the event loop: where what a turn has gathered is flushed, committed and asked for.

A turn reads many sockets; its end comes once for all of them. Where a selector serves the sockets it says when that is
(`begin`, `finish`); what comes from elsewhere, such as a timer, has its end at the beginning of the next turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Turn:
    """Callbacks for the end of the turn."""

    __slots__ = ("_begun", "_loop", "_scheduled", "last", "waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._scheduled = False
        self._begun = False  # `finish` will follow
        self.waiting: list[Callable[[], None]] = []
        self.last: Callable[[], None] = _nothing
        """Called when nothing else waits any more."""

    def begin(self) -> None:
        """Sockets are about to be served: ``finish`` will follow."""
        self._begun = self._scheduled = True

    def finish(self) -> None:
        """They have been served: this is the end of the turn."""
        self._begun = False
        self._end()

    def come(self) -> None:
        """Have the turn end, for the sake of ``last`` alone."""
        self.at_end(_nothing)

    def at_end(self, call: Callable[[], None]) -> None:
        """Have this called at the end of the turn; once for each time it is given."""
        self.waiting.append(call)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._asked_end)

    def _asked_end(self) -> None:
        if not self._begun:  # else sockets were served since it was asked for, and have an end of their own
            self._end()

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
        except (SystemExit, KeyboardInterrupt):
            self._scheduled = False  # later ends come all the same
            raise
        except BaseException as error:
            context = {"message": "the end of a turn failed", "exception": error}
            self._loop.call_exception_handler(context)


def _nothing() -> None:
    """Does nothing."""
