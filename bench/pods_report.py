"""The section about a relay in pods of Kubernetes, as its clients see it."""

from __future__ import annotations

from collections.abc import Iterable

from bench.pods_budgets import (
    STORES,
    TITLES,
    Sockets,
    closed_unannounced,
    expected,
    kept,
    left,
    lost,
    never_fell,
)
from bench.results import ResultFile
from bench.rounds import ClusterRun, times
from bench.tables import NONE, table

_TIMES = [
    "fault", "store", "rounds", "others, inside", "others, outside", "budget", "own, inside", "own, outside", "budget",
]  # fmt: skip
_PROMISES = [
    "fault", "store", "promised", "lost", "others' sockets closed: all / without goaway",
    "own sockets closed: all / without goaway / given up", "epochs in the store", "their commits", "never fell",
]  # fmt: skip


def in_order(runs: Iterable[ClusterRun]) -> list[ClusterRun]:
    """As the report has them: by fault, then by store."""
    faults, stores = list(TITLES), list(STORES)
    return sorted(runs, key=lambda run: (faults.index(run.fault), stores.index(run.store)))


def on_kubernetes(result: ResultFile, plot: str | None = None) -> str:
    """The section; empty when nothing was measured. ``plot``: the name of an SVG file beside the page."""
    if not result.in_pods:
        return ""
    runs = in_order(result.in_pods)
    parts = [
        "## On Kubernetes",
        _intro(result),
        table(_TIMES, [_times_row(run) for run in runs]),
        f"![Longest times without a promise, by fault and store]({plot})" if plot is not None else "",
        "What became of the promises, of the clients' sockets, and of the epochs. The record of epochs is the store's"
        " own: a trigger writes the epoch of every commit in the order in which the store takes them; the first epoch"
        " of a row began before its fault.",
        table(_PROMISES, [_promises_row(run) for run in runs]),
        _notes(runs),
    ]
    return "\n\n".join(part for part in parts if part)


def _intro(result: ResultFile) -> str:
    commands = [one for one in result.command.split("; ") if " cluster" in one]
    command = "; ".join(commands) or "python -m bench cluster"
    return (
        f"`{command}`: the manifests of `examples/kubernetes` (`linger_s` and `drain_s` of 2 s) on a cluster of two"
        f" nodes, both on one machine with {result.machine.cores} cores, which the whole cluster, PostgreSQL and the"
        " clients share. A client publishes"
        " through the Service, from the network of a pod (inside) or from beyond the nodes (outside), at most one"
        " message each 5 ms, so that times below about 10 ms are not told apart; it gives a connection up after 2 s of"
        " silence where its member is struck.\n\n"
        "Figures are median / p99 / max of the longest time without a promise in each round, in ms, of clients of"
        " other members (others) and of those of the member that was active (own); of fewer than 100 values the p99 is"
        " the maximum. A budget holds for inside and outside each, and is not reached by a run that lost a promise,"
        " broke anything or ended early; *socket open*: none was closed; *goaway first*: none was closed but after a"
        " goaway. While the API server is away there is to be no gap: one would last for the lease's deadline (3 s) or"
        " longer."
    )


def _times_row(run: ClusterRun) -> list[str]:
    rounds = str(len(run.rounds)) if run.failure is None else f"**{len(run.rounds)}, ended early**"
    return [
        *_named(run), rounds,
        _times(run, "inside", own=False), _times(run, "outside", own=False), _budget(run, own=False),
        _times(run, "inside", own=True), _times(run, "outside", own=True), _budget(run, own=True),
    ]  # fmt: skip


def _named(run: ClusterRun) -> list[str]:
    return [TITLES[run.fault], STORES[run.store]]


def _times(run: ClusterRun, place: str, *, own: bool) -> str:
    found = times(run.gaps_ms(own=own, place=place))
    return NONE if found is None else f"{found.median:.0f} / {found.p99:.0f} / {found.max:.0f}"


def _budget(run: ClusterRun, *, own: bool) -> str:
    text = expected(run.fault, run.store).of(own=own).text
    reached = kept(run, own=own)
    if reached is None:
        return text or NONE
    return f"{text}: {'yes' if reached else '**no**'}"


def _promises_row(run: ClusterRun) -> list[str]:
    promised = sum(one.promised for one in run.rounds)
    commits = sum(count for _, count in run.epochs)
    rising = "yes" if never_fell(run) else "**no**"
    return [
        *_named(run), f"{promised:,}", _bold(str(lost(run)), lost(run) > 0),
        _closed(run, own=False), f"{_closed(run, own=True)} / {left(run, own=True)}",
        str(len({epoch for epoch, _ in run.epochs})), f"{commits:,}", rising if run.epochs else NONE,
    ]  # fmt: skip


def _closed(run: ClusterRun, *, own: bool) -> str:
    """Bold where one was closed that should not have been."""
    closed, unannounced = run.closed(own=own), closed_unannounced(run, own=own)
    wrong = {Sockets.OPEN: closed, Sockets.ANNOUNCED: unannounced, Sockets.ANY: 0}
    sockets = expected(run.fault, run.store).of(own=own).sockets
    return _bold(f"{closed} / {unannounced}", wrong[sockets] > 0)


def _bold(text: str, bold: bool) -> str:
    return f"**{text}**" if bold else text


def _notes(runs: list[ClusterRun]) -> str:
    lines = []
    for run in runs:
        name = ", ".join(_named(run))
        lines += [f"- **{name}: {text}**" for text in run.broken]
        if run.failure is not None:
            lines.append(f"- **{name}: ended after {len(run.rounds)} rounds: {run.failure}**")
    return "\n".join(lines)
