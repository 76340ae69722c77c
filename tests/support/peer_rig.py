"""Both ends of links over real sockets, and what their handlers were told."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from certificates import Authority, Pair
from posthouse.link.frames import Frame, Splitter, decode_from_listener, pack
from posthouse.link.talk import Me
from posthouse.server.peers import Link, MutualTls, PeerAddress, PeerDialer, PeerListener
from posthouse.server.peers.security import Security
from posthouse.server.sockets import new_event_loop

LOOPS = {"served": new_event_loop, "asyncio": asyncio.new_event_loop}
"""Links have to work on the relay's loop and on asyncio's own."""
AUTHORITY = Authority()


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that happens soon."""
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not happen within ten seconds")


class Recorder:
    """A handler that writes down what it is told, in order."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.link: Link | None = None

    def established(self, link: Link) -> None:
        assert self.link is None, "the last link has not been lost"
        self.link = link
        self.told.append(("established", link.member))

    def received(self, frame: Frame) -> None:
        assert self.link is not None, "a frame of no link"
        self.told.append(frame)

    def lost(self, why: str) -> None:
        assert self.link is not None, "no link was there"
        self.link = None
        self.told.append(("lost", why))

    @property
    def whys(self) -> list[str]:
        """Why links were lost."""
        return [told[1] for told in self.told if isinstance(told, tuple) and told[0] == "lost"]

    @property
    def frames(self) -> list[Any]:
        """What came."""
        return [told for told in self.told if not isinstance(told, tuple)]


class Rig:
    """One listener at most, any number of dialers; all in one folder."""

    def __init__(self, folder: Path, security: Security = None) -> None:
        self.folder = folder
        self.security = security
        self.address = PeerAddress(path=str(folder / "peer.sock")) if security is None else LOOPBACK
        self.handlers: list[Recorder] = []
        """Of the listener, a link each."""
        self.refused: list[str] = []
        self._closing: list[PeerListener | PeerDialer] = []

    async def listen(self, member: str = "b", relay: str = "relay") -> PeerListener:
        listener = PeerListener(self.address, self.security, Me(relay, member, 0), self._new_handler)
        self._closing.append(listener)
        await listener.open()
        self.address = listener.address
        return listener

    def dialer(
        self,
        member: str = "a",
        *,
        relay: str = "relay",
        generation: int = 1,
        security: Security = None,
        handler: Recorder | None = None,
    ) -> tuple[PeerDialer, Recorder]:
        """One that follows nobody yet."""
        handler = handler or Recorder()
        dialer = PeerDialer(
            security or self.security,
            lambda: Me(relay, member, generation),
            handler,
            on_refused=self.refused.append,
        )
        self._closing.append(dialer)
        return dialer, handler

    async def link(self) -> tuple[PeerDialer, Recorder, Recorder]:
        """A dialer that is linked, its handler and the listener's."""
        dialer, handler = self.dialer()
        dialer.follow(str(self.address))
        known = len(self.handlers)
        await until(lambda: handler.link is not None and len(self.handlers) > known)
        return dialer, handler, self.handlers[-1]

    async def close(self) -> None:
        """Close everything, and let the loop see the end of it."""
        for item in self._closing:
            item.close()
        await asyncio.sleep(0.02)

    def _new_handler(self) -> Recorder:
        self.handlers.append(Recorder())
        return self.handlers[-1]


class Stranger:
    """A plain socket that is no member, at either end of a connection."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._splitter = Splitter()
        self._frames: list[Any] = []

    async def say(self, data: bytes | Frame) -> None:
        await asyncio.get_running_loop().sock_sendall(
            self.sock, data if isinstance(data, bytes) else pack(data)
        )

    async def hear(self) -> Any:
        """The next frame of a listener; None at the end."""
        while not self._frames:
            data = await self.read()
            if not data:
                return None
            self._frames += [decode_from_listener(bytes(body)) for body in self._splitter.feed(data)]
        return self._frames.pop(0)

    async def read(self) -> bytes:
        """Bytes that come; none at the end."""
        try:
            return await asyncio.get_running_loop().sock_recv(self.sock, 65536)
        except ConnectionResetError:
            return b""


@contextmanager
def stranger_at(address: PeerAddress) -> Iterator[Stranger]:
    """A connection to a listener's Unix socket."""
    assert address.path is not None
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(address.path)
        yield Stranger(sock)


@contextmanager
def stranger_listening(path: Path) -> Iterator[socket.socket]:
    """A Unix socket that accepts nothing by itself."""
    with suppress(FileNotFoundError):
        path.unlink()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen(8)
        sock.setblocking(False)
        yield sock


def write_peer_files(folder: Path, pair: Pair, *authorities: Authority) -> tuple[Path, Path, Path]:
    """``cert.pem``, ``key.pem`` and the bundle ``ca.pem``."""
    folder.mkdir(exist_ok=True)
    new = folder / "ca.new"
    new.write_bytes(b"".join(one.certificate for one in authorities))
    ca = new.rename(folder / "ca.pem")
    return (*pair.write(folder), ca)


def mutual_tls(folder: Path, pair: Pair | None = None, *authorities: Authority) -> MutualTls:
    """A member's certificates; of the usual authority, if nothing else is said."""
    pair = pair or AUTHORITY.issue()
    return MutualTls(*write_peer_files(folder, pair, *(authorities or (AUTHORITY,))))


def short_folder() -> tempfile.TemporaryDirectory[str]:
    """Where a plain Unix socket's path fits."""
    return tempfile.TemporaryDirectory(prefix="ph-", dir="/tmp" if os.access("/tmp", os.W_OK) else None)


LOOPBACK = PeerAddress(host="127.0.0.1", port=0)
