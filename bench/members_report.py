"""The sections about several members: clients at a standby's front, changes of the active, and runs of faults."""

from __future__ import annotations

from bench import results as r
from bench.plan import AT_A_FRONT, AT_THE_ACTIVE, Case
from bench.results import Figure, Figures, ResultFile
from bench.rounds import FailoverRun, Times
from bench.tables import NONE, high_median, low_median, number, table

ADDED_LATENCY_MS = 0.5
LEASE_DURATION_MS = 5000
BUDGETS = {
    "crash": ("p99 ≤ 150 ms, socket open", "p99 ≤ 300 ms"),
    "hand-over": ("p99 ≤ 100 ms, socket open", "p99 ≤ 100 ms, socket open"),
    "silent": ("max ≤ lease duration + 500 ms", "its keep-alive (2 s) beside"),
}
"""For a client of another member, and for one of the member that was active."""

FAULTS = {
    "crash": "kill -9 of the active",
    "hand-over": "planned hand-over",
    "silent": "SIGSTOP of the active",
}
LEASES = {"file": "file, SQLite", "store": "store, PostgreSQL"}
ANCHORS = (
    ("CloudNativePG", "crash of the primary", "less than 10 s documented, 20 s in its own tests"),
    ("CloudNativePG", "loss of the node", "40 to 80 s"),
    ("Patroni", "loss of the leader", "up to its ttl: 30 s"),
    ("client-go leader election, defaults", "loss of the leader", "13 to 24 s"),
)
"""What others publish about the same faults: not measured here."""


def behind_front(cases: tuple[Case, ...], figures: Figures) -> str:
    """W1 with all clients at a member that is not active."""
    header = ["two members", "delivered/s", "CPU of the active, µs/message", "CPU of the other",
              "delivery p50 ms", "result p50 ms", "load generator's core"]  # fmt: skip
    parts = []
    for case in cases:
        if case.workload != "w1-front":
            continue
        rows = [
            [
                subject.title,
                high_median(figures.spread(case.key, subject.key, r.online_rate)),
                *(low_median(figures.spread(case.key, subject.key, part)) for part in _PARTS),
                *(_median(figures, case, subject.key, latency) for latency in _LATENCIES),
                _percent(figures, case, subject.key),
            ]
            for subject in case.subjects
            if figures.runs(case.key, subject.key)
        ]
        if rows:
            parts.append(f"### {case.title}\n\n{table(header, rows)}{_added(case, figures)}")
    if not parts:
        return ""
    intro = (
        "W1 on two members of one SQLite file. The member with the clients is on the server's core; the other shares"
        " the load generator's, which takes from the rate when that one is the active."
    )
    return "\n\n".join(["## W1 at a standby's front", intro, *parts])


_PARTS = (r.active_cpu_us, r.other_cpu_us)
_LATENCIES = (r.delivery_p50_ms, r.result_p50_ms)


def _median(figures: Figures, case: Case, subject: str, figure: Figure) -> str:
    found = figures.spread(case.key, subject, figure)
    return NONE if found is None else number(found.median)


def _percent(figures: Figures, case: Case, subject: str) -> str:
    found = figures.spread(case.key, subject, r.generator_share)
    return NONE if found is None else f"{found.median:.0%}"


def _added(case: Case, figures: Figures) -> str:
    """What the way over the link adds, where the load is the same for both."""
    if "-rate" not in case.arguments:
        return ""
    added = []
    for figure in _LATENCIES:
        front = figures.spread(case.key, AT_A_FRONT.key, figure)
        direct = figures.spread(case.key, AT_THE_ACTIVE.key, figure)
        if front is None or direct is None:
            return ""
        added.append(front.median - direct.median)
    reached = "yes" if max(added) <= ADDED_LATENCY_MS else "**no**"
    return (
        f"\n\nAdded by the front, p50: {number(added[0])} ms to the delivery, {number(added[1])} ms to the result"
        f" (to reach: ≤ {ADDED_LATENCY_MS} ms: {reached})."
    )


