"""Quotas and every other bound: nothing is dropped silently and nothing grows (docs/protocol.md 2.4 and 2.5)."""

from __future__ import annotations

from typing import Any

import pytest
from broker_rig import (
    ALICE,
    BOB,
    NEAR_ALICE,
    NOBODYS,
    Rig,
    address,
    messages,
    narrow,
    only,
    publish,
    results,
    texts,
    wide,
)
from posthouse.broker import Quotas
from posthouse.broker.records import PUBLISH_OVERHEAD_BYTES
from posthouse.exchange import Attend, Open, Superseded
from posthouse.wire.messages import Error, Result, Status, StatusRequest, Subscribed

OK = "stored"
FULL = ("rejected", "quota")


def outcome(rig: Rig, number: int, place: str, text: bytes, **fields: Any) -> tuple[str, str | None]:
    ((_, status, state),) = results(rig.publish(number, place, text, **fields))
    return status, state


def test_a_full_mailbox_takes_nothing_more_until_something_leaves() -> None:
    rig = Rig(quotas=Quotas(mailbox_messages=2))
    rig.publish(9, ALICE, b"a", b"b")
    assert outcome(rig, 9, ALICE, b"c") == FULL
    assert outcome(rig, 9, BOB, b"c") == (OK, None)
    rig.owner(1)
    rig.ack(1, b"a")
    rig.ticks()
    rig.publish(9, ALICE, b"c")
    rig.ticks()
    assert (0, OK, None) in results(rig.hear(9))


def test_what_is_pending_counts_against_a_mailbox() -> None:
    rig = Rig(quotas=Quotas(mailbox_messages=2))
    heard = rig.publish(9, ALICE, b"a", b"b", b"c")
    assert sorted(status for _, status, _ in results(heard)) == ["rejected", "stored", "stored"]


def test_bytes_of_a_mailbox_are_limited() -> None:
    rig = Rig(quotas=Quotas(mailbox_bytes=10))
    assert outcome(rig, 9, ALICE, b"123456") == (OK, None)
    assert outcome(rig, 9, ALICE, b"12345") == FULL
    assert outcome(rig, 9, ALICE, b"1234") == (OK, None)


@pytest.mark.parametrize("limit", [{"guest_mailbox_messages": 1}, {"guest_mailbox_bytes": 1}])
def test_guests_share_a_smaller_part_of_a_mailbox(limit: dict[str, int]) -> None:
    rig = Rig(quotas=Quotas(**limit))
    rig.open(7, guest=True)
    rig.open(8, guest=True)
    assert outcome(rig, 7, ALICE, b"a") == (OK, None)
    assert outcome(rig, 8, ALICE, b"b") == FULL
    assert outcome(rig, 9, ALICE, b"b") == (OK, None)


@pytest.mark.parametrize("limit", [{"total_messages": 3}, {"total_bytes": 3}])
def test_the_whole_store_is_limited_counting_what_is_pending(limit: dict[str, int]) -> None:
    rig = Rig(quotas=Quotas(**limit))
    rig.open(9)
    places = [address(n) for n in range(5)]
    heard = rig.send(9, *(publish(place, b"x", n) for n, place in enumerate(places)))
    assert sorted(status for _, status, _ in results(heard)) == ["rejected"] * 2 + ["stored"] * 3
    rig.owner(1, places[0])
    rig.ack(1, b"x")
    rig.ticks()
    assert outcome(rig, 9, BOB, b"x") == (OK, None)


def test_a_limit_of_zero_is_none() -> None:
    rig = Rig(quotas=Quotas(0, 0, 0, 0, 0, 0))
    rig.open(8, guest=True)
    assert outcome(rig, 8, ALICE, b"x" * 100) == (OK, None)


def test_a_repeat_needs_no_room() -> None:
    rig = Rig(quotas=Quotas(mailbox_messages=1))
    rig.publish(9, ALICE, b"a", ttl_s=60)
    assert outcome(rig, 9, ALICE, b"a", ttl_s=600) == ("duplicate", OK)
    assert outcome(rig, 9, ALICE, b"b") == FULL


def test_a_repeat_needs_no_room_even_if_its_mailbox_was_forgotten_meanwhile() -> None:
    rig = Rig(quotas=Quotas(mailbox_messages=1), cached_mailboxes=0)
    rig.publish(9, ALICE, b"a")
    rig.handle(9, publish(ALICE, b"a"))
    rig.look()
    rig.broker.directory.trim()
    assert ALICE not in rig.broker.directory.addresses
    rig.settle()
    assert results(rig.hear(9)) == [(0, "duplicate", OK)]


