"""The event loop of a relay process: asyncio's, with a selector that serves the relay's sockets."""

from __future__ import annotations

import asyncio
import select

from posthouse.server.sockets.selector import ServingSelector


class ServingLoop(asyncio.SelectorEventLoop):
    """asyncio's loop and its selector."""

    def __init__(self) -> None:
        self.selector = ServingSelector()
        super().__init__(self.selector)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A loop that serves sockets itself where there is epoll (Linux), else asyncio's own."""
    return ServingLoop() if hasattr(select, "epoll") else asyncio.new_event_loop()
