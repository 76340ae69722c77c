"""The tables and the plot of the benchmark, made from results that no machine had to measure."""

import xml.etree.ElementTree as ET
from pathlib import Path

import msgspec
import pytest

from bench import results as r
from bench.build import build_load_generator
from bench.errors import BenchError
from bench.goals import GOALS
from bench.plan import FULL, SUBJECTS, Peer, cases
from bench.plot import COLOURS, svg
from bench.report import BEGIN, END, markdown, replace_section, write_page
from bench.results import Faults, Figures, Idle, Latency, Machine, Report, ResultFile, Run, Stage
from bench.runner import find_servers, one_line
from bench.servers import parse_counters
from bench.tables import number, table


def stage(cpu_us: float, per_second: float = 50_000.0, others: float = 0.0) -> Stage:
    return Stage(250_000, 5.0, per_second, cpu_us, 0.9, 4.0, 0.5, others, 0.0)


def report(**fields: object) -> Report:
    empty = {
        "workload": "w1",
        "sent": 9,
        "delivered": 9,
        "held_back": 0,
        "results": {},
        "faults": {},
        "notes": {},
    }
    return msgspec.convert(msgspec.to_builtins({**empty, **fields}), Report)


def online(subject: str, repeat: int, cpu_us: float, case: str = "w1-64", disk: float | None = None) -> Run:
    latency = Latency(1.5, 4.0, 9.0, 100)
    full = report(online=stage(cpu_us), publish_to_delivery=latency, publish_to_result=latency)
    return Run(case, subject, repeat, full, disk)


def result(*runs: Run, at: str = "2026-01-02T03:04:05+00:00", file_system: str = "ext4") -> ResultFile:
    machine = Machine(2, "Some <CPU>", "Linux 6.1", file_system, True, {"mosquitto": "2.0"})
    return ResultFile(1, at, "python -m bench", machine, 0.1, list(runs), [])


