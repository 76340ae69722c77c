"""The model of a store: a fence that is raised by compare-and-set, a log, and what was promised of it."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Violation(AssertionError):
    """Something happened that must never happen."""


class Fence(NamedTuple):
    """The epoch and the promotion that raised it."""

    epoch: int
    token: int


class Outcome(Enum):
    """Of a commit."""

    COMMITTED = "committed"
    FENCED = "fenced"


class SimStore:
    """What arrives at the store happens at that instant."""

    def __init__(self) -> None:
        self.fence = Fence(0, 0)
        self.log: list[int] = []
        self.promised: dict[int, int] = {}
        """Position in the log by the message that was promised to be there."""

    def promote(self, seen: Fence, epoch: int, token: int) -> bool:
        """Raise the epoch if the fence is the one seen."""
        if seen != self.fence:
            return False
        if epoch <= self.fence.epoch:
            raise Violation(f"epoch {epoch} after {self.fence.epoch}")
        self.fence = Fence(epoch, token)
        return True

    def lets(self, fence: Fence) -> bool:
        """Whether this fence may write."""
        return fence == self.fence

    def commit(self, fence: Fence, position: int, message: int) -> Outcome:
        """Write a message at a position; the same one again changes nothing."""
        if not self.lets(fence):
            return Outcome.FENCED
        if fence != self.fence:
            raise Violation(f"a commit of epoch {fence.epoch} in epoch {self.fence.epoch}")
        if position == len(self.log):
            self.log.append(message)
        elif self.log[position] != message:
            self.log[position] = message
        return Outcome.COMMITTED

    def promise(self, position: int, message: int) -> None:
        """Somebody was told that the message is stored."""
        self.promised[message] = position
        self.check()

    def check(self) -> None:
        """Everything promised is there."""
        for message, position in self.promised.items():
            if position >= len(self.log) or self.log[position] != message:
                raise Violation(f"message {message} was promised and is lost")
