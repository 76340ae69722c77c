"""Sessions that go on at another broker: nothing is asked of their clients, nothing is sent twice, nothing is lost."""

from __future__ import annotations

from broker_rig import ALICE, BOB, NAME, Rig, id_of, messages, publish, results, texts, wide
from posthouse.exchange import Attend, Close, Effect, Held, Open, Resume, Superseded
from posthouse.wire.messages import Ack, CaughtUp, Message, Nack, Receipt, Result, StatusRequest, Subscribed

BUCKET = wide(0xA11C)


def handed_over(rig: Rig) -> None:
    rig.finish_all()
    rig.hand_over()
    rig.settle()


def fenced(rig: Rig) -> None:
    rig.hand_over()
    rig.settle()


def kinds(effects: list[Effect]) -> list[type]:
    return [type(effect) for effect in effects]


def test_a_reader_goes_on_reading_and_is_not_asked_anything() -> None:
    rig = Rig()
    rig.owner(1)
    handed_over(rig)
    assert rig.hear(1) == []
    rig.publish(9, ALICE, b"new")
    assert texts(rig.hear(1)) == [b"new"]
    assert rig.broker.epoch == 2


def test_what_a_client_holds_is_not_sent_again_and_its_ack_deletes_it() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"stored")
    assert texts(rig.owner(1)) == [b"stored"]
    handed_over(rig)
    assert rig.hear(1) == [] and rig.stored() != []
    rig.ack(1, b"stored")
    rig.commit()
    assert rig.stored() == []
    assert texts(rig.owner(2)) == []


def test_an_ack_that_comes_before_the_store_has_shown_the_message_deletes_it_too() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"stored", b"other")
    rig.owner(1)
    rig.finish_all()
    rig.hand_over()
    rig.handle(1, Ack([id_of(b"stored")]))  # nothing has been read yet
    rig.settle()
    rig.commit()
    assert len(rig.stored()) == 1
    assert texts(rig.hear(1)) == []
    rig.close(1)
    assert texts(rig.owner(2)) == [b"other"]


def test_a_publish_without_a_result_is_made_again_and_its_reader_has_it_once() -> None:
    rig = Rig()
    rig.owner(1)
    rig.publish(9, ALICE, b"under way", ref=5)
    assert texts(rig.hear(1)) == [b"under way"] and rig.hear(9) == []
    fenced(rig)
    assert rig.hear(1) == []
    rig.ack(1, b"under way")
    assert results(rig.hear(9)) == [(5, "delivered", None)]
    rig.commit()
    assert rig.stored() == []


def test_every_kind_of_publish_without_a_result_gets_one_from_the_next_broker() -> None:
    rig = Rig()
    rig.owner(1)
    rig.publish(9, ALICE, b"out", ref=1)
    rig.publish(9, ALICE, b"out", ref=2)  # a repeat
    rig.publish(9, ALICE, b"live", ref=3, mode="live")
    rig.publish(9, BOB, b"delivered before", ref=4)
    rig.hear(9)
    rig.owner(2, BOB)
    rig.ack(2, b"delivered before")
    rig.commit()
    rig.handle(9, publish(BOB, b"delivered before", 5))  # waits for a checked commit
    rig.handle(9, publish(BOB, b"in the batch", 6))
    rig.begin()
    rig.handle(9, publish(BOB, b"in the batch", 7, ttl_s=10**6))  # asks for more than what is being written
    rig.handle(9, publish(ALICE, b"out too", 8))
    fenced(rig)
    rig.ack(1, b"out", b"live", b"out too")
    rig.advance(3)
    heard = results(rig.hear(9))
    assert sorted(ref for ref, _, _ in heard) == [1, 2, 3, 5, 6, 7, 8]
    assert {ref: status for ref, status, _ in heard}[3] == "delivered"
    assert "rejected" not in {status for _, status, _ in heard}


