"""Where other members' links arrive."""

from __future__ import annotations

import asyncio
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
from posthouse.server.peers.tls import PeerTls

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
        self._open = False
        self._file: tuple[int, int] | None = None
        """Which file the Unix socket is."""
        self._again: asyncio.Task[None] | None = None
        """Listens anew."""
        self._told = ""
        """Why that failed, as it was logged last: what stays is logged once."""

    @property
    def address(self) -> PeerAddress:
        """What others are to dial, with the port that it really has."""
        return self._address

    def links(self) -> list[Link]:
        """Those that are established."""
        return [connection.link for connection in self._links.values() if connection.link is not None]

    async def open(self) -> None:
        """Begin to accept; a Unix socket of a dead process is replaced. Raises CannotListen."""
        for listener in self._bind():
            self._servers.append(await self._serve(listener))
        self._open = True

    def look(self) -> None:
        """Listen anew if the Unix socket was removed, as those do who clean /tmp; for a timer. Links go on.

        Returns at once. What prevents it is logged, and tried again with the next call.
        """
        if not self._open or self._address.path is None or self._again is not None:
            return
        if unix_sockets.identity(Path(self._address.path)) == self._file:
            return
        try:
            (listener,) = self._bind()
        except CannotListen as error:
            if self._told != error.reason:
                self._told = error.reason
                _log.error("members cannot reach this one", address=str(self._address), reason=error.reason)
            return
        self._told = ""
        _log.warning("the socket for members was gone: listening anew", address=str(self._address))
        self._again = asyncio.create_task(self._listen_again(listener))

    def close(self) -> None:
        """Accept no more, remove the Unix socket if it is still this one, and end all links."""
        self._open = False
        self._stop_servers()
        if self._address.path is not None:
            path = Path(self._address.path)
            if self._file is not None and unix_sockets.identity(path) == self._file:
                path.unlink(missing_ok=True)
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
                self._file = unix_sockets.identity(path)
            except OSError as error:
                raise CannotListen(str(self._address), reason(error)) from None
            return [listener]
        if self._security is None:
            raise CannotListen(str(self._address), NO_CERTIFICATES)
        listeners = bind(str(self._address), backlog=MAX_LINKS)
        self._address = replace(self._address, port=listeners[0].getsockname()[1])
        return listeners

    async def _serve(self, listener: socket.socket) -> asyncio.Server:
        return await asyncio.get_running_loop().create_server(self._accept, sock=listener, backlog=MAX_LINKS)

    async def _listen_again(self, listener: socket.socket) -> None:
        self._stop_servers()  # nobody can reach the old socket
        try:
            server = await self._serve(listener)
        finally:
            self._again = None
        if self._open:
            self._servers.append(server)
        else:
            server.close()

    def _stop_servers(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()

    def _accept(self) -> asyncio.BufferedProtocol:
        unix = self._address.path is not None
        connection = PeerConnection(self, self._new_talk, unix=unix)
        full = len(self._half_open) >= MAX_HALF_OPEN
        self._half_open.add(connection)
        if full:
            connection.end("too many connections are beginning")
        if unix or self._security is None:
            return connection
        return PeerTls(connection, self._security.context(True), server_side=True)

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
