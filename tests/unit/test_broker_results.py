"""What a sender is told: the ladder of results, duplicates, elided acks and receipts (docs/protocol.md 2.3, 2.4)."""

from __future__ import annotations

import pytest
from broker_rig import ALICE, BOB, TICK_S, Rig, id_of, messages, publish, results, texts, wide
from posthouse.broker.records import PUBLISH_OVERHEAD_BYTES
from posthouse.exchange import Effect
from posthouse.wire.messages import Ack, Receipt, Result

DAY_S = 86400


def receipts(effects: list[Effect]) -> list[tuple[str, str | None]]:
    return [(effect.status, effect.recipient) for effect in effects if isinstance(effect, Receipt)]


def test_a_message_nobody_is_there_for_is_stored_at_once() -> None:
    rig = Rig()
    (result,) = rig.publish(9, ALICE, b"text", ref=7)
    assert isinstance(result, Result)
    assert (result.ref, result.status, result.id, result.fallback) == (7, "stored", id_of(b"text"), False)
    assert rig.stored() == [1]


def test_stored_is_not_said_before_the_commit_is_confirmed() -> None:
    rig = Rig()
    rig.publish(9, BOB, b"warm the mailbox up")
    rig.handle(9, publish(BOB, b"text"))
    rig.begin()
    rig.write()
    assert rig.hear(9) == []
    rig.finish()
    assert results(rig.hear(9)) == [(0, "stored", None)]


def test_an_acknowledged_message_never_reaches_the_store() -> None:
    rig = Rig()
    rig.owner(1)
    batches = len(rig.batches)
    assert rig.publish(9, ALICE, b"text") == []
    rig.advance(TICK_S)
    rig.ack(1, b"text")
    assert results(rig.hear(9)) == [(0, "delivered", None)]
    rig.ticks(4)
    assert len(rig.batches) == batches
    counters = rig.broker.counters
    assert (counters.elided, counters.delivered, counters.appended, counters.acked) == (1, 1, 0, 1)


def test_a_message_out_with_its_owner_is_written_after_one_to_two_ticks() -> None:
    rig = Rig()
    rig.owner(1)
    rig.publish(9, ALICE, b"text")
    rig.advance(TICK_S * 0.9)
    assert rig.stored() == []
    rig.advance(TICK_S * 1.2)
    assert rig.stored() == [1]
    assert results(rig.hear(9)) == [(0, "stored", None)]
    rig.ack(1, b"text")
    rig.ticks()
    assert rig.stored() == []
    assert rig.broker.counters.deleted == 1


def test_when_its_last_live_owner_leaves_a_message_is_written_without_waiting() -> None:
    rig = Rig()
    rig.owner(1)
    rig.owner(2)
    rig.publish(9, ALICE, b"text")
    rig.close(1)
    assert rig.stored() == []
    rig.close(2)
    assert results(rig.hear(9)) == [(0, "stored", None)]


def test_within_a_mailbox_commits_follow_seq() -> None:
    rig = Rig()
    rig.owner(1, window=1)
    rig.publish(9, ALICE, b"out", b"beyond the window")
    assert rig.stored() == [1, 2]
    assert results(rig.hear(9)) == [] and rig.batches[-1].appends[0].seq == 1


def test_an_ack_while_its_commit_is_under_way_is_delivered_and_leaves_nothing() -> None:
    rig = Rig()
    rig.owner(1)
    rig.publish(9, ALICE, b"text")
    rig.now += 3 * TICK_S
    rig.tick()
    rig.now += 3 * TICK_S
    rig.tick()
    assert rig.batch is not None and rig.batch.appends
    rig.write()
    rig.handle(1, Ack([id_of(b"text")]))
    assert results(rig.hear(9)) == [(0, "delivered", None)]
    rig.finish()
    rig.ticks()
    assert rig.stored() == [] and rig.hear(9) == []


def test_a_repeat_of_a_stored_message_is_a_duplicate_stored() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"text")
    assert results(rig.publish(8, ALICE, b"text", ref=3)) == [(3, "duplicate", "stored")]
    assert rig.stored() == [1]