def test_a_publish_that_waited_for_its_mailbox_is_made_again() -> None:
    rig = Rig()
    rig.open(9)
    rig.handle(9, publish(BOB, b"text", 4))
    assert rig.broker.reads
    fenced(rig)
    assert results(rig.hear(9)) == [(4, "stored", None)]


def test_a_publish_whose_batch_was_written_unheard_is_a_duplicate() -> None:
    rig = Rig()
    rig.publish(9, BOB, b"warm")
    rig.hear(9)
    rig.handle(9, publish(BOB, b"text", 4))
    rig.begin()
    rig.write()
    fenced(rig)
    assert results(rig.hear(9)) == [(4, "duplicate", "stored")]
    assert len(rig.stored()) == 2


def test_requests_that_were_not_answered_are_answered_by_the_next_broker() -> None:
    rig = Rig()
    rig.open(1, ALICE)
    rig.handle(1, Attend(1, [ALICE], [BUCKET], f"key/{ALICE}", True), StatusRequest(2))
    fenced(rig)
    heard = rig.hear(1)
    assert kinds(heard)[:1] == [Subscribed] and {1, 2} == {
        effect.ref for effect in heard if hasattr(effect, "ref")
    }
    assert [effect for effect in heard if isinstance(effect, CaughtUp)] == [CaughtUp(1)]


def test_a_backlog_goes_on_and_one_caught_up_ends_it() -> None:
    rig = Rig(page_rows=2)
    bodies = [b"%d" % n for n in range(9)]
    rig.publish(9, ALICE, *bodies)
    rig.open(1, ALICE, window=2)
    heard = rig.attend(1, ALICE, BUCKET, ref=7, reader=f"key/{ALICE}")
    for _ in range(12):
        handed_over(rig)
        heard += rig.hear(1)
        held = [body for body in bodies if id_of(body) in _held(rig, 1)]
        heard += rig.ack(1, *held)
    assert texts(heard) == bodies
    assert [type(effect) for effect in heard if not isinstance(effect, Message)] == [Subscribed, CaughtUp]


def _held(rig: Rig, number: int) -> set[str]:
    session = rig.port.sessions[number]
    return {*session.out, *session.lent, *(session.before or ())}


def test_the_window_counts_what_is_held_from_before() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"1", b"2", b"3")
    rig.open(1, ALICE, window=2)
    assert texts(rig.attend(1, ALICE)) == [b"1", b"2"]
    handed_over(rig)
    assert rig.hear(1) == []
    assert texts(rig.ack(1, b"1")) == [b"3"]


def test_a_bucket_reader_holds_its_messages_and_marks_them() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"1", b"2")
    assert texts(rig.bucket_reader(1, BUCKET)) == [b"1", b"2"]
    rig.finish_all()
    rig.hand_over()
    rig.handle(1, Ack([id_of(b"1")]))
    rig.settle()
    assert rig.hear(1) == []
    rig.ack(1, b"2")
    rig.commit()
    rig.close(1)
    assert texts(rig.bucket_reader(2, BUCKET)) == []


def test_a_reader_without_a_name_is_not_sent_its_bucket_again() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"1")
    assert texts(rig.bucket_reader(1, BUCKET, reader=None)) == [b"1"]
    rig.ack(1, b"1")
    handed_over(rig)
    assert rig.hear(1) == []
    rig.publish(9, ALICE, b"2")
    assert texts(rig.hear(1)) == [b"2"]


def test_what_was_put_off_comes_again() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"1", b"2")
    rig.owner(1)
    rig.nack(1, "busy", b"1", retry_after_ms=60_000)
    handed_over(rig)
    assert texts(rig.hear(1)) == [b"1"]
    rig.finish_all()
    rig.hand_over()
    rig.handle(1, Nack([id_of(b"2")], "busy", 500))  # nothing has been read yet
    rig.settle()
    assert rig.hear(1) == []
    rig.advance(0.6)
    assert texts(rig.hear(1)) == [b"2"]
    rig.finish_all()
    rig.hand_over()
    rig.handle(1, Nack([id_of(b"1")], "busy", 0))
    rig.now += 0.001
    rig.tick()
    rig.settle()
    assert texts(rig.hear(1)) == [b"1"]


