"""What the load generator says of one run, and how runs are kept and summed up.

The names are the generator's own (`bench/loadgen/workloads.go`); msgspec checks the types on the way in.
"""

from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import msgspec

from bench.rounds import ClusterRun, FailoverRun, FaultsRun

SCHEMA = 1


class Stage(msgspec.Struct, frozen=True):
    """One measured stretch. Shares are in cores: 1.0 is one core fully busy."""

    messages: int
    seconds: float
    per_second: float
    server_cpu_us_per_message: float
    server_core_share: float
    generator_cpu_us_per_message: float
    generator_core_share: float
    others_core_share: float
    stolen_core_share: float
    server_parts_cpu_us_per_message: list[float] = []
    """The same for each process that was asked for, in that order."""


class Latency(msgspec.Struct, frozen=True):
    p50_ms: float
    p99_ms: float
    max_ms: float
    count: int


class Idle(msgspec.Struct, frozen=True):
    connections: int
    rss_before_bytes: int
    rss_after_bytes: int
    kib_per_connection: float
    seconds_to_open: float


class Faults(msgspec.Struct, frozen=True):
    """What should not have happened; every field should be 0."""

    lost: int = 0
    unanswered: int = 0
    duplicates: int = 0
    misrouted: int = 0
    damaged: int = 0
    foreign: int = 0
    unexpected_results: int = 0

    def text(self) -> str:
        found = [f"{name.replace('_', ' ')} {n}" for name, n in msgspec.structs.asdict(self).items() if n]
        return ", ".join(found)


class Report(msgspec.Struct, frozen=True):
    """The output of the load generator."""

    workload: str
    sent: int
    delivered: int
    held_back: int
    results: dict[str, int]
    faults: Faults
    notes: dict[str, int]
    online: Stage | None = None
    offline: Stage | None = None
    drain: Stage | None = None
    idle: Idle | None = None
    publish_to_delivery: Latency | None = None
    publish_to_result: Latency | None = None

    def stages(self) -> list[Stage]:
        return [stage for stage in (self.online, self.offline, self.drain) if stage is not None]


class Run(msgspec.Struct, frozen=True):
    """One run of one subject in one case.

    `disk_share` is what part of the published messages was written; `rows_per_commit` is an average.
    """

    case: str
    subject: str
    repeat: int
    report: Report | None = None
    disk_share: float | None = None
    failure: str | None = None
    rows_per_commit: int | None = None


class Machine(msgspec.Struct, frozen=True):
    cores: int
    processor: str
    kernel: str
    file_system: str
    pinned: bool
    versions: dict[str, str]


class ResultFile(msgspec.Struct):
    """All that one call of the benchmark found."""

    schema: int
    at: str
    command: str
    machine: Machine
    load_at_start: float
    runs: list[Run]
    not_measured: list[str]
    failovers: list[FailoverRun] = []
    faults: list[FaultsRun] = []
    in_pods: list[ClusterRun] = []


class Spread(NamedTuple):
    """A figure over the repeats of one run."""

    min: float
    median: float
    max: float


def spread(values: list[float]) -> Spread | None:
    return Spread(min(values), median(values), max(values)) if values else None


def save(result: ResultFile, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1))


def load(path: Path) -> ResultFile:
    """Raises msgspec.ValidationError for a file of another shape."""
    return msgspec.json.decode(path.read_bytes(), type=ResultFile)


