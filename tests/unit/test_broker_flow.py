"""Windows, credit, acks and nacks (docs/protocol.md 2.2 and 2.5)."""

from __future__ import annotations

import pytest
from broker_rig import ALICE, BESIDE_ALICE, NAME, TICK_S, Rig, id_of, messages, publish, results, texts, wide
from posthouse.exchange import Attend
from posthouse.wire.messages import Ack, Nack


@pytest.mark.parametrize("window", [1, 2, 3, 7])
@pytest.mark.parametrize("before", [True, False])
def test_the_window_is_never_exceeded_and_acks_bring_the_rest(window: int, before: bool) -> None:
    rig = Rig()
    everything = [b"%d" % n for n in range(20)]
    if before:
        rig.publish(9, ALICE, *everything)
    heard = rig.owner(1, window=window)
    if not before:
        rig.publish(9, ALICE, *everything)
        heard += rig.hear(1)
    got: list[bytes] = []
    while fresh := texts(heard):
        assert len(fresh) <= window
        got += fresh
        rig.handle(1, Ack([id_of(text) for text in fresh]))
        rig.ticks()
        heard = rig.hear(1)
    assert got == everything


def test_a_window_covers_addresses_and_buckets_together() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"a", b"b")
    rig.publish(9, BESIDE_ALICE, b"c", b"d")
    rig.open(1, ALICE, window=3)
    assert len(texts(rig.attend(1, ALICE, wide(0xA11C)))) == 3


def test_without_credit_nothing_is_sent_and_credit_brings_the_rest() -> None:
    rig = Rig()
    rig.owner(1, credit=10)
    rig.publish(9, ALICE, b"x" * 8, b"y" * 8, b"z" * 8)
    assert texts(rig.hear(1)) == [b"x" * 8, b"y" * 8]
    assert rig.ack(1, b"x" * 8) == []
    assert texts(rig.credit(1, 16)) == [b"z" * 8]


def test_a_reader_that_fell_behind_becomes_live_again() -> None:
    rig = Rig()
    rig.owner(1, window=2)
    rig.publish(9, ALICE, b"a", b"b", b"c", b"d")
    assert texts(rig.ack(1, b"a", b"b")) == [b"a", b"b", b"c", b"d"]
    rig.ack(1, b"c", b"d")
    rig.ticks()
    batches = len(rig.batches)
    rig.publish(9, ALICE, b"live")
    rig.ack(1, b"live")
    assert len(rig.batches) == batches, "elided, so it was sent live"


def test_rather_than_read_small_pages_it_waits_one_tick_for_more_acks() -> None:
    rig = Rig()
    rig.publish(9, ALICE, *(b"%d" % n for n in range(200)))
    rig.owner(1, window=100)
    assert texts(rig.ack(1, b"0")) == []
    assert len(texts(rig.ack(1, *(b"%d" % n for n in range(1, 60))))) == 60
    rig.ack(1, b"60")
    rig.advance(1.5 * TICK_S)
    assert texts(rig.hear(1)) == [b"160"]


def test_a_slow_reader_does_not_hold_another_back() -> None:
    rig = Rig()
    rig.bucket_reader(1, wide(0xA11C), NAME, window=1)
    rig.bucket_reader(2, wide(0xA11C), "name/another-reader-name")
    rig.publish(9, ALICE, b"a", b"b", b"c")
    assert texts(rig.hear(1)) == [b"a"]
    assert texts(rig.hear(2)) == [b"a", b"b", b"c"]


def test_acks_are_idempotent_and_unknown_ids_are_passed_over() -> None:
    rig = Rig()
    rig.owner(1)
    rig.publish(9, ALICE, b"a")
    rig.ack(1, b"never sent", b"a", b"a")
    rig.ack(1, b"a")
    assert results(rig.hear(9)) == [(0, "delivered", None)]
    assert rig.broker.counters.acked == 1


