"""A member: the order in which work, lease and role change."""

from collections.abc import Sequence

import pytest
from fault_lease import LeaseTable
from msgspec import Struct
from posthouse.single_active.elector import Candidate, Elector
from posthouse.single_active.member import Member, Promote, RoleChanged, StopWork
from posthouse.single_active.outputs import Answer, Read, Refusal, Request, Write
from posthouse.single_active.roles import Role
from posthouse.single_active.timing import QUICK


class Rig:
    """A member over a lease; requests are let through unless ``cut``."""

    def __init__(self, *, fenced: bool = True) -> None:
        self.table = LeaseTable()
        self.member = Member(Elector(Candidate("me"), QUICK, fenced=fenced, jitter=0.0), retry_s=0.5)
        self.now = 1000.0
        self.cut = False
        self.said: list[Struct] = []
        self.take(self.member.ready(self.now))

    def take(self, outputs: Sequence[Struct]) -> None:
        for output in outputs:
            if isinstance(output, Read | Write):
                if not self.cut:
                    self.take(self.member.answered(self.now, output.id, self._arrive(output)))
            elif isinstance(output, Promote | StopWork | RoleChanged):
                self.said.append(output)

    def _arrive(self, request: Request) -> Answer:
        if isinstance(request, Read):
            return self.table.record
        return self.table.write(request.record, request.expected) or Refusal.CONFLICT

    def run(self, until: float) -> None:
        while self.member.next_deadline() <= until:
            self.now = max(self.now, self.member.next_deadline())
            self.take(self.member.tick(self.now))
        self.now = until

    def is_now(self, role: Role) -> bool:
        return self.member.role is role

    def released(self) -> bool:
        return self.table.record is not None and self.table.record.released

    def asked_to_stop(self) -> list[bool]:
        """Of each request to stop: whether gracefully."""
        return [said.graceful for said in self.said if isinstance(said, StopWork)]


def active(*, fenced: bool = True) -> Rig:
    rig = Rig(fenced=fenced)
    if not fenced:
        rig.run(1005.0)
    rig.take(rig.member.promoted(rig.now))
    assert rig.is_now(Role.ACTIVE)
    return rig


def test_a_claim_asks_for_a_promotion_above_the_transitions_of_the_lease() -> None:
    rig = Rig()
    assert rig.is_now(Role.PROMOTING)
    assert Promote(1) in rig.said
    assert not rig.member.may_act(rig.now)
    rig.take(rig.member.promoted(rig.now))
    assert rig.member.may_act(rig.now)


def test_a_promotion_that_ends_without_the_lease_in_hand_does_not_count() -> None:
    rig = Rig()
    rig.cut = True
    rig.run(rig.now + 3.5)
    rig.take(rig.member.promoted(rig.now))
    assert rig.is_now(Role.DRAINING)
    assert rig.asked_to_stop() == [False]


def test_a_failed_promotion_lets_others_try_first() -> None:
    rig = Rig()
    rig.take(rig.member.promotion_failed(rig.now, "no"))
    assert not rig.released()
    rig.take(rig.member.stopped(rig.now))
    assert rig.is_now(Role.STANDBY)
    assert rig.released()
    rig.run(rig.now + 0.4)
    assert rig.is_now(Role.STANDBY)
    rig.run(rig.now + 0.2)
    assert rig.is_now(Role.PROMOTING)


def test_a_hand_over_releases_the_lease_only_when_the_work_has_stopped() -> None:
    rig = active()
    rig.take(rig.member.hand_over(rig.now, "asked", "another"))
    assert rig.is_now(Role.DRAINING)
    assert rig.asked_to_stop() == [True]
    assert rig.member.may_act(rig.now)
    rig.run(rig.now + 2.5)
    assert not rig.released()
    rig.take(rig.member.stopped(rig.now))
    assert not rig.member.may_act(rig.now)
    assert rig.released()
    assert rig.table.record is not None
    assert rig.table.record.successor == "another"
    assert rig.is_now(Role.STANDBY)


def test_leaving_hands_over_and_stops_for_good() -> None:
    rig = active()
    rig.take(rig.member.leave(rig.now, "SIGTERM"))
    rig.take(rig.member.stopped(rig.now))
    assert rig.is_now(Role.STOPPED)
    assert rig.released()
    rig.run(rig.now + 60.0)
    assert rig.is_now(Role.STOPPED)


