"""A front goes on at another broker from what it remembers: the broker is lost, with what nobody had taken."""

from __future__ import annotations

from typing import Any

import pytest
from broker_rig import ALICE, BOB, Rig, id_of, messages, publish, results, texts, wide
from posthouse.broker.attending import MAX_QUEUED_REQUESTS
from posthouse.broker.resuming import NOBODY
from posthouse.exchange import (
    UNLIMITED_WINDOW,
    Attend,
    Close,
    Command,
    Commands,
    Effect,
    Held,
    Open,
    Outcomes,
    Resume,
)
from posthouse.link.acknowledged import KEPT_S, MOST_KEPT, MOST_OPEN
from posthouse.link.memory import Memory
from posthouse.link.remembered import MOST_HELD_WITHOUT_A_WINDOW, MOST_WANTED
from posthouse.wire.messages import (
    Ack,
    CaughtUp,
    Message,
    Nack,
    Publish,
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


def told(memory: Memory, most_messages: int = 2**30, most_bytes: int = 2**40) -> Commands:
    """All that the next broker would be told, as one."""
    return [some for batch in memory.resume_batches(most_messages, most_bytes) for some in batch]


def resumes(memory: Memory) -> dict[int, Resume]:
    """The sessions among that, by number."""
    return {number: some[0] for number, some in told(memory) if isinstance(some[0], Resume)}


def acked(memory: Memory) -> list[Held]:
    """The acks among that."""
    return [held for number, some in told(memory) if number == NOBODY for held in _resume(some[0]).acked]


def _resume(command: Command) -> Resume:
    assert isinstance(command, Resume)
    return command


def message(n: int, **fields: Any) -> Message:
    """One message to Alice."""
    return Message(id_of(b"%d" % n), n, b"%d" % n, 1, 2, 1, ALICE, **fields)


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


def test_an_ack_of_a_session_that_has_ended_is_not_lost() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"stored")
    rig.owner(1)
    rig.hear(1)
    rig.handle(1, Ack([id_of(b"stored")]), Close())
    rig.owner(2)
    lost(rig)
    rig.commit()
    assert rig.stored() == [] and texts(rig.hear(2)) == []


def test_an_ack_of_a_bucket_reader_that_has_ended_is_not_lost() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"stored")
    rig.bucket_reader(1, BUCKET)
    rig.hear(1)
    rig.handle(1, Ack([id_of(b"stored")]), Close())
    lost(rig)
    rig.commit()
    assert texts(rig.bucket_reader(2, BUCKET)) == []


def test_an_ack_that_is_for_good_is_kept_for_a_while_and_deletes_nothing() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"stored")
    rig.owner(1)
    rig.ack(1, b"stored")
    rig.commit()
    rig.listen()
    rig.memory.expire(rig.now)
    rig.memory.expire(rig.now + KEPT_S - 1)
    (held,) = acked(rig.memory)
    assert (held.id, held.seq) == (id_of(b"stored"), 0)
    lost(rig)
    assert rig.broker.ledger.deletes == []
    rig.commit()
    rig.listen()
    rig.memory.expire(rig.now)
    rig.memory.expire(rig.now + KEPT_S)
    assert acked(rig.memory) == [] and rig.memory.acknowledged.kept == 0


def test_an_ack_of_several_owners_answers_a_publish_that_had_no_result() -> None:
    rig = Rig()
    rig.owner(1)
    rig.owner(2)
    rig.publish(9, ALICE, b"text", ref=1)
    rig.ack(1, b"text")
    rig.listen()  # nothing would undo that ack
    rig.handle(9, publish(ALICE, b"text", 2))  # waits for a commit that checks
    rig.handle(2, Ack([id_of(b"text")]))
    rig.listen()
    rig.hear(1), rig.hear(2), rig.hear(9)
    lost(rig)
    assert results(rig.hear(9)) == [(2, "duplicate", "delivered")]
    assert texts(rig.hear(1)) == texts(rig.hear(2)) == []


def test_a_receipt_that_nobody_had_taken_is_sent_by_the_next_broker() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"text", receipts=["delivered"])
    rig.hear(9)
    rig.owner(1)
    rig.hear(1)
    rig.handle(1, Ack([id_of(b"text")]))
    rig.finish_all()
    rig.ticks()
    lost(rig)
    assert [effect.status for effect in of(Receipt, rig.hear(9))] == ["delivered"]  # type: ignore[union-attr]
    lost(rig)
    assert of(Receipt, rig.hear(9)) == []


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


