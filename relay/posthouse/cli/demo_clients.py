"""The clients of the demonstration: a sender and a reader, each with a key of its own, each keeping its own book."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import perf_counter

from posthouse.cli.demo_books import Books, Pulse, Times
from posthouse.client import Client, PosthouseClientError, State
from posthouse.identity import DeviceKey, message_id

_TEXT_BYTES = 512
_WAITING = 1024
_TIMEOUT_S = 30.0
_PACE_S = 0.005
"""The stream hands over what is due this often."""


class Whereabouts:
    """Where a client is connected, and what it saw of it: the ``on_state`` of its client."""

    def __init__(self) -> None:
        self.url = ""
        """Of the present or last connection."""
        self.connections = 0
        self.connected = False
        self.reason = ""
        """Why the connection before ended, in the client's words."""
        self.away_s = 0.0
        """Between the end of the connection before and the present one."""
        self._left_at = 0.0

    def on_state(self, state: State, detail: str) -> None:
        """The client's state has changed."""
        if state is State.CONNECTED:
            self.url = detail.removeprefix("connected to ")
            self.connected = True
            self.connections += 1
            self.away_s = perf_counter() - self._left_at
        elif self.connected:
            self.connected = False
            self.reason = detail
            self._left_at = perf_counter()


class Sender:
    """Sends to one address, and books what is promised."""

    name = "sender"

    def __init__(self, urls: Sequence[str], to: str, books: Books) -> None:
        self.whereabouts = Whereabouts()
        self.pulse = Pulse()
        """Of promises."""
        self.client = Client(
            urls, _new_key(), name="demo sender", timeout_s=_TIMEOUT_S, on_state=self.whereabouts.on_state
        )
        self._to = to
        self._books = books
        self._number = 0

    async def one_by_one(self, count: int) -> OneByOne:
        """Each message after the promise for the one before."""
        handed_over, answered = [], []
        statuses: Counter[str] = Counter()
        for _ in range(count):
            text = self._text()
            began = perf_counter()
            receipt = await self.client.send(self._to, text)
            answered.append(perf_counter() - began)
            statuses[receipt.status] += 1
            self._books.promised[receipt.id] = receipt
            handed_over.append(self._books.received.get(receipt.id, perf_counter()) - began)
        return OneByOne(Times.of(handed_over), Times.of(answered), statuses)

    async def stream(self, per_second: int, end: asyncio.Event) -> StreamReport:
        """A steady stream until ``end`` is set. Raises what the client raises for a message that is refused."""
        report = StreamReport()
        async for outcome in self.client.send_many(
            self._paced(per_second, end, report), max_waiting=_WAITING
        ):
            if isinstance(outcome, PosthouseClientError):
                raise outcome
            self.pulse.beat(perf_counter())
            report.repeats += outcome.duplicate
            self._books.promised[outcome.id] = outcome
        return report

    async def _paced(
        self, per_second: int, end: asyncio.Event, report: StreamReport
    ) -> AsyncIterator[tuple[str, bytes]]:
        began = perf_counter()
        while not end.is_set():
            due = int((perf_counter() - began) * per_second)
            while report.sent < due and not end.is_set():
                report.sent += 1
                yield self._to, self._text()
            await asyncio.sleep(_PACE_S)

    def _text(self) -> bytes:
        self._number += 1
        return (b"message %d " % self._number).ljust(_TEXT_BYTES, b".")


@dataclass(frozen=True, slots=True)
class OneByOne:
    """What messages one after another came to."""

    handed_over: Times
    """Until the reader had it; only for an online reader."""
    answered: Times
    """Until the sender had the relay's answer."""
    statuses: Counter[str]


@dataclass(slots=True)
class StreamReport:
    """What a stream came to."""

    sent: int = 0
    repeats: int = 0
    """Sent again, because no answer had come, and known to the relay already."""


class Reader:
    """Reads what is for its own address, and books what it is given."""

    name = "reader"

    def __init__(self, urls: Sequence[str], books: Books) -> None:
        self.whereabouts = Whereabouts()
        self.pulse = Pulse()
        """Of messages."""
        self._urls = urls
        self._books = books
        self._key = _new_key()
        self.address = self._key.address

    @asynccontextmanager
    async def online(self) -> AsyncIterator[int]:
        """Read in the background; gives how many messages waited. Raises why reading ended, if it did."""
        client = Client(
            self._urls,
            self._key,
            name="demo reader",
            timeout_s=_TIMEOUT_S,
            on_state=self.whereabouts.on_state,
        )
        async with client:
            subscription = await client.subscribe()
            reading = asyncio.create_task(self._read(client))
            try:
                yield subscription.pending.count
                if reading.done():
                    reading.result()
            finally:
                reading.cancel()
                await asyncio.wait([reading])

    async def _read(self, client: Client) -> None:
        books = self._books
        async for message in client.messages():
            now = perf_counter()
            if message.id in books.received or message_id(message.ciphertext) != message.id:
                books.damaged += 1
            books.received[message.id] = now
            self.pulse.beat(now)
            await message.ack()


def _new_key() -> DeviceKey:
    return DeviceKey(os.urandom(32))
