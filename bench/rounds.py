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


class ClientRound(msgspec.Struct, frozen=True):
    """What one client of a relay in pods noticed of one fault."""

    place: str
    """`inside` the cluster or `outside`."""
    own: bool
    """Whether it was at the member that was active."""
    longest_ms: float
    """Its longest time without a promise."""
    closed: int
    codes: dict[str, int] = {}


class ClusterRound(msgspec.Struct, frozen=True):
    """One fault of a relay in pods."""

    clients: list[ClientRound]
    promised: int
    lost: int
    """Promised, and not there when it was read back."""


class ClusterRun(msgspec.Struct):
    """All rounds of one fault of a relay in pods."""

    fault: str
    store: str
    rounds: list[ClusterRound]
    epochs: list[tuple[int, int]] = []
    """Of all commits in the order in which the store took them: epochs, and how many commits were of each in a row."""
    broken: list[str] = []
    """What should not have been."""
    failure: str | None = None

    @property
    def key(self) -> str:
        """Names it in results."""
        return f"{self.fault}-{self.store}"

    def gaps_ms(self, *, own: bool, place: str | None = None) -> list[float]:
        """The longest gap of every such client in every round."""
        return [
            client.longest_ms
            for one in self.rounds
            for client in one.clients
            if client.own == own and place in (None, client.place)
        ]

    def closed(self, *, own: bool) -> int:
        """How many sockets of such clients were closed."""
        return sum(client.closed for one in self.rounds for client in one.clients if client.own == own)
