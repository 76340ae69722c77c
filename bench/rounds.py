"""What rounds of faults gave, and how they are summed up."""

from __future__ import annotations

import math
from statistics import median
from typing import NamedTuple

import msgspec


class Times(NamedTuple):
    """Milliseconds over many rounds."""

    median: float
    p99: float
    max: float


def times(values_ms: list[float]) -> Times | None:
    """The p99 of n values is the smallest that at least 99 % of them do not exceed."""
    if not values_ms:
        return None
    ordered = sorted(values_ms)
    return Times(median(ordered), ordered[math.ceil(0.99 * len(ordered)) - 1], ordered[-1])


class FailoverRound(msgspec.Struct, frozen=True):
    """One change of the active: the longest time without a promise, as the clients saw it."""

    other_ms: float
    """A client of another member."""
    own_ms: float
    """A client of the member that was active."""
    other_closed: int
    """How often the socket of the client of another member was closed."""
    own_closed: int
    promised: int
    lost: int
    """Promised, and not there when it was read back."""
    sessions_lost: int = 0
    """Connections that were held beside the clients, and closed."""
    codes: dict[str, int] = {}
    """Why results were no promises, and how connections ended."""


class FailoverRun(msgspec.Struct):
    """All rounds of one fault."""

    key: str
    fault: str
    lease: str
    sessions: int
    rounds: list[FailoverRound]
    failure: str | None = None

    def others_ms(self) -> Times | None:
        """Of the client of another member."""
        return times([one.other_ms for one in self.rounds])

    def owns_ms(self) -> Times | None:
        """Of the client of the member that was active."""
        return times([one.own_ms for one in self.rounds])


class FaultsRun(msgspec.Struct):
    """Faults one after another on one store, under load."""

    store: str
    seed: int
    kinds: dict[str, int]
    promised: int
    received: int
    lost: int
    longest_ms: float
    epochs: list[int]
    """The epoch of each promotion, in the order of the members' logs."""
    epochs_seen: int
    """How often the epoch in the store was read beside."""
    broken: list[str] = []
    """What should not have been."""
    left_out: list[str] = []
    """What this machine cannot do."""
