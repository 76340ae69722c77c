"""The election, one rule at a time. What all of them together promise is for tests/simulation."""

from collections.abc import Sequence
from math import inf

import pytest
from fault_lease import LeaseTable
from posthouse.single_active.elector import Candidate, Elector
from posthouse.single_active.leases.interface import Record
from posthouse.single_active.outputs import Became, Output, Read, Refusal, Request, State, Write
from posthouse.single_active.timing import PATIENT, QUICK, Timing, UnsafeTiming


class Rig:
    """An elector, a lease, and a clock that is moved by hand. Requests wait until the test lets them through."""

    def __init__(
        self, table: LeaseTable | None = None, me: str = "me", *, fenced: bool = True, jitter: float = 0.0
    ) -> None:
        self.table = table or LeaseTable()
        self.elector = Elector(Candidate(me, f"{me}:8081"), QUICK, fenced=fenced, jitter=jitter)
        self.now = 1000.0
        self.requests: list[Request] = []
        self.became: list[State] = []
        self.take(self.elector.start(self.now))

    def take(self, outputs: Sequence[Output]) -> None:
        for output in outputs:
            if isinstance(output, Read | Write):
                self.requests.append(output)
            elif isinstance(output, Became):
                self.became.append(output.state)

    def arrive(self) -> Record | Refusal | None:
        """The latest request reaches the lease; its answer."""
        request = self.requests[-1]
        if isinstance(request, Read):
            return self.table.record
        return self.table.write(request.record, request.expected) or Refusal.CONFLICT

    def answer(self, answer: Record | Refusal | None) -> None:
        """To the latest request."""
        self.take(self.elector.answered(self.now, self.requests[-1].id, answer))

    def serve(self) -> None:
        """Let requests through until there are no more at this instant."""
        served = 0
        while served != len(self.requests):
            served = len(self.requests)
            self.answer(self.arrive())

    def to(self, now: float) -> None:
        """Time passes, and timers fire on their second; requests that they send wait."""
        while self.elector.next_deadline() <= now:
            self.now = max(self.now, self.elector.next_deadline())
            before = len(self.requests)
            self.take(self.elector.tick(self.now))
            if len(self.requests) > before:
                return
        self.now = now
        self.take(self.elector.tick(now))

    def run(self, now: float) -> None:
        """The same, and requests are let through."""
        while self.now < now:
            self.to(now)
            self.serve()

    def is_now(self, state: State) -> bool:
        return self.elector.state is state


def foreign(
    table: LeaseTable, *, released: bool = False, successor: str = "", transitions: int = 7
) -> Record:
    """Another member writes the lease."""
    record = Record("other", 1, transitions, 5.0, released=released, successor=successor)
    written = table.write(record, table.record.version if table.record else None)
    assert written is not None
    return written


def holding(*, fenced: bool = True) -> Rig:
    rig = Rig(fenced=fenced)
    rig.serve()
    if not fenced:
        rig.run(rig.now + QUICK.duration_s)
    assert rig.is_now(State.HOLDING)
    return rig


# --- claiming


def test_a_lease_that_never_was_is_claimed_at_once_on_a_store_that_fences() -> None:
    rig = Rig()
    rig.serve()
    assert rig.became == [State.HOLDING]
    record = rig.table.record
    assert record is not None
    assert (record.holder, record.peer, record.transitions, record.duration_s) == ("me", "me:8081", 1, 5.0)


def test_without_a_fence_even_an_absent_lease_is_waited_for() -> None:
    rig = Rig(fenced=False)
    rig.serve()
    rig.run(1004.9)
    assert rig.is_now(State.FOLLOWING)
    rig.run(1005.1)
    assert rig.is_now(State.HOLDING)


def test_a_version_that_nobody_replaces_is_claimed_after_the_holders_duration_by_our_clock() -> None:
    table = LeaseTable()
    foreign(table)
    rig = Rig(table)
    rig.serve()
    rig.run(1004.9)
    assert rig.is_now(State.FOLLOWING)
    rig.run(1005.1)
    assert rig.is_now(State.HOLDING)
    assert rig.elector.transitions == 8