def test_a_standby_leaves_at_once() -> None:
    rig = Rig()
    rig.take(rig.member.promotion_failed(rig.now, "no"))
    rig.take(rig.member.stopped(rig.now))
    rig.take(rig.member.leave(rig.now, "SIGTERM"))
    assert rig.is_now(Role.STOPPED)


def test_leaving_twice_or_in_the_middle_of_a_hand_over_is_one_leaving() -> None:
    rig = active()
    rig.take(rig.member.hand_over(rig.now, "asked", "another"))
    rig.take(rig.member.leave(rig.now, "SIGTERM"))
    rig.take(rig.member.leave(rig.now, "SIGTERM"))
    assert rig.asked_to_stop() == [True]
    rig.take(rig.member.stopped(rig.now))
    assert rig.is_now(Role.STOPPED)


def test_fenced_ends_the_broker_at_once_and_gives_the_lease_back() -> None:
    rig = active()
    rig.take(rig.member.fenced(rig.now))
    assert rig.asked_to_stop() == [False]
    rig.take(rig.member.stopped(rig.now))
    assert rig.released()
    # Whoever fenced it may do so again: it does not claim the free lease at once.
    rig.run(rig.now + 0.4)
    assert rig.is_now(Role.STANDBY)
    rig.run(rig.now + 0.2)
    assert rig.is_now(Role.PROMOTING)


def test_fenced_while_it_hands_over_ends_the_broker_the_hard_way() -> None:
    rig = active()
    rig.take(rig.member.hand_over(rig.now, "asked"))
    rig.take(rig.member.fenced(rig.now))
    rig.take(rig.member.fenced(rig.now))
    assert rig.asked_to_stop() == [True, False]


def test_without_a_fence_the_deadline_bars_every_effect_before_any_timer() -> None:
    rig = active(fenced=False)
    rig.cut = True
    until = rig.now + 3.0
    assert rig.member.may_act(until - 0.01)
    assert not rig.member.may_act(until)
    rig.run(until)
    assert rig.is_now(Role.DRAINING)
    assert rig.asked_to_stop() == [False]


def test_with_a_fence_doubt_changes_the_role_and_nothing_is_stopped() -> None:
    rig = active()
    rig.cut = True
    rig.run(rig.now + 60.0)
    assert rig.is_now(Role.IN_DOUBT)
    assert rig.member.may_act(rig.now)
    assert not rig.member.holds(rig.now)
    rig.cut = False
    rig.run(rig.now + 2.0)
    assert rig.is_now(Role.ACTIVE)
    assert rig.asked_to_stop() == []


def test_doubt_during_a_promotion_is_no_end_of_it_if_the_lease_is_renewed_in_time() -> None:
    rig = Rig()
    rig.cut = True
    rig.run(rig.now + 3.5)
    rig.cut = False
    rig.run(rig.now + 2.0)
    rig.take(rig.member.promoted(rig.now))
    assert rig.is_now(Role.ACTIVE)


@pytest.mark.parametrize("late", ["promoted", "promotion_failed", "stopped"])
def test_news_of_work_that_is_over_are_passed_over(late: str) -> None:
    rig = active()
    rig.take(rig.member.leave(rig.now, "SIGTERM"))
    rig.take(rig.member.stopped(rig.now))
    call = getattr(rig.member, late)
    rig.take(call(rig.now, "late") if late == "promotion_failed" else call(rig.now))
    assert rig.is_now(Role.STOPPED)


def test_leaving_can_be_hurried() -> None:
    rig = active()
    rig.take(rig.member.leave(rig.now, "stopping", "other"))
    rig.take(rig.member.leave(rig.now, "stopping at once", graceful=False))
    rig.take(rig.member.leave(rig.now, "stopping at once", graceful=False))
    assert rig.asked_to_stop() == [True, False]
    assert not rig.released()
    rig.take(rig.member.stopped(rig.now))
    assert rig.is_now(Role.STOPPED)
    assert rig.table.record is not None
    assert rig.table.record.successor == "other"


def test_the_first_successor_that_was_named_stays_the_successor() -> None:
    rig = active()
    rig.take(rig.member.hand_over(rig.now, "promote", "first"))
    rig.take(rig.member.leave(rig.now, "stopping", "second"))
    rig.take(rig.member.stopped(rig.now))
    assert rig.table.record is not None
    assert rig.table.record.successor == "first"
