"""TLS between a socket and a `PeerConnection`, by way of OpenSSL's memory buffers.

asyncio's own would not do: it does not say why a handshake failed, how much a socket has not taken, or whether the
other end closed with TLS's last word, which only a process that is alive can say. To its connection this is the
transport, to the socket's transport it is the protocol.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any, Final, cast

from posthouse.server.peers.security import reason

if TYPE_CHECKING:
    from posthouse.server.peers.connection import PeerConnection

ENCRYPTED_BYTES: Final = 256 * 1024


class TlsStream(asyncio.BufferedProtocol):
    """One connection. What is written before the handshake is complete is dropped: nobody could read it."""

    def __init__(self, connection: PeerConnection, context: ssl.SSLContext, *, server_side: bool) -> None:
        self._connection = connection
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = context.wrap_bio(self._incoming, self._outgoing, server_side)
        self._server_side = server_side
        self._ready = False
        """Whether the handshake is complete."""
        self._view = memoryview(bytearray(ENCRYPTED_BYTES))
        self._socket: asyncio.Transport

    # --- what the socket's transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection begins; the dialer speaks first."""
        self._socket = cast(asyncio.Transport, transport)
        self._connection.connection_made(cast(asyncio.BaseTransport, self))
        if not self._server_side:
            self._advance()

    def get_buffer(self, sizehint: int) -> memoryview:
        """For what is encrypted."""
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes were received."""
        if self._tls is not None:
            self._incoming.write(self._view[:nbytes])
            self._advance()

    def eof_received(self) -> None:
        """The other end has sent its last byte."""
        self._connection.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._tls = None
        self._connection.connection_lost(exc)

    # --- what the connection calls: as much of a transport as it needs

    def write(self, data: bytes) -> None:
        """Encrypt and send."""
        if self._tls is None or not self._ready:
            return
        try:
            self._tls.write(data)
        except ssl.SSLError as error:
            self._fail(error)
        else:
            self._send()

    def close(self) -> None:
        """Say the end, and let go of the socket when everything is written."""
        tls, self._tls = self._tls, None
        if tls is not None and self._ready:
            try:
                tls.unwrap()
            except ssl.SSLError:
                pass  # the other's own last word, which nobody waits for, is missing
            self._send()
        self._socket.close()

    def abort(self) -> None:
        """Drop the connection."""
        self._tls = None
        self._socket.abort()

    def get_write_buffer_size(self) -> int:
        """Encrypted bytes that the socket has not taken."""
        return self._socket.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What the socket's transport says."""
        return self._socket.get_extra_info(name, default)

    # ---

    def _advance(self) -> None:
        """Go on with the handshake, or decrypt all there is."""
        try:
            if self._ready or self._shake_hands():
                self._take()
        except ssl.SSLError as error:
            self._fail(error)

    def _shake_hands(self) -> bool:
        if self._tls is None:
            return False
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._send()
            return False
        self._ready = True
        self._send()
        self._connection.secured()
        return True

    def _take(self) -> None:
        view = self._connection.get_buffer(-1)
        more = True
        while more:
            filled = 0
            while (tls := self._tls) is not None and filled < len(view):
                try:
                    # With a buffer to fill, the answer is a number.
                    count = cast(int, tls.read(len(view) - filled, cast(bytearray, view[filled:])))
                except ssl.SSLWantReadError:
                    more = False
                    break
                if count == 0:  # the other's last word
                    self._deliver(filled)
                    self._connection.closed_by_peer()
                    return
                filled += count
            self._deliver(filled)
            more = more and self._tls is not None
        self._send()  # reading may have made TLS answer something by itself, such as new keys

    def _deliver(self, count: int) -> None:
        if count:
            self._connection.buffer_updated(count)

    def _send(self) -> None:
        if self._outgoing.pending:
            self._socket.write(self._outgoing.read())

    def _fail(self, error: ssl.SSLError) -> None:
        """End it for a fault of TLS, with the alert that says which."""
        self._tls = None
        self._send()
        self._connection.end(f"TLS: {reason(error)}")