def test_an_owner_who_cannot_decrypt_what_he_holds_from_before_ends_it() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"1", receipts=["expired"])
    rig.hear(9)
    rig.owner(1)
    rig.finish_all()
    rig.hand_over()
    rig.nack(1, "undecryptable", b"1")
    rig.commit()
    assert rig.stored() == []
    assert [effect.status for effect in rig.hear(9) if isinstance(effect, Receipt)] == ["expired"]


def test_receipts_are_still_owed() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"1", receipts=["delivered"])
    rig.hear(9)
    handed_over(rig)
    rig.owner(1)
    rig.ack(1, b"1")
    assert [effect.status for effect in rig.hear(9) if isinstance(effect, Receipt)] == ["delivered"]


def test_an_ack_that_no_broker_confirmed_answers_the_publish_that_comes_again() -> None:
    rig = Rig()
    rig.open(9)
    resume = Resume(Open(ALICE, False, 8, 100), [], [Held(id_of(b"1"), 77, None, None, 1)], [], {})
    rig.handle(1, resume, Attend(0, [ALICE], [], None, True, due=[]))
    assert results(rig.publish(9, ALICE, b"1", ref=3)) == [(3, "duplicate", "delivered")]
    assert messages(rig.hear(1)) == []


def test_an_owner_who_has_acknowledged_what_has_no_result_yet_is_not_sent_it_by_the_next_broker() -> None:
    rig = Rig()
    rig.owner(1)
    rig.publish(9, ALICE, b"1", ref=1)
    rig.hear(1)
    fenced(rig)  # the publish is made again there, the reader holds it
    rig.finish_all()
    rig.hand_over()
    rig.handle(1, Ack([id_of(b"1")]))  # the publish waits for its mailbox
    fenced(rig)
    assert texts(rig.hear(1)) == []
    assert results(rig.hear(9)) == [(1, "duplicate", "delivered")]


def test_an_ack_counts_for_what_was_stored_anew_while_its_reader_had_no_room_to_be_shown_it() -> None:
    rig = Rig()
    rig.owner(1, window=1)
    rig.open(8)
    rig.publish(9, ALICE, b"1", ref=1, receipts=["delivered"])
    assert texts(rig.hear(1)) == [b"1"]
    rig.handle(8, publish(ALICE, b"2"))
    rig.lose()  # both are published again there, the second one first: it has to wait
    rig.settle()
    rig.ticks()
    assert results(rig.hear(9)) == [(1, "stored", None)]
    heard = rig.ack(1, b"1")
    assert [effect.status for effect in rig.hear(9) if isinstance(effect, Receipt)] == ["delivered"]
    rig.ticks()
    assert texts([*heard, *rig.hear(1)]) == [b"2"]
    assert texts(rig.ack(1, b"2")) == []
    rig.commit()
    assert rig.stored() == []


def test_a_message_that_comes_again_has_the_number_that_is_in_the_store() -> None:
    rig = Rig()
    rig.publish(9, BUCKET, b"1")
    (first,) = messages(rig.bucket_reader(1, BUCKET))
    rig.nack(1, "busy", b"1", retry_after_ms=1)
    rig.handle(9, publish(BUCKET, b"1", 1))  # pending, with a number of its own
    rig.tick()
    rig.advance(0.005)
    (again,) = messages(rig.hear(1))
    assert (again.seq, again.deliveries) == (first.seq, 2)