def test_every_renewal_of_the_holder_begins_the_count_anew() -> None:
    table = LeaseTable()
    foreign(table)
    rig = Rig(table)
    rig.serve()
    rig.run(1004.0)
    rig.take(rig.elector.observed(rig.now, foreign(table)))
    rig.run(1008.9)
    assert rig.is_now(State.FOLLOWING)
    rig.run(1009.1)
    assert rig.is_now(State.HOLDING)


def test_a_follower_that_could_not_reach_the_lease_counts_anew_from_its_first_good_read() -> None:
    table = LeaseTable()
    foreign(table)
    rig = Rig(table)
    rig.serve()
    rig.to(1004.0)
    assert isinstance(rig.requests[-1], Read)
    while rig.now < 1006.0:
        rig.answer(Refusal.FAILED)
        rig.to(rig.elector.next_deadline())
    rig.serve()
    back = rig.now
    rig.run(back + 4.9)
    assert rig.is_now(State.FOLLOWING)
    rig.run(back + 5.1)
    assert rig.is_now(State.HOLDING)


def test_a_follower_that_did_not_run_itself_counts_anew() -> None:
    table = LeaseTable()
    foreign(table)
    rig = Rig(table)
    rig.serve()
    rig.now = 1060.0
    rig.take(rig.elector.tick(rig.now))
    rig.serve()
    rig.run(1064.9)
    assert rig.is_now(State.FOLLOWING)
    rig.run(1065.1)
    assert rig.is_now(State.HOLDING)


def test_a_released_lease_is_claimed_at_once() -> None:
    table = LeaseTable()
    foreign(table)
    rig = Rig(table)
    rig.serve()
    rig.take(rig.elector.observed(rig.now, foreign(table, released=True)))
    rig.serve()
    assert rig.is_now(State.HOLDING)


@pytest.mark.parametrize(("successor", "claims_after"), [("me", 0.0), ("another", QUICK.successor_grace_s)])
def test_the_named_successor_goes_first(successor: str, claims_after: float) -> None:
    table = LeaseTable()
    foreign(table)
    rig = Rig(table)
    rig.serve()
    rig.take(rig.elector.observed(rig.now, foreign(table, released=True, successor=successor)))
    rig.serve()
    began = rig.now
    while rig.is_now(State.FOLLOWING):
        rig.to(rig.elector.next_deadline())
        rig.serve()
    assert rig.now - began == pytest.approx(claims_after)


def test_a_deleted_lease_is_waited_for_as_its_holder_may_still_be_at_work() -> None:
    table = LeaseTable()
    foreign(table)
    rig = Rig(table)
    rig.serve()
    table.delete()
    rig.take(rig.elector.observed(rig.now, None))
    rig.run(1004.9)
    assert rig.is_now(State.FOLLOWING)
    rig.run(1005.1)
    assert rig.is_now(State.HOLDING)


# --- holding


def test_the_deadline_counts_from_when_the_renewal_was_sent() -> None:
    rig = holding(fenced=False)
    rig.to(rig.now + 5)
    sent = rig.now
    assert isinstance(rig.requests[-1], Write)
    rig.now += 0.9
    rig.answer(rig.arrive())
    assert rig.elector.holds(sent + 2.99)
    assert not rig.elector.holds(sent + 3.0)


def test_holds_ends_at_the_deadline_even_if_no_timer_fired() -> None:
    rig = holding(fenced=False)
    assert rig.elector.holds(rig.now + 2.99)
    assert not rig.elector.authorised(rig.now + 3.0)
    assert rig.is_now(State.HOLDING)


