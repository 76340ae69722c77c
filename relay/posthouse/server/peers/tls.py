"""TLS of a link: between a socket and a `PeerConnection`."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Final

from posthouse.server.peers.security import reason
from posthouse.server.tls_stream import TlsStream

if TYPE_CHECKING:
    from posthouse.server.peers.connection import PeerConnection

ENCRYPTED_BYTES: Final = 256 * 1024


class PeerTls(TlsStream):
    """One link's connection, at either end."""

    def __init__(self, connection: PeerConnection, context: ssl.SSLContext, *, server_side: bool) -> None:
        super().__init__(connection, context, server_side=server_side)
        self._connection = connection
        self._server_side = server_side
        self._view = memoryview(bytearray(ENCRYPTED_BYTES))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """There is a connection; the dialer speaks first."""
        super().connection_made(transport)
        if not self._server_side:
            self._advance()

    def _encrypted(self) -> memoryview:
        return self._view

    def _decrypted(self) -> memoryview:
        return self._connection.get_buffer(-1)

    def _secured(self) -> None:
        self._connection.secured()

    def _closed_by_peer(self) -> None:
        self._connection.closed_by_peer()

    def _failed(self, error: ssl.SSLError) -> None:
        self._connection.end(f"TLS: {reason(error)}")