def failovers(result: ResultFile) -> str:
    """Changes of the active, as clients see them."""
    if not result.failovers:
        return ""
    header = ["fault", "lease", "sessions beside", "rounds", "client of another member: median / p99 / max ms",
              "its sockets closed", "budget", "client of that member: median / p99 / max ms", "budget",
              "promised", "lost"]  # fmt: skip
    rows = [_row(run) for run in result.failovers]
    intro = (
        f"`{_command(result)}`: three members on one store, one client at the active's own front and one at"
        " another member's, each publishing one message after another, at most one a millisecond. The figure is the"
        " longest time without a promise (`stored`, `delivered`, `duplicate`) in each round. A client that is closed"
        " goes to the next address at once; the client of the active also when nothing came for 2 s. At the end of each"
        " round all promised messages are read back."
    )
    anchors = table(["others, as they publish it", "fault", "time"], [list(row) for row in ANCHORS])
    return f"## Changes of the active\n\n{intro}\n\n{table(header, rows)}\n\n{anchors}\n\n{_notes(result)}".strip()


def _command(result: ResultFile) -> str:
    commands = [one for one in result.command.split("; ") if " failover" in one]
    return "; ".join(commands) or "python -m bench failover"


def _row(run: FailoverRun) -> list[str]:
    closed = sum(one.other_closed for one in run.rounds)
    promised, lost = sum(one.promised for one in run.rounds), sum(one.lost for one in run.rounds)
    others, owns = BUDGETS[run.fault]
    return [
        FAULTS[run.fault], LEASES[run.lease], f"{run.sessions:,}", str(len(run.rounds)), _times(run.others_ms()),
        f"{closed}" if not closed else f"**{closed}**",
        f"{others}: {_verdict(run, run.others_ms(), _bound(run.fault), closed)}",
        _times(run.owns_ms()), f"{owns}{_own_verdict(run)}", f"{promised:,}", f"{lost}" if not lost else f"**{lost}**",
    ]  # fmt: skip


def _bound(fault: str) -> float:
    return {"crash": 150.0, "hand-over": 100.0, "silent": LEASE_DURATION_MS + 500.0}[fault]


def _own_verdict(run: FailoverRun) -> str:
    if run.fault == "silent":
        return ""
    closed = sum(one.own_closed for one in run.rounds) if run.fault == "hand-over" else 0
    return f": {_verdict(run, run.owns_ms(), {'crash': 300.0, 'hand-over': 100.0}[run.fault], closed)}"


def _verdict(run: FailoverRun, found: Times | None, bound: float, closed: int) -> str:
    if found is None:
        return NONE
    value = found.max if run.fault == "silent" else found.p99
    return "yes" if value <= bound and not closed else "**no**"


def _times(found: Times | None) -> str:
    return NONE if found is None else f"{found.median:.0f} / {found.p99:.0f} / {found.max:.0f}"


def _notes(result: ResultFile) -> str:
    return "\n".join(
        f"- {run.key}: ended after {len(run.rounds)} rounds: {run.failure}"
        for run in result.failovers
        if run.failure is not None
    )


def faults(result: ResultFile) -> str:
    """Runs of faults under load."""
    if not result.faults:
        return ""
    header = [
        "store",
        "faults",
        "promised",
        "received",
        "lost",
        "promotions",
        "epochs only rise",
        "longest wait, s",
    ]
    rows = [
        [
            run.store, str(sum(run.kinds.values())), f"{run.promised:,}", f"{run.received:,}", str(run.lost),
            str(len(run.epochs)), "**no**" if run.broken else "yes", number(run.longest_ms / 1000),
        ]
        for run in result.faults
    ]  # fmt: skip
    lines = [
        "`python -m bench faults`: three members, a sender and its reader at different ones and a sender to somebody"
        " who is away, about 250 messages a second in all, one fault after another in random order.",
        table(header, rows),
    ]
    for run in result.faults:
        what = ", ".join(f"{count} × {kind}" for kind, count in sorted(run.kinds.items()))
        lines.append(
            f"{run.store} (seed {run.seed}): {what}. Epochs were read {run.epochs_seen:,} times beside."
        )
        lines += [f"- **{text}**" for text in run.broken] + [f"- left out: {text}" for text in run.left_out]
    return "## Faults, one after another\n\n" + "\n\n".join(lines)
