"""What the clients of a front have acknowledged lately: the next broker has to know it if this one is lost.

An ack that nothing has made good is *open*: without it the message would come once more. One that is for good is kept
for a while all the same: the sender, perhaps at another front, may not have heard ``delivered`` and publishes again.

Source: docs/protocol.md 2.4, "best effort across epochs".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

from msgspec import structs

from posthouse.exchange import Held

MOST_OPEN: Final = 65_536
"""Of open ones the oldest are forgotten beyond this: their messages may come once more."""
MOST_KEPT: Final = 16_384
"""The same for those that are for good."""
KEPT_S: Final = 10.0
"""How long those are kept: longer than a result is on its way to its sender."""
NOT_GIVEN: Final = 2**63
"""The batch of acks that the broker has not been given yet."""


class _Acks:
    """What was acknowledged in one batch. ``at``: when that was known to be for good."""

    __slots__ = ("at", "batch", "held")

    def __init__(self, batch: int, held: list[Held]) -> None:
        self.batch = batch
        self.held = held
        self.at: float | None = None


class Acknowledged:
    """Acks of all sessions of a front, also of those that have ended."""

    __slots__ = ("_kept", "_open", "kept", "open")

    def __init__(self) -> None:
        self.open = 0
        """Number of open acks."""
        self.kept = 0
        """Number of those that are for good and remembered."""
        self._open: deque[_Acks] = deque()
        self._kept: deque[_Acks] = deque()

    def add(self, batch: int, held: list[Held]) -> None:
        """These were acknowledged, in a batch that is not lower than the one before."""
        self._open.append(_Acks(batch, held))
        self.open += len(held)
        while self.open > MOST_OPEN:
            self.open -= self._shorten(self._open, self.open - MOST_OPEN)

    def confirmed(self, batch: int) -> None:
        """All of this batch and of those before it are for good."""
        acks = self._open
        while acks and acks[0].batch <= batch:
            done = acks.popleft()
            self.open -= len(done.held)
            self._kept.append(done)
            self.kept += len(done.held)
        while self.kept > MOST_KEPT:
            self.kept -= self._shorten(self._kept, self.kept - MOST_KEPT)

    @staticmethod
    def _shorten(acks: deque[_Acks], surplus: int) -> int:
        """Forget of the oldest batch what is too much; returns how many."""
        oldest = acks[0].held
        if len(oldest) <= surplus:
            acks.popleft()
            return len(oldest)
        del oldest[:surplus]
        return surplus

    def expire(self, now: float) -> None:
        """Forget what has been for good for ``KEPT_S``; to be called about once a second."""
        for one in reversed(self._kept):
            if one.at is not None:
                break
            one.at = now
        while self._kept and self._kept[0].at is not None and self._kept[0].at <= now - KEPT_S:
            self.kept -= len(self._kept.popleft().held)

    # --- for the next broker

    def again(self, most: int) -> Iterator[list[Held]]:
        """The broker is lost: all of them for the next one, open ones first, at most so many at a time.

        ``given`` is to be told of each piece. Those that are for good have ``seq`` 0: nothing has to be deleted.
        """
        acks = [held for one in self._open for held in one.held]
        for one in self._kept:
            acks += [structs.replace(held, seq=0) for held in one.held if held.bucket is None]
        pieces = [_Acks(NOT_GIVEN, acks[at : at + most]) for at in range(0, len(acks), most)]
        self._open, self.open = deque(pieces), len(acks)
        self._kept, self.kept = deque(), 0
        for piece in pieces:
            yield piece.held

    def given(self, held: list[Held], batch: int) -> None:
        """A piece, or what another broker of this front knew, goes to the next broker in this batch."""
        for one in self._open:
            if one.held is held:
                one.batch = batch
                return
        self.add(batch, held)
