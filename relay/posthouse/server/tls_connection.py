"""TLS between a socket and a `Connection`, by way of OpenSSL's memory buffers and the endpoint's one receive buffer.

asyncio's own TLS keeps 256 KiB for every connection, from its first byte and, as garbage in a cycle, beyond its last:
half-open connections alone would fill the memory. This keeps what OpenSSL keeps. It also begins the `Connection` with
the TCP connection, so that the endpoint's limits on handshakes (their number, their time) cover TLS too.

To its connection it is the transport, to the socket's transport it is the protocol.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any, cast

import structlog

from posthouse.server.websocket.outgoing import OVERHEAD

if TYPE_CHECKING:
    from posthouse.server.websocket.endpoint import Endpoint

_log = structlog.get_logger()


class TlsConnection(asyncio.BufferedProtocol):
    """One connection with TLS. What is written before the handshake is complete is dropped: nobody could read it."""

    __slots__ = (
        "_connection",
        "_endpoint",
        "_incoming",
        "_outgoing",
        "_overhead",
        "_ready",
        "_socket",
        "_tls",
    )

    def __init__(self, endpoint: Endpoint, context: ssl.SSLContext) -> None:
        self._endpoint = endpoint
        self._connection = endpoint.new_connection()
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._ready = False  # whether the handshake is complete
        self._overhead = 0  # encrypted bytes written beyond those that they say
        self._socket: asyncio.Transport

    # What the socket's transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A socket was accepted."""
        self._socket = cast(asyncio.Transport, transport)
        self._connection.connection_made(cast(asyncio.BaseTransport, self))

    def get_buffer(self, sizehint: int) -> memoryview:
        """The endpoint's one receive buffer: first for what is encrypted, then for what it says."""
        return self._endpoint.receive_view

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes were received."""
        if self._tls is None:
            return
        self._incoming.write(self._endpoint.receive_view[:nbytes])
        try:
            if self._ready or self._shake_hands(self._tls):
                self._take()
        except ssl.SSLError as error:
            self._fail(error)

    def eof_received(self) -> None:
        """The peer has sent its last byte."""
        self._connection.eof_received()

    def pause_writing(self) -> None:
        """The socket does not take all that it is given."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """The socket has taken everything."""
        self._connection.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._tls = None
        self._connection.connection_lost(exc)

    # What the connection calls: as much of a transport as it needs.

    def write(self, data: bytes) -> None:
        """Encrypt and send."""
        tls = self._tls
        if tls is None or not self._ready:
            return
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[tls.write(rest) :]
        except ssl.SSLError as error:
            self._fail(error)
        else:
            self._overhead -= len(data)
            self._send()

    def close(self) -> None:
        """Say the end and let go of the socket when everything is written."""
        tls, self._tls = self._tls, None
        if tls is not None and self._ready:
            try:
                tls.unwrap()
            except ssl.SSLError:
                pass  # the peer's own last word, which nobody waits for, is missing
            self._send()
        self._socket.close()

    def abort(self) -> None:
        """Drop the connection."""
        self._tls = None
        self._socket.abort()

    def is_closing(self) -> bool:
        """Whether the socket is being let go."""
        return self._socket.is_closing()

    def can_write_eof(self) -> bool:
        """TLS has no half-closed connections that all peers understand."""
        return False

    def get_write_buffer_size(self) -> int:
        """Encrypted bytes that the socket has not taken."""
        return self._socket.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """When writing is paused."""
        self._socket.set_write_buffer_limits(high, low)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What the socket's transport says, and ``OVERHEAD``."""
        if name == OVERHEAD:
            return self._overhead
        return self._socket.get_extra_info(name, default)

    # TLS.

    def _shake_hands(self, tls: ssl.SSLObject) -> bool:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            self._send()
            return False
        self._send()
        self._ready = True
        return True

    def _take(self) -> None:
        """Decrypt all there is, and pass it on a buffer at a time."""
        endpoint = self._endpoint
        view = endpoint.receive_view
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
                if count == 0:  # the peer's last word
                    self._deliver(filled)
                    self.close()
                    return
                filled += count
            self._deliver(filled)
            more = more and self._tls is not None
        # Reading may have made TLS answer something by itself, such as new keys.
        self._send()

    def _deliver(self, count: int) -> None:
        if count:
            self._connection.buffer_updated(count)

    def _send(self) -> None:
        if self._outgoing.pending:
            data = self._outgoing.read()
            self._overhead += len(data)
            self._socket.write(data)

    def _fail(self, error: ssl.SSLError) -> None:
        """End the connection for a fault of TLS, with the alert that says which."""
        _log.debug("TLS failed", remote=self._connection.remote, reason=error.reason)
        self._endpoint.counts.tls_failures += 1
        self._tls = None
        self._send()
        self._socket.close()
