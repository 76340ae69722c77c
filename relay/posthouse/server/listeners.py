"""The sockets that the relay listens on, and how many files it may have open."""

from __future__ import annotations

import errno
import resource
import socket
from collections.abc import Sequence
from typing import Any

from posthouse.config import split_host_port
from posthouse.errors import PosthouseError

SPARE_FILES = 64
"""Open files that are not clients: the store's, the listeners, the log."""
MOST_FILES = 2**20
"""As Linux allows by default (fs.nr_open): more would only be refused."""


class CannotListen(PosthouseError, OSError):
    """An address cannot be listened on."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(address, reason)
        self.address = address
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot listen on {self.address}: {self.reason}"


def bind(address: str, *, backlog: int) -> list[socket.socket]:
    """Listening sockets for every address that ``HOST:PORT`` stands for. Raises CannotListen.

    Port 0 takes a free port, the same for all of them.
    """
    host, port = split_host_port(address)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise CannotListen(address, _reason(error)) from None
    sockets: list[socket.socket] = []
    for family, sockaddr in dict.fromkeys((family, sockaddr) for family, _, _, _, sockaddr in found):
        if port == 0 and sockets:
            sockaddr = (sockaddr[0], sockets[0].getsockname()[1], *sockaddr[2:])
        try:
            sockets.append(_listening(family, sockaddr, backlog))
        except OSError as error:
            # A name may stand for an address that this machine has not, such as ::1 without IPv6.
            if len(found) == 1 or error.errno != errno.EADDRNOTAVAIL:
                _close(sockets)
                raise CannotListen(address, _reason(error)) from None
    if not sockets:
        raise CannotListen(address, "this machine has no such address")
    return sockets


def _listening(family: int, sockaddr: tuple[Any, ...], backlog: int) -> socket.socket:
    # The protocol is named because asyncio switches Nagle's algorithm off only where it sees TCP: with it, an answer
    # that follows a message waits for the peer's delayed ack.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        # A relay that restarts finds connections of the one before still lingering on its port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(sockaddr)
        listener.listen(backlog)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def shown(sockets: Sequence[socket.socket]) -> str:
    """``HOST:PORT`` of the first of them: where to connect, with the port that it really has."""
    host, port = sockets[0].getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def allow_open_files() -> int:
    """Raise the soft limit of open files to the hard one; gives the limit that holds now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            return soft
        return wanted
    return MOST_FILES if soft == resource.RLIM_INFINITY else soft


def _close(sockets: Sequence[socket.socket]) -> None:
    for listener in sockets:
        listener.close()


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