def test_without_a_fence_the_deadline_ends_it_and_nothing_is_claimed_before_the_work_has_stopped() -> None:
    rig = holding(fenced=False)
    sent = len(rig.requests)
    while rig.is_now(State.HOLDING):
        rig.to(rig.elector.next_deadline())
    rig.run(rig.now + 30)
    assert all(isinstance(request, Read) for request in rig.requests[sent + 3 :])
    rig.take(rig.elector.follow(rig.now))
    rig.serve()
    assert rig.is_now(State.HOLDING)
    assert rig.elector.transitions == 2


def test_with_a_fence_the_deadline_means_doubt_until_it_can_renew() -> None:
    rig = holding()
    while rig.is_now(State.HOLDING):
        rig.to(rig.elector.next_deadline())
    assert rig.is_now(State.IN_DOUBT)
    assert rig.elector.authorised(rig.now)
    assert not rig.elector.holds(rig.now)
    rig.serve()
    assert rig.is_now(State.HOLDING)
    assert rig.elector.transitions == 1


def test_in_doubt_ends_when_another_holds_the_lease() -> None:
    rig = holding()
    while rig.is_now(State.HOLDING):
        rig.to(rig.elector.next_deadline())
    rig.take(rig.elector.observed(rig.now, foreign(rig.table)))
    while rig.is_now(State.IN_DOUBT):
        rig.serve()
        rig.to(rig.elector.next_deadline())
    assert rig.is_now(State.FOLLOWING)
    assert not rig.elector.authorised(rig.now)


def test_a_renewal_whose_answer_was_lost_is_recognised_after_the_conflict() -> None:
    rig = holding()
    rig.to(rig.now + 5)
    sent = rig.now
    rig.arrive()
    rig.to(sent + 1.0)
    assert isinstance(rig.requests[-1], Write)
    rig.answer(rig.arrive())
    assert isinstance(rig.requests[-1], Read)
    rig.answer(rig.arrive())
    assert rig.elector.holds(sent + 2.99)
    assert not rig.elector.holds(sent + 3.0)
    assert rig.became == [State.HOLDING]


def test_a_claim_whose_answer_was_lost_counts_from_when_it_was_sent() -> None:
    rig = Rig()
    rig.answer(rig.arrive())
    assert isinstance(rig.requests[-1], Write)
    rig.arrive()
    rig.to(1001.0)
    assert isinstance(rig.requests[-1], Read)
    rig.answer(rig.arrive())
    assert rig.is_now(State.HOLDING)
    assert not rig.elector.holds(1003.0)


def test_a_claim_that_turns_out_ours_too_late_has_to_be_renewed_first() -> None:
    rig = Rig()
    rig.answer(rig.arrive())
    rig.arrive()
    for _ in range(4):
        rig.to(rig.elector.next_deadline())
    assert rig.now > 1003.0
    answer = rig.arrive()
    rig.take(rig.elector.answered(rig.now, rig.requests[-1].id, answer))
    assert rig.is_now(State.FOLLOWING)
    assert isinstance(rig.requests[-1], Write)
    rig.serve()
    assert rig.elector.holds(rig.now + 2.99)


def test_an_answer_that_comes_after_we_gave_up_is_passed_over() -> None:
    rig = Rig()
    rig.answer(rig.arrive())
    late = rig.requests[-1].id
    answer = rig.arrive()
    rig.to(1001.0)
    rig.take(rig.elector.answered(rig.now, late, answer))
    assert rig.is_now(State.FOLLOWING)


def test_a_late_record_of_the_watch_does_not_cost_the_lease() -> None:
    table = LeaseTable()
    old = foreign(table)
    rig = Rig(table)
    rig.serve()
    rig.run(1005.1)
    assert rig.is_now(State.HOLDING)
    rig.take(rig.elector.observed(rig.now, old))
    rig.serve()
    assert rig.became == [State.HOLDING]


def test_a_holder_makes_a_deleted_lease_again() -> None:
    rig = holding()
    rig.table.delete()
    rig.run(rig.now + 1.1)
    assert rig.became == [State.HOLDING]
    assert rig.table.record is not None
    assert rig.table.record.transitions == 1


