"""TLS of a client: between a socket and a `Connection`, with the endpoint's one receive buffer.

It begins the `Connection` with the TCP connection, so that the endpoint's limits on handshakes (their number, their
time) cover TLS too. Beside the connection it keeps what OpenSSL keeps, and no more.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import structlog

from posthouse.server.tls_stream import TlsStream
from posthouse.server.websocket.outgoing import OVERHEAD

if TYPE_CHECKING:
    from posthouse.server.websocket.endpoint import Endpoint

_log = structlog.get_logger()


class TlsConnection(TlsStream):
    """One client's connection with TLS."""

    __slots__ = ("_connection", "_endpoint", "_overhead")

    def __init__(self, endpoint: Endpoint, context: ssl.SSLContext) -> None:
        self._endpoint = endpoint
        self._connection = endpoint.new_connection()
        self._overhead = 0  # encrypted bytes written beyond those that they say
        super().__init__(self._connection, context, server_side=True)

    # --- what the socket's transport calls

    def pause_writing(self) -> None:
        """The socket does not take all that it is given."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """The socket has taken everything."""
        self._connection.resume_writing()

    # --- what the connection calls

    def write(self, data: bytes) -> None:
        """Encrypt and send."""
        if self._tls is not None and self._ready:
            self._overhead -= len(data)
        super().write(data)

    def is_closing(self) -> bool:
        """Whether the socket is being let go."""
        return self._socket.is_closing()

    def can_write_eof(self) -> bool:
        """TLS has no half-closed connections that all peers understand."""
        return False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """When writing is paused."""
        self._socket.set_write_buffer_limits(high, low)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What the socket's transport says, and ``OVERHEAD``."""
        if name == OVERHEAD:
            return self._overhead
        return super().get_extra_info(name, default)

    # --- TLS

    def _encrypted(self) -> memoryview:
        return self._endpoint.receive_view

    def _decrypted(self) -> memoryview:
        return self._endpoint.receive_view

    def _closed_by_peer(self) -> None:
        self.close()

    def _send(self) -> int:
        sent = super()._send()
        self._overhead += sent
        return sent

    def _failed(self, error: ssl.SSLError) -> None:
        _log.debug("TLS failed", remote=self._connection.remote, reason=error.reason)
        self._endpoint.counts.tls_failures += 1
        self._socket.close()
