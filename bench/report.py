"""The Markdown of docs/measurements.md, written between two markers so that the prose around it stays."""

from pathlib import Path

from bench import results as r
from bench.errors import BenchError
from bench.goals import GOALS, Goal
from bench.members_report import behind_front, failovers, faults
from bench.plan import ON_POSTGRES, RAW_INSERTS, SUBJECTS, Case, Peer, Setting, Subject
from bench.pods_report import on_kubernetes
from bench.results import Figure, Figures, ResultFile, Run, Spread
from bench.tables import NONE, high_median, low_median, number, table

BEGIN = "<!-- bench:begin, written by python -m bench -->"
END = "<!-- bench:end -->"
PAGE = f"# Measurements\n\n{BEGIN}\n{END}\n"


def replace_section(page: str, section: str) -> str:
    """Raises BenchError when the markers are not there."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise BenchError(f"the page does not hold the markers {BEGIN} and {END}")
    return f"{head}{BEGIN}\n{section.strip()}\n{END}{tail}"


def write_page(path: Path, section: str) -> None:
    page = path.read_text() if path.exists() else PAGE
    path.write_text(replace_section(page, section))


def markdown(
    result: ResultFile, cases: tuple[Case, ...], plot: str | None = None, pods_plot: str | None = None
) -> str:
    """All tables. `plot` and `pods_plot` are names of SVG files beside the page."""
    figures = Figures(result)
    parts = [_conditions(result)]
    if plot is not None:
        parts.append(f"![Server CPU and memory of each server]({plot})")
    parts += [_goals(figures), _online(cases, figures), _offline(cases, figures), _idle(cases, figures)]
    parts += [behind_front(cases, figures), failovers(result), faults(result)]
    parts += [on_kubernetes(result, pods_plot)]
    parts += [_answers(figures, cases), _remarks(result)]
    return "\n\n".join(part for part in parts if part)


def _conditions(result: ResultFile) -> str:
    machine = result.machine
    versions = ", ".join(f"{name} {version}" for name, version in sorted(machine.versions.items()))
    repeats = max((run.repeat for run in result.runs), default=0) + 1
    pinned = "server on one core, load on another" if machine.pinned else "**not pinned to cores**"
    lines = [
        f"Made by `{result.command}` on {result.at[:10]}: interleaved runs of each, {repeats} at most, each with a"
        " fresh server.",
        f"Machine: {machine.cores} cores ({machine.processor}), {machine.kernel}, stores on {machine.file_system},"
        f" {pinned}; load average at the start {result.load_at_start:.1f}. {versions}.",
        "CPU is user and system time of the server's processes per message. Pairs of figures are best / median of"
        " the repeats; a ratio is the median of the ratios of neighbouring runs, because cores drift.",
    ]
    if machine.file_system in ("tmpfs", "ramfs"):
        lines.append("**The stores were in memory: figures of synced writes mean nothing here.**")
    return "\n".join(lines)


def _goals(figures: Figures) -> str:
    rows = []
    for goal in GOALS:
        value = goal.measured(figures)
        if value is not None:
            sign = "≥" if goal.at_least else "≤"
            verdict = "yes" if goal.reached(value) else "**no**"
            rows.append([goal.text, f"{sign} {_amount(goal, goal.bound)}", _amount(goal, value), verdict])
    return (
        "## Figures to reach\n\n" + table(["figure", "to reach", "measured", "reached"], rows) if rows else ""
    )


def _amount(goal: Goal, value: float) -> str:
    return (
        f"{value:.2%}"
        if goal.unit == "%"
        else f"{number(value)} {goal.unit}".replace(" /s", "/s").replace(" ×", "×")
    )


def _latency(figures: Figures, case: str, subject: str, p50: Figure, p99: Figure) -> str:
    low, high = figures.spread(case, subject, p50), figures.spread(case, subject, p99)
    return NONE if low is None or high is None else f"{number(low.median)} / {number(high.median)}"


def _delivery_p99(run: Run) -> float | None:
    return run.report.publish_to_delivery.p99_ms if run.report and run.report.publish_to_delivery else None


def _times(value: float | None) -> str:
    return NONE if value is None else f"{number(value)}×"


def _percent(found: Spread | None, digits: int = 0) -> str:
    return NONE if found is None else f"{found.median:.{digits}%}"


def _measured(case: Case, figures: Figures) -> list[Subject]:
    return [subject for subject in case.subjects if figures.runs(case.key, subject.key)]


def _online(cases: tuple[Case, ...], figures: Figures) -> str:
    header = ["server", "delivered/s", "server CPU µs/message", "beside mosquitto", "delivery p50 / p99 ms",
              "result p50 / p99 ms", "written to disk", "load generator's core"]  # fmt: skip
    parts = []
    for case in cases:
        rows = []
        for subject in _measured(case, figures) if case.workload == "w1" else ():
            key = (case.key, subject.key)
            rows.append([
                subject.title,
                high_median(figures.spread(*key, r.online_rate)),
                low_median(figures.spread(*key, r.online_cpu_us)),
                _times(figures.ratio(*key, "mosquitto", r.online_cpu_us)),
                _latency(figures, *key, r.delivery_p50_ms, _delivery_p99),
                _latency(figures, *key, r.result_p50_ms, r.result_p99_ms),
                _percent(figures.spread(*key, r.disk_share), 2),
                _percent(figures.spread(*key, r.generator_share)),
            ])  # fmt: skip
        if rows:
            parts.append(f"### {case.title}\n\n{table(header, rows)}")
    if not parts:
        return ""
    intro = (
        "20 senders, 200 readers, 512 bytes a message, each acked by its reader and answered to its sender."
    )
    return "\n\n".join([f"## W1: readers online\n\n{intro}", *parts])


def _offline(cases: tuple[Case, ...], figures: Figures) -> str:
    header = ["server", "kept/s", "server CPU µs/message", "result p50 / p99 ms", "written to disk", "drained/s",
              "CPU µs/message, drain", "CPU, both", "beside NATS, acks in files", "load generator's core"]  # fmt: skip
    parts = []
    for case in cases:
        rows = []
        for subject in _measured(case, figures) if case.workload == "w2" else ():
            key = (case.key, subject.key)
            rows.append([
                subject.title,
                high_median(figures.spread(*key, r.offline_rate)),
                low_median(figures.spread(*key, r.offline_cpu_us)),
                _latency(figures, *key, r.result_p50_ms, r.result_p99_ms),
                _percent(figures.spread(*key, r.disk_share)),
                high_median(figures.spread(*key, r.drain_rate)),
                low_median(figures.spread(*key, r.drain_cpu_us)),
                low_median(figures.spread(*key, r.kept_and_drained_cpu_us)),
                _times(figures.ratio(*key, "nats-files", r.kept_and_drained_cpu_us)),
                _percent(figures.spread(*key, r.generator_share)),
            ])  # fmt: skip
        if rows:
            intro = f"{case.title}: all published and answered while no reader is there, then taken and acked by 200."
            parts.append(
                f"## W2: readers offline\n\n{intro}\n\n{table(header, rows)}{_on_postgres(case, figures)}"
            )
    return "\n\n".join(parts)


def _on_postgres(case: Case, figures: Figures) -> str:
    """The rate beside SQLite's, and beside what the server takes from a program that only inserts."""
    own, raw = ON_POSTGRES.key, RAW_INSERTS.key
    to_sqlite = figures.ratio(case.key, own, "posthouse-arrays", r.offline_rate)
    to_raw = figures.ratio(case.key, own, raw, r.offline_rate)
    rows = [run.rows_per_commit for run in figures.runs(case.key, own) if run.rows_per_commit is not None]
    if to_sqlite is None or to_raw is None or not rows:
        return ""
    return (
        f"\n\nposthouse on PostgreSQL keeps {_times(to_sqlite)} as many a second as on SQLite, and {_times(to_raw)} as"
        f" many as a program that only inserts, with as many rows in a transaction ({min(rows)} to {max(rows)}). The"
        " engine may use both cores; the relay, and the program, are on the server's core. Its CPU is in the figures."
    )


