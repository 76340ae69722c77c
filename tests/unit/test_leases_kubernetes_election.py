"""Electors over Leases of an API server that fails: one holds at a time, and a holder keeps what it can reach."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from fake_api_server import NAMESPACE, FakeApiServer, api_server, connected
from kubernetes.aio import client
from msgspec import Struct
from posthouse.single_active import runner
from posthouse.single_active.elector import Candidate, Elector
from posthouse.single_active.leases.interface import Container
from posthouse.single_active.leases.kubernetes import KubernetesLease
from posthouse.single_active.outputs import Became, State
from posthouse.single_active.runner import Runner
from posthouse.single_active.timing import Timing

TIMING = Timing(
    duration_s=1.2, deadline_s=0.8, renew_interval_s=0.1, request_timeout_s=0.2, successor_grace_s=0.2
)
WAIT_S = 20.0
NAME = "posthouse"


class Standing:
    """One that stands for election, with a connection of its own."""

    def __init__(self, name: str, api: client.ApiClient, others: list[Standing]) -> None:
        self.name = name
        self.became: list[State] = []
        self.together: list[str] = []
        """Who else held the lease when this one began to."""
        self._others = others
        lease = KubernetesLease(
            api,
            NAMESPACE,
            NAME,
            container=Container(name, f"uid-{name}", ""),
            silence_s=TIMING.duration_s,
            notes=dict,
        )
        self.runner = Runner(
            Elector(Candidate(name), TIMING, fenced=True, jitter=random.Random(name).random()),
            lease,
            clock=time.monotonic,
            request_timeout_s=TIMING.request_timeout_s,
            on_output=self._on_output,
        )

    @property
    def state(self) -> State:
        return self.runner.machine.state

    @property
    def holds(self) -> bool:
        return self.runner.machine.holds(time.monotonic())

    def _on_output(self, output: Struct) -> None:
        if not isinstance(output, Became):
            return
        self.became.append(output.state)
        if output.state is State.HOLDING:
            self.together += [one.name for one in self._others if one is not self and one.holds]
        if output.state is State.FOLLOWING:  # it was lost; there is no work to stop
            self.runner.tell(lambda elector, now: elector.follow(now))


@asynccontextmanager
async def standing(server: FakeApiServer, *names: str) -> AsyncIterator[list[Standing]]:
    """Those of these names; the first one holds when the others come."""
    group: list[Standing] = []
    async with AsyncExitStack() as stack:
        for name in names:
            one = Standing(name, await stack.enter_async_context(connected(server)), group)
            stack.push_async_callback(one.runner.close)
            group.append(one)
            one.runner.start(lambda elector, now: elector.start(now))
            if len(group) == 1:
                await until(lambda: group[0].state is State.HOLDING)
        await until(lambda: server.watches == len(names))
        yield group


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeApiServer]:
    monkeypatch.setattr(runner, "WATCH_AGAIN_S", 0.05)
    async with api_server() as made:
        yield made


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110  states of electors and of the server, which tell nobody
            await asyncio.sleep(0.005)


async def renewed(server: FakeApiServer, times: int = 3) -> None:
    """Until the Lease was renewed so often."""
    before = int(server.leases[NAME]["metadata"]["resourceVersion"])
    await until(lambda: int(server.leases[NAME]["metadata"]["resourceVersion"]) >= before + times)


async def test_a_release_passes_the_lease_on_to_the_one_who_is_named(server: FakeApiServer) -> None:
    async with standing(server, "a", "b", "c") as (a, b, c):
        a.runner.tell(lambda elector, now: elector.release(now, "c"))
        await until(lambda: c.holds)
        assert a.became == [State.HOLDING, State.RELEASING, State.RELEASED]
        assert b.became == []
        assert server.leases[NAME]["spec"]["leaseTransitions"] == 2
        assert server.leases[NAME]["spec"]["holderIdentity"] == "c_uid-c"


async def test_one_that_ended_is_followed_after_the_duration_and_not_before(server: FakeApiServer) -> None:
    async with standing(server, "a", "b") as (a, b):
        await renewed(server)
        await a.runner.close()
        began = time.monotonic()
        await until(lambda: b.holds)
        assert time.monotonic() - began > TIMING.duration_s - TIMING.quiet_s


async def test_a_single_answer_that_is_lost_costs_nothing(server: FakeApiServer) -> None:
    async with standing(server, "a", "b") as (a, b):
        for _ in range(3):
            server.lose_answers = 1
            await until(lambda: not server.lose_answers)
            await renewed(server)
        assert a.became == [State.HOLDING]
        assert b.became == []


async def test_a_claim_whose_answer_is_lost_is_recognised(server: FakeApiServer) -> None:
    server.lose_answers = 1
    async with standing(server, "a") as (a,):
        assert not server.lose_answers
        assert a.became == [State.HOLDING]
        assert server.leases[NAME]["spec"]["leaseTransitions"] == 1


async def test_changes_that_somebody_else_makes_do_not_cost_the_lease(server: FakeApiServer) -> None:
    async with standing(server, "a", "b") as (a, b):
        for number in range(10):
            server.put(NAME, server.leases[NAME] | {"metadata": {"labels": {"n": str(number)}}})
            await renewed(server, 1)
        assert (a.became, b.became) == ([State.HOLDING], [])
        assert server.leases[NAME]["metadata"]["labels"] == {"n": "9"}


@pytest.mark.parametrize("how", ["refuses", "hangs", "fails", "throttles", "forbids"])
async def test_an_api_server_that_is_away_means_doubt_and_its_return_ends_it(
    server: FakeApiServer, how: str
) -> None:
    async with standing(server, "a", "b") as (a, b):
        if how == "refuses":
            await server.stop()
        elif how == "hangs":
            server.hang()
        else:
            server.fail_with = {"fails": 500, "throttles": 429, "forbids": 403}[how]
        await until(lambda: a.state is State.IN_DOUBT)
        away = time.monotonic() + 1.5 * TIMING.duration_s
        await until(lambda: time.monotonic() > away)
        assert a.runner.machine.authorised(time.monotonic()) and not a.holds
        if how == "refuses":
            await server.start()
        server.go_on()
        server.fail_with = 0
        await until(lambda: a.holds)
        await renewed(server)
        assert a.became == [State.HOLDING, State.IN_DOUBT, State.HOLDING]
        assert b.became == []
        assert server.leases[NAME]["spec"]["leaseTransitions"] == 1


async def test_a_holder_that_ends_while_the_server_is_away_is_followed_when_it_is_back(
    server: FakeApiServer,
) -> None:
    async with standing(server, "a", "b") as (a, b):
        await server.stop()
        await until(lambda: a.state is State.IN_DOUBT)
        await a.runner.close()
        away = time.monotonic() + 1.5 * TIMING.duration_s
        await until(lambda: time.monotonic() > away)
        assert b.became == []
        await server.start()
        back = time.monotonic()
        await until(lambda: b.holds)
        # Counted anew: whoever held it might have been away as well.
        assert time.monotonic() - back > TIMING.duration_s - TIMING.quiet_s


async def test_silent_watches_change_nothing(server: FakeApiServer) -> None:
    async with standing(server, "a", "b") as (a, b):
        server.silent_watches = True
        await until(lambda: [method for method, _ in server.requests].count("WATCH") >= 6)
        assert (a.became, b.became) == ([State.HOLDING], [])


async def test_a_lease_that_is_deleted_is_made_again_by_its_holder(server: FakeApiServer) -> None:
    async with standing(server, "a", "b") as (a, b):
        server.delete(NAME)
        await until(lambda: NAME in server.leases)
        await renewed(server)
        assert a.holds and b.became == []
        assert server.leases[NAME]["spec"]["holderIdentity"] == "a_uid-a"


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_fails_one_holds_at_a_time(server: FakeApiServer, seed: int) -> None:
    chance = random.Random(seed)

    async def fail() -> None:
        match chance.randrange(6):
            case 0:
                server.hang()
            case 1:
                server.fail_with = chance.choice((403, 429, 500))
            case 2:
                server.lose_answers = 2
            case 3:
                server.end_watches()
            case 4:
                server.silent_watches = True
            case _:
                await server.stop()
        await asyncio.sleep(chance.uniform(0.0, 1.5 * TIMING.duration_s) if chance.random() < 0.3 else 0.1)
        server.go_on()
        server.fail_with = 0
        server.silent_watches = False
        if not server.started:
            await server.start()
        if chance.random() < 0.3:
            holder = next((one for one in group if one.holds), None)
            if holder is not None:
                holder.runner.tell(lambda elector, now: elector.release(now))

    async with standing(server, "a", "b", "c") as group:
        for _ in range(12):
            await fail()
            for one in group:
                if one.state is State.RELEASED:
                    one.runner.tell(lambda elector, now: elector.follow(now))
        server.lose_answers = 0
        await until(lambda: [one.holds for one in group].count(True) == 1)
        await renewed(server)
        assert [one.together for one in group] == [[], [], []]
        (holder,) = [one for one in group if one.holds]
        assert server.leases[NAME]["spec"]["holderIdentity"] == f"{holder.name}_uid-{holder.name}"
