"""The figures that posthouse is to reach, and whether a result reaches them.

A budget is a figure in a report, not an assertion: nothing here fails a build.
"""

from dataclasses import dataclass

from bench import results as r
from bench.results import Figure, Figures


@dataclass(frozen=True)
class Goal:
    """One figure with its bound. `against` names the subject of a ratio."""

    text: str
    case: str
    subject: str
    figure: Figure
    bound: float
    unit: str
    at_least: bool = False
    against: str | None = None

    def measured(self, figures: Figures) -> float | None:
        """The best repeat of a CPU time or rate, the median of a latency or share, the paired median of a ratio."""
        if self.against is not None:
            return figures.ratio(self.case, self.subject, self.against, self.figure)
        found = figures.spread(self.case, self.subject, self.figure)
        if found is None:
            return None
        if self.figure in (r.result_p99_ms, r.disk_share):
            return found.median
        return found.max if self.at_least else found.min

    def reached(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound


def _cpu(text: str, case: str, subject: str, bound: float) -> Goal:
    return Goal(f"{text}: server CPU", case, subject, r.online_cpu_us, bound, "µs")


def _to_mosquitto(text: str, case: str, subject: str, bound: float) -> Goal:
    return Goal(
        f"{text}: CPU beside mosquitto", case, subject, r.online_cpu_us, bound, "×", against="mosquitto"
    )


_A, _S, _J = "posthouse-arrays", "posthouse-single", "posthouse-json"

GOALS = (
    _cpu("W1, window 64, arrays", "w1-64", _A, 10),
    Goal("W1, window 64, arrays: delivered", "w1-64", _A, r.online_rate, 80_000, "/s", at_least=True),
    _to_mosquitto("W1, window 64, arrays", "w1-64", _A, 0.6),
    _cpu("W1, window 64, one message a frame", "w1-64", _S, 16),
    _to_mosquitto("W1, window 64, one message a frame", "w1-64", _S, 1.0),
    _cpu("W1, window 64, JSON", "w1-64", _J, 16),
    _to_mosquitto("W1, window 64, JSON", "w1-64", _J, 1.0),
    _to_mosquitto("W1, window 8", "w1-8", _A, 1.1),
    Goal("W1, 5,000/s: result p99", "w1-5k", _A, r.result_p99_ms, 5, "ms"),
    _to_mosquitto("W1, 5,000/s", "w1-5k", _A, 1.0),
    Goal("W1, 20,000/s: result p99", "w1-20k", _A, r.result_p99_ms, 5, "ms"),
    _to_mosquitto("W1, 20,000/s", "w1-20k", _A, 1.7),
    *(
        Goal(f"W1, {text}: share written to disk", case, _A, r.disk_share, 0.05, "%")
        for case, text in (
            ("w1-64", "window 64"),
            ("w1-8", "window 8"),
            ("w1-5k", "5,000/s"),
            ("w1-20k", "20,000/s"),
        )
    ),
    Goal("W2, all synced: server CPU", "w2", _A, r.offline_cpu_us, 22, "µs"),
    Goal("W2, all synced: kept", "w2", _A, r.offline_rate, 35_000, "/s", at_least=True),
    Goal(
        "W2 on PostgreSQL: kept, beside SQLite",
        "w2",
        "posthouse-postgres",
        r.offline_rate,
        1 / 3,
        "×",
        at_least=True,
        against=_A,
    ),
    Goal(
        "W1 at a standby's front, window 64: the active's CPU beside W1 at the active",
        "w1-front-64",
        "posthouse-front",
        r.active_cpu_us,
        1.0,
        "×",
        against="posthouse-active",
    ),
    Goal("W2: drained", "w2", _A, r.drain_rate, 50_000, "/s", at_least=True),
    *(
        Goal(
            f"W2, kept and drained: CPU beside {text}",
            "w2",
            _A,
            r.kept_and_drained_cpu_us,
            0.25,
            "×",
            against=other,
        )
        for other, text in (("nats-files", "NATS as it is by default"), ("nats", "NATS, acks in memory"))
    ),
    Goal("W3: memory of an idle connection", "w3", _A, r.idle_kib, 4, "KiB"),
)
