"""The section and the histograms of a relay in pods, made from rounds that no cluster had to run."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from bench import __main__ as command
from bench import results as r
from bench.cluster.faults import KINDS
from bench.histogram import BINS_PER_DECADE, Histogram, Series, bins, svg
from bench.plan import FULL, cases
from bench.pods_budgets import STORES, TITLES, closed_unannounced, expected, kept
from bench.pods_plot import pods_svg
from bench.pods_report import on_kubernetes
from bench.report import markdown
from bench.results import Machine, ResultFile
from bench.rounds import ClientRound, ClusterRound, ClusterRun

Codes = dict[str, int]
SVG = "{http://www.w3.org/2000/svg}"
GOAWAY = {"goaway drain": 1}


def client(
    longest_ms: float,
    *,
    own: bool = False,
    place: str = "inside",
    closed: int = 0,
    codes: Codes | None = None,
) -> ClientRound:
    return ClientRound(place, own, longest_ms, closed, codes or {})


def struck(*clients: ClientRound, lost: int = 0) -> ClusterRound:
    return ClusterRound(list(clients), 1000, lost)


def usual(other_ms: float = 60.0, own_ms: float = 80.0) -> ClusterRound:
    return struck(
        *(client(other_ms, place=place) for place in ("inside", "outside")),
        *(client(own_ms, own=True, place=place) for place in ("inside", "outside")),
    )


def run(fault: str, *rounds: ClusterRound, store: str = "sqlite") -> ClusterRun:
    return ClusterRun(fault, store, list(rounds), [(1, 500), (2, 700)])


def result(*runs: ClusterRun, at: str = "2026-01-02T03:04:05+00:00") -> ResultFile:
    machine = Machine(2, "Some CPU", "Linux 6.1", "ext4", False, {})
    return ResultFile(1, at, "python -m bench cluster", machine, 0.1, [], [], in_pods=list(runs))


def rows(*runs: ClusterRun) -> list[list[str]]:
    """The cells of the first fault: of the times, and of the promises."""
    start = f"| {TITLES[runs[0].fault]} |"
    lines = [line for line in on_kubernetes(result(*runs)).splitlines() if line.startswith(start)]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def budgets(one: ClusterRun) -> tuple[str, str]:
    """As they are told: of clients of other members, of those of the active."""
    cells = rows(one)[0]
    return cells[5], cells[8]


# --- what is told


def test_a_run_within_its_budget_is_told_place_by_place() -> None:
    found = run("kill", *[usual(60.0, 80.0)] * 99, usual(240.0, 490.0))
    times, promises = rows(found)
    assert times[1:3] == ["SQLite", "100"]
    assert times[3:6] == ["60 / 60 / 240", "60 / 60 / 240", "p99 ≤ 250 ms, socket open: yes"]
    assert times[6:] == ["80 / 80 / 490", "80 / 80 / 490", "p99 ≤ 500 ms: yes"]
    assert promises[2:] == ["100,000", "0", "0 / 0", "0 / 0 / 0", "2", "1,200", "yes"]


@pytest.mark.parametrize(
    ("fault", "store", "others_ms", "own_ms"),
    [
        ("kill", "sqlite", 250.0, 500.0),
        ("kill", "postgresql", 250.0, 500.0),
        ("delete", "sqlite", 150.0, 150.0),
        ("promote", "postgresql", 150.0, 150.0),
        ("restart", "sqlite", 150.0, 150.0),
        ("drain", "postgresql", 150.0, 150.0),
        ("freeze", "sqlite", 9000.0, None),
        ("freeze", "postgresql", 5500.0, None),
        ("cut", "postgresql", 5500.0, None),
        ("api", "sqlite", 3000.0, 3000.0),
    ],
)
def test_a_missed_budget_is_bold(fault: str, store: str, others_ms: float, own_ms: float | None) -> None:
    within = run(fault, usual(others_ms, own_ms or 60_000.0), store=store)
    others, own = budgets(within)
    assert others.endswith(": yes")
    assert own.endswith(": yes") if own_ms else own.startswith("measured: ") and "**" not in own
    beyond = run(fault, usual(others_ms + 1, (own_ms or 60_000.0) + 1), store=store)
    others, own = budgets(beyond)
    assert others.endswith(": **no**")
    assert own.endswith(": **no**") == (own_ms is not None)


@pytest.mark.parametrize(("fault", "kept_to"), [("kill", True), ("freeze", False)])
def test_quick_faults_are_judged_by_the_p99_and_slow_ones_by_the_maximum(fault: str, kept_to: bool) -> None:
    assert kept(run(fault, *[usual()] * 99, usual(9_001.0)), own=False) is kept_to


def test_clients_outside_do_not_hide_behind_those_inside() -> None:
    slow = [struck(*[client(60.0)] * 8, client(300.0, place="outside"))] * 2
    assert kept(run("kill", *[usual()] * 98, *slow), own=False) is False
    assert kept(run("kill", *[usual()] * 99, *slow[:1]), own=False) is True


@pytest.mark.parametrize(
    ("fault", "store"), [("drain", "sqlite"), ("api-kill", "postgresql"), ("lost-node", "sqlite")]
)
def test_where_a_time_is_only_documented_nothing_may_be_lost(fault: str, store: str) -> None:
    assert budgets(run(fault, usual(90_000.0), store=store))[0].endswith(": yes")
    gone = run(fault, struck(client(60.0), lost=3), store=store)
    assert budgets(gone)[0].endswith(": **no**")
    assert rows(gone)[1][3] == "**3**"


def test_a_loss_misses_every_budget() -> None:
    others, own = budgets(run("kill", usual(), struck(client(60.0), lost=1)))
    assert others.endswith(": **no**") and own.endswith(": **no**")


# --- sockets


def test_a_crash_may_close_no_socket_of_others() -> None:
    own = client(80.0, own=True, closed=1, codes={"Connection reset by peer": 1, "Connection refused": 7})
    found = run("kill", struck(client(60.0, closed=1, codes=GOAWAY), own))
    assert budgets(found) == ("p99 ≤ 250 ms, socket open: **no**", "p99 ≤ 500 ms: yes")
    assert rows(found)[1][4:6] == ["**1 / 0**", "1 / 1 / 0"]


def test_a_planned_change_may_close_sockets_after_a_goaway_only() -> None:
    told = struck(client(60.0, closed=1, codes=GOAWAY), client(60.0, own=True, closed=1, codes=GOAWAY))
    assert budgets(run("restart", told)) == ("p99 ≤ 150 ms, goaway first: yes",) * 2
    assert rows(run("restart", told))[1][4:6] == ["1 / 0", "1 / 0 / 0"]
    untold = struck(client(60.0, closed=2, codes={**GOAWAY, "close 1012 draining": 1}))
    assert budgets(run("restart", told, untold))[0].endswith(": **no**")
    assert rows(run("restart", told, untold))[1][4] == "**3 / 1**"


def test_a_client_that_leaves_a_silent_member_was_not_closed_and_a_failed_try_closes_nothing() -> None:
    codes = {"silent": 2, "no connection": 6, "Connection refused": 286}
    found = run("freeze", struck(client(4_200.0), client(4_300.0, own=True, closed=2, codes=codes)))
    assert closed_unannounced(found, own=True) == 0
    assert rows(found)[1][5] == "2 / 0 / 2"


# --- what went wrong


def test_a_broken_line_is_shown_and_misses_every_budget() -> None:
    found = run("promote", usual())
    found.broken.append("a commit of epoch 1 came after one of epoch 2")
    text = on_kubernetes(result(found))
    assert "- **`posthouse promote`, SQLite: a commit of epoch 1 came after one of epoch 2**" in text
    assert all(told.endswith(": **no**") for told in budgets(found))


def test_epochs_that_fell_are_told_as_such() -> None:
    found = run("promote", usual())
    found.epochs = [(1, 5), (2, 7), (1, 1)]
    assert rows(found)[1][6:] == ["2", "13", "**no**"]
    assert kept(found, own=False) is False
    found.epochs = []
    assert rows(found)[1][6:] == ["0", "0", "–"]


def test_a_run_that_ended_early_is_told_and_reaches_nothing() -> None:
    found = run("kill", usual())
    found.failure = "the client of the other, outside has no promises: {}"
    assert rows(found)[0][2] == "**1, ended early**"
    assert all(told.endswith(": **no**") for told in budgets(found))
    assert f"- **kill -9 of the active, SQLite: ended after 1 rounds: {found.failure}**" in on_kubernetes(
        result(found)
    )


def test_a_run_that_failed_at_once_is_shown_too() -> None:
    found = run("cut", store="postgresql")
    found.failure = "the members did not settle within 120 s"
    times, _ = rows(found)
    assert times[2:6] == ["**0, ended early**", "–", "–", "max ≤ 5.5 s: **no**"]
    assert found.failure in on_kubernetes(result(found))
    assert "cut off" not in pods_svg(result(found))


# --- the page


def test_the_section_is_on_the_page_with_its_picture_if_there_is_something() -> None:
    found = result(run("kill", usual()))
    text = markdown(found, cases(FULL), "a.svg", "b.svg")
    assert on_kubernetes(found, "b.svg") in text
    assert "](b.svg)" in text
    assert "](b.svg)" not in markdown(result(), cases(FULL), "a.svg", "b.svg")
    assert on_kubernetes(result()) == ""


def test_render_writes_the_picture_beside_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "DOCS", tmp_path / "docs")
    r.save(result(run("kill", usual())), tmp_path / "one.json")
    monkeypatch.setattr("sys.argv", ["bench", "render", str(tmp_path / "one.json")])
    assert command.main() == 0
    page = (tmp_path / "docs" / "measurements.md").read_text()
    (picture,) = re.findall(r"\]\((measurements-pods\.svg)\)", page)
    assert ET.fromstring((tmp_path / "docs" / picture).read_text()).tag == f"{SVG}svg"


def test_faults_are_in_one_order_whatever_was_measured_first() -> None:
    runs = [
        run("cut", usual(), store="postgresql"),
        run("kill", usual(), store="postgresql"),
        run("kill", usual()),
    ]
    text = on_kubernetes(result(*runs))
    found = re.findall(r"^\| (kill -9|the active's node)[^|]*\| (\w+) \|", text, re.MULTILINE)
    assert found[:3] == [
        ("kill -9", "SQLite"),
        ("kill -9", "PostgreSQL"),
        ("the active's node", "PostgreSQL"),
    ]


def test_a_later_run_replaces_an_earlier_one_of_the_same_fault_and_store() -> None:
    old = result(run("kill", *[usual(1.0)] * 3), run("freeze", usual(2.0)), at="2026-01-01T00:00:00+00:00")
    new = result(run("kill", usual(3.0)), run("kill", usual(4.0), store="postgresql"))
    merged = {one.key: one.gaps_ms(own=False, place="inside") for one in r.merge([new, old]).in_pods}
    assert merged == {"kill-sqlite": [3.0], "freeze-sqlite": [2.0], "kill-postgresql": [4.0]}


def test_every_fault_has_a_title_and_budgets() -> None:
    assert TITLES.keys() == KINDS.keys()
    for kind in KINDS.values():
        for store in kind.stores:
            assert expected(kind.name, store).others.text
            assert store in STORES


# --- the histograms


def bars(picture: str, kind: str) -> list[ET.Element]:
    root = ET.fromstring(picture)
    return [one for one in root.iter(f"{SVG}rect") if (one.get("class"), one.get("data-of")) == (kind, "bin")]


def test_there_is_a_bar_for_each_filled_bin() -> None:
    others, own = [60.0, 61.0, 90.0, 240.0], [80.0, 4_000.0]
    found = run("kill", struck(*map(client, others), *(client(ms, own=True) for ms in own)))
    picture = pods_svg(result(found, run("promote", usual(10.0, 20.0))))
    assert len(bars(picture, "first")) == len(bins(others)) + 1 == 4
    assert len(bars(picture, "second")) == len(bins(own)) + 1 == 3


def test_bins_are_of_equal_width_on_a_logarithmic_axis_and_hold_everything() -> None:
    values = [0.0, 0.2, 1.0, 10.0, 10.1, 99.9, 100.0, 70_000.0]
    found = bins(values)
    assert sum(found.values()) == len(values)
    assert found[0] == 3, "what is too short to be told apart"
    assert (found[BINS_PER_DECADE], found[2 * BINS_PER_DECADE - 1], found[2 * BINS_PER_DECADE]) == (2, 1, 1)


def test_the_height_of_a_bar_is_its_count_and_its_place_its_time() -> None:
    picture = svg([Histogram("t", Series("a", [20.0] * 4 + [2_000.0] * 2), Series("b", []))], "l")
    quick, slow = bars(picture, "first")
    assert float(quick.get("height", 0)) == 2 * float(slow.get("height", 0))
    assert float(quick.get("x", 0)) < float(slow.get("x", 0))
    assert float(slow.get("x", 0)) + float(slow.get("width", 0)) < float(
        ET.fromstring(picture).get("width", 0)
    )


def test_bounds_are_lines_and_one_that_is_shared_is_drawn_once() -> None:
    def lines(one: ClusterRun) -> list[str | None]:
        found = [line.get("class") for line in ET.fromstring(pods_svg(result(one))).iter(f"{SVG}line")]
        return [name for name in found if name and name.endswith("-bound")]

    assert lines(run("kill", usual())) == ["first-bound", "second-bound"]
    assert lines(run("delete", usual())) == ["first-bound"]
    assert lines(run("freeze", usual())) == ["first-bound"]
    assert lines(run("lost-node", usual())) == []


def test_a_picture_can_be_read_on_a_dark_page_and_without_being_seen() -> None:
    picture = pods_svg(result(run("kill", usual())))
    light, _, dark = picture.partition("@media (prefers-color-scheme: dark)")
    for name in set(re.findall(r'class="([\w-]+)"', picture)):
        assert f".{name} {{" in light and f".{name} {{" in dark
    assert ET.fromstring(picture).get("aria-label")


def test_nothing_measured_is_an_empty_picture() -> None:
    assert bars(pods_svg(result()), "first") == []
