"""A relay for tests of the client's shell: speaks the opening, then does as the test says.

It is the library's WebSocket server in the test's own loop. It keeps what it heard; it promises nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from posthouse.wire.audience import audience_of
from posthouse.wire.codec import MSGPACK, Invalid
from posthouse.wire.messages import (
    Ack,
    CaughtUp,
    Challenge,
    ClientMessage,
    Error,
    Hello,
    Message,
    Pending,
    Ping,
    Pong,
    Publish,
    Result,
    ServerMessage,
    Status,
    StatusRequest,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Welcome,
)
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

NONCE = bytes(range(32))


class FakeRelay:
    """What the relay heard, and how it answers."""

    def __init__(self) -> None:
        self.frames: list[list[ClientMessage | Invalid]] = []
        self.heard: list[ClientMessage | Invalid] = []
        self.connections: list[ServerConnection] = []
        self.openings = 0
        self.audience: str | None = None
        """What the challenge says instead of the host that was dialled."""
        self.close_at_hello: int | None = None
        self.before_close: list[ServerMessage] = []
        self.silent = False
        """Sends no results."""
        self.answer: Callable[[Publish], ServerMessage | None] = lambda item: Result(
            item.ref, "stored", False
        )
        self.refuse_subscriptions = False
        self.reads = asyncio.Event()
        """While not set, it takes nothing more from its sockets."""
        self.reads.set()
        self.backlog: list[Message] = []
        """What a subscription is sent; acks remove it."""
        self.changed = asyncio.Event()
        self.server: Server | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def published(self) -> list[Publish]:
        return [item for item in self.heard if isinstance(item, Publish)]

    def acked(self) -> list[str]:
        return [id for item in self.heard if isinstance(item, Ack) for id in item.ids]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until what was heard fulfils this."""
        async with asyncio.timeout(10):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    async def say(self, *items: ServerMessage) -> None:
        """Send one frame on the newest connection."""
        await send(self.connections[-1], items)

    async def start(self) -> None:
        self.server = await serve(
            self._serve,
            "127.0.0.1",
            self.port,
            subprotocols=[Subprotocol(MSGPACK.subprotocol)],
            compression=None,
        )
        self.port = next(iter(self.server.sockets)).getsockname()[1]

    async def stop(self, code: int = 1001) -> None:
        if self.server is not None:
            self.server.close(code=code)
            await self.server.wait_closed()
            self.server = None

    def cut(self) -> None:
        """End the newest connection without a word."""
        self.connections[-1].transport.abort()

    async def _serve(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        self.openings += 1
        host = connection.request.headers["Host"]
        audience = self.audience or audience_of(host, (), f"127.0.0.1:{self.port}")
        try:
            await send(connection, [Challenge(NONCE, audience, 0)])
            async for data in connection:
                assert isinstance(data, bytes)
                await self.reads.wait()
                items = MSGPACK.decode(data)
                self.frames.append(items)
                for item in items:
                    await self._handle(connection, item)
                self.changed.set()
        except ConnectionClosed:
            pass
        finally:
            self.changed.set()

    async def _handle(self, connection: ServerConnection, item: ClientMessage | Invalid) -> None:
        self.heard.append(item)
        answers: list[ServerMessage] = []
        match item:
            case Hello():
                if self.close_at_hello is not None:
                    await send(connection, self.before_close)
                    await connection.close(self.close_at_hello)
                    return
                self.connections.append(connection)
                answers = [Welcome("session", "relay", 3, [], {}, [])]
            case Publish():
                answer = None if self.silent else self.answer(item)
                answers = [answer] if answer is not None else []
            case Subscribe() if self.refuse_subscriptions:
                answers = [Error("not-owner", "not yours", False, item.ref)]
            case Subscribe():
                count = len(self.backlog)
                answers = [Subscribed(item.ref, Pending(count, count)), *self.backlog, CaughtUp(item.ref)]
            case Unsubscribe():
                answers = [Subscribed(item.ref, Pending(0, 0))]
            case Ack():
                self.backlog = [message for message in self.backlog if message.id not in item.ids]
            case StatusRequest():
                answers = [Status(item.ref, Pending(1, 2), {}, 3)]
            case Ping():
                answers = [Pong(item.t, 0)]
            case _:
                pass
        if answers:
            await send(connection, answers)


async def send(connection: ServerConnection, items: Sequence[ServerMessage]) -> None:
    for frame in MSGPACK.encode(items, 2**20):
        await connection.send(frame)


@asynccontextmanager
async def running_relay() -> AsyncIterator[FakeRelay]:
    relay = FakeRelay()
    await relay.start()
    try:
        yield relay
    finally:
        await relay.stop()


def message(number: int) -> Message:
    """A message of a backlog."""
    return Message(f"{number:064x}", number, b"text %d" % number, 1, 2, 1, recipient="me")
