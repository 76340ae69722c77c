"""One connection between two members: bytes to frames and back, time, and the order of what its owner hears."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol, cast

from posthouse.link.frames import MAX_FRAME_BYTES, BadFrame, Frame, Splitter, pack
from posthouse.link.talk import DialerTalk, ListenerTalk
from posthouse.server import unix_sockets
from posthouse.server.peers.link import Link, LinkHandler
from posthouse.server.peers.security import reason

RECEIVE_BYTES: Final = 256 * 1024
MAX_OPENING_BYTES: Final = 16 * 1024
"""Of a frame before the link is established: from somebody who has not yet said who he is."""
CLOSE_S: Final = 1.0
"""How long the last words may take to be sent."""


class Owner(Protocol):
    """The listener or the dialer."""

    def established(self, connection: PeerConnection, link: Link) -> LinkHandler:
        """The beginning is over: who handles the link."""

    def ended(self, connection: PeerConnection) -> None:
        """It is over; the handler has been told. Called once, also for one that was never established."""


class PeerConnection(asyncio.BufferedProtocol):
    """One connection, at either end. To TLS, where there is any, it is what the socket is to it."""

    def __init__(
        self, owner: Owner, new_talk: Callable[[float], DialerTalk | ListenerTalk], *, unix: bool
    ) -> None:
        """``new_talk``: is given the time of the loop when the connection begins."""
        self.why: str | None = None
        """Why it is over."""
        self.gone = False
        """The other end was reset or closed without a word: its process may be gone."""
        self.link: Link | None = None
        """Once it is established, and also after its end."""
        self._owner = owner
        self._new_talk = new_talk
        self._unix = unix
        self._handler: LinkHandler | None = None
        self._talk: DialerTalk | ListenerTalk
        self._loop: asyncio.AbstractEventLoop
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._splitter = Splitter(MAX_OPENING_BYTES)
        self._view = memoryview(bytearray(RECEIVE_BYTES))
        self._silent = True
        self._secured = False

    @property
    def unheard(self) -> bool:
        """Whether not a byte has come: somebody only tried the port."""
        return self._silent

    # --- what the socket's transport or TLS calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A connection begins. Without TLS, ``secured`` follows from here."""
        self._transport = cast(asyncio.Transport, transport)
        self._loop = asyncio.get_running_loop()
        if self.why is not None:
            self._transport.abort()
            return
        self._talk = self._new_talk(self._loop.time())
        self._timer = self._loop.call_at(self._talk.due, self._tick)
        if not self._unix:
            return
        sock = self._transport.get_extra_info("socket")
        unix_sockets.widen(sock)
        stranger = unix_sockets.stranger(sock)
        if stranger is not None:
            self.end(f"a process of user {stranger} is at the other end")
        else:
            self.secured()

    def secured(self) -> None:
        """It is known that a member is at the other end: the first word may be said."""
        self._secured = True
        self._follow_talk()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where received bytes go."""
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes were received."""
        if self.why is not None:
            return
        self._silent = False
        talk = self._talk
        now = self._loop.time()
        talk.heard(now)
        try:
            for body in self._splitter.feed(self._view[:nbytes]):
                frame = talk.received(body, now)
                if frame is None:
                    self._follow_talk()
                elif self._handler is not None:
                    self._handler.received(frame)
                if self._is_over():
                    return
        except BadFrame as error:
            self.end(str(error))

    def eof_received(self) -> None:
        """The other end has sent its last byte; the transport closes."""
        self._lost("the other end has closed it", gone=True)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        broken = isinstance(exc, (ConnectionResetError, BrokenPipeError))
        why = "the other end has closed it" if exc is None else reason(exc) or type(exc).__name__
        self._lost(why, gone=broken)
        if self._timer is not None:
            self._timer.cancel()

    # --- what TLS says besides

    def closed_by_peer(self) -> None:
        """The other end has said that it closes: its process is alive."""
        self.end("the other end has closed it")

    # --- what the link's user and the owner call

    @property
    def unsent_bytes(self) -> int:
        """Bytes that the socket has not taken."""
        return (
            0 if self.why is not None or self._transport is None else self._transport.get_write_buffer_size()
        )

    def send(self, frame: Frame) -> None:
        """Write a frame, at once. Raises FrameTooLarge."""
        data = pack(frame)
        if self.why is None and self._transport is not None:
            self._transport.write(data)
            self._talk.sent(self._loop.time())

    def end(self, why: str) -> None:
        """End it, from this side."""
        self._lost(why, gone=False)

    # ---

    def _tick(self) -> None:
        self._talk.tick(self._loop.time())
        self._follow_talk()
        if self.why is None:
            self._timer = self._loop.call_at(self._talk.due, self._tick)

    def _follow_talk(self) -> None:
        """Do what the talk wants after an input."""
        talk = self._talk
        if talk.outbox and self._secured:
            frames, talk.outbox = talk.outbox, []
            for frame in frames:
                self.send(frame)
        if talk.ended is not None:
            self.end(talk.ended)
        elif talk.member is not None and self.link is None:
            self.link = Link(self, talk.member, talk.version, talk.generation)
            self._splitter.max_frame_bytes = MAX_FRAME_BYTES
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(talk.due, self._tick)
            self._handler = self._owner.established(self, self.link)
            if self.why is None:
                self._handler.established(self.link)

    def _is_over(self) -> bool:
        return self.why is not None

    def _lost(self, why: str, *, gone: bool) -> None:
        if self.why is not None:
            return
        self.why = why
        self.gone = gone
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.close()
            self._timer = self._loop.call_later(CLOSE_S, self._transport.abort)
        handler, self._handler = self._handler, None
        try:
            if handler is not None:
                handler.lost(why)
        finally:
            self._owner.ended(self)
