"""The histograms of what clients of a relay in pods noticed: a panel for each fault and store."""

from __future__ import annotations

from bench.histogram import Histogram, Series, svg
from bench.pods_budgets import STORES, TITLES, expected
from bench.pods_report import in_order
from bench.results import ResultFile
from bench.rounds import ClusterRun

LABELS = {False: "clients of other members", True: "clients of the member that was active"}
ABOUT = "For each fault and store: how many clients had which longest time without a promise, and the budgets"


def pods_svg(result: ResultFile) -> str:
    """Runs without a single round are left out; the table beside has them."""
    return svg([_histogram(run) for run in in_order(result.in_pods) if run.rounds], ABOUT)


def _histogram(run: ClusterRun) -> Histogram:
    rounds = "1 round" if len(run.rounds) == 1 else f"{len(run.rounds)} rounds"
    title = f"{TITLES[run.fault].replace('`', '')}, {STORES[run.store]} ({rounds})"
    return Histogram(title, _series(run, own=False), _series(run, own=True))


def _series(run: ClusterRun, *, own: bool) -> Series:
    budget = expected(run.fault, run.store).of(own=own)
    return Series(LABELS[own], run.gaps_ms(own=own), budget.bound_ms, budget.bound_text)