def test_nobody_acknowledges_what_it_was_not_sent() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"a")
    rig.open(1, ALICE)
    rig.ack(1, b"a")
    rig.bucket_reader(2, wide(0xA11C))
    rig.ack(2, b"a")
    rig.commit()
    assert rig.stored() == [1]
    assert texts(rig.owner(3)) == [b"a"]


def test_the_ack_of_a_bucket_reader_marks_that_reader_only() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"a")
    rig.bucket_reader(1, wide(0xA11C), NAME)
    rig.ack(1, b"a")
    rig.commit()
    assert texts(rig.bucket_reader(2, wide(0xA11C), NAME)) == []
    assert texts(rig.bucket_reader(3, wide(0xA11C), "name/another-reader-name")) == [b"a"]


def test_the_ack_of_a_bucket_reader_counts_before_the_message_is_in_the_store() -> None:
    """Its mark must not be written before the message is: marks of messages that are not there are passed over."""
    rig = Rig()
    rig.owner(1, ALICE)
    rig.bucket_reader(2, wide(0xA11C))
    rig.publish(9, ALICE, b"a")
    rig.ack(2, b"a")
    rig.commit()
    assert rig.stored() == []
    rig.ticks(4)
    assert rig.stored() == [1]
    assert texts(rig.bucket_reader(3, wide(0xA11C))) == []


def test_the_ack_of_a_bucket_reader_covers_a_repeat_that_is_on_its_way() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"a")
    assert texts(rig.bucket_reader(1, wide(0xA11C), NAME)) == [b"a"]
    rig.handle(9, publish(ALICE, b"a"))
    rig.handle(1, Ack([id_of(b"a")]))
    rig.ticks()
    assert texts(rig.hear(1)) == []
    assert texts(rig.bucket_reader(2, wide(0xA11C), NAME)) == []


def test_a_mark_outlives_a_repeat_that_asked_for_more_while_the_message_was_written() -> None:
    rig = Rig()
    rig.bucket_reader(1, wide(0xA11C))
    rig.open(9)
    rig.handle(9, publish(ALICE, b"text", 1, ttl_s=60))
    while rig.answer():
        pass
    assert rig.begin()
    rig.handle(9, publish(ALICE, b"text", 2, ttl_s=3600))
    rig.handle(1, Ack([id_of(b"text")]))
    rig.hear(9)
    rig.finish()
    rig.commit()
    assert results(rig.hear(9)) == [(1, "stored", None), (2, "duplicate", "stored")]
    rig.advance(61)
    assert texts(rig.bucket_reader(2, wide(0xA11C))) == []
    assert texts(rig.owner(3)) == [b"text"]


def test_an_owner_holding_a_stored_message_is_not_sent_its_repeat_and_one_ack_ends_both() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"a")
    rig.owner(1)
    assert rig.publish(8, ALICE, b"a") == []
    assert rig.hear(1) == []
    rig.ack(1, b"a")
    assert results(rig.hear(8)) == [(0, "duplicate", "delivered")]
    rig.ticks()
    assert rig.stored() == []


@pytest.mark.parametrize("code", ["not-mine", "undecryptable"])
def test_a_bucket_readers_nack_is_as_its_ack(code: str) -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"a", receipts=["delivered", "expired"])
    rig.bucket_reader(1, wide(0xA11C))
    rig.nack(1, code, b"a")
    rig.commit()
    assert rig.hear(9) == [] and rig.stored() == [1]
    assert texts(rig.bucket_reader(2, wide(0xA11C))) == []


def test_not_mine_of_an_owner_keeps_the_message_and_frees_its_window() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"a", b"b")
    rig.owner(1, window=1)
    assert texts(rig.nack(1, "not-mine", b"a")) == [b"b"]
    assert rig.stored() == [1, 2]


def test_undecryptable_of_an_owner_deletes_a_stored_message() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"a", receipts=["delivered", "expired"])
    rig.owner(1)
    rig.nack(1, "undecryptable", b"a")
    assert [getattr(effect, "status", None) for effect in rig.hear(9)] == ["expired"]
    rig.ticks()
    assert rig.stored() == []
    assert rig.broker.counters.nacked["undecryptable"] == 1
    assert results(rig.publish(9, ALICE, b"a")) == [(0, "stored", None)] or rig.hear(1)


