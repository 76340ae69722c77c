"""Connecting to another member's listener, and what a failure proves."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from typing import Final

from posthouse.server import unix_sockets
from posthouse.server.peers.address import PeerAddress
from posthouse.server.peers.security import reason

CONNECT_S: Final = 1.0
"""For a connection to be there, with the look-up of a name."""
Place = str | tuple[object, ...]
"""What an address stood for: the path of a socket, or what the system connects to."""


class NotConnected(Exception):
    """Nobody was reached; the text says why."""

    def __init__(self, why: str, refused: frozenset[Place] = frozenset()) -> None:
        super().__init__(why)
        self.refused = refused
        """Where nobody listens. A timeout or a missing socket is not there: it tells nothing of a process."""


async def connect(address: PeerAddress) -> tuple[socket.socket, Place]:
    """A connected socket that does not block, and where it leads. Raises NotConnected."""
    if address.path is not None:
        return _connect_unix(address.path)
    refused: set[Place] = set()
    why = "no answer"
    try:
        async with asyncio.timeout(CONNECT_S):
            for family, place in await _places(address):
                try:
                    return await _connect_tcp(family, place), place
                except OSError as error:
                    why = os.strerror(error.errno or 0).lower()  # asyncio's own text repeats the address
                    if isinstance(error, ConnectionRefusedError):
                        refused.add(place)
    except TimeoutError:
        pass
    except OSError as error:  # of the look-up
        why = reason(error)
    raise NotConnected(why, frozenset(refused))


def _connect_unix(path: str) -> tuple[socket.socket, Place]:
    try:
        return unix_sockets.connect(path), path
    except ConnectionRefusedError as error:
        raise NotConnected(reason(error), frozenset([path])) from None
    except OSError as error:
        raise NotConnected(reason(error)) from None


async def _places(address: PeerAddress) -> list[tuple[int, tuple[object, ...]]]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys((family, place) for family, _, _, _, place in found))


async def _connect_tcp(family: int, place: tuple[object, ...]) -> socket.socket:
    connection = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(connection, place)
        if connection.getsockname() == connection.getpeername():
            # TCP lets a socket meet itself, where its own port happens to be the one that it dials.
            raise OSError(errno.EADDRNOTAVAIL, "nobody listens there")
    except BaseException:
        connection.close()
        raise
    return connection
