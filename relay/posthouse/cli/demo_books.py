"""The books of the demonstration: what was promised, what was received, and how they compare.

Invariants: what counts as promised is what the relay answered to the sender, what counts as received is what
the reader was given; neither book is ever corrected by the other.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from posthouse.client import Receipt
from posthouse.errors import PosthouseError


class ProofFailed(PosthouseError):
    """Something that the relay promises did not hold; the text says what."""


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
    longest_ms: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Times:
        """Of at least one duration."""
        ordered = sorted(seconds)
        p99 = ordered[int(len(ordered) * 0.99)]
        return cls(statistics.median(ordered) * 1000, p99 * 1000, ordered[-1] * 1000)


class Pulse:
    """The longest time between two like events."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self.beats = 0
        self._last: float | None = None

    def begin(self) -> None:
        """Measure from now on; a pause that is under way counts from its own beginning."""
        self.longest_s = 0.0
        self.beats = 0

    def beat(self, now: float) -> None:
        """It has happened. ``now``: seconds of a clock that only goes forward."""
        if self._last is not None:
            self.longest_s = max(self.longest_s, now - self._last)
        self._last = now
        self.beats += 1
