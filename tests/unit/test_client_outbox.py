"""What has no result is sent again, in order, within the bytes that may be under way."""

import random

from hypothesis import given
from hypothesis import strategies as st
from posthouse.client.outbox import OVERHEAD_BYTES, Outbox
from posthouse.wire.messages import Publish


def publish(ref: int, size: int = 10) -> Publish:
    return Publish(ref, bytes(size), recipient="r")


def refs(items: list[Publish]) -> list[int]:
    return [item.ref for item in items]


def filled(count: int, max_bytes: int = 10**9) -> Outbox:
    outbox = Outbox(max_bytes)
    for ref in range(count):
        outbox.add(publish(ref), now=0.0, timeout_s=5.0)
    return outbox


def test_publishes_go_out_in_the_order_in_which_they_came() -> None:
    outbox = filled(5)
    assert refs(outbox.take(10**6, True)) == [0, 1, 2, 3, 4]
    assert outbox.take(10**6, True) == []


def test_no_more_bytes_are_under_way_than_allowed_and_a_result_makes_room() -> None:
    outbox = filled(5, max_bytes=2 * (10 + OVERHEAD_BYTES))
    assert refs(outbox.take(10**6, True)) == [0, 1]
    assert not outbox.ready()
    outbox.resolve(0)
    assert outbox.ready()
    assert refs(outbox.take(10**6, True)) == [2]


def test_a_message_larger_than_the_allowance_goes_out_alone() -> None:
    outbox = Outbox(100)
    outbox.add(publish(1, 5000), 0.0, 5.0)
    outbox.add(publish(2, 1), 0.0, 5.0)
    assert refs(outbox.take(50, frame_is_empty=False)) == []
    assert refs(outbox.take(50, frame_is_empty=True)) == [1]
    assert refs(outbox.take(50, frame_is_empty=True)) == []


def test_a_frame_takes_about_its_budget() -> None:
    outbox = filled(100)
    assert len(outbox.take(10 * (10 + OVERHEAD_BYTES), True)) == 10


def test_after_a_lost_connection_what_had_no_result_goes_first_and_in_order() -> None:
    outbox = filled(6)
    outbox.take(4 * (10 + OVERHEAD_BYTES), True)
    outbox.resolve(1)
    outbox.disconnected()
    assert refs(outbox.take(10**6, True)) == [0, 2, 3, 4, 5]


def test_what_nobody_waits_for_is_not_sent_and_not_sent_again() -> None:
    outbox = filled(4)
    outbox.take(2 * (10 + OVERHEAD_BYTES), True)
    outbox.forget(0)
    outbox.forget(3)
    outbox.disconnected()
    assert refs(outbox.take(10**6, True)) == [1, 2]


def test_a_forgotten_message_under_way_still_counts_until_its_result() -> None:
    outbox = filled(3, max_bytes=10 + OVERHEAD_BYTES)
    outbox.take(10**6, True)
    outbox.forget(0)
    assert outbox.take(10**6, True) == []
    assert outbox.resolve(0) is None
    assert refs(outbox.take(10**6, True)) == [1]


def test_those_out_of_time_are_given_back_once_and_forgotten() -> None:
    outbox = Outbox(10**6)
    outbox.add(publish(1), now=0.0, timeout_s=5.0)
    outbox.add(publish(2), now=0.0, timeout_s=1.0)
    outbox.add(publish(3), now=0.0, timeout_s=0.5)
    outbox.resolve(3)
    assert outbox.next_deadline() == 1.0
    assert outbox.expired(0.9) == []
    assert [entry.item.ref for entry in outbox.expired(1.0)] == [2]
    assert outbox.next_deadline() == 5.0
    assert refs(outbox.take(10**6, True)) == [1]


def test_deadlines_of_answered_publishes_do_not_pile_up() -> None:
    outbox = Outbox(10**9)
    for ref in range(50_000):
        outbox.add(publish(ref), now=float(ref), timeout_s=10**6)
        outbox.resolve(ref)
    assert len(outbox._deadlines) < 5000


@given(
    st.lists(st.sampled_from(["add", "take", "resolve", "forget", "lose", "hold"]), max_size=60), st.randoms()
)
def test_whatever_happens_nothing_is_lost_doubled_or_over_the_limit(
    steps: list[str], chance: random.Random
) -> None:
    outbox = Outbox(1000)
    wanted: set[int] = set()
    under_way: set[int] = set()
    for number, step in enumerate(steps):
        if step == "add":
            outbox.add(publish(number, chance.randrange(300)), 0.0, 5.0)
            wanted.add(number)
        elif step == "take":
            taken = refs(outbox.take(chance.randrange(2000), True))
            assert taken == sorted(taken)
            assert not under_way & set(taken)
            assert set(taken) <= wanted
            under_way |= set(taken)
        elif step == "resolve" and under_way:
            ref = chance.choice(sorted(under_way))
            assert (outbox.resolve(ref) is not None) == (ref in wanted)
            under_way.discard(ref)
            wanted.discard(ref)
        elif step == "forget" and wanted:
            ref = chance.choice(sorted(wanted))
            outbox.forget(ref)
            wanted.discard(ref)
        elif step == "lose":
            outbox.disconnected()
            under_way.clear()
        assert outbox.sent_bytes <= 1000
        assert set(outbox.entries) == wanted
        assert set(outbox.sent) == under_way
    outbox.disconnected()
    rest: list[int] = []
    while taken := refs(outbox.take(10**6, True)):
        rest += taken
        for ref in taken:
            outbox.resolve(ref)
    assert rest == sorted(wanted)