@pytest.mark.parametrize("step", ["pending", "committing", "repeated"])
def test_undecryptable_before_the_result_makes_it_undeliverable(step: str) -> None:
    rig = Rig()
    if step == "repeated":
        rig.publish(8, ALICE, b"a")
    rig.owner(1)
    rig.publish(9, ALICE, b"a")
    if step == "committing":
        for _ in range(2):
            rig.now += 2 * TICK_S
            rig.tick()
        rig.write()
    rig.handle(1, Nack([id_of(b"a")], "undecryptable"))
    assert results(rig.hear(9)) == [(0, "undeliverable", None)]
    rig.ticks(4)
    assert rig.stored() == [] and rig.hear(9) == []


@pytest.mark.parametrize("reader", ["owner", "bucket"])
@pytest.mark.parametrize("committed", [True, False])
def test_busy_offers_the_message_again_after_the_delay(reader: str, committed: bool) -> None:
    rig = Rig()
    if reader == "owner":
        rig.owner(1)
    else:
        rig.bucket_reader(1, wide(0xA11C))
    rig.publish(9, ALICE, b"a", mode="store" if committed else "live")
    if committed:
        rig.ticks()
    rig.nack(1, "busy", b"a", retry_after_ms=500)
    rig.hear(1)
    rig.advance(0.4)
    assert texts(rig.hear(1)) == []
    rig.advance(0.2)
    (again,) = messages(rig.hear(1))
    assert (again.ciphertext, again.deliveries) == (b"a", 2)
    rig.advance(2)
    assert texts(rig.hear(1)) == []


def test_busy_without_a_delay_takes_the_default() -> None:
    rig = Rig(busy_retry_ms=100)
    rig.publish(9, ALICE, b"a")
    rig.owner(1)
    rig.nack(1, "busy", b"a")
    rig.advance(0.2)
    assert texts(rig.hear(1)) == [b"a"]


def test_an_ack_ends_a_busy() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"a")
    rig.owner(1)
    rig.nack(1, "busy", b"a", retry_after_ms=50)
    rig.ack(1, b"a")
    rig.advance(1)
    assert texts(rig.hear(1)) == []


def test_what_another_session_of_the_reader_has_marked_is_not_offered_again_after_a_busy() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"a")
    rig.bucket_reader(1, wide(0xA11C))
    rig.bucket_reader(2, wide(0xA11C))
    rig.nack(1, "busy", b"a", retry_after_ms=50)
    rig.ack(2, b"a")
    rig.advance(1)
    assert texts(rig.hear(1)) == []


def test_put_off_messages_of_closed_sessions_are_forgotten() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"a", b"b")
    for number in range(20):
        rig.owner(number)
        for _ in range(3):
            rig.nack(number, "busy", b"a", b"b", retry_after_ms=86_400_000)
        rig.close(number)
    assert not rig.broker._acks._busy


def test_busy_a_hundred_times_is_put_off_once() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"a")
    rig.owner(1)
    for _ in range(100):
        rig.nack(1, "busy", b"a", retry_after_ms=86_400_000)
    assert len(rig.broker._acks._busy) == 1


@pytest.mark.parametrize("reader", ["owner", "bucket"])
def test_an_ack_is_not_undone_by_a_page_read_before_it_was_committed(reader: str) -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"a")
    if reader == "owner":
        rig.owner(1)
        rig.open(2, ALICE)
        rig.handle(2, Attend(1, [ALICE], [], None, True))
    else:
        rig.bucket_reader(1, wide(0xA11C))
        rig.open(2)
        rig.handle(2, Attend(1, [], [wide(0xA11C)], NAME, True))
        rig.answer()
    rig.look()
    rig.handle(1, Ack([id_of(b"a")]))
    assert rig.begin()
    rig.finish()
    assert rig.answer()
    rig.settle()
    assert texts(rig.hear(2)) == []
    departures = rig.broker._delivery.departures
    assert not departures.seqs and not departures.marks