def test_what_comes_once_more_by_a_bucket_that_was_left_is_marked_under_its_name() -> None:
    rig = Rig()
    rig.publish(9, BUCKET, b"text")
    rig.open(1)
    assert texts(rig.attend(1, BUCKET, live=False)) == [b"text"]  # and it has caught up
    rig.nack(1, "busy", b"text", retry_after_ms=1)
    rig.advance(0.005)
    assert texts(rig.hear(1)) == [b"text"]
    rig.handle(1, Ack([id_of(b"text")]))
    lost(rig)
    rig.commit()
    assert texts(rig.bucket_reader(2, BUCKET)) == []


def test_receipts_are_still_owed() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"1", ref=1, receipts=["delivered"])
    rig.publish(9, ALICE, b"1", ref=2, receipts=["delivered"])
    rig.hear(9)
    lost(rig)
    rig.owner(1)
    rig.ack(1, b"1")
    assert [effect.status for effect in of(Receipt, rig.hear(9))] == ["delivered"]  # type: ignore[union-attr]
    assert resumes(rig.memory)[9].wanted == []


def test_credit_goes_on_where_it_was() -> None:
    rig = Rig()
    rig.owner(1, credit=10)
    rig.publish(9, ALICE, b"1" * 8, b"2" * 8, b"3" * 8)
    assert len(texts(rig.hear(1))) == 2
    lost(rig)
    assert rig.port.sessions[1].credit <= 0 and rig.hear(1) == []
    assert texts(rig.credit(1, 8)) == [b"3" * 8]


def test_a_bucket_that_is_read_anew_without_a_name_begins_anew() -> None:
    rig = Rig()
    rig.publish(9, ALICE, b"1", b"2")
    assert texts(rig.bucket_reader(1, BUCKET, reader=None)) == [b"1", b"2"]
    rig.ack(1, b"1", b"2")
    rig.unsubscribe(1, BUCKET)
    rig.handle(1, Attend(2, [], [BUCKET], None, True))
    lost(rig)
    lost(rig)
    assert texts(rig.hear(1)) == [b"1", b"2"]


def test_an_ended_session_is_forgotten() -> None:
    rig = Rig()
    rig.owner(1)
    rig.handle(1, Close())
    assert len(rig.memory) == 0 and told(rig.memory) == []


# --- in bounded batches


def full() -> Rig:
    """Something of everything that is remembered."""
    rig = Rig()
    rig.publish(9, BOB, b"receipt", ref=1, receipts=["delivered"])
    rig.publish(9, ALICE, *(b"stored %d" % n for n in range(6)), ref=2)
    for number in (1, 2, 3):
        rig.open(number, ALICE)
        rig.attend(number, ALICE, BUCKET, ref=number, reader=f"key/{ALICE}")
        rig.hear(number)
    rig.hear(9)
    rig.handle(1, *(Ack([id_of(b"stored %d" % n)]) for n in range(4)))
    rig.handle(2, Attend(4, [], [wide(0xB0B0)], "name/another-name-here", True), StatusRequest(5))
    rig.handle(9, *(publish(BOB, b"%d" % n * 100, 10 + n) for n in range(6)))
    return rig


def test_the_next_broker_is_told_in_batches_that_are_bounded() -> None:
    memory = full().memory
    batches = list(memory.resume_batches(3, 2**40))
    assert all(sum(len(commands) for _, commands in batch) <= 3 for batch in batches)
    assert [len(_resume(some[0]).acked) for batch in batches for n, some in batch if n == NOBODY] == [3, 1]
    sizes = [
        sum(len(one.ciphertext) for _, some in batch for one in some if isinstance(one, Publish))
        for batch in memory.resume_batches(2**30, 1000)
    ]
    assert sum(sizes) == 600 and max(sizes) <= 300
    (whole,) = memory.resume_batches(2**30, 2**40)
    assert whole == told(memory)


def test_a_command_that_is_larger_than_a_batch_has_one_of_its_own() -> None:
    rig = Rig()
    rig.open(9)
    rig.handle(9, publish(BOB, b"1" * 9000, 1), publish(BOB, b"2", 2))
    assert [len(batch) for batch in rig.memory.resume_batches(1000, 1000)] == [1, 1, 1]


def test_acks_come_first_then_sessions_then_requests_then_publishes() -> None:
    kinds = [type(one) for _, some in told(full().memory, 3) for one in some if not isinstance(one, Close)]
    order = [kinds.index(kind) for kind in (Resume, Attend, Publish)]
    assert order == sorted(order) == [0, *order[1:]]
    assert kinds[order[1] :].count(Resume) == 0 and set(kinds[order[2] :]) == {Publish}


