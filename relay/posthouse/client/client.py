"""The client of a relay: sends, reads, and keeps its connection (docs/client.md).

Everything is owned by the caller: nothing runs before ``async with`` or after it. A client belongs to one
event loop.
"""

from __future__ import annotations

import asyncio
import ssl as tls
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from posthouse.client.connection import ConnectionOptions
from posthouse.client.core import ClientCore
from posthouse.client.dialing import DialPlan
from posthouse.client.errors import NoResult, PosthouseClientError
from posthouse.client.life import Life, State
from posthouse.client.reading import Batches, Messages, Subscription
from posthouse.client.results import LaterReceipt, Outcome, Receipt
from posthouse.identity import DeviceKey
from posthouse.wire.messages import Mode, Pending, ReceiptKind, Status

_T = TypeVar("_T")
_Started = tuple[int, asyncio.Future[Any]]
"""The number of a publish, and its outcome."""


class Client:
    """A client of one relay, at one or several addresses."""

    def __init__(
        self,
        urls: str | Sequence[str],
        key: DeviceKey | None = None,
        *,
        name: str = "posthouse-python",
        audience: str | None = None,
        window: int = 256,
        timeout_s: float = 10.0,
        give_up_after_s: float | None = None,
        on_state: Callable[[State, str], None] | None = None,
        on_receipt: Callable[[LaterReceipt], None] | None = None,
        ssl: tls.SSLContext | None = None,
        ping_interval_s: float = 20.0,
        ping_timeout_s: float = 20.0,
        close_timeout_s: float = 2.0,
        max_delay_s: float = 30.0,
        max_inflight_bytes: int = 4 * 2**20,
        max_frame_bytes: int = 64 * 2**20,
        max_remembered: int = 100_000,
    ) -> None:
        """Nothing happens before ``async with``. Raises InvalidURL.

        ``urls``: ``ws://`` or ``wss://`` addresses of one relay, the preferred one first. ``key``: proves an
        address; without one the client is anonymous. ``audience``: what the relay must call itself, where that
        is not the host[:port] dialled (docs/protocol.md 2.1). ``window``: messages that may be with the caller
        unanswered. ``timeout_s``: how long a call waits for its answer, connecting included.
        ``give_up_after_s``: fail after so long without a connection (None: try for ever). ``on_state``: called
        with every new state and a line that explains it. ``on_receipt``: called with each later receipt.
        ``max_delay_s``: longest wait between two tries to connect. ``max_inflight_bytes``: publishes on their
        way without a result; further ones wait. ``max_frame_bytes``: largest frame taken from the relay.
        ``max_remembered``: ids of processed messages kept, so that a repeat is not given again.
        """
        options = ConnectionOptions(
            ssl=ssl,
            open_timeout_s=min(10.0, give_up_after_s or 10.0),
            welcome_timeout_s=15.0,
            ping_interval_s=ping_interval_s,
            ping_timeout_s=ping_timeout_s,
            close_timeout_s=close_timeout_s,
            max_frame_bytes=max_frame_bytes,
        )
        self._timeout_s = timeout_s
        self._core = ClientCore(name, key, window, max_inflight_bytes, max_remembered)
        plan = DialPlan([urls] if isinstance(urls, str) else urls, max_delay_s)
        self._life = Life(
            self._core, plan, options, audience, key is not None, give_up_after_s, on_state, on_receipt
        )

    # --- life -------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self._life.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the client: answers already given go out, sends without a result raise ClientClosed."""
        await self._life.close()

    def abort(self) -> None:
        """End the client at once, without a word to the relay."""
        self._life.abort()

    @property
    def state(self) -> State:
        """What the client is doing."""
        return self._life.state

    @property
    def detail(self) -> str:
        """A line for a person: why ``state`` is what it is."""
        return self._life.detail

    @property
    def epoch(self) -> int | None:
        """The relay's epoch as it last said; None before the first connection."""
        return self._core.epoch

    async def connected(self, timeout_s: float | None = None) -> None:
        """Wait for a connection. Raises ConnectionFailed when the client gives up, NoResult on time-out."""
        await self._within(timeout_s, self._wait_for_welcome())

    async def _wait_for_welcome(self) -> None:
        while True:
            self._life.raise_if_over()
            if self.state is State.CONNECTED:
                return
            await self._life.changed()

    # --- sending ----------------------------------------------------------------------------------------

    async def send(
        self,
        recipient: str,
        ciphertext: bytes,
        *,
        mode: Mode = "store",
        ttl_s: int | None = None,
        receipts: Sequence[ReceiptKind] = (),
        timeout_s: float | None = None,
    ) -> Receipt:
        """Hand a message for an address to the relay, and return what it promises.

        Sends at the same time share frames; one that is cancelled or out of time is not sent again. Raises
        Undeliverable, Rejected, NoResult, ConnectionFailed or ClientClosed: ``fallback`` says whether to take
        the OFFLINE route (docs/protocol.md 2.4).
        """
        return await self._finish(self._start(recipient, None, ciphertext, mode, ttl_s, receipts, timeout_s))

    async def send_to_bucket(
        self,
        bucket: str,
        ciphertext: bytes,
        *,
        mode: Mode = "store",
        ttl_s: int | None = None,
        receipts: Sequence[ReceiptKind] = (),
        timeout_s: float | None = None,
    ) -> Receipt:
        """As ``send``, for everybody who reads a bucket."""
        return await self._finish(self._start(None, bucket, ciphertext, mode, ttl_s, receipts, timeout_s))

    async def send_many(
        self,
        messages: Iterable[tuple[str, bytes]] | AsyncIterable[tuple[str, bytes]],
        *,
        mode: Mode = "store",
        ttl_s: int | None = None,
        receipts: Sequence[ReceiptKind] = (),
        timeout_s: float | None = None,
        max_waiting: int = 1024,
    ) -> AsyncIterator[Outcome]:
        """Send (recipient, ciphertext) pairs without waiting for each, and give how each ended, in their order.

        An outcome is a Receipt, or the error that ``send`` would have raised. Takes no more from ``messages``
        while ``max_waiting`` of them, or twice ``max_inflight_bytes``, have no result; an outcome does not wait
        for the next message.
        """
        started: asyncio.Queue[_Started | None] = asyncio.Queue()
        room = asyncio.Event()
        unanswered = 0

        async def feed() -> None:
            nonlocal unanswered
            source = _each(messages)
            try:
                while True:
                    while unanswered and (unanswered >= max_waiting or self._core.outbox.is_crowded()):
                        room.clear()
                        await room.wait()
                    recipient, ciphertext = await anext(source)
                    unanswered += 1
                    started.put_nowait(
                        self._start(recipient, None, ciphertext, mode, ttl_s, receipts, timeout_s)
                    )
            except StopAsyncIteration:
                return
            finally:
                started.put_nowait(None)

        feeding = asyncio.get_running_loop().create_task(feed())
        pending: _Started | None = None
        try:
            while (pending := await started.get()) is not None:
                outcome: Outcome = await pending[1]
                unanswered -= 1
                room.set()
                yield outcome
            await feeding
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
            while pending is not None or not started.empty():
                if pending is not None:
                    self._life.forget(pending[0])
                pending = started.get_nowait() if not started.empty() else None

    def _start(
        self,
        recipient: str | None,
        bucket: str | None,
        ciphertext: bytes,
        mode: Mode,
        ttl_s: int | None,
        receipts: Sequence[ReceiptKind],
        timeout_s: float | None,
    ) -> _Started:
        self._life.raise_if_over()
        ref = self._core.publish(
            ciphertext,
            recipient,
            bucket,
            mode,
            ttl_s,
            list(receipts) or None,
            self._life.now(),
            self._timeout_s if timeout_s is None else timeout_s,
        )
        return ref, self._life.expect(ref)

    async def _finish(self, started: _Started) -> Receipt:
        ref, future = started
        try:
            outcome: Outcome = await future
        finally:
            self._life.forget(ref)
        if isinstance(outcome, PosthouseClientError):
            raise outcome.with_traceback(None)
        return outcome

    # --- reading ----------------------------------------------------------------------------------------

    async def subscribe(
        self,
        *,
        addresses: Sequence[str] | None = None,
        buckets: Sequence[str] | None = None,
        reader: str | None = None,
        live: bool = True,
        timeout_s: float | None = None,
    ) -> Subscription:
        """Read addresses and buckets from now on; naming none reads the addresses of this client's key.

        ``reader``: the secret name under which an anonymous client reads buckets, at least 16 characters,
        chosen at random. ``live`` False: only what waits already. Raises Refused (an address that is not this
        key's, a bad bucket), NoResult, ConnectionFailed or ClientClosed.
        """
        self._life.raise_if_over()
        ref = self._core.subscribe(
            list(addresses) if addresses is not None else None,
            list(buckets) if buckets is not None else None,
            reader,
            live,
        )
        try:
            pending: Pending = await self._ask(ref, timeout_s)
        except BaseException:
            self._core.unsubscribe(ref)
            self._life.wake()
            raise
        return Subscription(self._life, ref, pending)

    def messages(self, *, until_caught_up: bool = False) -> Messages:
        """Messages as they come, until the client is closed; each wants an ``ack`` or a ``nack``.

        ``until_caught_up``: end when no backlog is left. Raises ConnectionFailed when the client gives up.
        Several iterators share what comes.
        """
        return Messages(self._life, until_caught_up)

    def batches(self, max_messages: int = 256, *, until_caught_up: bool = False) -> Batches:
        """As ``messages``, in lists of what has arrived: for readers that write many at a time."""
        return Batches(self._life, until_caught_up, max_messages)

    # --- questions --------------------------------------------------------------------------------------

    async def status(self, timeout_s: float | None = None) -> Status:
        """What waits for this client's key, and its quota."""
        self._life.raise_if_over()
        status: Status = await self._ask(self._core.request_status(), timeout_s)
        return status

    async def ping(self, timeout_s: float | None = None) -> float:
        """Milliseconds for a question to the relay and back."""
        self._life.raise_if_over()
        asked_at = self._life.now()
        await self._ask(self._core.ping(), timeout_s)
        return (self._life.now() - asked_at) * 1000

    async def _ask(self, ref: int, timeout_s: float | None) -> Any:
        try:
            answer = await self._within(timeout_s, self._life.expect(ref))
        finally:
            self._life.forget(ref)
        if isinstance(answer, PosthouseClientError):
            raise answer.with_traceback(None)
        return answer

    async def _within(self, timeout_s: float | None, wait: Any) -> Any:
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        try:
            async with asyncio.timeout(limit_s):
                return await wait
        except TimeoutError:
            detail = None if self.state is State.CONNECTED else self.detail
            raise NoResult(limit_s, detail) from None


async def _each(items: Iterable[_T] | AsyncIterable[_T]) -> AsyncIterator[_T]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
