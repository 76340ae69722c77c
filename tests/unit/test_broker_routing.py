"""Who is sent a message, once and in which order (docs/protocol.md 0, 2.2 and 2.4)."""

from __future__ import annotations

import pytest
from broker_rig import (
    ALICE,
    BESIDE_ALICE,
    BOB,
    NAME,
    NEAR_ALICE,
    NOBODYS,
    TICK_S,
    Rig,
    messages,
    narrow,
    only,
    publish,
    texts,
    wide,
)
from posthouse.exchange import Attend, Effect
from posthouse.wire.messages import CaughtUp, Subscribed


def kinds(effects: list[Effect]) -> list[str]:
    return [type(effect).__name__ for effect in effects]


def test_an_owner_receives_its_own_address_and_no_other() -> None:
    rig = Rig()
    rig.owner(1, ALICE)
    rig.owner(2, BOB)
    rig.publish(9, ALICE, b"for alice")
    (message,) = messages(rig.hear(1))
    assert (message.ciphertext, message.recipient, message.bucket) == (b"for alice", ALICE, None)
    assert rig.hear(2) == []


@pytest.mark.parametrize("bucket", [wide(0xA11C), narrow(0xA11C)])
@pytest.mark.parametrize("before", [True, False])
def test_an_address_is_readable_under_both_of_its_buckets(bucket: str, before: bool) -> None:
    rig = Rig()
    if before:
        rig.publish(9, ALICE, b"text")
    heard = rig.bucket_reader(1, bucket)
    if not before:
        rig.publish(9, ALICE, b"text")
        heard = rig.hear(1)
    (message,) = messages(heard)
    assert (message.ciphertext, message.recipient, message.bucket) == (b"text", None, bucket)


def test_a_wide_bucket_does_not_bring_the_neighbours_of_its_narrow_one() -> None:
    rig = Rig()
    rig.bucket_reader(1, wide(0xA11C))
    rig.bucket_reader(2, narrow(0xA11C))
    rig.publish(9, NEAR_ALICE, b"near")
    rig.publish(9, BESIDE_ALICE, b"beside")
    rig.publish(9, BOB, b"far")
    assert texts(rig.hear(1)) == [b"beside"]
    assert texts(rig.hear(2)) == [b"near", b"beside"]


def test_a_message_to_a_bucket_goes_to_its_readers_only() -> None:
    rig = Rig()
    rig.owner(1, ALICE)
    rig.bucket_reader(2, wide(0xA11C))
    rig.bucket_reader(3, narrow(0xA11C))
    rig.publish(9, wide(0xA11C), b"to the bucket")
    assert rig.hear(1) == [] and rig.hear(3) == []
    assert texts(rig.hear(2)) == [b"to the bucket"]
    assert texts(rig.bucket_reader(4, wide(0xA11C))) == [b"to the bucket"]


def test_a_bucket_of_no_address_is_a_bucket_too() -> None:
    rig = Rig()
    rig.publish(9, NOBODYS, b"before")
    assert texts(rig.bucket_reader(1, NOBODYS)) == [b"before"]
    rig.publish(9, NOBODYS, b"after")
    assert texts(rig.hear(1)) == [b"after"]


def test_all_sessions_of_a_key_receive_until_one_acks() -> None:
    rig = Rig()
    rig.owner(1)
    rig.owner(2)
    rig.publish(9, ALICE, b"text")
    assert texts(rig.hear(1)) == texts(rig.hear(2)) == [b"text"]
    rig.ack(1, b"text")
    assert texts(rig.owner(3)) == []


def test_after_one_session_acks_what_all_have_from_the_store_a_busy_one_is_not_sent_it_again() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"text")
    rig.owner(1)
    assert texts(rig.owner(2)) == [b"text"]
    rig.nack(2, "busy", b"text", retry_after_ms=50)
    rig.ack(1, b"text")
    rig.advance(0.2)
    assert texts(rig.hear(2)) == []


def test_the_backlog_comes_in_the_order_of_seq_then_caught_up_then_live() -> None:
    rig = Rig(page_rows=2)
    rig.publish(9, ALICE, b"a", b"b", b"c", b"d", b"e")
    heard = rig.owner(1)
    assert kinds(heard) == ["Subscribed", *["Message"] * 5, "CaughtUp"]
    assert [message.seq for message in messages(heard)] == [1, 2, 3, 4, 5]
    rig.publish(9, ALICE, b"f")
    assert texts(rig.hear(1)) == [b"f"]


