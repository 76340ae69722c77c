"""Run cases: repeats of all subjects of a case are interleaved (A B C A B C), since cores drift over minutes."""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from bench.build import BUILD
from bench.errors import NotMeasured, RunFailed
from bench.machine import GENERATOR_CORE, on_core
from bench.plan import Case, Peer, Setting, Subject
from bench.results import Report, Run
from bench.servers import Installed, Running, find, read_counters
from bench.settings import arranged, insert_raw

RUN_LIMIT_S = 300.0
APPENDED = "posthouse_store_appended_total"
PUBLISHED = "posthouse_published_total"
COMMITS = "posthouse_commit_seconds_count"
DEFAULT_BATCH = 1000


@dataclass(frozen=True)
class Setup:
    """What all runs share."""

    generator: Path
    servers: dict[Peer, Installed]
    pin: bool
    folder: Path
    """Where servers keep their stores."""
    batches: list[int] = field(default_factory=lambda: [DEFAULT_BATCH])
    """Rows that posthouse put into one commit on PostgreSQL, run by run; the last is what raw inserts use."""


def find_servers(peers: list[Peer]) -> tuple[dict[Peer, Installed], list[str]]:
    """The servers that can be measured, and a line for each that cannot."""
    found: dict[Peer, Installed] = {}
    missing: list[str] = []
    for peer in peers:
        try:
            found[peer] = find(peer)
        except NotMeasured as reason:
            missing.append(str(reason))
    return found, missing


def store_folder() -> Path:
    """TMPDIR if it is set, else a folder of the working tree: /tmp is in memory on many machines."""
    named = os.environ.get("TMPDIR")
    if named:
        return Path(named)
    BUILD.mkdir(exist_ok=True)
    return BUILD


def run_case(case: Case, setup: Setup, repeats: int) -> list[Run]:
    runs = []
    for repeat in range(repeats):
        for subject in case.subjects:
            if all(peer in setup.servers for peer in subject.needs):
                run = run_once(case, subject, repeat, setup)
                print(f"  {case.key:11} {subject.key:18} {repeat + 1}/{repeats}  {one_line(run)}", flush=True)
                runs.append(run)
    return runs


def run_once(case: Case, subject: Subject, repeat: int, setup: Setup) -> Run:
    try:
        with tempfile.TemporaryDirectory(
            prefix="bench-", dir=setup.folder, ignore_cleanup_errors=True
        ) as folder:
            if subject.setting is Setting.RAW_INSERTS:
                report = insert_raw(case.messages, setup.batches[-1], Path(folder), setup.pin)
                return Run(case.key, subject.key, repeat, report, rows_per_commit=setup.batches[-1])
            with arranged(subject, setup.servers, Path(folder), setup.pin) as up:
                before = _written(up.metrics_url)
                report = _generate(case, subject, up, setup)
                after = _written(up.metrics_url)
    except RunFailed as failure:
        return Run(case.key, subject.key, repeat, failure=str(failure))
    rows = _rows_per_commit(before, after)
    if rows is not None and subject.setting is Setting.ON_POSTGRES:
        setup.batches.append(rows)
    return Run(case.key, subject.key, repeat, report, _share(before, after), rows_per_commit=rows)


def _generate(case: Case, subject: Subject, up: Running, setup: Setup) -> Report:
    command = [*(on_core(GENERATOR_CORE) if setup.pin else ()), str(setup.generator)]
    command += [*subject.arguments, *case.arguments, "-address", up.address]
    command += ["-server-pid", ",".join(map(str, up.pids))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_LIMIT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise RunFailed(f"not finished after {RUN_LIMIT_S:.0f} s") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"load generator ended with {done.returncode}"]
        raise RunFailed(lines[0][:300])
    return msgspec.json.decode(done.stdout, type=Report)


def _written(metrics_url: str | None) -> dict[str, float]:
    return {} if metrics_url is None else read_counters(metrics_url, (APPENDED, PUBLISHED, COMMITS))


def _share(before: dict[str, float], after: dict[str, float]) -> float | None:
    """What part of the messages published between two readings was written to the store."""
    if APPENDED not in after or PUBLISHED not in after:
        return None
    published = after[PUBLISHED] - before.get(PUBLISHED, 0.0)
    return (after[APPENDED] - before.get(APPENDED, 0.0)) / published if published else None


def _rows_per_commit(before: dict[str, float], after: dict[str, float]) -> int | None:
    """Messages in one commit, on average."""
    commits = after.get(COMMITS, 0.0) - before.get(COMMITS, 0.0)
    return round((after[APPENDED] - before.get(APPENDED, 0.0)) / commits) if commits else None


def one_line(run: Run) -> str:
    """A run for a person who watches."""
    if run.report is None:
        return f"failed: {run.failure}"
    parts = []
    for name, stage in (
        ("", run.report.online),
        ("kept ", run.report.offline),
        ("drained ", run.report.drain),
    ):
        if stage is not None:
            split = "+".join(f"{each:.1f}" for each in stage.server_parts_cpu_us_per_message)
            each = f" ({split})" if "+" in split else ""
            parts.append(f"{name}{stage.per_second:,.0f}/s {stage.server_cpu_us_per_message:.1f} µs{each}")
    if run.report.publish_to_result is not None:
        latency = run.report.publish_to_result
        parts.append(f"result {latency.p50_ms:.1f}/{latency.p99_ms:.1f} ms")
    if run.report.idle is not None:
        parts.append(f"{run.report.idle.kib_per_connection:.1f} KiB a connection")
    if run.disk_share is not None:
        parts.append(f"{run.disk_share:.1%} written")
    if run.rows_per_commit is not None:
        parts.append(f"{run.rows_per_commit} rows a commit")
    if run.report.stages():
        parts.append(f"generator {max(stage.generator_core_share for stage in run.report.stages()):.0%}")
        parts.append(f"others {max(stage.others_core_share for stage in run.report.stages()):.0%}")
    if faults := run.report.faults.text():
        parts.append(f"FAULTS: {faults}")
    return "  ".join(parts)


def warn(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr)
