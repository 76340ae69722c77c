"""Where other members' links arrive."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog
from msgspec.structs import replace

from posthouse.link.frames import Hello
from posthouse.link.talk import ListenerTalk, Me
from posthouse.server import unix_sockets
from posthouse.server.listeners import CannotListen, bind
from posthouse.server.peers.address import PeerAddress
from posthouse.server.peers.connection import PeerConnection
from posthouse.server.peers.link import Link, LinkHandler
from posthouse.server.peers.security import NO_CERTIFICATES, Security, reason
from posthouse.server.peers.tls_stream import TlsStream

MAX_LINKS: Final = 64
MAX_HALF_OPEN: Final = 16
"""Connections whose beginning is not over; each has two seconds for it."""
_log = structlog.get_logger()


class PeerListener:
    """Accepts links, one for each member: a newer one of the same member ends the older."""

    def __init__(
        self, address: PeerAddress, security: Security, me: Me, new_handler: Callable[[], LinkHandler]
    ) -> None:
        """``security`` is for TCP only: whoever may reach a Unix socket is known by the kernel."""
        self._address = address
        self._security = security
        self._me = me
        self._new_handler = new_handler
        self._half_open: set[PeerConnection] = set()
        self._links: dict[str, PeerConnection] = {}
        self._servers: list[asyncio.Server] = []
        self._inode = 0

    @property
    def address(self) -> PeerAddress:
        """What others are to dial, with the port that it really has."""
        return self._address

    def links(self) -> list[Link]:
        """Those that are established."""
        return [connection.link for connection in self._links.values() if connection.link is not None]

    async def open(self) -> None:
        """Begin to accept; a Unix socket of a dead process is replaced. Raises CannotListen."""
        loop = asyncio.get_running_loop()
        for listener in self._bind():
            self._servers.append(await loop.create_server(self._accept, sock=listener, backlog=MAX_LINKS))

    def close(self) -> None:
        """Accept no more, remove the Unix socket if it is still this one, and end all links."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        if self._address.path is not None:
            try:
                if os.lstat(self._address.path).st_ino == self._inode:
                    os.unlink(self._address.path)
            except OSError:
                pass  # somebody has removed it
        for connection in [*self._half_open, *self._links.values()]:
            connection.end("this member accepts no links any more")

    # --- what connections call

    def established(self, connection: PeerConnection, link: Link) -> LinkHandler:
        """A member has said who it is."""
        self._half_open.discard(connection)
        older = self._links.get(link.member)
        self._links[link.member] = connection
        if older is not None:
            older.end("a newer link of the same member has come")
        _log.info("member linked", member=link.member, version=link.version, generation=link.generation)
        return self._new_handler()

    def ended(self, connection: PeerConnection) -> None:
        """One is over."""
        self._half_open.discard(connection)
        if connection.link is not None:
            if self._links.get(connection.link.member) is connection:
                del self._links[connection.link.member]
            _log.info("link of a member ended", member=connection.link.member, reason=connection.why)
            return
        only_looked = connection.gone and connection.unheard  # whether the port is open
        if not only_looked:
            _log.warning("link refused", address=str(self._address), reason=connection.why)

    # ---

    def _bind(self) -> list[socket.socket]:
        if self._address.path is not None:
            try:
                path = Path(self._address.path)
                path.parent.mkdir(mode=0o700, exist_ok=True)
                listener = unix_sockets.listen(path, MAX_LINKS)
                self._inode = os.lstat(self._address.path).st_ino
            except OSError as error:
                raise CannotListen(str(self._address), reason(error)) from None
            return [listener]
        if self._security is None:
            raise CannotListen(str(self._address), NO_CERTIFICATES)
        listeners = bind(str(self._address), backlog=MAX_LINKS)
        self._address = replace(self._address, port=listeners[0].getsockname()[1])
        return listeners

    def _accept(self) -> asyncio.BufferedProtocol:
        unix = self._address.path is not None
        connection = PeerConnection(self, self._new_talk, unix=unix)
        full = len(self._half_open) >= MAX_HALF_OPEN
        self._half_open.add(connection)
        if full:
            connection.end("too many connections are beginning")
        if unix or self._security is None:
            return connection
        return TlsStream(connection, self._security.context(True), server_side=True)

    def _new_talk(self, now: float) -> ListenerTalk:
        return ListenerTalk(self._me, now, admit=self._admit)

    def _admit(self, hello: Hello) -> str | None:
        older = self._links.get(hello.member)
        if older is not None and older.link is not None:
            if hello.generation <= older.link.generation:
                return (
                    f"a link of {hello.member!r} with generation {older.link.generation} is there, "
                    f"not below {hello.generation}"
                )
        elif len(self._links) >= MAX_LINKS:
            return f"{MAX_LINKS} members are linked already"
        return None