@pytest.mark.parametrize("given", range(12))
def test_the_next_broker_may_be_lost_too_before_it_was_told_everything(given: int) -> None:
    rig, other = full(), full()
    rig.listen()
    other.listen()
    for n, batch in enumerate(rig.memory.resume_batches(3, 400)):
        if n < given:
            rig.memory.given(batch)
    assert told(rig.memory) == told(other.memory)
    lost(rig)
    lost(other)
    heard = {number: rig.hear(number) for number in (1, 2, 3, 9)}
    assert heard == {number: other.hear(number) for number in (1, 2, 3, 9)}
    assert len(results(heard[9])) == 6 and len(of(Subscribed, heard[2])) == 1
    rig.commit()
    assert len(rig.stored()) == 9  # two that are held, one with a receipt, six published


def test_a_session_may_end_while_the_next_broker_is_told() -> None:
    memory = full().memory
    numbers = []
    for batch in memory.resume_batches(1, 1):
        memory.given(batch)
        numbers += [(number, type(some[0])) for number, some in batch]
        if numbers[-1] == (2, Resume):
            memory.given([(2, [Close()]), (3, [Close()])])
    assert [kind for number, kind in numbers if number == 2] == [Resume]
    assert [number for number, _ in numbers if number == 3] == []


# --- bounds


def test_requests_without_an_answer_are_bounded_because_a_broker_refuses_more() -> None:
    rig = Rig()
    rig.open(1, ALICE)
    rig.handle(1, Attend(0, [], [BUCKET], None, True))  # it waits for the store
    rig.handle(1, *(StatusRequest(n) for n in range(MAX_QUEUED_REQUESTS + 50)))
    rig.listen()
    asked = [one for _, some in told(rig.memory) for one in some if isinstance(one, StatusRequest)]
    assert [one.ref for one in asked] == list(range(MAX_QUEUED_REQUESTS))


def test_acks_that_nothing_confirms_are_bounded() -> None:
    memory = Memory()
    memory.given([(1, [Open(ALICE, False, 256, 2**40)])])
    for n in range(0, MOST_OPEN + 300, 100):
        memory.taken([(1, [message(n + k) for k in range(100)])], 0)
        memory.given([(1, [Ack([id_of(b"%d" % (n + k)) for k in range(100)])])])
    assert memory.acknowledged.open == MOST_OPEN
    left = [held.seq for held in acked(memory)]
    assert left == list(range(n + 100 - MOST_OPEN, n + 100))


def test_acks_that_are_for_good_are_bounded() -> None:
    memory = Memory()
    memory.given([(1, [Open(ALICE, False, 256, 2**40)])])
    for n in range(0, MOST_KEPT + 300, 100):
        memory.taken([(1, [message(n + k) for k in range(100)])], n)
        memory.given([(1, [Ack([id_of(b"%d" % (n + k)) for k in range(100)])])])
        memory.taken([], 2**40)
    assert (memory.acknowledged.open, memory.acknowledged.kept) == (0, MOST_KEPT)
    assert acked(memory)[-1].id == id_of(b"%d" % (n + 99))
    assert len(acked(memory)) == MOST_KEPT


@pytest.mark.parametrize(("window", "most"), [(UNLIMITED_WINDOW, MOST_HELD_WITHOUT_A_WINDOW), (8, 8)])
def test_what_a_client_holds_is_bounded(window: int, most: int) -> None:
    memory = Memory()
    memory.given([(1, [Open(ALICE, False, window, 2**40)])])
    memory.taken([(1, [message(n) for n in range(most + 5)])], 1)
    assert [held.seq for held in resumes(memory)[1].held] == list(range(5, most + 5))


def test_receipts_that_never_come_are_bounded() -> None:
    memory = Memory()
    memory.given([(1, [Open(None, False, 8, 2**40)])])
    for n in range(MOST_WANTED + 5):
        asked = publish(ALICE, b"%d" % n, n, receipts=["expired"])
        memory.given([(1, [asked])])
        memory.taken([(1, [Outcomes("stored", [n], [asked.id])])], 0)
    wanted = resumes(memory)[1].wanted
    assert len(wanted) == MOST_WANTED and wanted[-1].id == id_of(b"%d" % n)


def test_nothing_is_left_of_sessions_that_read_wrote_and_ended() -> None:
    rig = full()
    lost(rig)
    for number in (1, 2, 3, 9):
        rig.handle(number, Close())
    rig.commit()
    rig.listen()
    rig.memory.expire(rig.now)
    rig.memory.expire(rig.now + KEPT_S)
    assert told(rig.memory) == [] and rig.memory.acknowledged.open == 0