def test_a_repeat_of_a_delivered_message_is_a_duplicate_delivered_after_a_checked_commit() -> None:
    rig = Rig()
    rig.owner(1)
    rig.publish(9, ALICE, b"text")
    assert texts(rig.ack(1, b"text")) == [b"text"]
    rig.hear(9)
    rig.handle(9, publish(ALICE, b"text", 4))
    rig.begin()
    rig.write()
    assert rig.hear(9) == []
    rig.finish()
    assert results(rig.hear(9)) == [(4, "duplicate", "delivered")]
    assert rig.hear(1) == []


def test_a_delivery_is_remembered_for_the_window_and_forgotten_after_it() -> None:
    rig = Rig(dedupe_window_s=60.0)
    rig.owner(1)
    rig.publish(9, ALICE, b"text")
    rig.ack(1, b"text")
    rig.advance(58)
    rig.hear(9)
    assert results(rig.publish(9, ALICE, b"text")) == [(0, "duplicate", "delivered")]
    rig.hear(1)
    rig.advance(4)
    rig.publish(9, ALICE, b"text")
    assert texts(rig.hear(1)) == [b"text"]


def test_remembered_deliveries_are_bounded_and_the_oldest_leave_first() -> None:
    rig = Rig(dedupe_entries=2)
    rig.owner(1)
    for text in (b"a", b"b", b"c"):
        rig.publish(9, ALICE, text)
        rig.ack(1, text)
    rig.hear(9), rig.hear(1)
    rig.publish(9, ALICE, b"a")
    assert texts(rig.hear(1)) == [b"a"]
    assert results(rig.publish(9, ALICE, b"c")) == [(0, "duplicate", "delivered")]


def test_the_same_ciphertext_to_two_addresses_is_no_duplicate() -> None:
    rig = Rig()
    rig.owner(1, ALICE)
    rig.owner(2, BOB)
    rig.publish(9, ALICE, b"same")
    rig.ack(1, b"same")
    assert results(rig.publish(9, BOB, b"same")) == [(0, "delivered", None)]
    assert texts(rig.ack(2, b"same")) == [b"same"]
    assert results(rig.hear(9)) == [(0, "delivered", None)]
    for place in (ALICE, BOB):
        assert results(rig.publish(9, place, b"same")) == [(0, "duplicate", "delivered")]


@pytest.mark.parametrize("acked", [True, False])
def test_a_repeat_of_a_pending_message_shares_its_outcome(acked: bool) -> None:
    rig = Rig()
    rig.owner(1)
    rig.publish(8, ALICE, b"text")
    rig.publish(9, ALICE, b"text", b"text")
    assert rig.hear(8) == rig.hear(9) == []
    assert texts(rig.hear(1)) == [b"text"]
    if acked:
        rig.ack(1, b"text")
    else:
        rig.ticks()
    state = "delivered" if acked else "stored"
    assert results(rig.hear(8)) == [(0, state, None)]
    assert results(rig.hear(9)) == [(0, "duplicate", state), (1, "duplicate", state)]
    assert rig.hear(1) == []


def test_a_repeat_of_a_pending_message_shares_its_failure() -> None:
    rig = Rig()
    rig.failing = True
    heard = rig.publish(9, ALICE, b"text", b"text")
    assert results(heard) == [(0, "rejected", "store-unavailable"), (1, "rejected", "store-unavailable")]
    assert all(effect.fallback for effect in heard if isinstance(effect, Result))


def expiry(rig: Rig, text: bytes) -> int:
    """For how many seconds the store keeps it."""
    (row,) = (m.row for m in rig.store._state.messages.values() if m.row.ciphertext == text)
    return round((row.expires_at - row.received_at) / 1000)


def test_a_repeat_of_a_stored_message_raises_its_time_to_live() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"text", ttl_s=60)
    assert results(rig.publish(9, ALICE, b"text", ttl_s=600)) == [(0, "duplicate", "stored")]
    assert expiry(rig, b"text") == 600
    rig.publish(9, ALICE, b"text", ttl_s=5)
    assert expiry(rig, b"text") == 600