def test_several_places_of_one_subscribe_come_in_one_order_of_seq() -> None:
    rig = Rig(page_rows=3)
    places = [ALICE, BOB, NOBODYS, NEAR_ALICE]
    for n in range(40):
        rig.publish(9, places[n % 4], b"%d" % n)
    rig.open(1, ALICE)
    heard = rig.attend(1, ALICE, wide(0xB0B0), NOBODYS, narrow(0xA11C))
    assert texts(heard) == [b"%d" % n for n in range(40)]
    assert kinds(heard).count("CaughtUp") == 1 and kinds(heard)[-1] == "CaughtUp"
    rig.publish(9, BOB, b"live")
    assert texts(rig.hear(1)) == [b"live"]


def test_several_places_keep_their_order_within_a_small_window() -> None:
    rig = Rig(page_rows=3)
    places = [ALICE, BOB, NOBODYS]
    for n in range(20):
        rig.publish(9, places[n % 3], b"%d" % n)
    rig.open(1, ALICE, window=2)
    heard = rig.attend(1, ALICE, wide(0xB0B0), NOBODYS)
    got: list[bytes] = []
    while fresh := texts(heard):
        assert len(fresh) <= 2
        got += fresh
        heard = rig.ack(1, *fresh)
    assert got == [b"%d" % n for n in range(20)]
    assert kinds(heard) == [] or kinds(heard) == ["CaughtUp"]


def test_messages_published_while_the_backlog_is_read_are_neither_lost_nor_doubled() -> None:
    rig = Rig(page_rows=2)
    rig.publish(9, ALICE, b"0", b"1", b"2", b"3")
    rig.open(1, ALICE)
    rig.handle(1, Attend(1, [ALICE], [], None, True))
    for n in range(4, 12):
        rig.look()
        rig.handle(9, publish(ALICE, b"%d" % n))
        rig.begin()
        rig.write()
        rig.answer()
        rig.finish()
    rig.settle()
    assert texts(rig.hear(1)) == [b"%d" % n for n in range(12)]


def test_a_bucket_is_not_read_past_a_message_that_is_still_pending() -> None:
    """The mailboxes of a bucket do not commit in one order: 2 is in the store before 1."""
    rig = Rig()
    rig.owner(5, ALICE)
    rig.publish(9, ALICE, b"first")  # waits for Alice's ack
    rig.publish(9, BESIDE_ALICE, b"second")  # goes to the store at once
    assert texts(rig.bucket_reader(1, wide(0xA11C))) == []
    rig.ticks(4)
    assert texts(rig.hear(1)) == [b"first", b"second"]


def test_a_bucket_reader_that_waited_for_a_pending_message_goes_on_when_it_is_acknowledged() -> None:
    """Nothing is committed to its bucket then: only the passing of a tick wakes it."""
    rig = Rig()
    rig.publish(9, BESIDE_ALICE, b"stored")
    rig.owner(5, BOB)
    rig.publish(9, BOB, b"elsewhere")
    rig.publish(9, BESIDE_ALICE, b"stored too")
    assert texts(rig.bucket_reader(1, wide(0xA11C))) == [b"stored"]
    rig.ack(5, b"elsewhere")
    rig.advance(1.5 * TICK_S)
    assert texts(rig.hear(1)) == [b"stored too"]


def test_what_is_pending_in_memory_comes_with_the_backlog() -> None:
    rig = Rig()
    rig.owner(1)
    rig.publish(9, ALICE, b"text")
    heard = rig.owner(2)
    assert texts(heard) == [b"text"]
    assert only(Subscribed, heard).pending.count == 1


def test_subscribing_again_is_idempotent() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"a")
    rig.owner(1)
    heard = rig.attend(1, ALICE, ref=2)
    assert texts(heard) == []
    assert only(CaughtUp, heard).ref == 2
    rig.publish(9, ALICE, b"b")
    assert texts(rig.hear(1)) == [b"b"]


def test_every_subscribe_is_told_once_that_it_has_caught_up() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"a", b"b", b"c")
    rig.open(1, ALICE, window=1)
    heard = rig.attend(1, ALICE, ref=1) + rig.attend(1, ALICE, ref=2)
    assert "CaughtUp" not in kinds(heard)
    heard = rig.ack(1, b"a") + rig.ack(1, b"b") + rig.ack(1, b"c")
    assert [effect.ref for effect in heard if isinstance(effect, CaughtUp)] == [1, 2]


