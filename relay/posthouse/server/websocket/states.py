"""Small values that both halves of a connection use: its states, its stall, and nobody in place of a session."""

from __future__ import annotations

from enum import Enum
from typing import Final

from posthouse.server.websocket.interface import Session


class State(Enum):
    """Where a connection stands; it only moves downwards."""

    OPENING = "the HTTP request is not complete"
    OPEN = "messages go both ways"
    CLOSING = "our close frame is out, the peer's is awaited"
    ENDING = "nothing more is said or heard; the socket is let go without losing what was written last"
    LOST = "there is no socket any more"


class Stall:
    """Exists while a socket takes less than it is given: what it had taken when it last took something."""

    __slots__ = ("blocked", "since", "taken")

    def __init__(self, taken: int, since: int) -> None:
        self.taken = taken
        self.since = since
        self.blocked = False  # whether the session was told to stop


class NoSession:
    """Stands for the session before it is made and after it was told the end."""

    def received(self, data: bytes, binary: bool) -> None:
        """Nobody listens."""

    def writable(self, writable: bool) -> None:
        """Nobody writes."""

    def closed(self, code: int) -> None:
        """Nobody is told."""


NO_SESSION: Final[Session] = NoSession()
