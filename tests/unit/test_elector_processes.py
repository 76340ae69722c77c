"""Members as processes, over leases of this machine: killed, stopped, told to leave. The parts, put together."""

import json
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

WAIT_S = 30.0

MEMBER = """
import asyncio, json, signal, sys, time
from pathlib import Path
from posthouse.single_active.elector import Candidate, Elector
from posthouse.single_active.leases.file import FileLease, this_process
from posthouse.single_active.leases.store import StoreLease
from posthouse.single_active.member import Member, Promote, RoleChanged, StopWork
from posthouse.single_active.roles import Role
from posthouse.single_active.runner import Runner
from posthouse.single_active.timing import Timing
from posthouse.store.sqlite.lease_rows import SqliteLeaseRows

TIMING = Timing(duration_s=1.5, deadline_s=0.9, renew_interval_s=0.3, request_timeout_s=0.3)

async def main():
    name, path, kind = sys.argv[1:]
    ended = asyncio.Event()

    def on_output(output):
        if isinstance(output, Promote):
            runner.tell(lambda member, now: member.promoted(now))
        elif isinstance(output, StopWork):
            runner.tell(lambda member, now: member.stopped(now))
        elif isinstance(output, RoleChanged):
            print(json.dumps([output.role.value, member.elector.transitions]), flush=True)
            if output.role is Role.STOPPED:
                ended.set()

    lease = FileLease(Path(path)) if kind == "file" else StoreLease(lambda: SqliteLeaseRows(Path(path)))
    elector = Elector(Candidate(name, process=this_process()), TIMING, fenced=True, jitter=0.5)
    member = Member(elector, retry_s=0.3)
    runner = Runner(member, lease, clock=lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
                    request_timeout_s=TIMING.request_timeout_s, on_output=on_output)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, lambda: runner.tell(lambda m, now: m.leave(now, "SIGTERM")))
    runner.start(lambda member, now: member.ready(now))
    await ended.wait()
    await runner.close()
    await lease.close()

asyncio.run(main())
"""


class MemberProcess:
    """A member, and the roles that it tells of."""

    def __init__(self, name: str, path: Path, kind: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", MEMBER, name, str(path), kind], stdout=subprocess.PIPE, text=True
        )
        self.transitions = 0
        self.roles: list[str] = []
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)

    def until(self, role: str) -> None:
        while not self.roles or self.roles[-1] != role:
            told, self.transitions = json.loads(self._lines.get(timeout=WAIT_S))
            self.roles.append(told)

    def quiet(self) -> bool:
        """Whether it has told nothing since."""
        return self._lines.empty()


@contextmanager
def member(name: str, path: Path, kind: str) -> Iterator[MemberProcess]:
    one = MemberProcess(name, path, kind)
    with one.process:
        try:
            yield one
        finally:
            one.process.kill()


Pair = tuple[MemberProcess, MemberProcess]
"""The active one and a standby."""


@contextmanager
def two_members(path: Path, kind: str) -> Iterator[Pair]:
    with ExitStack() as stack:
        active = stack.enter_context(member("one", path, kind))
        active.until("active")
        standby = stack.enter_context(member("two", path, kind))
        standby.until("standby")
        yield active, standby


@pytest.fixture(params=["file", "store"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    with two_members(tmp_path / "store.db", request.param) as pair:
        yield pair


@pytest.fixture
def file_pair(tmp_path: Path) -> Iterator[Pair]:
    with two_members(tmp_path / "store.db", "file") as pair:
        yield pair


@pytest.fixture
def store_pair(tmp_path: Path) -> Iterator[Pair]:
    with two_members(tmp_path / "store.db", "store") as pair:
        yield pair


def test_the_standby_takes_over_from_one_that_is_killed(pair: Pair) -> None:
    active, standby = pair
    assert standby.quiet()
    active.process.send_signal(signal.SIGKILL)
    standby.until("active")
    assert standby.transitions == active.transitions + 1


def test_with_the_file_lease_a_stopped_one_is_killed_and_replaced(file_pair: Pair) -> None:
    active, standby = file_pair
    active.process.send_signal(signal.SIGSTOP)
    standby.until("active")
    assert active.process.wait(WAIT_S) == -signal.SIGKILL


def test_with_the_store_lease_a_stopped_one_is_replaced_and_goes_on_as_a_standby(store_pair: Pair) -> None:
    active, standby = store_pair
    active.process.send_signal(signal.SIGSTOP)
    standby.until("active")
    active.process.send_signal(signal.SIGCONT)
    active.until("standby")
    assert active.roles[-2:] == ["draining", "standby"]
    assert standby.quiet()


def test_one_that_is_told_to_leave_hands_over_and_ends(pair: Pair) -> None:
    active, standby = pair
    active.process.send_signal(signal.SIGTERM)
    standby.until("active")
    assert active.process.wait(WAIT_S) == 0
    active.until("stopped")
    assert active.roles[-2:] == ["draining", "stopped"]


def test_a_standby_that_leaves_changes_nothing(pair: Pair) -> None:
    active, standby = pair
    standby.process.send_signal(signal.SIGTERM)
    assert standby.process.wait(WAIT_S) == 0
    assert active.quiet()