def test_caught_up_is_said_when_the_backlog_just_fills_the_window() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"a", b"b")
    assert kinds(rig.owner(1, window=2)) == ["Subscribed", "Message", "Message", "CaughtUp"]


def test_a_subscribe_ended_before_it_has_caught_up_is_told_so() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"a", b"b", b"c")
    rig.open(1, ALICE, window=1)
    rig.attend(1, ALICE, wide(0xB0B0), ref=1)
    heard = rig.unsubscribe(1, ALICE, ref=2) + rig.ack(1, b"a")
    assert [effect.ref for effect in heard if isinstance(effect, CaughtUp)] == [1]
    rig.attend(1, ALICE, ref=3)
    rig.attend(1, ALICE, ref=4)
    heard = rig.unsubscribe(1, ref=5)
    assert [effect.ref for effect in heard if isinstance(effect, CaughtUp)] == [3, 4]


def test_without_live_there_is_the_backlog_and_nothing_after() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"a")
    rig.open(1, ALICE)
    assert kinds(rig.attend(1, ALICE, live=False)) == ["Subscribed", "Message", "CaughtUp"]
    rig.publish(9, ALICE, b"b")
    assert rig.hear(1) == []


def test_asking_for_the_backlog_again_brings_what_has_come_since() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"a")
    rig.open(1, ALICE)
    rig.attend(1, ALICE, live=False)
    rig.publish(9, ALICE, b"b")
    assert texts(rig.attend(1, ALICE, live=False)) == [b"b"]
    rig.publish(9, ALICE, b"c")
    assert texts(rig.attend(1, ALICE, live=True)) == [b"c"]


def test_address_and_bucket_of_one_session_bring_a_message_once() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"a")
    rig.open(1, ALICE)
    heard = rig.attend(1, ALICE, wide(0xA11C), narrow(0xA11C))
    rig.publish(9, ALICE, b"b")
    both = messages(heard + rig.hear(1))
    assert [message.ciphertext for message in both] == [b"a", b"b"]
    assert [message.recipient for message in both] == [ALICE, ALICE]
    rig.ack(1, b"a", b"b")
    rig.commit()
    assert rig.stored() == []


def test_two_buckets_of_one_session_bring_a_message_once() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"a")
    rig.open(1)
    heard = rig.attend(1, wide(0xA11C), narrow(0xA11C))
    rig.publish(9, ALICE, b"b")
    assert texts(heard + rig.hear(1)) == [b"a", b"b"]
    rig.ack(1, b"a", b"b")
    rig.commit()
    rig.open(2)
    assert texts(rig.attend(2, wide(0xA11C), narrow(0xA11C))) == []


def test_what_came_by_bucket_is_acknowledged_as_the_owner_once_the_address_is_subscribed_to() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"a")
    rig.open(1, ALICE)
    assert texts(rig.attend(1, wide(0xA11C))) == [b"a"]
    assert texts(rig.attend(1, ALICE)) == []
    rig.ack(1, b"a")
    rig.commit()
    assert rig.stored() == []


def test_the_same_ciphertext_in_two_mailboxes_of_a_bucket_is_two_messages() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"same")
    rig.publish(9, BESIDE_ALICE, b"same")
    assert texts(rig.bucket_reader(1, wide(0xA11C))) == [b"same", b"same"]
    rig.ack(1, b"same")
    rig.commit()
    assert texts(rig.bucket_reader(2, wide(0xA11C))) == []
    assert texts(rig.owner(3, ALICE)) == [b"same"]


def test_after_unsubscribe_nothing_comes_and_what_was_sent_can_be_acknowledged() -> None:
    rig = Rig()
    rig.owner(1)
    rig.publish(9, ALICE, b"a")
    assert texts(rig.unsubscribe(1)) == [b"a"]
    rig.publish(9, ALICE, b"b")
    assert rig.hear(1) == []
    rig.ack(1, b"a", b"b")
    assert texts(rig.owner(2)) == [b"b"]


def test_an_ack_counts_for_a_bucket_that_was_left() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"a")
    rig.bucket_reader(1, wide(0xA11C))
    rig.unsubscribe(1, wide(0xA11C))
    rig.ack(1, b"a")
    rig.commit()
    assert texts(rig.bucket_reader(2, wide(0xA11C))) == []


