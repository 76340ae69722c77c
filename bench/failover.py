"""`python -m bench failover`: what clients notice of a change of the active, round after round on real members.

In every round one client publishes at the active's own front and one at another member's. The active is killed, told
to hand over, or stopped; measured is the longest time that each client was without a promise.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from bench import machine
from bench.build import build_load_generator
from bench.describing import new_result
from bench.errors import BenchError, NotMeasured, RunFailed
from bench.members import Member, Members
from bench.postgres import engine_beside
from bench.probing import Held, ProberProcess
from bench.results import save
from bench.rounds import FailoverRound, FailoverRun
from bench.runner import store_folder, warn
from bench.wire import Closed, take_all

MEMBERS = 3
PATIENCE_S = 2.0
"""A client of a member that no longer answers goes to the next address after so long."""
PROMISES = 50
"""So many in a row are taken for a client that is well."""


class Fault(Enum):
    """What happens to the active; the value is its name on the command line."""

    CRASH = "crash"
    HAND_OVER = "hand-over"
    SILENT = "silent"


@dataclass(frozen=True)
class Situation:
    """One row of the report."""

    fault: Fault
    lease: str
    """`file` with a SQLite file; `store` with a PostgreSQL server, as it is made for that.

    A process that is stopped while it writes to a SQLite file keeps everybody from writing there, leases too.
    """
    sessions: int
    rounds: int

    @property
    def key(self) -> str:
        """Names it in results."""
        return f"{self.fault.value}-{self.lease}-{self.sessions}"


def situations(fault: list[str], sessions: list[int], rounds: int | None) -> list[Situation]:
    """In the order of the report. A silent holder is tried with both leases, and less often: it takes seconds."""
    found = []
    for count in sessions:
        for kind in Fault:
            if fault and kind.value not in fault:
                continue
            for lease in ("file", "store") if kind is Fault.SILENT else ("file",):
                found.append(Situation(kind, lease, count, rounds or (10 if kind is Fault.SILENT else 200)))
    return found


class Stage:
    """Members, clients and sessions of one situation."""

    def __init__(self, situation: Situation, folder: Path, generator: Path | None, stack: ExitStack) -> None:
        """Everything is started, and ended by the stack. Raises RunFailed."""
        self.situation = situation
        self.control = folder / "store.db.sock"
        store = f"sqlite:///{folder}/store.db"
        if situation.lease == "store":
            store = stack.enter_context(engine_beside(folder)).url()
        self.members = stack.enter_context(
            Members(folder, MEMBERS, store, extra=("--lease", situation.lease))
        )
        self.members.start_in_order()
        self.own = stack.enter_context(ProberProcess("client of the active"))
        self.other = stack.enter_context(ProberProcess("client of another member"))
        self.held: Held | None = None
        if generator is not None and situation.sessions:
            addresses = [member.address for member in self.members.all]
            self.held = stack.enter_context(Held(generator, addresses, situation.sessions))
        self._received: dict[str, set[str]] = {self.own.name: set(), self.other.name: set()}

    def round(self) -> FailoverRound:
        """One change of the active. Raises RunFailed."""
        self.members.wait_all_ready()
        if self.held is not None:
            self.held.wait_for_all()
        active, epoch = self.members.wait_active()
        others = [member for member in self.members.all if member is not active]
        random.shuffle(others)  # the client of another member is at the one that takes over, or at the third
        sessions_lost = self.held.lost if self.held is not None else 0
        self.own.connect([member.address for member in (active, *others)], PATIENCE_S)
        self.other.connect([member.address for member in (*others, active)])
        for client in (self.own, self.other):
            client.run()
        self._wait_for_promises()
        time.sleep(random.uniform(0.05, 0.5))  # anywhere between two renewals
        for client in (self.own, self.other):
            client.mark()
        self._strike(active)
        self._wait_for_promises()  # before anybody is asked for its role: that takes time of the members
        self.members.wait_active(epoch, others)
        self._wait_for_promises()
        own, other = self.own.pause(), self.other.pause()
        if self.held is not None:
            sessions_lost = self.held.lost - sessions_lost
        if self.situation.fault is not Fault.HAND_OVER:
            active.kill()
            self.members.start(active)
            self.members.wait_all_ready()
        lost = self._lost(self.own, own["ids"]) + self._lost(self.other, other["ids"])
        return FailoverRound(
            other_ms=other["longest_ms"], own_ms=own["longest_ms"], other_closed=other["closed"],
            own_closed=own["closed"], promised=own["promised"] + other["promised"], lost=lost,
            sessions_lost=sessions_lost, codes=_together(own["codes"], other["codes"]),
        )  # fmt: skip

    def _wait_for_promises(self) -> None:
        for client in (self.own, self.other):
            client.wait_for_more(PROMISES)

    def _strike(self, active: Member) -> None:
        match self.situation.fault:
            case Fault.CRASH:
                active.kill()
            case Fault.SILENT:
                active.freeze()
            case Fault.HAND_OVER:
                promote(self.control)

    def _lost(self, client: ProberProcess, promised: list[str]) -> int:
        """How many of the promised messages its reader cannot find."""
        active, _ = self.members.wait_active()
        received = self._received[client.name]
        try:
            received |= take_all(active.address, client.reader)
        except Closed as closed:
            raise RunFailed(f"the messages cannot be read back: {closed}") from None
        return len(set(promised) - received)


def promote(control: Path) -> None:
    """Tell the active to hand over, as `posthouse promote` does. Raises RunFailed."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(30)
            connection.connect(str(control))
            connection.sendall(json.dumps({"command": "promote"}).encode() + b"\n")
            answer = connection.makefile("rb").readline()
    except OSError as error:
        raise RunFailed(f"the active's control socket: {error.strerror}") from None
    said = json.loads(answer or b'{"ok": false, "error": "no answer"}')
    if not said["ok"]:
        raise RunFailed(f"no hand-over: {said['error']}")


