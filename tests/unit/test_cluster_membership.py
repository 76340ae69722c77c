"""A member whose promotion, broker or store fails: whatever it is, the lease is given up and another can take over."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import cast

import pytest
from fault_lease import FaultLease, LeaseTable
from posthouse.server.cluster import membership as memberships
from posthouse.server.cluster.membership import Membership
from posthouse.server.engine import Authority, Engine
from posthouse.server.promotion import NotPromoted
from posthouse.single_active.elector import Candidate
from posthouse.single_active.leases.interface import Record
from posthouse.single_active.roles import Role
from posthouse.single_active.timing import Timing
from posthouse.store.interface import StoreUnavailable

TIMING = Timing(
    duration_s=0.5, deadline_s=0.4, renew_interval_s=0.05, request_timeout_s=0.1, successor_grace_s=0.1
)
WAIT_S = 10.0
FOREVER_S = 3600.0


class FakeEngine:
    """Of an engine, what a member asks of it; fails as a test says."""

    def __init__(self) -> None:
        self.authority: Authority
        self.active = self.fenced = False
        self.store_healthy = True
        self.epoch = 0
        self.relay_id = "relay"
        self.failure: Exception | None = None
        """Of the next promotion."""
        self.drain_failure: Exception | None = None
        self.hangs = False
        """The store answers nothing."""
        self.drains = 0
        self.drops = 0

    async def promote(self, transitions: int) -> None:
        if self.hangs:
            await asyncio.sleep(FOREVER_S)
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure
        self.active = True
        self.epoch += 1

    async def drain(self) -> None:
        self.drains += 1
        if self.hangs:
            await asyncio.sleep(FOREVER_S)
        if self.drain_failure is not None:
            raise self.drain_failure

    def drop(self) -> None:
        self.active = False
        self.drops += 1

    async def writer_is_idle(self, within_s: float) -> bool:
        return not self.hangs

    def sure_again(self) -> None: ...


class FakeWork:
    """Notes what it is told, and fails where a test says."""

    def __init__(self) -> None:
        self.fails: set[str] = set()
        self.told: list[str] = []

    def _note(self, what: str) -> None:
        self.told.append(what)
        if what in self.fails:
            self.fails.remove(what)
            raise ZeroDivisionError(what)

    def begin(self, before: Record | None) -> None:
        self._note("begin")

    def close(self, reason: str) -> None:
        self._note("close")

    def end(self, reason: str) -> None:
        self._note("end")


class Rig:
    """One member that takes part in an election."""

    def __init__(self) -> None:
        self.table = LeaseTable()
        self.releases: list[Record] = []
        self.table.changed.append(self._changed)
        self.engine = FakeEngine()
        self.work = FakeWork()
        self.stuck = 0
        self.roles: list[Role] = []
        self.membership = Membership(
            cast(Engine, self.engine),
            self.work,
            FaultLease(self.table),
            Candidate("me"),
            TIMING,
            fenced=True,
            jitter=0.5,
            store_patience_s=0.1,
            on_role=lambda changed: self.roles.append(changed.role),
            on_record=lambda: None,
            on_stuck=self._is_stuck,
        )

    def _changed(self, record: Record | None) -> None:
        if record is not None and record.released:
            self.releases.append(record)

    def _is_stuck(self) -> None:
        self.stuck += 1

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition():  # noqa: ASYNC110  fakes, which tell nobody
                await asyncio.sleep(0.005)

    async def until_role(self, role: Role) -> None:
        await self.until(lambda: self.membership.role is role)


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    monkeypatch.setattr(memberships, "RETRY_S", 0.05)
    made = Rig()
    yield made
    await made.membership.close()


@pytest.fixture
async def active(rig: Rig) -> Rig:
    rig.membership.start()
    await rig.until_role(Role.ACTIVE)
    return rig


@pytest.mark.parametrize(
    "failure", [NotPromoted("no lease"), StoreUnavailable("locked"), ZeroDivisionError("a fault of ours")]
)
async def test_a_promotion_that_fails_gives_the_lease_up_and_is_tried_again(
    rig: Rig, failure: Exception
) -> None:
    rig.engine.failure = failure
    rig.membership.start()
    await rig.until_role(Role.ACTIVE)
    assert len(rig.releases) == 1
    assert rig.roles == [
        Role.STANDBY,
        Role.PROMOTING,
        Role.DRAINING,
        Role.STANDBY,
        Role.PROMOTING,
        Role.ACTIVE,
    ]
    with pytest.raises((NotPromoted, StoreUnavailable), match=str(failure)):
        await rig.membership.settled


async def test_a_promotion_that_hangs_gives_the_lease_up_and_ends_no_process(rig: Rig) -> None:
    rig.engine.hangs = True
    rig.membership.start()
    await rig.until(lambda: rig.releases)
    assert rig.stuck == 0
    with pytest.raises(NotPromoted, match=r"the store did not answer within 0\.1 s"):
        await rig.membership.settled
    rig.engine.hangs = False
    await rig.until_role(Role.ACTIVE)


async def test_leaving_in_the_middle_of_a_promotion_does_not_wait_for_a_busy_store(rig: Rig) -> None:
    rig.engine.hangs = True
    rig.membership.start()
    await rig.until_role(Role.PROMOTING)
    rig.membership.leave("stopping")
    async with asyncio.timeout(WAIT_S):
        await rig.membership.left.wait()
    assert rig.releases
    assert rig.stuck == 0


async def test_a_broker_that_cannot_begin_hands_over(rig: Rig) -> None:
    rig.work.fails = {"begin"}
    rig.membership.start()
    await rig.until(lambda: rig.releases)
    assert rig.engine.drops == 1
    assert rig.work.told[:3] == ["begin", "close", "end"]
    await rig.until_role(Role.ACTIVE)
    assert rig.work.told[3:] == ["begin"]


async def test_a_front_that_cannot_part_ends_the_process_and_keeps_neither_broker_nor_lease(
    active: Rig,
) -> None:
    active.work.fails = {"end"}
    active.membership.hand_over("asked")
    await active.until(lambda: active.releases)
    assert active.engine.drops == 1
    assert active.stuck == 1


async def test_the_same_when_it_is_fenced(active: Rig) -> None:
    active.work.fails = {"end"}
    active.engine.fenced = True
    active.membership.fenced()
    await active.until(lambda: active.releases)
    assert active.engine.drops == 1
    assert active.stuck == 1


async def test_a_broker_that_cannot_be_closed_is_drained_and_dropped_all_the_same(active: Rig) -> None:
    active.work.fails = {"close"}
    active.membership.hand_over("asked")
    await active.until(lambda: active.releases)
    assert (active.engine.drains, active.engine.drops, active.stuck) == (1, 1, 0)


async def test_a_broker_that_cannot_be_drained_is_dropped_all_the_same(active: Rig) -> None:
    active.engine.drain_failure = ZeroDivisionError()
    active.membership.hand_over("asked")
    await active.until(lambda: active.releases)
    assert (active.engine.drops, active.stuck) == (1, 0)


async def test_a_store_that_hangs_in_a_hand_over_ends_the_process(active: Rig) -> None:
    active.engine.hangs = True
    active.membership.hand_over("asked")
    await active.until(lambda: active.stuck)
    assert active.engine.drops == 1
    await active.until(lambda: active.releases)


async def test_leaving_without_a_drain_drops_the_broker_at_once(active: Rig) -> None:
    active.membership.leave("stopping", graceful=False)
    assert active.engine.drops == 1
    async with asyncio.timeout(WAIT_S):
        await active.membership.left.wait()
    assert (active.engine.drains, len(active.releases)) == (0, 1)


async def test_a_drain_that_takes_long_can_be_cut_short(active: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(active.membership, "_store_patience_s", FOREVER_S)
    active.engine.hangs = True
    active.membership.leave("stopping")
    await active.until(lambda: active.engine.drains)
    active.membership.leave("stopping at once", graceful=False)
    assert active.engine.drops == 1
    await active.until(lambda: active.stuck)
    active.membership.leave("stopping at once", graceful=False)
    async with asyncio.timeout(WAIT_S):
        await active.membership.left.wait()
    assert active.work.told == ["begin", "close", "end"]