def test_a_repeat_of_a_pending_message_raises_its_time_to_live() -> None:
    rig = Rig()
    rig.owner(1)
    rig.publish(9, ALICE, b"text", ttl_s=60)
    rig.publish(9, ALICE, b"text", ttl_s=600)
    rig.ticks()
    assert expiry(rig, b"text") == 600


def test_a_repeat_without_a_time_to_live_asks_for_the_default() -> None:
    rig = Rig()
    rig.owner(1)
    rig.publish(9, ALICE, b"text", ttl_s=60)
    rig.publish(9, ALICE, b"text")
    rig.ticks()
    assert expiry(rig, b"text") == 30 * DAY_S


def test_a_repeat_that_asks_for_more_while_the_first_is_committed_waits_and_raises_it() -> None:
    rig = Rig()
    rig.publish(9, BOB, b"warm")
    rig.handle(9, publish(BOB, b"text", 1, ttl_s=60))
    rig.begin()
    rig.handle(9, publish(BOB, b"text", 2, ttl_s=600), publish(BOB, b"text", 3, ttl_s=60))
    session = rig.port.sessions[9]
    assert session.sender is not None and session.sender.inflight_bytes == 3 * (4 + PUBLISH_OVERHEAD_BYTES)
    rig.finish()
    assert results(rig.hear(9)) == [(1, "stored", None), (3, "duplicate", "stored")]
    rig.settle()
    assert results(rig.hear(9)) == [(2, "duplicate", "stored")]
    assert expiry(rig, b"text") == 600


def test_a_live_message_is_raised_by_a_repeat_that_asks_to_store_it() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"text", mode="live")
    rig.publish(9, ALICE, b"later one")
    rig.hear(9)
    rig.publish(8, ALICE, b"text", ref=5)
    assert results(rig.hear(9)) == [(0, "stored", None)]
    assert results(rig.hear(8)) == [] and len(rig.stored()) == 2
    heard = rig.owner(1)
    assert texts(heard) == [b"later one", b"text"]
    seqs = [message.seq for message in messages(heard)]
    assert seqs == sorted(seqs)


def test_a_live_message_that_nobody_takes_in_time_is_undeliverable() -> None:
    rig = Rig()
    rig.owner(1)
    rig.publish(9, ALICE, b"text", mode="live")
    rig.advance(1.9)
    assert rig.hear(9) == []
    rig.advance(0.2)
    (result,) = rig.hear(9)
    assert isinstance(result, Result)
    assert (result.status, result.fallback) == ("undeliverable", True)
    assert rig.stored() == [] and rig.owner(2) and texts(rig.hear(2)) == []


def test_a_live_repeat_of_a_stored_message_that_nobody_takes_is_a_duplicate() -> None:
    rig = Rig()
    for place in (ALICE, wide(0xA11C)):
        rig.publish(9, place, b"text")
        rig.hear(9)
        heard = rig.publish(9, place, b"text", mode="live", receipts=["delivered"])
        heard += rig.publish(9, place, b"other", mode="live", ref=7)
        rig.advance(2.1)
        assert results(heard + rig.hear(9)) == [(0, "duplicate", "stored"), (7, "undeliverable", None)]
    session = rig.port.sessions[9]
    assert session.sender is not None
    assert session.sender.inflight_bytes == 0 and session.sender.receipts == set()


def test_a_live_repeat_that_an_owner_takes_while_the_store_is_asked_is_delivered() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"text")
    rig.hear(9)
    rig.owner(1)
    rig.publish(9, ALICE, b"text", mode="live")
    rig.broker.tick(rig.now + 2.1, rig.wall_ms)
    assert rig.broker.reads
    rig.ack(1, b"text")
    assert results(rig.hear(9)) == [(0, "duplicate", "delivered")]


