"""The command `python -m bench cluster`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from testbed import cluster as own_cluster
from testbed import faults, volumes
from testbed.commands import ClusterError
from testbed.kubectl import Kubectl

from bench.cluster.faults import KINDS, Kind
from bench.cluster.pods import setting
from bench.cluster.stage import Stage
from bench.describing import new_result
from bench.errors import BenchError, NotMeasured, RunFailed
from bench.results import save
from bench.rounds import ClusterRun, times
from bench.runner import store_folder, warn

NAMESPACE = "posthouse-bench"
TURN_S = 5.0
"""How long to wait for tests that use the cluster."""
SETTINGS = (setting("server", "linger_s", 2), setting("server", "drain_s", 2))
"""A member that ends does so soon, or a hundred rounds would take an hour."""
STORES = ("sqlite", "postgresql")


@contextmanager
def namespace(kubectl: Kubectl) -> Iterator[Kubectl]:
    """A fresh one; everything in it is removed on the way out. Raises ClusterError."""
    inside = kubectl.within(NAMESPACE)
    faults.heal()  # a run that was ended by force could not
    _remove(inside, kubectl)
    kubectl("create", "namespace", NAMESPACE)
    try:
        inside.wait_for("create", "serviceaccount/default")
        yield inside
    finally:
        faults.heal()
        _remove(inside, kubectl)


def _remove(inside: Kubectl, kubectl: Kubectl) -> None:
    inside("delete", "pods", "--all", "--grace-period=1", "--wait=false")
    kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", timeout_s=120)
    volumes.free(kubectl)


def measure(
    store: str, kinds: list[Kind], rounds: int | None, told: Callable[[ClusterRun], None]
) -> list[ClusterRun]:
    """Rounds of each fault on one relay. Raises BenchError where there is no cluster of ours."""
    found: list[ClusterRun] = []
    try:
        with own_cluster.turn(TURN_S), namespace(own_cluster.kubectl()) as kubectl, ExitStack() as stack:
            stage = Stage(store, kubectl, stack, *SETTINGS)
            for kind in kinds:
                run = ClusterRun(kind.name, store, [])
                found.append(run)
                _rounds(stage, kind, rounds or kind.rounds, run, told)
                if run.failure is not None:
                    break
    except (ClusterError, NotMeasured) as error:
        raise BenchError(str(error)) from None
    return found


def _rounds(
    stage: Stage, kind: Kind, count: int, run: ClusterRun, told: Callable[[ClusterRun], None]
) -> None:
    before = len(stage.record.changes())
    try:
        for number in range(count):
            run.rounds.append(stage.round(kind))
            if number % 5 == 4:
                told(run)
    except (RunFailed, ClusterError) as failure:
        run.failure = str(failure)
        faults.heal()
    run.epochs = stage.check_epochs()[max(0, before - 1) :]
    run.broken, stage.broken = stage.broken, []
    told(run)


def one_line(run: ClusterRun) -> str:
    """A fault for a person who watches."""
    parts = [f"{run.key:22} {len(run.rounds):3} rounds"]
    for own in (False, True):
        for place in ("inside", "outside"):
            found = times(run.gaps_ms(own=own, place=place))
            if found:
                whose = "own" if own else "other"
                parts.append(f"{whose} {place} {found.median:.0f} / {found.p99:.0f} / {found.max:.0f} ms")
    parts.append(f"closed at others {run.closed(own=False)}")
    lost, promised = sum(one.lost for one in run.rounds), sum(one.promised for one in run.rounds)
    parts.append(f"lost {lost} of {promised:,}")
    parts += [f"BROKEN: {text}" for text in run.broken]
    if run.failure is not None:
        parts.append(f"FAILED: {run.failure}")
    return "  ".join(parts)


def main(words: list[str], default_path: Callable[[str], Path]) -> int:
    """The command. The status is 1 when a round failed, a promise was lost or an epoch came back."""
    parser = argparse.ArgumentParser(prog="python -m bench cluster", description=__doc__)
    parser.add_argument("--fault", action="append", choices=list(KINDS), default=[])
    parser.add_argument("--store", action="append", choices=STORES, default=[])
    parser.add_argument(
        "--rounds", type=int, help="of each fault; default: 100 of the quick ones, fewer of the slow"
    )
    parser.add_argument("--json", type=Path, help="where the result goes; default bench/results/TIME.json")
    arguments = parser.parse_args(words)
    result = new_result(["cluster", *words], {}, store_folder(), pin=False)
    path = arguments.json or default_path(result.at)
    for store in arguments.store or STORES:
        kinds = [
            kind
            for kind in KINDS.values()
            if store in kind.stores and kind.name in (arguments.fault or KINDS)
        ]
        if not kinds:
            continue
        result.in_pods += measure(
            store, kinds, arguments.rounds, lambda run: print(f"  {one_line(run)}", flush=True)
        )
        save(result, path)
    print(f"result: {path}")
    for run in result.in_pods:
        if run.failure is not None:
            warn(f"{run.key}: {run.failure}")
    sound = all(
        run.failure is None and not run.broken and not any(one.lost for one in run.rounds)
        for run in result.in_pods
    )
    return 0 if sound else 1
