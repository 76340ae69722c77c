"""Stores that fail, stall and recover, clocks that jump, expiry and purge (docs/protocol.md 2.4)."""

from __future__ import annotations

import pytest
from broker_rig import ALICE, BOB, TICK_S, Rig, id_of, messages, only, publish, results, texts, wide
from posthouse.exchange import Attend
from posthouse.store.interface import StoreUnavailable
from posthouse.wire.messages import Ack, CaughtUp, Error, Result

HOUR_MS = 3_600_000


def test_a_failed_commit_rejects_with_fallback_and_keeps_nothing() -> None:
    rig = Rig()
    rig.failing = True
    (result,) = rig.publish(9, ALICE, b"a", ref=3)
    assert isinstance(result, Result)
    assert (result.ref, result.status, result.code, result.fallback) == (
        3,
        "rejected",
        "store-unavailable",
        True,
    )
    assert result.retry_after_ms
    rig.failing = False
    assert texts(rig.owner(1)) == []
    rig.close(1)
    assert results(rig.publish(9, ALICE, b"a")) == [(0, "stored", None)]


def test_while_the_store_fails_acknowledged_messages_are_delivered() -> None:
    rig = Rig()
    rig.owner(1)
    rig.failing = True
    rig.publish(9, ALICE, b"a", b"b")
    rig.ack(1, b"a")
    assert results(rig.hear(9)) == [(0, "delivered", None)]
    rig.ticks()
    assert results(rig.hear(9)) == [(1, "rejected", "store-unavailable")]


def test_an_ack_during_the_commit_that_fails_is_delivered() -> None:
    rig = Rig()
    rig.owner(1)
    rig.publish(9, ALICE, b"a")
    for _ in range(2):
        rig.now += 2 * TICK_S
        rig.tick()
    rig.failing = True
    rig.write()
    rig.handle(1, Ack([id_of(b"a")]))
    rig.finish()
    assert results(rig.hear(9)) == [(0, "delivered", None)]


def test_a_duplicate_is_not_confirmed_by_a_commit_that_failed() -> None:
    rig = Rig()
    rig.owner(1)
    rig.publish(9, ALICE, b"a")
    rig.ack(1, b"a")
    rig.hear(9)
    rig.failing = True
    assert results(rig.publish(9, ALICE, b"a")) == [(0, "rejected", "store-unavailable")]
    rig.failing = False
    assert results(rig.publish(9, ALICE, b"a")) == [(0, "duplicate", "delivered")]


def test_acks_and_marks_are_tried_again_until_the_store_takes_them() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"a")
    rig.publish(9, BOB, b"b")
    rig.owner(1)
    rig.bucket_reader(2, wide(0xB0B0))
    rig.failing = True
    rig.ack(1, b"a")
    rig.ack(2, b"b")
    rig.ticks(4)
    assert rig.stored() == [1, 2]
    assert texts(rig.owner(3)) == [], "acknowledged all the same"
    rig.failing = False
    rig.advance(1.5)
    assert rig.stored() == [2]
    assert texts(rig.bucket_reader(4, wide(0xB0B0))) == []
    assert rig.footprint().keys() <= {".directory.sessions", ".directory.buckets", ".directory.unasked"}


@pytest.mark.parametrize("wall_s", [-3600, 3600])
def test_after_a_failure_deletions_do_not_wait_for_the_wall_clock(wall_s: int) -> None:
    """The store clock stands still while the wall clock is behind it: what is tried again goes by the other one."""
    rig = Rig()
    rig.publish(9, ALICE, b"a")
    rig.owner(1)
    rig.wall_ms += wall_s * 1000
    rig.failing = True
    rig.ack(1, b"a")
    rig.ticks()
    rig.failing = False
    rig.advance(2)
    assert rig.stored() == []


def test_a_failing_store_is_not_asked_again_and_again_for_what_nobody_waits_for() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"a")
    rig.owner(1)
    rig.failing = True
    rig.ack(1, b"a")
    rig.ticks()
    batches = len(rig.batches)
    rig.advance(0.8)
    assert len(rig.batches) == batches
    rig.advance(3)
    assert len(rig.batches) > batches


def test_each_publish_tries_a_failing_store_and_the_first_success_ends_the_trouble() -> None:
    rig = Rig()
    rig.failing = True
    for _ in range(3):
        assert results(rig.publish(9, ALICE, b"a")) == [(0, "rejected", "store-unavailable")]
    assert rig.broker.counters.store_failures == 3
    rig.failing = False
    assert results(rig.publish(9, ALICE, b"a")) == [(0, "stored", None)]