def test_an_ack_told_late_ends_what_was_stored_anew_for_everybody() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"1", receipts=["delivered"])
    rig.hear(9)
    told = Resume(Open(None, False, 1, 0), [], [Held(id_of(b"1"), 0, None, ALICE, 1)], [], {})
    rig.handle(0, told, Close())
    assert texts(rig.bucket_reader(1, BUCKET)) == []
    assert texts(rig.owner(2)) == []
    assert [effect.status for effect in rig.hear(9) if isinstance(effect, Receipt)] == ["delivered"]
    rig.commit()
    assert rig.stored() == []


def test_acks_of_sessions_that_have_ended_are_told_under_no_session() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"1", b"2")
    held = [Held(id_of(text), seq, None, ALICE, 1) for text, seq in ((b"1", rig.stored()[0]), (b"3", 0))]
    rig.promote()
    rig.handle(0, Resume(Open(None, False, 1, 0), [], held, [], {}), Close())
    assert rig.port.sessions == {} and len(rig.broker.ledger.deletes) == 1  # nothing is deleted for number 0
    rig.commit()
    assert len(rig.stored()) == 1
    heard = results(rig.publish(9, ALICE, b"1", b"2", b"3"))
    assert {ref: (status, state) for ref, status, state in heard} == {
        0: ("duplicate", "delivered"),
        1: ("duplicate", "stored"),
        2: ("duplicate", "delivered"),
    }
    assert texts(rig.owner(1)) == [b"2"]


def test_the_order_in_which_fronts_attach_does_not_matter() -> None:
    rig = Rig()
    rig.owner(1)
    rig.publish(9, ALICE, b"1", ref=3)
    rig.finish_all()
    rig.listen()
    sessions = rig.broker.export(rig.port)
    rig.promote()
    for number, commands in sorted(sessions, key=lambda batch: -batch[0]):  # the sender's before the reader's
        rig.handle(number, *commands)
    rig.handle(1, Ack([id_of(b"1")]))
    rig.settle()
    rig.ticks()
    (result,) = results(rig.hear(9))
    assert result == (3, "duplicate", "delivered")
    assert texts(rig.hear(1)) == []
    rig.commit()
    assert rig.stored() == []


def test_attempts_are_counted_across_brokers() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"1")
    rig.owner(1)
    rig.finish_all()
    rig.hand_over()
    rig.handle(1, Close())
    (message,) = messages(rig.owner(2))
    assert message.deliveries == 2


def test_a_store_that_does_not_answer_a_resumed_session_is_asked_again() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"1")
    rig.hear(9)
    rig.owner(1)
    rig.bucket_reader(2, BUCKET)
    rig.ack(1, b"1")
    rig.finish_all()
    rig.hand_over()
    rig.blind = True
    rig.settle()
    assert rig.hear(1) == [] and rig.hear(2) == []
    rig.blind = False
    rig.advance(1.5)
    rig.publish(9, ALICE, b"2")
    assert texts(rig.hear(1)) == [b"2"] and texts(rig.hear(2))[-1:] == [b"2"]


def test_too_many_sessions_of_a_key_are_too_many_for_the_next_broker() -> None:
    rig = Rig(connections_per_key=1)
    rig.owner(1)
    rig.settings = type(rig.settings)(connections_per_key=1)
    rig.open(2, ALICE)
    assert kinds(rig.hear(1)) == [Superseded]
    rig.hand_over()
    assert kinds(rig.hear(1) + rig.hear(2)) == [Superseded]


def test_nothing_is_left_of_sessions_that_went_on_and_ended() -> None:
    rig = Rig()
    rig.owner(1)
    rig.bucket_reader(2, BUCKET, reader=NAME)
    rig.publish(9, ALICE, b"1", receipts=["delivered"])
    rig.finish_all()
    rig.hand_over()
    rig.ack(1, b"1")
    assert [status for _, status, _ in results(rig.hear(9))] == ["duplicate"]
    for number in (1, 2, 9):
        rig.handle(number, Close())
    rig.settle()
    rig.advance(3)
    rig.commit()
    assert rig.footprint() == {}
    assert [effect for effect in rig.hear(9) if isinstance(effect, Result)] == []
