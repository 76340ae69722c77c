"""What a reader holds: subscriptions, messages with their answers, and the iterators that give them."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

from posthouse.client.errors import NoResult
from posthouse.client.life import Life, State
from posthouse.wire.messages import Message, NackCode, Pending

_T = TypeVar("_T")


class IncomingMessage:
    """One message, held by the caller until ``ack`` or ``nack``. It counts against the window until then."""

    __slots__ = ("_life", "_message")

    def __init__(self, life: Life, message: Message) -> None:
        self._life = life
        self._message = message

    @property
    def id(self) -> str:
        """Lower-case hex sha256 of the ciphertext."""
        return self._message.id

    @property
    def seq(self) -> int:
        """The relay's number for it; rises within one relay."""
        return self._message.seq

    @property
    def ciphertext(self) -> bytes:
        """What the sender handed over."""
        return self._message.ciphertext

    @property
    def recipient(self) -> str | None:
        """The address it is for; None where it came by a bucket."""
        return self._message.recipient

    @property
    def bucket(self) -> str | None:
        """The bucket it came by; None where it came by address."""
        return self._message.bucket

    @property
    def received_at_ms(self) -> int:
        """When the relay took it: milliseconds of the Unix epoch."""
        return self._message.received_at

    @property
    def expires_at_ms(self) -> int:
        """When the relay will drop it unread: milliseconds of the Unix epoch."""
        return self._message.expires_at

    @property
    def deliveries(self) -> int:
        """How often this reader has been sent it, as far as the relay knows; 1 the first time."""
        return self._message.deliveries

    async def ack(self) -> None:
        """It is processed: the relay deletes it (by address) or never offers it to this reader again (by bucket).

        Goes out with this turn of the loop; if the connection is lost just then, the message comes again on
        the next one and is acked again without the caller seeing it. A second answer does nothing.
        """
        self._answer(None, None)

    async def nack(self, code: NackCode, retry_after_ms: int | None = None) -> None:
        """It will not be processed: ``busy`` (offer it again, after the delay), ``not-mine`` or ``undecryptable``.

        Source: docs/protocol.md 2.2.
        """
        self._answer(code, retry_after_ms)

    def _answer(self, code: NackCode | None, retry_after_ms: int | None) -> None:
        self._life.core.answer(self._message.id, code, retry_after_ms)
        self._life.wake()

    def __repr__(self) -> str:
        return f"IncomingMessage(id={self.id!r}, seq={self.seq}, bytes={len(self.ciphertext)})"


class _Incoming(Generic[_T]):
    """Waits for messages until the client is closed or, if asked, until there is no backlog left."""

    def __init__(self, life: Life, until_caught_up: bool) -> None:
        self._life = life
        self._until_caught_up = until_caught_up

    async def __anext__(self) -> _T:
        while True:
            ready = self._ready()
            if ready is not None:
                return ready
            self._raise_if_over()
            await self._life.changed()

    def _ready(self) -> _T | None:
        raise NotImplementedError

    def _raise_if_over(self) -> None:
        life = self._life
        if life.state is State.CLOSED or (self._until_caught_up and life.core.caught_up()):
            raise StopAsyncIteration
        life.raise_if_over()
        for state in life.core.requests.subscriptions.values():
            if state.failure is not None:
                raise state.failure.with_traceback(None)


class Messages(_Incoming[IncomingMessage]):
    """Gives messages one by one. Waiting for the next one can be cancelled without losing any."""

    def __aiter__(self) -> Messages:
        return self

    def _ready(self) -> IncomingMessage | None:
        message = self._life.core.inbox.take()
        return IncomingMessage(self._life, message) if message is not None else None


class Batches(_Incoming[list[IncomingMessage]]):
    """Gives what has arrived, at least one message at a time and at most ``max_messages``."""

    def __init__(self, life: Life, until_caught_up: bool, max_messages: int) -> None:
        super().__init__(life, until_caught_up)
        self._max_messages = max_messages

    def __aiter__(self) -> Batches:
        return self

    def _ready(self) -> list[IncomingMessage] | None:
        inbox = self._life.core.inbox
        count = min(len(inbox), self._max_messages)
        taken = [inbox.take() for _ in range(count)]
        return [IncomingMessage(self._life, message) for message in taken if message is not None] or None


class Subscription:
    """Addresses and buckets that this client reads, on this connection and on every later one."""

    def __init__(self, life: Life, ref: int, pending: Pending) -> None:
        self._life = life
        self._ref = ref
        self.pending = pending
        """Messages and bytes that waited when it was made."""

    async def caught_up(self) -> None:
        """Wait until the relay has sent all backlog; needs somebody to answer messages when it fills the window.

        Raises Refused if a later connection does not allow the subscription any more, ConnectionFailed or
        ClientClosed when the client ends.
        """
        while (
            state := self._life.core.requests.subscriptions.get(self._ref)
        ) is not None and not state.caught_up:
            if state.failure is not None:
                raise state.failure.with_traceback(None)
            self._life.raise_if_over()
            await self._life.changed()

    async def end(self, timeout_s: float = 10.0) -> None:
        """Read these no more. What was sent already can still be answered. Raises NoResult on time-out."""
        life = self._life
        ref = life.core.unsubscribe(self._ref)
        if ref is None:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await life.expect(ref)
        except TimeoutError:
            raise NoResult(timeout_s, life.detail) from None
        finally:
            life.forget(ref)