def stalled(rig: Rig) -> None:
    """A commit is under way and takes too long."""
    rig.publish(9, BOB, b"warm")
    rig.hear(9)
    rig.handle(9, publish(BOB, b"under way", 1))
    assert rig.begin()
    rig.handle(9, publish(BOB, b"waits", 2))
    rig.broker.ledger.stall()


def test_while_a_commit_stalls_messages_are_refused_but_not_the_one_under_way() -> None:
    rig = Rig()
    stalled(rig)
    assert results(rig.hear(9)) == [(2, "rejected", "store-unavailable")]
    rig.handle(9, publish(BOB, b"comes later", 3))
    assert results(rig.hear(9)) == [(3, "rejected", "store-unavailable")]
    rig.finish()
    assert results(rig.hear(9)) == [(1, "stored", None)]
    assert results(rig.publish(9, BOB, b"waits")) == [(0, "stored", None)]


def test_while_a_commit_stalls_a_live_message_is_not_raised_and_everyone_has_a_result() -> None:
    rig = Rig()
    rig.publish(9, BOB, b"live", mode="live")
    stalled(rig)
    rig.hear(9)
    rig.handle(9, publish(BOB, b"live", 5))
    assert results(rig.hear(9)) == [(5, "rejected", "store-unavailable")]
    rig.finish()
    rig.advance(3)
    assert sorted(results(rig.hear(9))) == [(0, "undeliverable", None), (1, "stored", None)]


def test_while_a_commit_stalls_messages_out_with_owners_have_two_ticks() -> None:
    rig = Rig()
    rig.owner(1)
    stalled(rig)
    rig.hear(9)
    rig.handle(9, publish(ALICE, b"a", 6), publish(ALICE, b"b", 7))
    rig.handle(1, Ack([id_of(b"a")]))
    assert results(rig.hear(9)) == [(6, "delivered", None)]
    for _ in range(3):
        rig.now += TICK_S * 1.01
        rig.tick()
    assert results(rig.hear(9)) == [(7, "rejected", "store-unavailable")]


def test_a_store_that_cannot_be_read_refuses_publishes_to_mailboxes_it_would_have_to_load() -> None:
    rig = Rig()
    rig.blind = True
    assert results(rig.publish(9, ALICE, b"a")) == [(0, "rejected", "store-unavailable")]
    rig.blind = False
    assert results(rig.publish(9, ALICE, b"a")) == [(0, "stored", None)]


def test_a_store_that_cannot_be_read_makes_a_subscribe_fail_as_a_whole() -> None:
    rig = Rig()
    rig.open(1, ALICE)
    rig.blind = True
    error = only(Error, rig.attend(1, ALICE, wide(0xA11C), ref=2))
    assert (error.code, error.ref, error.retryable) == ("store-unavailable", 2, True)
    assert not rig.port.sessions[1].subscriptions and not rig.broker.directory.buckets
    rig.blind = False
    assert isinstance(rig.attend(1, ALICE, wide(0xA11C))[-1], CaughtUp)


@pytest.mark.parametrize("wall_s", [-3600, 0, 3600])
@pytest.mark.parametrize("places", [[ALICE], [ALICE, wide(0xB0B0)]])
def test_a_page_that_could_not_be_read_is_read_again(wall_s: int, places: list[str]) -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"a", b"b")
    rig.publish(9, BOB, b"c")
    rig.open(1, ALICE)
    rig.wall_ms += wall_s * 1000
    buckets = places[1:]
    rig.handle(1, Attend(1, [ALICE], buckets, "name/first-reader-here" if buckets else None, True))  # type: ignore[arg-type]
    for _ in buckets * 2:
        rig.answer()
    rig.blind = True
    rig.settle()
    assert texts(rig.hear(1)) == []
    rig.blind = False
    rig.advance(1)
    assert texts(rig.hear(1)) == [b"a", b"b"] + [b"c"] * len(buckets)


def test_what_was_promised_survives_the_broker_at_any_moment() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"stored")
    rig.owner(1, BOB)
    rig.publish(9, BOB, b"pending")
    rig.handle(9, publish(ALICE, b"under way"))
    rig.begin()
    rig.write()
    rig.promote()
    assert texts(rig.owner(1)) == [b"stored", b"under way"]
    assert texts(rig.owner(2, BOB)) == []


# --- time