def merge(results: list[ResultFile]) -> ResultFile:
    """Join the runs of several calls; where two hold the same case and subject, the later call stands."""
    ordered = sorted(results, key=lambda result: result.at)
    newest = {(run.case, run.subject): number for number, result in enumerate(ordered) for run in result.runs}
    last = next((result for result in reversed(ordered) if result.runs), ordered[-1])
    versions: dict[str, str] = {}
    for result in ordered:
        versions.update(result.machine.versions)
    return ResultFile(
        schema=SCHEMA,
        at=ordered[-1].at,
        command="; ".join(dict.fromkeys(result.command for result in ordered)),
        machine=msgspec.structs.replace(last.machine, versions=versions),
        load_at_start=max(result.load_at_start for result in ordered),
        runs=[
            run
            for number, result in enumerate(ordered)
            for run in result.runs
            if newest[run.case, run.subject] == number
        ],
        failovers=list({run.key: run for result in ordered for run in result.failovers}.values()),
        faults=list({run.store: run for result in ordered for run in result.faults}.values()),
        in_pods=list({run.key: run for result in ordered for run in result.in_pods}.values()),
        not_measured=list(dict.fromkeys(line for result in ordered for line in result.not_measured)),
    )


Figure = Callable[[Run], float | None]


class Figures:
    """Look-ups over the runs of a result."""

    def __init__(self, result: ResultFile) -> None:
        self._runs: dict[tuple[str, str], list[Run]] = {}
        for run in result.runs:
            self._runs.setdefault((run.case, run.subject), []).append(run)

    def runs(self, case: str, subject: str) -> list[Run]:
        return self._runs.get((case, subject), [])

    def spread(self, case: str, subject: str, figure: Figure) -> Spread | None:
        values = [figure(run) for run in self.runs(case, subject)]
        return spread([value for value in values if value is not None])

    def ratio(self, case: str, subject: str, other: str, figure: Figure) -> float | None:
        """The median of the ratios of runs of the same repeat: cores drift, neighbours in time share the drift."""
        others = {run.repeat: figure(run) for run in self.runs(case, other)}
        ratios = []
        for run in self.runs(case, subject):
            mine, theirs = figure(run), others.get(run.repeat)
            if mine is not None and theirs:
                ratios.append(mine / theirs)
        return median(ratios) if ratios else None


def online_cpu_us(run: Run) -> float | None:
    return run.report.online.server_cpu_us_per_message if run.report and run.report.online else None


def online_rate(run: Run) -> float | None:
    return run.report.online.per_second if run.report and run.report.online else None


def active_cpu_us(run: Run) -> float | None:
    """Of two members, the share of the active one."""
    return _part(run, 0)


def other_cpu_us(run: Run) -> float | None:
    """Of two members, the share of the one that is not active."""
    return _part(run, 1)


def _part(run: Run, number: int) -> float | None:
    parts = run.report.online.server_parts_cpu_us_per_message if run.report and run.report.online else []
    return parts[number] if number < len(parts) else None


def result_p50_ms(run: Run) -> float | None:
    return run.report.publish_to_result.p50_ms if run.report and run.report.publish_to_result else None


def delivery_p50_ms(run: Run) -> float | None:
    return run.report.publish_to_delivery.p50_ms if run.report and run.report.publish_to_delivery else None


def offline_cpu_us(run: Run) -> float | None:
    return run.report.offline.server_cpu_us_per_message if run.report and run.report.offline else None


def offline_rate(run: Run) -> float | None:
    return run.report.offline.per_second if run.report and run.report.offline else None


def drain_cpu_us(run: Run) -> float | None:
    return run.report.drain.server_cpu_us_per_message if run.report and run.report.drain else None


def drain_rate(run: Run) -> float | None:
    return run.report.drain.per_second if run.report and run.report.drain else None


def kept_and_drained_cpu_us(run: Run) -> float | None:
    kept, drained = offline_cpu_us(run), drain_cpu_us(run)
    return None if kept is None or drained is None else kept + drained


def idle_kib(run: Run) -> float | None:
    return run.report.idle.kib_per_connection if run.report and run.report.idle else None


def result_p99_ms(run: Run) -> float | None:
    return run.report.publish_to_result.p99_ms if run.report and run.report.publish_to_result else None


def generator_share(run: Run) -> float | None:
    return max((s.generator_core_share for s in run.report.stages()), default=None) if run.report else None


def disk_share(run: Run) -> float | None:
    return run.disk_share