def _idle(cases: tuple[Case, ...], figures: Figures) -> str:
    parts = []
    for case in cases:
        rows = [
            [subject.title, low_median(figures.spread(case.key, subject.key, r.idle_kib))]
            for subject in _measured(case, figures)
            if case.workload == "w3"
        ]
        if rows:
            text = f"{case.title}, each subscribed: growth of the server's resident memory."
            parts.append(
                f"## W3: idle connections\n\n{text}\n\n{table(['server', 'KiB a connection'], rows)}"
            )
    return "\n\n".join(parts)


def _answers(figures: Figures, cases: tuple[Case, ...]) -> str:
    """What the figures stand for: servers promise different things."""
    seen = {subject.key for case in cases for subject in _measured(case, figures)}
    rows: list[list[str]] = []
    for subject in SUBJECTS:
        promise = [subject.durability, subject.answer]
        if subject.key in seen and promise not in [row[1:] for row in rows]:
            named = subject.peer is Peer.NATS or subject.setting in (Setting.ON_POSTGRES, Setting.RAW_INSERTS)
            title = subject.title if named else subject.peer.value
            rows.append([title, *promise])
    if not rows:
        return ""
    lines = ["| server | a kept message is in | the sender is answered |", "| --- | --- | --- |"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "## What each server promises\n\n" + "\n".join(lines)


def _remarks(result: ResultFile) -> str:
    lines = [f"- {line}" for line in result.not_measured]
    others = [
        s.others_core_share + s.stolen_core_share
        for run in result.runs
        if run.report
        for s in run.report.stages()
    ]
    if others and max(others) > 0.1:
        busy = sum(share > 0.1 for share in others)
        lines.append(
            f"- The machine was not quiet: in {busy} of {len(others)} measured stretches other work took more than a"
            f" tenth of a core, {max(others):.1f} cores at most."
        )
    for run in result.runs:
        if run.failure is not None:
            lines.append(f"- {run.case}, {run.subject}, repeat {run.repeat + 1}: failed: {run.failure}")
        elif run.report is not None and (faults := run.report.faults.text()):
            lines.append(f"- {run.case}, {run.subject}, repeat {run.repeat + 1}: {faults}")
    return "## Remarks\n\n" + "\n".join(lines) if lines else ""