def measure(situation: Situation, generator: Path | None, told: Callable[[FailoverRun], None]) -> FailoverRun:
    """All rounds of a situation; what it has when something fails. `told` hears of it now and then."""
    found = FailoverRun(situation.key, situation.fault.value, situation.lease, situation.sessions, [])
    try:
        with (
            tempfile.TemporaryDirectory(
                prefix="bench-", dir=store_folder(), ignore_cleanup_errors=True
            ) as folder,
            ExitStack() as stack,
        ):
            stage = Stage(situation, Path(folder), generator, stack)
            for number in range(situation.rounds):
                found.rounds.append(stage.round())
                if number % 10 == 9:
                    told(found)
    except (RunFailed, NotMeasured) as failure:
        found.failure = str(failure)
    return found


def one_line(run: FailoverRun) -> str:
    """A situation for a person who watches."""
    parts = [f"{run.key:22} {len(run.rounds):3} rounds"]
    for name, times in (("other", run.others_ms()), ("own", run.owns_ms())):
        if times:
            parts.append(f"{name} {times.median:.0f} / {times.p99:.0f} / {times.max:.0f} ms")
    parts.append(f"closed at the other {sum(one.other_closed for one in run.rounds)}")
    parts.append(f"lost {sum(one.lost for one in run.rounds)} of {sum(one.promised for one in run.rounds):,}")
    if run.failure is not None:
        parts.append(f"FAILED: {run.failure}")
    return "  ".join(parts)


def _together(first: dict[str, int], second: dict[str, int]) -> dict[str, int]:
    return {name: first.get(name, 0) + second.get(name, 0) for name in {**first, **second}}


def main(words: list[str], default_path: Callable[[str], Path]) -> int:
    """The command. The status is 1 when a round failed or a promised message was lost."""
    parser = argparse.ArgumentParser(prog="python -m bench failover", description=__doc__)
    parser.add_argument("--fault", action="append", choices=[fault.value for fault in Fault], default=[])
    parser.add_argument("--sessions", action="append", type=int, default=[],
                        help="further connections that are attached; default: 0, and then 5,000")  # fmt: skip
    parser.add_argument("--rounds", type=int, help="default 200, for a silent holder 10")
    parser.add_argument("--json", type=Path, help="where the result goes; default bench/results/TIME.json")
    arguments = parser.parse_args(words)
    chosen = situations(arguments.fault, arguments.sessions or [0, 5000], arguments.rounds)
    files, most = machine.raise_file_limit(), max(one.sessions for one in chosen)
    if files < most + 200:
        raise BenchError(f"{most:,} sessions are to be held, but only {files:,} files may be open")
    generator = build_load_generator() if most else None
    result = new_result(["failover", *words], {}, store_folder(), pin=False)
    path = arguments.json or default_path(result.at)
    for situation in chosen:
        run = measure(situation, generator, lambda found: print(f"  … {one_line(found)}", flush=True))
        print(f"  {one_line(run)}", flush=True)
        result.failovers.append(run)
        save(result, path)
    print(f"result: {path}")
    for run in result.failovers:
        if run.failure is not None:
            warn(f"{run.key}: {run.failure}")
    sound = all(run.failure is None and not any(one.lost for one in run.rounds) for run in result.failovers)
    return 0 if sound else 1