def test_unsubscribe_ends_only_what_it_names_and_counts_what_stays() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"a")
    rig.publish(9, BOB, b"bob")
    rig.open(1, ALICE)
    rig.attend(1, ALICE, wide(0xB0B0))
    heard = rig.unsubscribe(1, ALICE, ref=5)
    answer = only(Subscribed, heard)
    assert (answer.ref, answer.pending.count, answer.pending.bytes) == (5, 1, 3)
    rig.publish(9, ALICE, b"b")
    rig.publish(9, BOB, b"bob too")
    assert texts(rig.hear(1)) == [b"bob too"]


def test_a_bucket_brings_what_an_address_without_room_was_passed_over_with() -> None:
    rig = Rig()
    rig.open(1, ALICE, window=1)
    rig.attend(1, ALICE)
    rig.attend(1, wide(0xA11C))
    rig.hear(1)
    rig.publish(9, ALICE, b"1", b"2")  # the second waits for room, as the owner's
    assert texts(rig.hear(1)) == [b"1"]
    rig.unsubscribe(1, ALICE)
    rig.ticks()
    assert texts(rig.ack(1, b"1")) == [b"2"]


def test_pending_counts_a_message_under_overlapping_names_once() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"a", b"bb")
    rig.publish(9, NEAR_ALICE, b"ccc")
    rig.open(1, ALICE)
    pending = only(Subscribed, rig.attend(1, ALICE, wide(0xA11C), narrow(0xA11C))).pending
    assert (pending.count, pending.bytes) == (3, 6)


def test_pending_of_a_bucket_leaves_out_what_its_reader_has_acknowledged() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"a", b"b")
    rig.bucket_reader(1, wide(0xA11C))
    rig.ack(1, b"a")
    rig.commit()
    heard = rig.bucket_reader(2, wide(0xA11C))
    assert only(Subscribed, heard).pending.count == 1
    assert texts(heard) == [b"b"]


def test_an_outstanding_message_is_offered_again_when_its_session_ends() -> None:
    rig = Rig()
    rig.owner(1)
    rig.publish(9, ALICE, b"pending")
    rig.close(1)
    (message,) = messages(rig.owner(2))
    assert (message.ciphertext, message.deliveries) == (b"pending", 2)
    rig.close(2)
    rig.commit()
    (message,) = messages(rig.owner(3))
    assert message.deliveries == 3


def test_deliveries_are_counted_for_each_reader() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"a")
    rig.bucket_reader(1, wide(0xA11C))
    rig.close(1)
    (again,) = messages(rig.bucket_reader(2, wide(0xA11C)))
    (other,) = messages(rig.bucket_reader(3, wide(0xA11C), "name/another-reader-name"))
    assert (again.deliveries, other.deliveries) == (2, 1)


def test_another_reader_name_on_the_same_session_begins_anew() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"a", b"b")
    rig.bucket_reader(1, wide(0xA11C), NAME)
    rig.ack(1, b"a")
    assert texts(rig.attend(1, wide(0xA11C), reader="name/another-reader-name")) == [b"a"]


def test_a_window_of_a_legacy_session_is_unlimited_and_begins_with_the_newest() -> None:
    rig = Rig()
    rig.publish(9, ALICE, *(b"%d" % n for n in range(10)))
    rig.open(1, window=0)
    heard = rig.attend(1, wide(0xA11C), reader="legacy/user", newest=4)
    assert texts(heard) == [b"6", b"7", b"8", b"9"]
    rig.publish(9, ALICE, *(b"more %d" % n for n in range(300)))
    assert len(texts(rig.hear(1))) == 300


def test_a_reader_without_a_name_gets_everything_again_on_its_next_session() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"a")
    rig.bucket_reader(1, wide(0xA11C), None)
    rig.ack(1, b"a")
    rig.commit()
    rig.close(1)
    assert texts(rig.bucket_reader(2, wide(0xA11C), None)) == [b"a"]


def test_seq_rises_across_promotions_over_messages_that_never_reached_the_store() -> None:
    rig = Rig()
    rig.owner(1)
    rig.publish(9, ALICE, b"elided")
    (before,) = messages(rig.hear(1))
    rig.ack(1, b"elided")
    rig.promote()
    rig.owner(1)
    rig.publish(9, ALICE, b"next")
    (after,) = messages(rig.hear(1))
    assert after.seq > before.seq
