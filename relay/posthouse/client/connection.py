"""One WebSocket connection to a relay: opens it, moves frames between it and the core, and says how it ended.

Invariants: one reader and one writer; what waits when the writer gets its turn goes out as one frame; when
``run`` returns or is cancelled, the socket is closed.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from socket import gaierror
from typing import Any
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidProxy
from websockets.typing import Subprotocol

from posthouse.client.core import ClientCore
from posthouse.wire.audience import parse_authority
from posthouse.wire.codec import MSGPACK, FrameError
from posthouse.wire.codes import CloseCode

FRAME_BYTES = 128 * 1024
"""About how much goes into one frame: large enough to share its cost, small enough not to hold up an ack."""


_LOST = 1006
"""RFC 6455 7.4.1: no close frame came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionOptions:
    """How to connect. Times in seconds."""

    ssl: ssl.SSLContext | None
    open_timeout_s: float
    """For TCP, TLS and the WebSocket handshake."""
    welcome_timeout_s: float
    """From then to the relay's welcome."""
    ping_interval_s: float
    ping_timeout_s: float
    close_timeout_s: float
    max_frame_bytes: int
    """Largest frame taken from the relay."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a connection ended: the relay's close code if it was ever open, and a line for a person."""

    close_code: int | None
    detail: str


class Connection:
    """A connection that is being opened, is open, or has ended."""

    def __init__(
        self, url: str, options: ConnectionOptions, core: ClientCore, on_input: Callable[[], None]
    ) -> None:
        self.url = url
        self.left = False
        """This side has ended it."""
        self._options = options
        self._core = core
        self._on_input = on_input
        self._socket: ClientConnection | None = None
        self._closing: asyncio.Task[None] | None = None
        self._output = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def wake(self) -> None:
        """The core may have something to send."""
        self._idle.clear()
        self._output.set()

    def leave(self) -> None:
        """End it from this side, after what waits to be written; ``run`` then returns."""
        if self._socket is not None and self._closing is None:
            self.left = True
            self._closing = asyncio.get_running_loop().create_task(self._close(self._socket))

    async def run(self, audience: str | None) -> Ended:
        """Open the connection, serve it until it ends, and say how it ended."""
        try:
            self._socket = await self._open()
        except (OSError, InvalidHandshake, InvalidProxy, EOFError) as error:
            return Ended(None, f"cannot connect to {self.url}: {_one_line(error)}")
        try:
            self._core.connected(audience)
            return await self._serve(self._socket)
        finally:
            if self._closing is not None:
                self._closing.cancel()
            self._socket.transport.abort()
            self._core.disconnected()

    async def _open(self) -> ClientConnection:
        options = self._options
        arguments: dict[str, Any] = {}
        if options.ssl is not None and self.url.startswith("wss:"):
            arguments["ssl"] = options.ssl
        if _is_loopback(self.url):
            arguments["proxy"] = None
        return await connect(
            self.url,
            subprotocols=[Subprotocol(MSGPACK.subprotocol)],
            compression=None,
            open_timeout=options.open_timeout_s,
            ping_interval=options.ping_interval_s,
            ping_timeout=options.ping_timeout_s,
            close_timeout=options.close_timeout_s,
            max_size=options.max_frame_bytes,
            write_limit=FRAME_BYTES,
            **arguments,
        )

    async def _serve(self, socket: ClientConnection) -> Ended:
        loop = asyncio.get_running_loop()
        writer = loop.create_task(self._write(socket))
        try:
            async with asyncio.timeout(self._options.welcome_timeout_s) as opening:
                while True:
                    frame = await socket.recv(decode=False)
                    now = loop.time()
                    for item in MSGPACK.decode_from_server(frame):
                        self._core.receive(item, now)
                    if self._core.welcome is not None and opening.when() is not None:
                        opening.reschedule(None)
                    self._on_input()
        except ConnectionClosed as closed:
            return _ended(closed, self.url)
        except FrameError as error:
            await socket.close(CloseCode.PROTOCOL_ERROR)
            return Ended(CloseCode.PROTOCOL_ERROR, f"{self.url} sent a frame that cannot be read: {error}")
        except TimeoutError:
            await socket.close()
            return Ended(None, f"{self.url} sent no welcome within {self._options.welcome_timeout_s:g} s")
        finally:
            writer.cancel()

    async def _write(self, socket: ClientConnection) -> None:
        try:
            while True:
                items = self._core.take(FRAME_BYTES)
                if items:
                    for frame in MSGPACK.encode(items, self._core.max_frame_bytes):
                        await socket.send(frame)
                else:
                    self._idle.set()
                    await self._output.wait()
                    self._output.clear()
        except ConnectionClosed:
            return  # the reader says how it ended

    async def _close(self, socket: ClientConnection) -> None:
        try:
            async with asyncio.timeout(self._options.close_timeout_s):
                await self._idle.wait()
        except TimeoutError:
            pass
        await socket.close()


def _ended(closed: ConnectionClosed, url: str) -> Ended:
    if closed.rcvd is None:
        why = f" ({closed.sent.reason})" if closed.sent is not None and closed.sent.reason else ""
        return Ended(_LOST, f"the connection to {url} was lost{why}")
    code, reason = closed.rcvd.code, closed.rcvd.reason
    said = f"{code} {reason}".strip()
    return Ended(code, f"{url} closed the connection ({said})")


def _is_loopback(url: str) -> bool:
    authority = parse_authority(urlsplit(url).netloc)
    return authority is not None and authority.is_loopback


def _one_line(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.errno and not isinstance(error, ssl.SSLError | gaierror):
        return os.strerror(error.errno)
    return " ".join(str(error).split()) or type(error).__name__
