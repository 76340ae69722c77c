"""The driver with real time: two electors over one faulty lease, and the times of a quick profile."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fault_lease import FaultLease, LeaseTable
from msgspec import Struct
from posthouse.single_active.elector import Candidate, Elector
from posthouse.single_active.outputs import Became, State
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