def test_renewals_are_sent_an_interval_apart() -> None:
    rig = holding()
    before = len(rig.requests)
    rig.run(rig.now + 10.05)
    assert len(rig.requests) - before == 10


# --- proof of death


def test_a_proof_of_death_claims_at_once_and_only_against_the_version_it_is_for() -> None:
    table = LeaseTable()
    old = foreign(table)
    rig = Rig(table)
    rig.serve()
    rig.take(rig.elector.observed(rig.now, foreign(table)))
    rig.take(rig.elector.proved_dead(rig.now, old.version))
    rig.serve()
    assert rig.is_now(State.FOLLOWING)
    assert table.record is not None
    rig.take(rig.elector.proved_dead(rig.now, table.record.version))
    rig.serve()
    assert rig.is_now(State.HOLDING)


def test_a_claim_by_proof_fails_when_the_holder_has_renewed_after_all() -> None:
    table = LeaseTable()
    seen = foreign(table)
    rig = Rig(table)
    rig.serve()
    foreign(table)
    rig.take(rig.elector.proved_dead(rig.now, seen.version))
    rig.serve()
    assert rig.is_now(State.FOLLOWING)
    assert rig.became == []


def test_a_proof_that_wins_nothing_is_not_counted() -> None:
    table = LeaseTable()
    foreign(table)
    rig = Rig(table)
    rig.serve()
    for _ in range(5):
        assert rig.elector.record is not None
        unseen = foreign(table)
        rig.take(rig.elector.proved_dead(rig.now, rig.elector.record.version))
        while rig.elector.record != unseen:
            rig.serve()
            rig.to(rig.elector.next_deadline())
        rig.serve()
        assert rig.is_now(State.FOLLOWING)
    rig.take(rig.elector.proved_dead(rig.now, unseen.version))
    rig.serve()
    assert rig.is_now(State.HOLDING)


def test_proofs_are_believed_twice_in_ten_minutes() -> None:
    table = LeaseTable()
    foreign(table)
    rig = Rig(table)

    def dies_and_is_claimed() -> bool:
        """Another holder, dead with proof; whether we claim, and then give the lease back."""
        seen = foreign(table)
        rig.take(rig.elector.observed(rig.now, seen))
        rig.run(rig.now + 1.1)
        rig.take(rig.elector.proved_dead(rig.now, seen.version))
        rig.serve()
        claimed = rig.is_now(State.HOLDING)
        if claimed:
            rig.take(rig.elector.release(rig.now))
            rig.serve()
            rig.take(rig.elector.follow(rig.now, after_s=1.0))
            rig.serve()
        return claimed

    rig.serve()
    assert [dies_and_is_claimed() for _ in range(3)] == [True, True, False]
    rig.run(rig.now + 4.0)
    assert rig.is_now(State.HOLDING)
    rig.take(rig.elector.release(rig.now))
    rig.serve()
    rig.take(rig.elector.follow(rig.now, after_s=600.0))
    rig.run(rig.now + 599.0)
    assert dies_and_is_claimed()


# --- the watch


def test_a_watch_that_never_works_does_not_keep_a_follower_from_claiming() -> None:
    table = LeaseTable()
    foreign(table)
    rig = Rig(table)
    rig.serve()
    while rig.now < 1004.9:
        rig.take(rig.elector.unwatched(rig.now))
        rig.serve()
        rig.run(rig.now + 0.35)
    assert rig.is_now(State.FOLLOWING)
    rig.run(1005.3)
    assert rig.is_now(State.HOLDING)


# --- releasing


def test_a_release_is_written_with_its_successor_and_then_nothing_is_claimed() -> None:
    rig = holding()
    rig.take(rig.elector.release(rig.now, "another"))
    assert not rig.elector.authorised(rig.now)
    rig.serve()
    assert rig.became[-2:] == [State.RELEASING, State.RELEASED]
    assert rig.table.record is not None
    assert rig.table.record.released
    assert rig.table.record.successor == "another"
    assert rig.elector.next_deadline() == inf


