"""The sections about several members, made from results that no machine had to measure."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from bench import results as r
from bench.failover import Fault, situations
from bench.members_report import behind_front, failovers, faults
from bench.plan import FULL, cases
from bench.report import markdown
from bench.results import Faults, Figures, Latency, Machine, Report, ResultFile, Run, Stage
from bench.rounds import FailoverRound, FailoverRun, FaultsRun, times
from bench.witness import promotions


def result(*runs: Run, at: str = "2026-01-02T03:04:05+00:00") -> ResultFile:
    machine = Machine(2, "Some CPU", "Linux 6.1", "ext4", True, {})
    return ResultFile(1, at, "python -m bench failover", machine, 0.1, list(runs), [])


def changes(
    fault: str, other_ms: list[float], own_ms: float = 250.0, closed: int = 0, lost: int = 0
) -> FailoverRun:
    rounds = [FailoverRound(ms, own_ms, closed, 1, 1000, lost) for ms in other_ms]
    return FailoverRun(f"{fault}-file-0", fault, "file", 0, rounds)


def failover_row(*runs: FailoverRun) -> list[str]:
    found = result()
    found.failovers += runs
    line = failovers(found).split("| kill -9 of the active |")[1].splitlines()[0]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_p99_is_exceeded_by_at_most_one_in_a_hundred() -> None:
    assert times([float(n) for n in range(1, 201)]) == (100.5, 198.0, 200.0)
    assert times([7.0]) == (7.0, 7.0, 7.0)
    assert times([]) is None


def test_a_change_within_its_budget_is_told_as_such() -> None:
    cells = failover_row(changes("crash", [80.0] * 99 + [900.0]))
    assert cells[2] == "100"
    assert cells[3] == "80 / 80 / 900"
    assert cells[4] == "0"
    assert cells[5].endswith(": yes")
    assert cells[7].endswith(": yes")
    assert cells[8:] == ["100,000", "0"]


def test_a_slow_change_a_closed_socket_and_a_loss_are_told_as_such() -> None:
    assert failover_row(changes("crash", [151.0] * 10))[5].endswith("**no**")
    closed = failover_row(changes("crash", [80.0] * 10, closed=1))
    assert closed[4] == "**10**"
    assert closed[5].endswith("**no**")
    assert failover_row(changes("crash", [80.0], own_ms=301.0))[7].endswith("**no**")
    assert failover_row(changes("crash", [80.0], lost=2))[9] == "**2**"


def test_a_silent_holder_is_held_to_its_slowest_round() -> None:
    found = result()
    found.failovers.append(changes("silent", [5_400.0] * 9 + [5_600.0]))
    assert "lease duration + 500 ms: **no**" in failovers(found)
    found.failovers[0] = changes("silent", [5_400.0] * 10)
    assert "lease duration + 500 ms: yes" in failovers(found)


def test_in_a_hand_over_nobodys_socket_may_close() -> None:
    found = result()
    found.failovers.append(changes("hand-over", [50.0], own_ms=50.0))
    assert failovers(found).count("socket open: **no**") == 1


def test_others_figures_and_what_failed_stand_beside() -> None:
    found = result()
    assert failovers(found) == ""
    run = changes("crash", [80.0])
    run.failure = "no member became active"
    found.failovers.append(run)
    text = failovers(found)
    assert "| Patroni | loss of the leader | up to its ttl: 30 s |" in text
    assert "- crash-file-0: ended after 1 rounds: no member became active" in text
    assert text in markdown(found, cases(FULL))


def test_a_run_of_faults_tells_what_was_lost_and_what_was_not_tried() -> None:
    found = result()
    run = FaultsRun("SQLite", 7, {"kill -9 of the active": 3}, 1000, 999, 1, 2_500.0, [1, 2], 40)
    run.broken.append("the epoch in the store fell from 2 to 1")
    run.left_out.append("a full disk")
    found.faults.append(run)
    text = faults(found)
    assert "| SQLite | 3 | 1,000 | 999 | 1 | 2 | **no** | 2.5 |" in text
    assert "3 × kill -9 of the active" in text
    assert "- **the epoch in the store fell from 2 to 1**" in text
    assert "- left out: a full disk" in text


def two_members(subject: str, active_us: float, p50_ms: float, case: str) -> Run:
    stage = Stage(9, 5.0, 5_000.0, 20.0, 0.9, 4.0, 0.5, 0.0, 0.0, [active_us, 20.0 - active_us])
    latency = Latency(p50_ms, 4.0, 9.0, 100)
    report = Report(
        "w1", 9, 9, 0, {}, Faults(), {}, online=stage, publish_to_delivery=latency, publish_to_result=latency
    )
    return Run(case, subject, 0, report)


def test_what_a_front_adds_and_takes_over_is_told() -> None:
    case = "w1-front-5k"
    found = result(
        two_members("posthouse-active", 18.0, 0.2, case), two_members("posthouse-front", 6.0, 0.6, case)
    )
    text = behind_front(cases(FULL), Figures(found))
    assert (
        "Added by the front, p50: 0.40 ms to the delivery, 0.40 ms to the result (to reach: ≤ 0.5 ms: yes)"
        in text
    )
    assert (
        "| clients at a standby's front | 5,000 / 5,000 | 6.0 / 6.0 | 14.0 / 14.0 | 0.60 | 0.60 | 50% |"
        in text
    )
    slow = result(*found.runs[:1], two_members("posthouse-front", 6.0, 0.8, case))
    assert "**no**" in behind_front(cases(FULL), Figures(slow))


def test_the_active_is_to_spend_less_behind_a_front() -> None:
    case = "w1-front-64"
    runs = [two_members("posthouse-active", 10.0, 1.0, case), two_members("posthouse-front", 9.0, 1.0, case)]
    line = next(
        line
        for line in markdown(result(*runs), cases(FULL)).splitlines()
        if "the active's CPU beside" in line
    )
    assert line.endswith("| ≤ 1.0× | 0.90× | yes |")


def kept(subject: str, per_second: float, rows: int | None = None) -> Run:
    stage = Stage(9, 5.0, per_second, 20.0, 0.9, 4.0, 0.5, 0.0, 0.0)
    report = Report("w2", 9, 9, 0, {}, Faults(), {}, offline=stage, drain=stage)
    return Run("w2", subject, 0, report, rows_per_commit=rows)


def test_the_store_on_postgresql_is_set_beside_sqlite_and_raw_inserts() -> None:
    runs = [
        kept("posthouse-arrays", 40_000),
        kept("posthouse-postgres", 20_000, 400),
        kept("raw-inserts", 80_000, 400),
    ]
    text = markdown(result(*runs), cases(FULL))
    assert (
        "keeps 0.50× as many a second as on SQLite, and 0.25× as many as a program that only inserts" in text
    )
    assert "| W2 on PostgreSQL: kept, beside SQLite | ≥ 0.33× | 0.50× | yes |" in text
    assert "as many a second as on SQLite" not in markdown(result(*runs[:2]), cases(FULL))


def test_later_failovers_and_faults_replace_earlier_ones_of_the_same_kind() -> None:
    old, new = result(at="2026-01-01T00:00:00+00:00"), result()
    old.failovers += [changes("crash", [1.0]), changes("silent", [2.0])]
    new.failovers += [changes("crash", [3.0])]
    old.runs.append(kept("posthouse-arrays", 40_000))
    new.machine = msgspec.structs.replace(new.machine, pinned=False)
    merged = r.merge([new, old])
    assert merged.machine.pinned, "what was measured with nothing pinned says so itself"
    assert {run.key: run.rounds[0].other_ms for run in merged.failovers} == {
        "crash-file-0": 3.0,
        "silent-file-0": 2.0,
    }


def test_results_of_before_can_still_be_read(tmp_path: Path) -> None:
    fields = msgspec.to_builtins(result())
    del fields["failovers"], fields["faults"]
    (tmp_path / "old").write_bytes(msgspec.json.encode(fields))
    assert r.load(tmp_path / "old").failovers == []


def test_a_silent_holder_is_tried_with_both_leases_and_less_often() -> None:
    found = situations([], [0, 5000], None)
    assert [(one.fault, one.lease, one.rounds) for one in found if one.sessions == 0] == [
        (Fault.CRASH, "file", 200),
        (Fault.HAND_OVER, "file", 200),
        (Fault.SILENT, "file", 10),
        (Fault.SILENT, "store", 10),
    ]
    assert len(found) == 8
    assert [one.key for one in situations(["crash"], [0], 3)] == ["crash-file-0"]


@pytest.mark.parametrize(
    ("epochs", "wrong"),
    [((1, 2, 4), []), ((1, 3, 2), ["member-0 was promoted with epoch 2 after member-1 with 3"]),
     ((1, 1), ["member-1 was promoted with epoch 1 after member-0 with 1"])],
)  # fmt: skip
def test_promotions_of_all_logs_must_rise(tmp_path: Path, epochs: tuple[int, ...], wrong: list[str]) -> None:
    logs = [tmp_path / "member-0.log", tmp_path / "member-1.log"]
    for log in logs:
        log.write_text('not JSON\n{"event": "listening"}\n')
    for number, epoch in enumerate(epochs):
        with logs[number % 2].open("a") as log_file:
            log_file.write(
                json.dumps({"time": f"2026-01-01T00:00:0{number}Z", "event": "promoted", "epoch": epoch})
                + "\n"
            )
    assert promotions(logs) == (list(epochs), wrong)
