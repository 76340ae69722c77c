"""A front's link to the member that it takes for the active one, made again whenever it is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog
from msgspec.structs import replace

from posthouse.link.talk import DialerTalk, Me
from posthouse.server.peers.address import BadPeerAddress, PeerAddress
from posthouse.server.peers.connection import PeerConnection
from posthouse.server.peers.dialing import NotConnected, Place, connect
from posthouse.server.peers.link import Link, LinkHandler
from posthouse.server.peers.security import NO_CERTIFICATES, Security
from posthouse.server.peers.tls import PeerTls

FIRST_PAUSE_S: Final = 0.02
LONGEST_PAUSE_S: Final = 0.5
LASTING_S: Final = 1.0
"""After a link that lasted so long the next is dialed at once; after a shorter one, as after a failure."""
_log = structlog.get_logger()


class PeerDialer:
    """Keeps one link to one address at a time."""

    def __init__(
        self,
        security: Security,
        me_factory: Callable[[], Me],
        handler: LinkHandler,
        *,
        on_refused: Callable[[str], None],
    ) -> None:
        """``me_factory`` is asked before each dial; a generation that has not risen since the last is raised here.

        ``on_refused``: called with the address when the process at its other end is gone. That is: an established link
        was reset, or closed without a word, and the next that was heard of the very same place is that nobody
        listens there. Once for each loss; never for a timeout, a missing socket, silence, or an end of our own.
        """
        self._security = security
        self._me_factory = me_factory
        self._handler = handler
        self._on_refused = on_refused
        self._generation = 0
        self._address: str | None = None
        self._connection: PeerConnection | None = None
        self._over: asyncio.Future[None] | None = None
        """Done when the connection is over."""
        self._task: asyncio.Task[None] | None = None
        self._told: str | None = None
        """The failure that was logged last: one that stays is logged once."""

    def follow(self, address: str | None) -> None:
        """Keep a link to this address, or to none. The old link's ``lost`` is called in here, if there was one."""
        if address == self._address:
            return
        self._address = address
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        if self._connection is not None:
            self._connection.end("another address is followed")
        if address is None or self._address != address or self._task is not None:
            return  # `lost` may have had us follow another
        self._told = None
        try:
            self._task = asyncio.get_running_loop().create_task(
                self._keep(address, PeerAddress.parse(address))
            )
        except BadPeerAddress as error:
            self._tell(address, str(error))

    def close(self) -> None:
        """Follow nobody."""
        self.follow(None)

    # --- what connections call

    def established(self, connection: PeerConnection, link: Link) -> LinkHandler:
        """The listener has welcomed us."""
        self._told = None
        _log.info("linked to member", address=self._address, member=link.member, version=link.version)
        return self._handler

    def ended(self, connection: PeerConnection) -> None:
        """It is over."""
        if connection is self._connection:
            self._connection = None
            if self._over is not None and not self._over.done():
                self._over.set_result(None)

    # ---

    async def _keep(self, address: str, parsed: PeerAddress) -> None:
        loop = asyncio.get_running_loop()
        lost_at: Place | None = None  # where a link was lost whose process may be gone
        pause_s = 0.0
        while True:
            began = loop.time()
            connection = PeerConnection(self, self._new_talk, unix=parsed.path is not None)
            try:
                place = await self._run(parsed, connection)
            except NotConnected as error:
                self._tell(address, str(error))
                if lost_at in error.refused:
                    self._on_refused(address)
                lost_at = None
            else:
                self._tell(address, connection.why or "")
                if connection.link is not None:
                    lost_at = place if connection.gone else None
                elif not connection.gone:
                    lost_at = None  # somebody is there
            lasting = connection.link is not None and loop.time() >= began + LASTING_S
            pause_s = 0.0 if lasting else min(LONGEST_PAUSE_S, max(FIRST_PAUSE_S, 2 * pause_s))
            if pause_s:
                await asyncio.sleep(pause_s)

    async def _run(self, address: PeerAddress, connection: PeerConnection) -> Place:
        """Connect, and wait for the end; where that was. Raises NotConnected."""
        protocol: asyncio.BufferedProtocol = connection
        if address.path is None:
            if self._security is None:
                raise NotConnected(NO_CERTIFICATES)
            protocol = PeerTls(connection, self._security.context(False), server_side=False)
        sock, place = await connect(address)
        loop = asyncio.get_running_loop()
        over = self._over = loop.create_future()
        self._connection = connection
        try:
            await loop.create_connection(lambda: protocol, sock=sock)
        except OSError as error:
            self._connection = None
            raise NotConnected(str(error)) from None
        await over
        return place

    def _new_talk(self, now: float) -> DialerTalk:
        me = self._me_factory()
        self._generation = max(me.generation, self._generation + 1)
        return DialerTalk(replace(me, generation=self._generation), now)

    def _tell(self, address: str, why: str) -> None:
        if why != self._told:
            self._told = why
            _log.warning("no link to member", address=address, reason=why)