def test_a_release_whose_answer_was_lost_is_found_to_be_done() -> None:
    rig = holding()
    rig.take(rig.elector.release(rig.now))
    rig.arrive()
    rig.to(rig.now + 1.0)
    rig.serve()
    assert rig.is_now(State.RELEASED)


def test_a_release_that_never_gets_through_is_given_up() -> None:
    rig = holding()
    began = rig.now
    rig.take(rig.elector.release(rig.now))
    while rig.is_now(State.RELEASING):
        rig.to(rig.elector.next_deadline())
    assert rig.now == pytest.approx(began + QUICK.deadline_s)


def test_the_answer_to_a_release_that_was_given_up_does_not_end_the_next_term() -> None:
    rig = holding()
    rig.take(rig.elector.release(rig.now))
    while rig.is_now(State.RELEASING):
        rig.to(rig.elector.next_deadline())
    rig.take(rig.elector.follow(rig.now))
    rig.to(rig.now)
    rig.serve()
    assert rig.is_now(State.HOLDING)


def test_a_claim_under_way_is_taken_back_by_a_release() -> None:
    rig = Rig()
    rig.answer(rig.arrive())
    assert isinstance(rig.requests[-1], Write)
    rig.take(rig.elector.release(rig.now))
    rig.serve()
    assert rig.became == [State.RELEASING, State.RELEASED]
    assert rig.table.record is not None
    assert rig.table.record.released


def test_who_names_a_successor_does_not_come_before_it() -> None:
    rig = holding()
    rig.take(rig.elector.release(rig.now, "another"))
    rig.serve()
    began = rig.now
    rig.take(rig.elector.follow(rig.now))
    rig.serve()
    rig.run(began + QUICK.successor_grace_s - 0.1)
    assert rig.is_now(State.FOLLOWING)
    rig.run(began + QUICK.successor_grace_s + 0.1)
    assert rig.is_now(State.HOLDING)


def test_who_stops_waits_before_it_stands_again() -> None:
    rig = holding()
    rig.take(rig.elector.release(rig.now))
    rig.serve()
    began = rig.now
    rig.take(rig.elector.follow(rig.now, after_s=2.0))
    rig.serve()
    assert rig.is_now(State.FOLLOWING)
    rig.run(began + 2.1)
    assert rig.is_now(State.HOLDING)


# --- times


def test_both_profiles_are_safe_and_others_are_refused() -> None:
    assert PATIENT.duration_s == 15.0
    with pytest.raises(UnsafeTiming, match="too close to the lease duration"):
        Timing(duration_s=3.0)
    with pytest.raises(UnsafeTiming, match="leaves no time"):
        Timing(deadline_s=2.0)


def test_jitter_spreads_the_retries_of_members() -> None:
    def retry_s(jitter: float) -> float:
        rig = Rig(jitter=jitter)
        rig.answer(Refusal.FAILED)
        return rig.elector.next_deadline() - rig.now

    assert retry_s(0.0) == pytest.approx(0.25)
    assert retry_s(1.0) == pytest.approx(0.5)


@pytest.mark.parametrize("late", [False, True])
def test_who_has_released_for_good_still_sees_who_is_next_and_claims_nothing(late: bool) -> None:
    rig = holding()
    before = rig.table.record
    rig.take(rig.elector.release(rig.now, "other"))
    rig.serve()
    assert rig.is_now(State.RELEASED)
    asked = len(rig.requests)
    if late:
        rig.take(rig.elector.observed(rig.now, before))
    for transitions in (8, 9):
        record = foreign(rig.table, transitions=transitions)
        rig.take(rig.elector.observed(rig.now, record))
        assert rig.elector.record == record
    rig.to(rig.now + 60.0)
    assert rig.is_now(State.RELEASED)
    assert len(rig.requests) == asked
