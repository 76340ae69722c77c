"""Accepting connections on a listening socket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import structlog

from posthouse.server.sockets.selector import READ
from posthouse.server.sockets.transport import SocketTransport

if TYPE_CHECKING:
    from posthouse.server.sockets.loop import ServingLoop

PAUSE_S: Final = 1.0
"""How long nothing is accepted when the system refuses, most of all because it has no room for a connection more."""
_log = structlog.get_logger()


class Acceptor:
    """Makes a transport and a protocol for each connection."""

    def __init__(
        self,
        loop: ServingLoop,
        listener: socket.socket,
        new_protocol: Callable[[], asyncio.BufferedProtocol],
        most_a_turn: int,
    ) -> None:
        """Begins at once. `most_a_turn` connections are accepted before others have their turn."""
        self._loop = loop
        self._listener = listener
        self._new_protocol = new_protocol
        self._most = most_a_turn
        self._pause: asyncio.TimerHandle | None = None
        self._resume()

    def ready(self, events: int) -> None:
        """Connections wait."""
        for _ in range(self._most):
            try:
                sock, peer = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if self._listener.fileno() < 0:
                    return  # a new connection has had this closed
                # The listener stays readable: without a pause the process would do nothing but ask again.
                _log.error("no connection can be accepted", reason=error.strerror)
                self._loop.selector.leave(self._listener.fileno())
                self._pause = self._loop.call_later(PAUSE_S, self._resume)
                return
            self._begin(sock, peer)

    def failed(self, error: BaseException) -> None:
        """A connection could not be begun; it is closed. Those behind it come with the next look."""
        context = {"message": "a connection could not be accepted", "exception": error}
        self._loop.call_exception_handler(context)

    def close(self) -> None:
        """Accept no more, and close the listening socket."""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._listener.fileno() >= 0:
            self._loop.selector.leave(self._listener.fileno())
            self._listener.close()

    def _resume(self) -> None:
        self._pause = None
        self._loop.selector.serve(self._listener.fileno(), self, READ)

    def _begin(self, sock: socket.socket, peer: object) -> None:
        try:
            sock.setblocking(False)
            # With Nagle's algorithm, an answer that follows a message would wait for the peer's delayed ack.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            sock.close()  # gone already
            return
        try:
            SocketTransport(self._loop, sock, peer, self._new_protocol())
        except BaseException:
            sock.close()
            raise