def test_publishes_without_a_result_are_limited_and_the_limit_is_given_back() -> None:
    rig = Rig(max_inflight_bytes=10 + PUBLISH_OVERHEAD_BYTES)
    rig.publish(9, BOB, b"warm")
    rig.handle(9, publish(BOB, b"1" * 6, 1), publish(BOB, b"2" * 6, 2), publish(BOB, b"3" * 4, 3))
    (refused,) = rig.hear(9)
    assert isinstance(refused, Result)
    assert (refused.ref, refused.code, refused.fallback) == (2, "rate-limited", True)
    assert refused.retry_after_ms
    rig.settle()
    rig.hear(9)
    assert outcome(rig, 9, BOB, b"2" * 6) == (OK, None)
    assert outcome(rig, 9, BOB, b"4" * 11) == (OK, None), "one alone always goes"


@pytest.mark.parametrize("fate", ["delivered", "stored", "rejected", "undeliverable", "duplicate", "blind"])
def test_every_result_gives_its_bytes_back(fate: str) -> None:
    rig = Rig(quotas=Quotas(mailbox_messages=3))
    if fate == "delivered":
        rig.owner(1)
    rig.blind = fate == "blind"
    rig.failing = fate == "rejected"
    rig.publish(9, ALICE, b"text", b"text", mode="live" if fate == "undeliverable" else "store")
    if fate == "delivered":
        rig.ack(1, b"text")
    rig.publish(9, ALICE, b"text", mode="live" if fate == "undeliverable" else "store")
    rig.advance(5)
    sender = rig.port.sessions[9].sender
    assert sender is not None and sender.inflight_bytes == 0


def test_too_many_receipts_are_refused() -> None:
    rig = Rig(receipts_per_connection=1)
    assert outcome(rig, 9, ALICE, b"a", receipts=["delivered"]) == (OK, None)
    assert outcome(rig, 9, ALICE, b"b", receipts=["delivered"]) == ("rejected", "rate-limited")
    assert outcome(rig, 9, ALICE, b"b") == (OK, None)


def test_the_oldest_of_too_many_sessions_of_a_key_is_superseded_once() -> None:
    rig = Rig(connections_per_key=2)
    for number in (1, 2, 3):
        rig.owner(number)
    assert [type(effect) for effect in rig.hear(1)] == [Superseded]
    rig.owner(4)
    assert rig.hear(1) == [] and [type(effect) for effect in rig.hear(2)] == [Superseded]
    rig.owner(5, BOB)
    assert rig.hear(3) == []
    rig.close(1)
    rig.close(3)
    rig.owner(6)
    assert rig.hear(4) == []


def test_a_session_may_queue_many_requests_and_not_more() -> None:
    rig = Rig()
    rig.open(1, ALICE)
    rig.handle(1, *(Attend(ref, [ALICE], [], None, True) for ref in range(400)))
    rig.settle()
    heard = rig.hear(1)
    answered = {effect.ref for effect in heard if isinstance(effect, Subscribed)}
    refused = {effect.ref for effect in heard if isinstance(effect, Error) and effect.code == "rate-limited"}
    assert answered | refused == set(range(400)) and len(refused) > 100
    assert all(effect.retryable for effect in heard if isinstance(effect, Error))


def test_subscribes_that_wait_for_their_caught_up_are_limited() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"a", b"b")
    rig.owner(1, window=1)
    heard = [effect for ref in range(200) for effect in rig.attend(1, ALICE, ref=ref)]
    assert any(isinstance(effect, Error) and effect.code == "rate-limited" for effect in heard)
    assert len(rig.port.sessions[1].subscriptions[ALICE].catchups or ()) < 100


def test_status_tells_pending_quota_and_epoch() -> None:
    rig = Rig(quotas=Quotas(mailbox_messages=5, mailbox_bytes=50))
    rig.publish(9, ALICE, b"a", b"bb")
    rig.owner(1)
    rig.ack(1, b"a")
    status = only(Status, rig.status(1, ref=3))
    assert (status.ref, status.pending.count, status.pending.bytes, status.epoch) == (3, 1, 2, 1)
    assert status.quota == {
        "mailbox_messages": 5,
        "mailbox_bytes": 50,
        "used_messages": 1,
        "used_bytes": 2,
    }


def test_status_counts_overlapping_places_once() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"a", b"b")
    rig.publish(9, NEAR_ALICE, b"c")
    rig.open(1, ALICE)
    rig.attend(1, ALICE, wide(0xA11C), narrow(0xA11C))
    assert only(Status, rig.status(1)).pending.count == 3


def test_status_that_the_store_does_not_answer_is_an_error() -> None:
    rig = Rig()
    rig.bucket_reader(1, NOBODYS)
    rig.blind = True
    error = only(Error, rig.send(1, StatusRequest(4)))
    assert (error.code, error.ref, error.retryable) == ("store-unavailable", 4, True)


