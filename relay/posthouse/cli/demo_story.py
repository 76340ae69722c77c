"""The scenes of the demonstration: a sender and a reader, each keeping its own book, and the comparison of both.

Invariants: what counts as promised is what the relay answered to the sender, what counts as received is what
the reader was given; neither book is ever corrected by the other.
"""

import asyncio
import os
import statistics
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import perf_counter

from posthouse.client import Client, PosthouseClientError, Receipt, State
from posthouse.errors import PosthouseError
from posthouse.identity import DeviceKey, message_id

_TEXT_BYTES = 512
_WAITING = 256
_TIMEOUT_S = 30.0
_PACE_S = 0.005
"""The stream hands over what is due this often."""


class ProofFailed(PosthouseError):
    """What was promised and what was received are not the same."""


@dataclass(slots=True)
class Books:
    """What the sender was promised and what the reader was given."""

    promised: dict[str, Receipt] = field(default_factory=dict)
    received: dict[str, float] = field(default_factory=dict)
    """By id, when."""
    damaged: int = 0
    """Given to the reader with other bytes than the id says, or twice."""

    @property
    def lost(self) -> int:
        """Promised and not received."""
        return len(self.promised.keys() - self.received.keys())

    def check(self) -> None:
        """Raises ProofFailed unless everything promised was received, once and whole."""
        if self.lost or self.damaged:
            raise ProofFailed(
                f"{self.lost} promised messages were lost, {self.damaged} came damaged or twice"
            )


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds of many like events."""

    median_ms: float
    p99_ms: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Times":
        """Of at least one duration."""
        ordered = sorted(seconds)
        return cls(statistics.median(ordered) * 1000, ordered[int(len(ordered) * 0.99)] * 1000)


class Sender:
    """Sends to one address, and books what is promised."""

    def __init__(self, url: str, to: str, books: Books) -> None:
        self._to = to
        self._books = books
        self._number = 0
        self._report = StreamReport()
        self.connected_at = 0.0
        """When the present connection was made."""
        self.client = Client(
            url, _new_key(), name="demo sender", timeout_s=_TIMEOUT_S, on_state=self._on_state
        )

    @property
    def unanswered(self) -> int:
        """Messages of the stream that have no answer yet."""
        return self._report.sent - self._report.promised

    def _on_state(self, state: State, detail: str) -> None:
        if state is State.CONNECTED:
            self.connected_at = perf_counter()

    async def one_by_one(self, count: int) -> "OneByOne":
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

    async def stream(self, per_second: int, end: asyncio.Event) -> "StreamReport":
        """A steady stream until ``end`` is set. Raises what the client raises for a message that is refused."""
        report = self._report = StreamReport()
        last = perf_counter()
        async for outcome in self.client.send_many(
            self._paced(per_second, end, report), max_waiting=_WAITING
        ):
            if isinstance(outcome, PosthouseClientError):
                raise outcome
            now = perf_counter()
            report.longest_pause_s = max(report.longest_pause_s, now - last)
            last = now
            report.promised += 1
            report.repeats += outcome.duplicate
            self._books.promised[outcome.id] = outcome
        return report

    async def _paced(
        self, per_second: int, end: asyncio.Event, report: "StreamReport"
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
    promised: int = 0
    repeats: int = 0
    """Sent again, because no answer had come, and known to the relay already."""
    longest_pause_s: float = 0.0


class Reader:
    """Reads what is for its own address, and books what it is given."""

    def __init__(self, url: str, books: Books) -> None:
        self._url = url
        self._books = books
        self._key = _new_key()
        self.address = self._key.address

    @asynccontextmanager
    async def online(self) -> AsyncIterator[int]:
        """Read in the background; gives how many messages waited."""
        async with Client(self._url, self._key, name="demo reader", timeout_s=_TIMEOUT_S) as client:
            subscription = await client.subscribe()
            reading = asyncio.create_task(self._read(client))
            try:
                yield subscription.pending.count
            finally:
                reading.cancel()
                await asyncio.wait([reading])

    async def drain(self) -> tuple[int, float]:
        """Read until nothing waits: how many there were, and how many seconds it took."""
        began = perf_counter()
        before = len(self._books.received)
        async with Client(self._url, self._key, name="demo reader", timeout_s=_TIMEOUT_S) as client:
            await client.subscribe()
            await self._read(client, until_caught_up=True)
        return len(self._books.received) - before, perf_counter() - began

    async def _read(self, client: Client, until_caught_up: bool = False) -> None:
        books = self._books
        async for message in client.messages(until_caught_up=until_caught_up):
            if message.id in books.received or message_id(message.ciphertext) != message.id:
                books.damaged += 1
            books.received[message.id] = perf_counter()
            await message.ack()


def _new_key() -> DeviceKey:
    return DeviceKey(os.urandom(32))
