"""What makes a broker of this process the one whose commits count: the epoch is raised, and a first commit succeeds.

The lease says who tries; the fence in the store decides. Whoever stalls on the way finds another fence than the one
that it has seen, and raises nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol, TypeVar

import structlog

from posthouse.broker import Broker
from posthouse.errors import PosthouseError
from posthouse.store.interface import Committed, Fence, Recovered, Writer

TRIES: Final = 5
T = TypeVar("T")
_log = structlog.get_logger()


class NotPromoted(PosthouseError):
    """The promotion does not count; the text says why."""


class AskWriter(Protocol):
    """Has the store's writer do something."""

    async def __call__(self, work: Callable[[Writer], T], /) -> T:
        """What it gave. Raises what it raised, first of all StoreUnavailable."""


async def raise_epoch(ask: AskWriter, holds: Callable[[], bool], transitions: int) -> Recovered:
    """Raise the store's epoch, to ``transitions`` at least; what is stored. ``holds``: whether the lease is ours now.

    Raises NotPromoted without the lease in hand, StoreUnavailable if the store cannot write.
    """
    for _ in range(TRIES):
        seen = await ask(lambda writer: writer.fence())
        # Asked after the fence was read: who stalls here finds another fence than the one it has seen.
        if not holds():
            raise NotPromoted("the lease was not held to the end of the promotion")
        recovered = await ask(partial(_promote, seen, transitions, secrets.token_bytes(16)))
        if recovered is not None:
            return recovered
        _log.warning("the store's epoch was raised by somebody else: once more")
    raise NotPromoted("the store is promoted by others again and again")


async def first_commit(ask: AskWriter, broker: Broker, fence: Fence) -> Committed:
    """Commit what a new broker begins with. Raises NotPromoted if that is not certain, StoreUnavailable."""
    batch = broker.next_batch()
    assert batch is not None, "the first batch reserves sequence numbers"
    outcome = await ask(lambda writer: writer.commit(batch, fence))
    if not isinstance(outcome, Committed):
        raise NotPromoted(f"the first commit of the promotion was {outcome.value}")
    return outcome


def _promote(seen: Fence, transitions: int, token: bytes, writer: Writer) -> Recovered | None:
    return writer.promote(seen, max(seen.epoch + 1, transitions), token)
