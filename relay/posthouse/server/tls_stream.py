"""TLS between a socket and a protocol by way of OpenSSL's memory buffers: what client and peer port have in common.

asyncio's own TLS keeps 256 KiB for every connection, from its first byte and, as garbage in a cycle, beyond its last;
and it does not say why a handshake failed, how much a socket has not taken, or whether the other end closed with TLS's
last word, which only a process that is alive can say.

To what it serves it is the transport, to the socket's transport it is the protocol.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, cast


class TlsStream(asyncio.BufferedProtocol):
    """One connection. What is written before the handshake is complete is dropped: nobody could read it."""

    __slots__ = ("_incoming", "_outgoing", "_protocol", "_ready", "_socket", "_tls")

    def __init__(
        self, protocol: asyncio.BufferedProtocol, context: ssl.SSLContext, *, server_side: bool
    ) -> None:
        """``protocol``: is told what was decrypted, and that the connection begins and ends."""
        self._protocol = protocol
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = context.wrap_bio(self._incoming, self._outgoing, server_side)
        self._ready = False  # whether the handshake is complete
        self._socket: asyncio.Transport

    # --- for the two ports

    def _encrypted(self) -> memoryview:
        """The buffer for what comes from the socket."""
        raise NotImplementedError

    def _decrypted(self) -> memoryview:
        """The buffer from which the protocol takes what was decrypted; it may be the same."""
        raise NotImplementedError

    def _secured(self) -> None:
        """The handshake is complete."""

    def _closed_by_peer(self) -> None:
        """TLS's last word came from the other end."""
        raise NotImplementedError

    def _failed(self, error: ssl.SSLError) -> None:
        """TLS has failed; the alert that says why is sent."""
        raise NotImplementedError

    # --- what the socket's transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """There is a connection."""
        self._socket = cast(asyncio.Transport, transport)
        self._protocol.connection_made(cast(asyncio.BaseTransport, self))

    def get_buffer(self, sizehint: int) -> memoryview:
        """For what is encrypted."""
        return self._encrypted()

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes were received."""
        if self._tls is not None:
            self._incoming.write(self._encrypted()[:nbytes])
            self._advance()

    def eof_received(self) -> None:
        """The other end has sent its last byte."""
        self._protocol.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._tls = None
        self._protocol.connection_lost(exc)

    # --- what the protocol calls: as much of a transport as it needs

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

    # --- TLS

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
        self._secured()
        return True

    def _take(self) -> None:
        """Decrypt all there is, and pass it on a buffer at a time."""
        view = self._decrypted()
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
                    self._closed_by_peer()
                    return
                filled += count
            self._deliver(filled)
            more = more and self._tls is not None
        self._send()  # reading may have made TLS answer something by itself, such as new keys

    def _deliver(self, count: int) -> None:
        if count:
            self._protocol.buffer_updated(count)

    def _send(self) -> int:
        """Hand over what TLS has to say; how many bytes that is."""
        if not self._outgoing.pending:
            return 0
        data = self._outgoing.read()
        self._socket.write(data)
        return len(data)

    def _fail(self, error: ssl.SSLError) -> None:
        self._tls = None
        self._send()
        self._failed(error)
