"""An epoll selector for asyncio that serves the relay's own sockets itself.

asyncio makes of every readable socket a key, a handle in a queue, a call in a context and three calls of a transport;
for small messages that is a fifth of all work. A socket that is served here costs a look into a dict and one call, from
within `select`; what asyncio has registered is returned to asyncio as ever. Only public interfaces are used: a loop
takes any `selectors.BaseSelector`.

A `select` that served something is a turn of the relay (`Turn`): everything read in one look at the sockets is answered
together.
"""

from __future__ import annotations

import os
import select
import selectors
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike


READ: Final = 0x1
"""`select.EPOLLIN`, by its number: this is imported where there is no epoll too."""
WRITE: Final = 0x4
"""`select.EPOLLOUT`."""
MANY: Final = 16
"""Where a look finds more sockets than this, the turn ends only after the next look: while what it gathered is written,
peers answer, and their answers wait for one look more instead of waking this process again and again."""


class Served(Protocol):
    """Something with a socket."""

    def ready(self, events: int) -> None:
        """The socket has these events (a mask of `select.EPOLL…`). Called from within `select`."""

    def failed(self, error: BaseException) -> None:
        """`ready` has raised this."""


def _nothing() -> None:
    """Does nothing."""


class ServingSelector(selectors.BaseSelector):
    """Serves some sockets and reports the others."""

    def __init__(self) -> None:
        self.before: Callable[[], None] = _nothing
        """Called before sockets are served."""
        self.after: Callable[[], None] = _nothing
        """Called when they have been."""
        self._owed = False  # `after` has not been called for what was served last
        self._served: dict[int, Served] = {}
        # The standard library keeps what asyncio registers. Both have the same epoll, under a descriptor each, because
        # each closes its own.
        self._others = selectors.EpollSelector()
        self._epoll = select.epoll.fromfd(os.dup(self._others.fileno()))
        self._keys = self._others.get_map()

    # --- sockets that are served here

    def serve(self, fd: int, item: Served, events: int) -> None:
        """Call `item.ready` whenever the socket has one of these events, an error or a hang-up."""
        self._epoll.register(fd, events)
        self._served[fd] = item

    def change(self, fd: int, events: int) -> None:
        """Wait for other events of a socket that is served."""
        self._epoll.modify(fd, events)

    def leave(self, fd: int) -> None:
        """No longer serve a socket; before it is closed."""
        if self._served.pop(fd, None) is not None:
            try:
                self._epoll.unregister(fd)
            except OSError:
                pass  # closed already: the kernel has forgotten it

    # --- what asyncio uses

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for events, serve those that are ours, return the others. `timeout` in seconds, None for ever."""
        if self._owed:
            events = self._epoll.poll(0)
            self._owed = False
            self.after()
        else:
            events = self._epoll.poll(-1 if timeout is None else max(timeout, 0))
        if not events:
            return []
        others: list[tuple[selectors.SelectorKey, int]] = []
        served = self._served
        self._owed = True  # already, in case an exit leaves the loop below: whatever waits for the end gets it then too
        self.before()
        for fd, event in events:
            item = served.get(fd)
            if item is not None:
                try:
                    item.ready(event)
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as error:
                    # As asyncio does with a callback; a CancelledError, for one, must not end the process.
                    item.failed(error)
            else:
                key = self._keys.get(fd)
                wanted = 0 if key is None else _to_selector(event) & key.events
                if key is not None and wanted:
                    others.append((key, wanted))
        if len(events) <= MANY:
            self._owed = False
            self.after()
        return others

    def register(self, fileobj: FileDescriptorLike, events: int, data: Any = None) -> selectors.SelectorKey:
        """As in the standard library."""
        return self._others.register(fileobj, events, data)

    def unregister(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        """As in the standard library."""
        return self._others.unregister(fileobj)

    def modify(self, fileobj: FileDescriptorLike, events: int, data: Any = None) -> selectors.SelectorKey:
        """As in the standard library."""
        return self._others.modify(fileobj, events, data)

    def get_map(self) -> Mapping[FileDescriptorLike, selectors.SelectorKey]:
        """What asyncio has registered."""
        return self._others.get_map()

    def close(self) -> None:
        """Free the epoll descriptors, and forget everything."""
        self._others.close()
        self._epoll.close()
        self._served.clear()
        self.before = self.after = _nothing  # they know the loop, and it knows this


def _to_selector(event: int) -> int:
    """An error or a hang-up makes a socket readable and writable: whoever tries is told."""
    mask = selectors.EVENT_READ if event & ~WRITE else 0
    return mask | selectors.EVENT_WRITE if event & ~READ else mask
