"""A front goes on at another broker from what it remembers: the broker is lost, with what nobody had taken."""

from __future__ import annotations

import pytest
from broker_rig import ALICE, BOB, Rig, id_of, messages, publish, results, texts, wide
from posthouse.exchange import Attend, Close, Effect
from posthouse.wire.messages import (
    Ack,
    CaughtUp,
    Nack,
    Receipt,
    StatusRequest,
    Subscribed,
    Unsubscribe,
)

BUCKET = wide(0xA11C)


def lost(rig: Rig) -> None:
    rig.lose()
    rig.settle()


def of(kind: type[Effect], effects: list[Effect]) -> list[Effect]:
    return [effect for effect in effects if isinstance(effect, kind)]


def test_a_reader_goes_on_reading_and_is_not_asked_anything() -> None:
    rig = Rig()
    rig.owner(1)
    lost(rig)
    assert rig.hear(1) == []
    rig.publish(9, ALICE, b"new")
    assert texts(rig.hear(1)) == [b"new"]


def test_what_was_sent_is_not_sent_again_and_what_was_not_taken_is() -> None:
    rig = Rig()
    rig.owner(1)
    rig.publish(9, ALICE, b"taken")
    assert texts(rig.hear(1)) == [b"taken"]
    rig.ticks()
    rig.handle(9, publish(ALICE, b"not taken", 1))
    lost(rig)
    assert texts(rig.hear(1)) == [b"not taken"]
    rig.ack(1, b"taken", b"not taken")
    rig.commit()
    assert rig.stored() == []


def test_an_ack_that_no_commit_has_confirmed_is_not_lost() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"stored")
    rig.owner(1)
    rig.hear(1)
    rig.handle(1, Ack([id_of(b"stored")]))
    rig.listen()  # nothing confirms it yet
    lost(rig)
    rig.commit()
    assert rig.stored() == [] and texts(rig.hear(1)) == []


def test_an_ack_that_is_for_good_is_not_remembered_for_ever() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"stored")
    rig.owner(1)
    rig.ack(1, b"stored")
    rig.commit()
    rig.listen()
    resume = rig.memory.resume()[0][1][0]
    assert (resume.acked, resume.held) == ([], [])  # type: ignore[union-attr]


def test_a_publish_whose_result_was_lost_gets_one() -> None:
    rig = Rig()
    rig.publish(9, BOB, b"warm")
    rig.hear(9)
    rig.handle(9, publish(BOB, b"text", 4))
    rig.begin()
    rig.finish()  # the result waits at the port
    lost(rig)
    assert results(rig.hear(9)) == [(4, "duplicate", "stored")]


def test_two_publishes_with_one_ref_get_a_result_each() -> None:
    rig = Rig()
    rig.open(9)
    rig.handle(9, publish(BOB, b"1", 4), publish(BOB, b"2", 4))
    lost(rig)
    assert results(rig.hear(9)) == [(4, "stored", None)] * 2
    assert len(rig.stored()) == 2


def test_a_delivered_message_whose_result_was_lost_is_delivered_at_once() -> None:
    rig = Rig()
    rig.owner(1)
    rig.publish(9, ALICE, b"text", ref=3)
    assert texts(rig.hear(1)) == [b"text"]
    rig.handle(1, Ack([id_of(b"text")]))
    lost(rig)  # before anybody has taken the result
    assert results(rig.hear(9)) == [(3, "duplicate", "delivered")]
    assert texts(rig.hear(1)) == []


def test_open_requests_are_made_again_and_answered_ones_are_not() -> None:
    rig = Rig()
    rig.open(1, ALICE)
    rig.attend(1, ALICE, ref=1)
    rig.handle(1, Attend(2, [], [BUCKET], f"key/{ALICE}", True), StatusRequest(3))
    lost(rig)
    heard = rig.hear(1)
    assert [effect.ref for effect in of(Subscribed, heard)] == [2]  # type: ignore[union-attr]
    assert [effect.ref for effect in of(CaughtUp, heard)] == [2]  # type: ignore[union-attr]
    lost(rig)
    assert rig.hear(1) == []


def test_what_was_unsubscribed_stays_so() -> None:
    rig = Rig()
    rig.open(1, ALICE)
    rig.attend(1, ALICE, BUCKET, reader=f"key/{ALICE}")
    rig.unsubscribe(1, ALICE, ref=5)
    rig.handle(1, Unsubscribe(6, None, [BUCKET]))
    lost(rig)
    assert [effect.ref for effect in of(Subscribed, rig.hear(1))] == [6]  # type: ignore[union-attr]
    rig.publish(9, ALICE, b"text")
    assert texts(rig.hear(1)) == []


def test_a_backlog_goes_on_and_is_caught_up_once() -> None:
    rig = Rig(page_rows=2)
    bodies = [b"%d" % n for n in range(7)]
    rig.publish(9, ALICE, *bodies)
    rig.open(1, ALICE, window=2)
    heard = rig.attend(1, ALICE, ref=7)
    for _ in range(8):
        lost(rig)
        heard += rig.hear(1)
        held = [message.ciphertext for message in messages(heard)][-2:]
        heard += rig.ack(1, *held)
    assert texts(heard) == bodies
    assert of(CaughtUp, heard) == [CaughtUp(7)]


@pytest.mark.parametrize("code", ["busy", "not-mine", "undecryptable"])
def test_a_nack_is_remembered_as_far_as_it_matters(code: str) -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"text")
    rig.bucket_reader(1, BUCKET)
    rig.hear(1)
    rig.handle(1, Nack([id_of(b"text")], code, 60_000))  # type: ignore[arg-type]
    lost(rig)
    assert texts(rig.hear(1)) == ([b"text"] if code == "busy" else [])


def test_receipts_are_still_owed() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"1", ref=1, receipts=["delivered"])
    rig.publish(9, ALICE, b"1", ref=2, receipts=["delivered"])
    rig.hear(9)
    lost(rig)
    rig.owner(1)
    rig.ack(1, b"1")
    assert [effect.status for effect in of(Receipt, rig.hear(9))] == ["delivered"]  # type: ignore[union-attr]
    assert rig.memory.resume()[1][1][0].wanted == []  # type: ignore[union-attr]


def test_credit_goes_on_where_it_was() -> None:
    rig = Rig()
    rig.owner(1, credit=10)
    rig.publish(9, ALICE, b"1" * 8, b"2" * 8, b"3" * 8)
    assert len(texts(rig.hear(1))) == 2
    lost(rig)
    assert rig.port.sessions[1].credit <= 0 and rig.hear(1) == []
    assert texts(rig.credit(1, 8)) == [b"3" * 8]


def test_an_ended_session_is_forgotten() -> None:
    rig = Rig()
    rig.owner(1)
    rig.handle(1, Close())
    assert len(rig.memory) == 0 and rig.memory.resume() == []