def row(text: str, start: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {start} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_table_row_holds_best_and_median_and_the_paired_ratio() -> None:
    runs = [online("posthouse-arrays", n, cpu, disk=0.01) for n, cpu in enumerate((8.0, 9.0, 20.0))]
    runs += [online("mosquitto", n, cpu) for n, cpu in enumerate((16.0, 15.0, 40.0))]
    cells = row(markdown(result(*runs), cases(FULL)), "posthouse, MessagePack arrays")
    assert cells[2] == "8.0 / 9.0"
    assert cells[3] == "0.50×"
    assert cells[4:7] == ["1.5 / 4.0", "1.5 / 4.0", "1.00%"]


def test_the_ratio_pairs_runs_of_the_same_repeat_and_leaves_out_failed_ones() -> None:
    failed = Run("w1-64", "mosquitto", 1, failure="gone")
    runs = [
        online("posthouse-arrays", 0, 10.0),
        online("posthouse-arrays", 1, 99.0),
        online("mosquitto", 0, 20.0),
    ]
    figures = Figures(result(*runs, failed))
    assert figures.ratio("w1-64", "posthouse-arrays", "mosquitto", r.online_cpu_us) == 0.5
    assert figures.ratio("w1-64", "posthouse-arrays", "nats", r.online_cpu_us) is None


def test_a_figure_that_is_missed_is_told_as_missed() -> None:
    text = markdown(result(online("posthouse-arrays", 0, 10.5)), cases(FULL))
    assert row(text, "W1, window 64, arrays: server CPU")[1:] == ["≤ 10.0 µs", "10.5 µs", "**no**"]
    assert row(text, "W1, window 64, arrays: delivered")[1:] == ["≥ 80,000/s", "50,000/s", "**no**"]
    assert row(markdown(result(online("posthouse-arrays", 0, 9.5)), cases(FULL)),
               "W1, window 64, arrays: server CPU")[3] == "yes"  # fmt: skip


def test_offline_figures_add_keeping_and_handing_over() -> None:
    kept = Run("w2", "posthouse-arrays", 0, report(offline=stage(15.0), drain=stage(5.0, 70_000.0)), 1.0)
    other = Run("w2", "nats-files", 0, report(offline=stage(10.0), drain=stage(90.0)))
    cells = row(markdown(result(kept, other), cases(FULL)), "posthouse, MessagePack arrays")
    assert cells[2] == "15.0 / 15.0"
    assert cells[7:9] == ["20.0 / 20.0", "0.20×"]


def test_what_went_wrong_stands_in_the_remarks() -> None:
    lossy = Run("w1-8", "nats", 2, report(online=stage(1.0, others=0.7), faults=Faults(lost=3)))
    failed = Run("w3", "mosquitto", 0, failure="did not come up")
    found = result(lossy, failed)
    found.not_measured.append("nats: not measured: no reason")
    text = markdown(found, cases(FULL))
    assert "- w1-8, nats, repeat 3: lost 3" in text
    assert "- w3, mosquitto, repeat 1: failed: did not come up" in text
    assert "- nats: not measured: no reason" in text
    assert "0.7 cores at most" in text
    assert "FAULTS: lost 3" in one_line(lossy)


def test_a_store_in_memory_is_never_passed_off_as_synced() -> None:
    assert "in memory: figures of synced writes mean nothing" in markdown(
        result(file_system="tmpfs"), cases(FULL)
    )


def test_only_the_part_between_the_markers_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "measurements.md"
    write_page(page, "first")
    page.write_text(page.read_text().replace(BEGIN, f"prose before\n{BEGIN}") + "prose after\n")
    write_page(page, "second")
    text = page.read_text()
    assert "first" not in text
    assert text.index("prose before") < text.index("second") < text.index("prose after")
    with pytest.raises(BenchError):
        replace_section(f"{END} the wrong way round {BEGIN}", "x")


def test_every_table_row_has_as_many_cells_as_its_header() -> None:
    runs = [online(s.key, 0, 5.0, case.key) for case in cases(FULL) for s in case.subjects]
    runs.append(Run("w3", "mosquitto", 1, report(idle=Idle(5_000, 1, 2, 6.04, 1.0))))
    widths: set[int] = set()
    for line in [*markdown(result(*runs), cases(FULL)).splitlines(), ""]:
        if line.startswith("|"):
            widths.add(line.count("|"))
        else:
            assert len(widths) <= 1
            widths.clear()
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | ---: |\n| 1 | 2 |"


def test_the_plot_is_well_formed_and_scales_its_bars() -> None:
    runs = [online("posthouse-arrays", 0, 10.0), online("mosquitto", 0, 40.0)]
    root = ET.fromstring(svg(result(*runs)))
    bars = {e.get("fill"): float(e.get("width", "0")) for e in root.iter() if e.tag.endswith("rect")}
    assert bars[COLOURS["mosquitto"]] == pytest.approx(4 * bars[COLOURS["posthouse-arrays"]])
    assert "40.0 µs" in {e.text for e in root.iter()}


def test_every_subject_has_a_colour_and_every_goal_a_case_that_measures_it() -> None:
    assert {subject.key for subject in SUBJECTS} == set(COLOURS)
    measured = {(case.key, subject.key) for case in cases(FULL) for subject in case.subjects}
    for goal in GOALS:
        assert (goal.case, goal.subject) in measured
        assert goal.against is None or (goal.case, goal.against) in measured


def test_later_results_replace_earlier_ones_case_by_case(tmp_path: Path) -> None:
    old = result(online("mosquitto", 0, 1.0), online("nats", 0, 2.0), at="2026-01-01T00:00:00+00:00")
    new = result(online("mosquitto", 0, 3.0), at="2026-01-02T00:00:00+00:00")
    for name, one in (("new", new), ("old", old)):
        r.save(one, tmp_path / name)
    merged = Figures(r.merge([r.load(tmp_path / "new"), r.load(tmp_path / "old")]))
    assert [r.online_cpu_us(run) for run in merged.runs("w1-64", "mosquitto")] == [3.0]
    assert [r.online_cpu_us(run) for run in merged.runs("w1-64", "nats")] == [2.0]


def test_a_missing_server_is_named_in_one_line_and_a_missing_go_ends_the_benchmark(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nothing(program: str, path: str | None = None) -> None:
        return None

    monkeypatch.setattr("shutil.which", nothing)
    found, missing = find_servers([Peer.MOSQUITTO])
    assert found == {}
    assert missing == ["mosquitto: not measured: not installed (Debian: apt-get install mosquitto)"]
    with pytest.raises(BenchError, match=r"install Go"):
        build_load_generator()


def test_counters_are_summed_over_their_labels() -> None:
    text = '# HELP a_total x\na_total{k="1 2"} 3\na_total{k="b"} 4.0\na_total_other 9\nb_total 1e3\n'
    assert parse_counters(text, ("a_total", "b_total", "c_total")) == {"a_total": 7.0, "b_total": 1000.0}


@pytest.mark.parametrize(
    ("value", "text"), [(0.25, "0.25"), (9.96, "10.0"), (104.4, "104"), (81234.5, "81,234")]
)
def test_figures_are_written_with_three_digits(value: float, text: str) -> None:
    assert number(value) == text