def test_after_all_is_acknowledged_and_closed_nothing_is_left() -> None:
    rig = Rig(page_rows=4)
    places = [ALICE, BOB, NEAR_ALICE, NOBODYS]
    rig.owner(1, ALICE)
    rig.owner(2, BOB, window=2)
    rig.bucket_reader(3, narrow(0xA11C))
    rig.bucket_reader(4, NOBODYS, None)
    rig.open(5, NEAR_ALICE)
    rig.attend(5, NEAR_ALICE, narrow(0xA11C), NOBODYS, live=False)
    rig.open(6, guest=True)
    for n in range(60):
        mode = "live" if n % 5 == 0 else "store"
        rig.publish(6, places[n % 4], b"%d" % (n % 40), mode=mode, receipts=["delivered", "expired"])
        for number in (1, 2, 3, 4, 5):
            held = texts(rig.hear(number))
            if n % 3:
                rig.ack(number, *held)
            elif held:
                rig.nack(number, "busy", *held, retry_after_ms=3_600_000)
    for number in list(rig.port.sessions):
        rig.close(number)
    rig.advance(5)
    for n, place in enumerate((ALICE, BOB, NEAR_ALICE)):
        rig.ack(n, *texts(rig.owner(n, place)))
        rig.close(n)
    rig.commit()
    rig.advance(5)
    assert rig.footprint() == {}


def test_closing_a_port_ends_its_sessions() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"a")
    rig.owner(1)
    rig.bucket_reader(2, wide(0xA11C))
    rig.broker.close_port(rig.port)
    rig.settle()
    assert rig.port.sessions == {} == rig.footprint()
    (message,) = messages(rig.owner(3))
    assert message.deliveries == 2


def test_a_session_that_closes_while_its_requests_wait_hears_nothing_more() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"a")
    rig.open(1, ALICE)
    rig.handle(1, Attend(1, [ALICE], [wide(0xA11C)], "key/alice", True), StatusRequest(2))
    rig.close(1)
    rig.owner(1)
    assert texts(rig.hear(1)) == []
    rig.close(1)
    assert rig.footprint() == {}


def test_a_message_whose_sender_closes_is_kept_all_the_same() -> None:
    rig = Rig()
    rig.open(9)
    rig.handle(9, publish(ALICE, b"a"))
    rig.close(9)
    assert texts(rig.owner(1)) == [b"a"]


def test_commands_of_a_session_that_is_not_open_are_passed_over() -> None:
    rig = Rig()
    assert rig.send(5, publish(ALICE, b"a"), StatusRequest(1)) == []
    rig.send(5, Open(None, False, 1, 1), Open(None, False, 1, 1))
    assert rig.port.sessions[5].window == 1


def test_idle_mailboxes_are_forgotten_and_those_in_use_are_not() -> None:
    rig = Rig(cached_mailboxes=2)
    rig.owner(1, ALICE)
    rig.bucket_reader(2, NOBODYS)
    for n in range(20):
        rig.publish(9, address(n), b"%d" % n)
    rig.advance(3)
    directory = rig.broker.directory
    assert set(directory.addresses) == {ALICE} and set(directory.homes) == {NOBODYS}
    assert len(directory.numbered) == 2
    rig.publish(9, ALICE, b"still here")
    rig.publish(9, NOBODYS, b"here too")
    assert texts(rig.hear(1)) == [b"still here"] and texts(rig.hear(2)) == [b"here too"]
    assert texts(rig.owner(3, address(7))) == [b"7"]


def test_a_bucket_that_is_being_subscribed_to_is_not_forgotten() -> None:
    rig = Rig(cached_mailboxes=0)
    rig.open(1)
    rig.open(2)
    rig.handle(1, Attend(1, [], [NOBODYS, wide(0xB0B0)], "name/first-reader-here", True))
    rig.handle(2, Attend(1, [], [NOBODYS], "name/second-reader-her", True))
    rig.answer()
    rig.close(2)
    rig.broker.directory.trim()
    rig.settle()
    rig.broker.directory.trim()
    rig.publish(9, NOBODYS, b"text")
    assert texts(rig.hear(1)) == [b"text"]


def test_a_mailbox_loaded_anew_knows_of_a_commit_that_came_between() -> None:
    """Its tally was read before the commit, and answered after."""
    rig = Rig(cached_mailboxes=0)
    rig.publish(9, ALICE, b"a", ttl_s=1)
    rig.advance(0.5)
    rig.broker.directory.trim()
    rig.open(1, ALICE)
    rig.handle(1, Attend(1, [ALICE], [], None, True))
    rig.look()
    rig.now += 1
    rig.wall_ms += 1000
    rig.broker.tick(rig.now, rig.wall_ms)
    assert rig.begin()
    rig.finish()
    rig.settle()
    assert rig.stored() == []
    assert only(Subscribed, rig.hear(1)).pending.count == 0


def test_live_messages_that_are_done_are_not_kept_until_their_time_is_over() -> None:
    rig = Rig(durable=False)
    rig.owner(1)
    for n in range(5000):
        rig.publish(9, ALICE, b"%d" % n)
        rig.ack(1, b"%d" % n)
    assert len(rig.broker._publishing._deadlines) < 2500
