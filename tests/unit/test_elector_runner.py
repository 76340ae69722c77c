"""The driver with real time: two electors over one faulty lease, and the times of a quick profile."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from fault_lease import FaultLease, LeaseTable
from msgspec import Struct
from posthouse.single_active import runner
from posthouse.single_active.elector import Candidate, Elector
from posthouse.single_active.leases.interface import Record
from posthouse.single_active.outputs import Became, Output, State
from posthouse.single_active.runner import Runner
from posthouse.single_active.timing import Timing

TIMING = Timing(
    duration_s=0.5,
    deadline_s=0.3,
    renew_interval_s=0.05,
    request_timeout_s=0.05,
    successor_grace_s=0.1,
)
WAIT_S = 10.0


class Running:
    """An elector that runs, and what it became."""

    def __init__(self, table: LeaseTable, name: str) -> None:
        self.lease = FaultLease(table)
        self.became: list[State] = []
        self._changed = asyncio.Event()
        self.on_became: Callable[[State], None] = lambda state: None
        self.runner = Runner(
            Elector(Candidate(name), TIMING, fenced=True, jitter=0.5),
            self.lease,
            clock=time.monotonic,
            request_timeout_s=TIMING.request_timeout_s,
            on_output=self._on_output,
        )

    def _on_output(self, output: Struct) -> None:
        if isinstance(output, Became):
            self.became.append(output.state)
            self.on_became(output.state)
            self._changed.set()

    async def until(self, state: State) -> None:
        async with asyncio.timeout(WAIT_S):
            while self.runner.machine.state is not state:
                self._changed.clear()
                await self._changed.wait()

    async def until_seen(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition():  # noqa: ASYNC110  counters of the lease, which tell nobody
                await asyncio.sleep(0.005)


@asynccontextmanager
async def running(table: LeaseTable, name: str) -> AsyncIterator[Running]:
    one = Running(table, name)
    one.runner.start(lambda elector, now: elector.start(now))
    try:
        yield one
    finally:
        await one.runner.close()


async def test_one_holds_and_a_release_passes_the_lease_on_by_the_watch() -> None:
    table = LeaseTable()
    async with running(table, "one") as one:
        await one.until(State.HOLDING)
        async with running(table, "two") as two:
            await two.until_seen(lambda: two.lease.reads > 0)
            assert two.runner.machine.state is State.FOLLOWING
            one.runner.tell(lambda elector, now: elector.release(now, "two"))
            await two.until(State.HOLDING)
            assert one.became[-1] is State.RELEASED


async def test_a_lease_that_is_away_means_doubt_and_its_return_ends_it() -> None:
    table = LeaseTable()
    async with running(table, "one") as one, running(table, "two") as two:
        await one.until(State.HOLDING)
        for lease in (one.lease, two.lease):
            lease.break_watches()
        await one.until(State.IN_DOUBT)
        for lease in (one.lease, two.lease):
            lease.down = False
        await one.until(State.HOLDING)
        assert two.became == []


async def test_requests_that_hang_are_given_up_and_tried_again() -> None:
    table = LeaseTable()
    async with running(table, "one") as one:
        one.lease.lose_requests = 2
        await one.until(State.HOLDING)
        one.lease.lose_answers = 1
        one.lease.conflicts = 1
        writes = one.lease.writes
        await one.until_seen(lambda: one.lease.writes >= writes + 6)
        assert one.runner.machine.state is State.HOLDING


async def test_an_input_given_within_an_output_comes_after_it() -> None:
    table = LeaseTable()
    async with running(table, "one") as one:

        def let_go(state: State) -> None:
            if state is State.HOLDING:
                one.runner.tell(lambda elector, now: elector.release(now))
                assert one.runner.machine.state is State.HOLDING

        one.on_became = let_go
        await one.until(State.RELEASED)
        assert one.became == [State.HOLDING, State.RELEASING, State.RELEASED]


async def test_closing_ends_all_it_started() -> None:
    before = asyncio.all_tasks()
    async with running(LeaseTable(), "one") as one:
        one.lease.lose_requests = 1
    assert asyncio.all_tasks() == before


async def test_an_output_that_cannot_be_carried_out_stops_neither_renewals_nor_the_outputs_after_it() -> None:
    table = LeaseTable()
    async with running(table, "one") as one:

        def fail(state: State) -> None:
            raise ZeroDivisionError

        one.on_became = fail
        await one.until_seen(lambda: one.became == [State.HOLDING])
        writes = one.lease.writes
        await one.until_seen(lambda: one.lease.writes >= writes + 3)
        one.runner.tell(lambda elector, now: elector.release(now))
        await one.until_seen(lambda: one.runner.machine.state is State.RELEASED)
        assert one.became == [State.HOLDING, State.RELEASING, State.RELEASED]


async def test_a_machine_that_failed_is_called_again_but_not_without_a_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runner, "AFTER_A_FAILURE_S", 0.1)
    async with running(LeaseTable(), "one") as one:
        await one.until(State.HOLDING)
        elector = one.runner.machine
        failed: list[float] = []
        tick = elector.tick

        def fail_twice(now: float) -> list[Output]:
            if len(failed) < 2:
                failed.append(now)
                raise ZeroDivisionError
            return tick(now)

        monkeypatch.setattr(elector, "tick", fail_twice)
        await one.until_seen(lambda: len(failed) == 2)
        writes = one.lease.writes
        await one.until_seen(lambda: one.lease.writes >= writes + 3)
        assert failed[1] - failed[0] >= 0.05
        await one.until(State.HOLDING)


async def test_a_lease_that_fails_otherwise_is_one_that_did_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runner, "WATCH_AGAIN_S", 0.01)
    table = LeaseTable()
    async with running(table, "one") as one:
        await one.until(State.HOLDING)
        lease = one.lease
        write, watch = lease.write, lease.watch
        failed: list[str] = []

        async def fail_to_write(record: Record, expected: str | None) -> Record:
            failed.append("write")
            monkeypatch.setattr(lease, "write", write)
            raise ZeroDivisionError

        def fail_to_watch() -> AsyncGenerator[Record | None, None]:
            failed.append("watch")
            monkeypatch.setattr(lease, "watch", watch)
            raise ZeroDivisionError

        monkeypatch.setattr(lease, "write", fail_to_write)
        await one.until_seen(lambda: failed == ["write"])
        monkeypatch.setattr(lease, "watch", fail_to_watch)
        lease.break_watches()
        await one.until_seen(lambda: failed == ["write", "watch"])
        lease.down = False
        writes = lease.writes
        await one.until_seen(lambda: lease.writes >= writes + 3)
        foreign = Record("two", 1, 9, 5.0)
        assert table.record is not None
        assert table.write(foreign, table.record.version) is not None
        await one.until(State.FOLLOWING)


async def test_a_lease_that_is_away_for_long_is_not_complained_of_with_every_request(
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = LeaseTable()
    async with running(table, "one") as one:
        await one.until(State.HOLDING)
        one.lease.break_watches()
        asked = one.lease.reads + one.lease.writes
        await one.until_seen(lambda: one.lease.reads + one.lease.writes >= asked + 4)
    said = capsys.readouterr()
    assert (said.out + said.err).count("lease request failed") == 1