def test_an_owner_who_comes_within_the_limit_gets_a_live_message_in_its_place() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"1")
    rig.publish(9, ALICE, b"2", mode="live")
    rig.publish(9, ALICE, b"3")
    assert texts(rig.owner(1)) == [b"1", b"2", b"3"]
    rig.ack(1, b"2")
    assert (0, "delivered", None) in results(rig.hear(9))


def test_a_live_message_to_a_bucket_is_undeliverable_and_read_all_the_same() -> None:
    rig = Rig()
    rig.bucket_reader(1, wide(0xA11C))
    assert results(rig.publish(9, wide(0xA11C), b"text", mode="live")) == [(0, "undeliverable", None)]
    assert texts(rig.hear(1)) == [b"text"]


def test_an_undeliverable_message_is_no_duplicate() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"text", mode="live")
    rig.advance(3)
    rig.hear(9)
    assert results(rig.publish(9, ALICE, b"text")) == [(0, "stored", None)]


def test_without_a_durable_store_stored_is_never_said() -> None:
    rig = Rig(durable=False)
    assert results(rig.publish(9, ALICE, b"nobody there")) == [(0, "undeliverable", None)]
    rig.owner(1)
    rig.publish(9, ALICE, b"a", b"b")
    rig.ack(1, b"a")
    assert results(rig.hear(9)) == [(0, "delivered", None)]
    rig.advance(3)
    assert results(rig.hear(9)) == [(1, "undeliverable", None)]
    assert rig.stored() == []


def test_receipts_tell_what_happens_later() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"a", receipts=["delivered", "expired"])
    rig.owner(1)
    rig.ack(1, b"a")
    assert receipts(rig.hear(9)) == [("delivered", ALICE)]


def test_receipts_never_repeat_what_the_result_said() -> None:
    rig = Rig()
    rig.owner(1)
    rig.publish(9, ALICE, b"a", receipts=["delivered"])
    rig.ack(1, b"a")
    heard = rig.hear(9)
    assert results(heard) == [(0, "delivered", None)]
    rig.ticks()
    assert receipts(heard + rig.hear(9)) == []
    heard = rig.publish(9, ALICE, b"a", receipts=["delivered"])
    assert results(heard) == [(0, "duplicate", "delivered")] and receipts(heard) == []


def test_receipts_come_only_if_asked_for() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"a")
    rig.publish(9, ALICE, b"b", receipts=["expired"])
    rig.owner(1)
    rig.ack(1, b"a", b"b")
    assert receipts(rig.hear(9)) == []


def test_a_repeat_adds_its_receipts_and_each_comes_once() -> None:
    rig = Rig()
    rig.publish(8, ALICE, b"a", receipts=["expired"])
    for _ in range(5):
        rig.publish(9, ALICE, b"a", receipts=["delivered"])
    rig.owner(1)
    rig.ack(1, b"a")
    assert receipts(rig.hear(9)) == [("delivered", ALICE)]
    assert receipts(rig.hear(8)) == []


def test_receipts_end_with_the_session() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"a", receipts=["delivered"])
    rig.publish(8, ALICE, b"a", receipts=["delivered"])
    rig.close(9)
    rig.owner(1)
    rig.ack(1, b"a")
    assert receipts(rig.hear(8)) == [("delivered", ALICE)]
    rig.ticks()
    rig.close(1)
    rig.close(8)
    assert rig.footprint() == {}


def test_a_receipt_says_that_a_message_has_expired() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"a", ttl_s=10, receipts=["delivered", "expired"])
    rig.advance(12)
    assert receipts(rig.hear(9)) == [("expired", ALICE)]
    assert rig.broker.counters.expired == 1


def test_a_result_comes_before_the_receipt_of_the_same_turn() -> None:
    rig = Rig()
    rig.publish(9, BOB, b"warm")
    rig.handle(9, publish(BOB, b"text", 1, receipts=["delivered"]))
    rig.settle()
    rig.owner(1, BOB)
    rig.ack(1, b"text")
    heard = rig.hear(9)
    assert [type(effect) for effect in heard] == [Result, Receipt]