def test_a_message_is_not_offered_after_its_time_and_is_deleted() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"short", ttl_s=10)
    rig.publish(9, ALICE, b"long", ttl_s=100)
    rig.advance(9)
    assert texts(rig.owner(1)) == [b"short", b"long"]
    rig.close(1)
    rig.advance(2)
    assert texts(rig.owner(2)) == [b"long"]
    rig.advance(1)
    assert len(rig.stored()) == 1
    assert rig.broker.counters.expired == 1


def test_a_time_to_live_beyond_the_limit_is_cut() -> None:
    rig = Rig(max_ttl_s=100)
    rig.publish(9, ALICE, b"a", ttl_s=100_000)
    (message,) = messages(rig.owner(1))
    assert message.expires_at - message.received_at == 100_000


def test_an_expired_message_is_no_duplicate_and_comes_again_when_published_again() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"a", ttl_s=5)
    rig.owner(1)
    rig.advance(8)
    assert results(rig.publish(9, ALICE, b"a")) == []
    assert texts(rig.hear(1)) == [b"a"], "it holds the one that has expired; this is another"
    rig.ticks()
    assert results(rig.hear(9)) == [(0, "stored", None)]
    rig.ack(1, b"a")
    rig.ticks()
    assert rig.stored() == []


def test_a_wall_clock_that_jumps_a_month_deletes_nothing() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"a", ttl_s=7 * 86400)
    rig.wall_ms += 30 * 24 * HOUR_MS
    rig.advance(3600)
    assert rig.stored() == [1]
    assert rig.broker.clock.now_ms - 1_700_000_000_000 < 3 * HOUR_MS


def test_the_store_clock_never_runs_backwards_and_expiry_goes_on_after_a_jump_back() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"a", ttl_s=100)
    before = rig.broker.clock.now_ms
    rig.wall_ms -= 60_000
    rig.advance(30)
    assert rig.broker.clock.now_ms >= before
    rig.advance(200)
    assert rig.stored() == []


def test_the_store_clock_is_saved_and_goes_on_in_the_next_broker() -> None:
    rig = Rig()
    rig.advance(100)
    rig.publish(9, ALICE, b"a", ttl_s=50)
    rig.wall_ms -= 24 * HOUR_MS
    rig.promote()
    assert rig.broker.clock.now_ms >= 1_700_000_100_000


# --- purge


def purge(rig: Rig, place: str) -> list[int | StoreUnavailable]:
    answers: list[int | StoreUnavailable] = []
    rig.broker.purge(place, answers.append)
    return answers


def test_a_purge_empties_one_mailbox_and_counts() -> None:
    rig = Rig(expire_limit=3)
    rig.publish(9, ALICE, *(b"%d" % n for n in range(8)))
    rig.publish(9, BOB, b"stays")
    answers, again = purge(rig, ALICE), purge(rig, ALICE)
    rig.settle()
    assert answers == again == [8]
    assert len(rig.stored()) == 1
    assert rig.broker.counters.expired == 0
    assert texts(rig.owner(1)) == [] and texts(rig.owner(2, BOB)) == [b"stays"]


def test_a_purge_takes_what_is_pending_and_senders_are_told() -> None:
    rig = Rig()
    rig.owner(1)
    rig.publish(9, ALICE, b"a", receipts=["expired"])
    answers = purge(rig, ALICE)
    rig.settle()
    assert answers == [1] and rig.stored() == []
    assert [getattr(effect, "status", None) for effect in rig.hear(9)] == ["stored", "expired"]


def test_a_purge_of_an_empty_mailbox_ends() -> None:
    rig = Rig()
    answers = purge(rig, ALICE)
    rig.settle()
    assert answers == [0]


def test_a_purge_that_the_store_does_not_take_is_told_and_may_be_asked_for_again() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"a")
    rig.failing = True
    answers, again = purge(rig, ALICE), purge(rig, ALICE)
    rig.settle()
    assert [type(answer) for answer in answers + again] == [StoreUnavailable] * 2
    rig.failing = False
    rig.advance(2)
    assert len(answers) == 1 and len(rig.stored()) == 1
    answers = purge(rig, ALICE)
    rig.settle()
    assert answers == [1] and rig.stored() == []


def test_a_purge_of_a_mailbox_that_cannot_be_loaded_says_so() -> None:
    rig = Rig()
    rig.blind = True
    answers = purge(rig, ALICE)
    rig.settle()
    assert isinstance(answers[0], StoreUnavailable)
