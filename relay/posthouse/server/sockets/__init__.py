"""Sockets served straight from the selector of a stock asyncio loop: see `selector`."""

from posthouse.server.sockets.accepting import Acceptor
from posthouse.server.sockets.loop import ServingLoop, new_event_loop

__all__ = ["Acceptor", "ServingLoop", "new_event_loop"]
