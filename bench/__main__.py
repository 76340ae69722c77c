"""`python -m bench`: measure, print, keep the result, and write docs/measurements.md."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from bench import failover, faults, machine
from bench.build import BENCH, build_load_generator
from bench.describing import new_result
from bench.errors import BenchError
from bench.plan import FULL, QUICK, SUBJECTS, Case, Peer, cases
from bench.plot import svg
from bench.pods_plot import pods_svg
from bench.report import markdown, write_page
from bench.results import ResultFile, Run, load, merge, save
from bench.runner import Setup, find_servers, run_case, store_folder, warn

DOCS = BENCH.parent / "docs"
PLOT = "measurements.svg"
PODS_PLOT = "measurements-pods.svg"


def _cluster(words: list[str], default_path: Callable[[str], Path]) -> int:
    from bench.cluster.command import main as cluster_main  # only it needs a cluster's tools

    return cluster_main(words, default_path)


COMMANDS = {"failover": failover.main, "faults": faults.main, "cluster": _cluster}
"""Commands with arguments of their own."""


def main() -> int:
    try:
        if len(sys.argv) > 1 and (command := COMMANDS.get(sys.argv[1])) is not None:
            return command(sys.argv[2:], _default_path)
        arguments = _parser().parse_args()
        if arguments.what == "render":
            return _render(arguments.files)
        return _measure(arguments)
    except BenchError as error:
        warn(str(error))
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Measure posthouse beside other servers.",
        epilog="Further: failover (what clients notice of a change of the active) and faults (does anything get lost),"
        " each with arguments of its own: python -m bench failover --help.",
    )  # fmt: skip
    parser.add_argument("what", nargs="?", default="all", choices=["all", "w1", "w1-front", "w2", "w3", "render"],
                        help="a workload, or render: write the docs from result files")  # fmt: skip
    parser.add_argument("files", nargs="*", type=Path, help="render: result files; later ones win")
    parser.add_argument(
        "--quick", action="store_true", help="short runs, one repeat: a check, not a measurement"
    )
    parser.add_argument(
        "--peer", action="append", choices=[peer.value for peer in Peer], help="only these servers"
    )
    parser.add_argument("--subject", action="append", choices=[subject.key for subject in SUBJECTS],
                        help="only these ways of using a server")  # fmt: skip
    parser.add_argument(
        "--case", action="append", choices=[case.key for case in cases(FULL)], help="only these loads"
    )
    parser.add_argument("--repeats", type=int, help="default 3, with --quick 1")
    parser.add_argument("--docs", action=argparse.BooleanOptionalAction,
                        help="write docs/measurements.md; default: only when everything was measured")  # fmt: skip
    parser.add_argument("--json", type=Path, help="where the result goes; default bench/results/TIME.json")
    return parser


def _default_path(at: str) -> Path:
    return BENCH / "results" / f"{at[:19].replace(':', '')}.json"


def _measure(arguments: argparse.Namespace) -> int:
    extent = QUICK if arguments.quick else FULL
    repeats = arguments.repeats or (1 if arguments.quick else 3)
    chosen = _choose(cases(extent), arguments)
    if not chosen:
        raise BenchError("nothing to measure: no case holds all that was asked for")
    generator = build_load_generator()
    peers = list(
        dict.fromkeys(peer for case in chosen for subject in case.subjects for peer in subject.needs)
    )
    servers, missing = find_servers(peers)
    for line in missing:
        warn(line)
    pin = machine.can_pin()
    if not pin:
        warn("this process may not use cores 0 and 1: nothing is pinned, and figures will scatter")
    files = machine.raise_file_limit()
    if any(case.workload == "w3" for case in chosen) and files < extent.connections + 200:
        raise BenchError(f"W3 opens {extent.connections:,} connections, but only {files:,} files may be open")
    folder = store_folder()
    setup = Setup(generator, servers, pin, folder)
    result = new_result(sys.argv[1:], servers, folder, pin)
    result.not_measured += missing
    path = arguments.json or _default_path(result.at)
    for case in chosen:
        print(f"{case.workload.upper()}, {case.title}", flush=True)
        result.runs += run_case(case, setup, repeats)
        save(result, path)
    print("\n" + markdown(result, cases(extent)) + "\n")
    print(f"result: {path}")
    whole = arguments.what == "all" and not (
        arguments.quick or arguments.peer or arguments.subject or arguments.case
    )
    if arguments.docs if arguments.docs is not None else whole:
        _write_docs(result, cases(extent))
    return 0 if all(_sound(run) for run in result.runs) else 1


def _choose(known: tuple[Case, ...], arguments: argparse.Namespace) -> list[Case]:
    chosen = []
    for case in known:
        if arguments.what not in ("all", case.workload) or (
            arguments.case and case.key not in arguments.case
        ):
            continue
        subjects = tuple(
            subject
            for subject in case.subjects
            if (not arguments.peer or subject.peer.value in arguments.peer)
            and (not arguments.subject or subject.key in arguments.subject)
        )
        if subjects:
            chosen.append(Case(case.key, case.workload, case.title, case.arguments, subjects))
    return chosen


def _sound(run: Run) -> bool:
    return run.report is not None and not run.report.faults.text()


def _render(files: list[Path]) -> int:
    if not files:
        raise BenchError("render needs result files")
    _write_docs(merge([load(path) for path in files]), cases(FULL))
    return 0


def _write_docs(result: ResultFile, known: tuple[Case, ...]) -> None:
    DOCS.mkdir(exist_ok=True)
    (DOCS / PLOT).write_text(svg(result))
    written = ["measurements.md", PLOT]
    if result.in_pods:
        (DOCS / PODS_PLOT).write_text(pods_svg(result))
        written.append(PODS_PLOT)
    write_page(DOCS / "measurements.md", markdown(result, known, PLOT, PODS_PLOT))
    print("written: " + ", ".join(f"docs/{name}" for name in written))


if __name__ == "__main__":
    sys.exit(main())
