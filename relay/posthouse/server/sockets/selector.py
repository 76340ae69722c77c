"""An epoll selector for asyncio that serves the relay's own sockets itself.

asyncio makes of every readable socket a key, a handle in a queue, a call in a context and three calls of a transport;
for small messages that is a fifth of all work. A socket that is served here costs a look into a dict and one call, from
within `select`; what asyncio has registered is returned to asyncio as ever. Only public interfaces are used: a loop
takes any `selectors.BaseSelector`.

A `select` that served something is a turn of the relay (`Turn`): everything read in one look at the sockets is answered
together.
"""

from __future__ import annotations

import select
import selectors
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike


MANY: Final = 16
"""Where a look finds more sockets than this, the turn ends only after the next look: while what it gathered is written,
peers answer, and their answers wait for one look more instead of waking this process again and again."""


class Served(Protocol):
    """Something with a socket."""

    def ready(self, events: int) -> None:
        """The socket has these events (a mask of `select.EPOLL…`). Called from within `select`."""

    def failed(self, error: Exception) -> None:
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
        self._epoll = select.epoll()
        self._served: dict[int, Served] = {}
        self._keys: dict[int, selectors.SelectorKey] = {}

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
            self._epoll.unregister(fd)

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
        self.before()
        item: Served | None = None
        try:
            for fd, event in events:
                item = served.get(fd)
                if item is not None:
                    item.ready(event)
                elif fd in self._keys:
                    key = self._keys[fd]
                    wanted = _to_selector(event) & key.events
                    if wanted:
                        others.append((key, wanted))
        except Exception as error:
            # What is left of the events comes again with the next look: they say how things are, not what changed.
            if item is None:
                raise
            item.failed(error)
        if len(events) > MANY:
            self._owed = True
        else:
            self.after()
        return others

    def register(self, fileobj: FileDescriptorLike, events: int, data: Any = None) -> selectors.SelectorKey:
        """As in the standard library."""
        fd = _fd(fileobj)
        if fd in self._keys:
            raise KeyError(f"{fileobj!r} (FD {fd}) is already registered")
        self._epoll.register(fd, _to_epoll(events))
        key = self._keys[fd] = selectors.SelectorKey(fileobj, fd, events, data)
        return key

    def unregister(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        """As in the standard library."""
        key = self._keys.pop(_fd(fileobj))
        try:
            self._epoll.unregister(key.fd)
        except OSError:
            pass  # closed already: the kernel has forgotten it
        return key

    def modify(self, fileobj: FileDescriptorLike, events: int, data: Any = None) -> selectors.SelectorKey:
        """As in the standard library."""
        before = self._keys[_fd(fileobj)]
        if events != before.events:
            self._epoll.modify(before.fd, _to_epoll(events))
        key = self._keys[before.fd] = before._replace(events=events, data=data)
        return key

    def get_map(self) -> Mapping[FileDescriptorLike, selectors.SelectorKey]:
        """What asyncio has registered, by file descriptor."""
        return self._keys  # type: ignore[return-value]

    def close(self) -> None:
        """Free the epoll descriptor."""
        self._epoll.close()
        self._keys.clear()
        self._served.clear()


def _fd(fileobj: FileDescriptorLike) -> int:
    return fileobj if isinstance(fileobj, int) else fileobj.fileno()


def _to_epoll(events: int) -> int:
    mask = select.EPOLLIN if events & selectors.EVENT_READ else 0
    return mask | select.EPOLLOUT if events & selectors.EVENT_WRITE else mask


def _to_selector(event: int) -> int:
    """An error or a hang-up makes a socket readable and writable: whoever tries is told."""
    mask = selectors.EVENT_READ if event & ~select.EPOLLOUT else 0
    return mask | selectors.EVENT_WRITE if event & ~select.EPOLLIN else mask
