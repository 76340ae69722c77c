"""The caller gets each message once; every answer reaches the relay on a connection where it counts."""

from posthouse.client.inbox import Inbox
from posthouse.wire.messages import Ack, Message, Nack


def message(id: str, seq: int = 1) -> Message:
    return Message(id, seq, b"x", 0, 0, 1)


def taken(inbox: Inbox) -> list[str]:
    ids = []
    while (item := inbox.take()) is not None:
        ids.append(item.id)
    return ids


def test_messages_are_taken_in_the_order_in_which_they_came() -> None:
    inbox = Inbox(100)
    assert [inbox.arrived(message(id)) for id in "cab"] == [True, True, True]
    assert taken(inbox) == ["c", "a", "b"]


def test_acks_of_one_turn_share_an_item() -> None:
    inbox = Inbox(100)
    for id in "abc":
        inbox.arrived(message(id))
    taken(inbox)
    for id in "abc":
        inbox.answer(id)
    assert inbox.has_answers()
    assert inbox.take_answers() == [Ack(["a", "b", "c"])]
    assert not inbox.has_answers()


def test_only_what_the_caller_holds_can_be_answered_and_only_once() -> None:
    inbox = Inbox(100)
    inbox.arrived(message("a"))
    inbox.answer("a")
    inbox.answer("unknown")
    assert inbox.take_answers() == []
    taken(inbox)
    inbox.answer("a")
    inbox.answer("a", "undecryptable")
    assert inbox.take_answers() == [Ack(["a"])]


def test_a_repeat_of_a_waiting_or_held_message_is_dropped_without_an_answer() -> None:
    inbox = Inbox(100)
    inbox.arrived(message("a"))
    assert not inbox.arrived(message("a"))
    taken(inbox)
    assert not inbox.arrived(message("a"))
    assert inbox.take_answers() == []


def test_a_repeat_of_a_processed_message_is_acked_again_and_not_given_again() -> None:
    inbox = Inbox(100)
    inbox.arrived(message("a"))
    taken(inbox)
    inbox.answer("a")
    inbox.disconnected()
    assert inbox.take_answers() == []
    assert not inbox.arrived(message("a"))
    assert inbox.take_answers() == [Ack(["a"])]
    assert taken(inbox) == []


def test_a_repeat_of_a_refused_message_is_refused_again_in_the_same_words() -> None:
    inbox = Inbox(100)
    inbox.arrived(message("a"))
    taken(inbox)
    inbox.answer("a", "undecryptable")
    inbox.disconnected()
    inbox.arrived(message("a"))
    assert inbox.take_answers() == [Nack(["a"], "undecryptable")]


def test_busy_lets_the_message_come_again() -> None:
    inbox = Inbox(100)
    inbox.arrived(message("a"))
    taken(inbox)
    inbox.answer("a", "busy", 50)
    assert inbox.take_answers() == [Nack(["a"], "busy", 50)]
    assert inbox.arrived(message("a"))
    assert taken(inbox) == ["a"]


def test_a_message_held_over_a_lost_connection_is_not_given_twice_and_its_ack_counts() -> None:
    inbox = Inbox(100)
    inbox.arrived(message("a"))
    taken(inbox)
    inbox.disconnected()
    assert not inbox.arrived(message("a"))
    inbox.answer("a")
    assert inbox.take_answers() == [Ack(["a"])]


def test_what_the_caller_had_not_taken_comes_again_on_the_next_connection() -> None:
    inbox = Inbox(100)
    inbox.arrived(message("a"))
    inbox.disconnected()
    assert taken(inbox) == []
    assert inbox.arrived(message("a"))
    assert taken(inbox) == ["a"]


def test_memory_of_processed_messages_is_bounded_and_forgets_the_oldest() -> None:
    inbox = Inbox(2)
    for id in "abc":
        inbox.arrived(message(id))
        inbox.take()
        inbox.answer(id)
    inbox.take_answers()
    assert not inbox.arrived(message("b"))
    assert not inbox.arrived(message("c"))
    assert inbox.arrived(message("a"))


def test_many_acks_are_spread_over_items_that_a_relay_takes() -> None:
    inbox = Inbox(5000)
    ids = [f"{number:064}" for number in range(2500)]
    for id in ids:
        inbox.arrived(message(id))
    taken(inbox)
    for id in ids:
        inbox.answer(id)
    answers = inbox.take_answers()
    assert [len(answer.ids) for answer in answers] == [1000, 1000, 500]
    assert [id for answer in answers for id in answer.ids] == ids
