"""What clients may notice when something happens to a relay in pods, and whether a run keeps to it.

A budget is a figure in a report, not an assertion: nothing here fails a build.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from enum import Enum
from typing import Final

from bench.rounds import ClusterRun, times

PLACES: Final = ("inside", "outside")
GOAWAY: Final = "goaway drain"
LEFT: Final = "silent"
"""The client has closed the connection, because it heard nothing for the time of its keep-alive."""


class Sockets(Enum):
    """Which sockets may be closed."""

    OPEN = "socket open"
    ANNOUNCED = "goaway first"
    ANY = ""


@dataclass(frozen=True)
class Budget:
    """Of one sort of clients."""

    bound_ms: float | None = None
    """Of the p99, inside the cluster and outside each."""
    by_max: bool = False
    """Slow faults are judged by their maximum: there are too few rounds for a p99."""
    sockets: Sockets = Sockets.ANY
    remark: str = ""
    """What is to hold where there is no bound."""
    judged: bool = True
    """False: measured, with nothing to reach."""

    @property
    def text(self) -> str:
        """For a person."""
        if self.bound_ms is None:
            return self.remark
        return ", ".join(part for part in (self.bound_text, self.sockets.value) if part)

    @property
    def bound_text(self) -> str:
        """The bound alone, where there is one."""
        if self.bound_ms is None:
            return ""
        bound = f"{self.bound_ms:.0f} ms" if self.bound_ms < 1000 else f"{self.bound_ms / 1000:g} s"
        return f"{'max' if self.by_max else 'p99'} ≤ {bound}"


@dataclass(frozen=True)
class Expected:
    """Of one fault: the budgets of clients of other members, and of those of the active."""

    others: Budget
    own: Budget

    def of(self, *, own: bool) -> Budget:
        """One of the two."""
        return self.own if own else self.others


TITLES: Final = {
    "kill": "kill -9 of the active",
    "delete": "the active's pod deleted",
    "promote": "`posthouse promote`",
    "drain": "the active's node drained",
    "restart": "rollout restart",
    "freeze": "SIGSTOP of the active",
    "api": "API server stopped for 60 s",
    "cut": "the active's node cut off",
    "api-kill": "API server stopped, active killed",
    "lost-node": "the node of active and volume lost",
}
"""In the order of the report."""
STORES: Final = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}

_PLANNED = Budget(150.0, sockets=Sockets.ANNOUNCED)
_BY_ITSELF = Budget(remark="measured: keep-alive (2 s) and tries to connect", judged=False)
_NONE = Budget(judged=False)
_KEPT = Expected(Budget(remark="nothing lost"), _NONE)
_NO_GAP = Budget(3000.0, by_max=True, sockets=Sockets.OPEN)
"""An active that stops for want of its lease does so at the lease's deadline."""
_EXPECTED: Final = {
    "kill": Expected(Budget(250.0, sockets=Sockets.OPEN), Budget(500.0)),
    "delete": Expected(_PLANNED, _PLANNED),
    "promote": Expected(_PLANNED, _PLANNED),
    "drain": Expected(_PLANNED, _PLANNED),
    "restart": Expected(_PLANNED, _PLANNED),
    "freeze": Expected(Budget(5500.0, by_max=True), _BY_ITSELF),
    "cut": Expected(Budget(5500.0, by_max=True), _BY_ITSELF),
    "api": Expected(_NO_GAP, _NO_GAP),
    "api-kill": _KEPT,
    "lost-node": _KEPT,
}
_EXPECTED_WITH_SQLITE: Final = {
    "drain": Expected(Budget(remark="nothing lost, back when the volume is"), _NONE),
    # The lease's 5 s, and 4 s until the liveness probe has the process killed, which may hold the store's lock.
    "freeze": Expected(Budget(9000.0, by_max=True), _BY_ITSELF),
}


def expected(fault: str, store: str) -> Expected:
    """The budgets of a fault with a store."""
    with_sqlite = _EXPECTED_WITH_SQLITE.get(fault) if store == "sqlite" else None
    return with_sqlite or _EXPECTED[fault]


def kept(run: ClusterRun, *, own: bool) -> bool | None:
    """Whether such clients noticed no more than they may; None where nothing is to be reached, or was measured.

    A run that lost or broke something, or whose last round failed, keeps to nothing.
    """
    budget = expected(run.fault, run.store).of(own=own)
    if not budget.judged:
        return None
    if lost(run) or run.broken or run.failure is not None or not never_fell(run):
        return False
    if not run.rounds:
        return None
    return _in_time(run, budget, own=own) and _sockets_kept(run, budget.sockets, own=own)


def _in_time(run: ClusterRun, budget: Budget, *, own: bool) -> bool:
    """In each place by itself, so that none hides behind the other."""
    found = [times(run.gaps_ms(own=own, place=place)) for place in PLACES]
    bound_ms = budget.bound_ms
    return bound_ms is None or all(
        (one.max if budget.by_max else one.p99) <= bound_ms for one in found if one is not None
    )


def _sockets_kept(run: ClusterRun, sockets: Sockets, *, own: bool) -> bool:
    if sockets is Sockets.ANY:
        return True
    return not (run.closed(own=own) if sockets is Sockets.OPEN else closed_unannounced(run, own=own))


def lost(run: ClusterRun) -> int:
    """Promised, and not there when it was read back."""
    return sum(one.lost for one in run.rounds)


def never_fell(run: ClusterRun) -> bool:
    """Whether no commit of an older epoch comes after one of a newer."""
    return all(before < after for (before, _), (after, _) in itertools.pairwise(run.epochs))


def left(run: ClusterRun, *, own: bool) -> int:
    """How many sockets such clients have closed themselves, because nothing was heard."""
    return _ended(run, LEFT, own=own)


def closed_unannounced(run: ClusterRun, *, own: bool) -> int:
    """How many sockets were closed, neither by the client itself nor after a goaway."""
    return run.closed(own=own) - _ended(run, GOAWAY, own=own) - left(run, own=own)


def _ended(run: ClusterRun, code: str, *, own: bool) -> int:
    """Both codes are of connections that stood; a try to connect that fails has others, and closes no socket."""
    return sum(client.codes.get(code, 0) for one in run.rounds for client in one.clients if client.own == own)
