"""An established link, as whoever uses it sees it."""

from __future__ import annotations

from typing import Protocol

from posthouse.link.frames import Frame, FromDialer, FromListener


class LinkHandler(Protocol):
    """Who is told about links. All calls come from the event loop; an error that a call raises ends the link."""

    def established(self, link: Link) -> None:
        """The first call for a link: frames may be sent."""

    def received(self, frame: FromDialer | FromListener) -> None:
        """A frame came."""

    def lost(self, why: str) -> None:
        """The last call for a link, made once: within ``close`` if it is closed on this side."""


class Wire(Protocol):
    """What carries a link."""

    @property
    def unsent_bytes(self) -> int:
        """Bytes that the socket has not taken."""

    def send(self, frame: Frame) -> None:
        """Write a frame."""

    def end(self, why: str) -> None:
        """End it."""


class Link:
    """One link. What is sent over a link that is lost is dropped: its handler has been told."""

    __slots__ = ("_wire", "generation", "member", "version")

    def __init__(self, wire: Wire, member: str, version: int, generation: int) -> None:
        self._wire = wire
        self.member = member
        """Who is at the other end."""
        self.version = version
        """Of the link's protocol."""
        self.generation = generation
        """Which of its dialer's links this is."""

    @property
    def unsent_bytes(self) -> int:
        """Bytes that were sent and wait in this process. Nothing bounds them but what its user does."""
        return self._wire.unsent_bytes

    def send(self, frame: Frame) -> None:
        """Send at once, in one write that never waits. Raises FrameTooLarge; the link goes on then."""
        self._wire.send(frame)

    def close(self, why: str) -> None:
        """End the link; what was sent before still goes out if the other end takes it within a second."""
        self._wire.end(why)
