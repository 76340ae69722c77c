"""The last words of a broker that may not act, where no store fences: answers leave, messages do not."""

from broker_rig import ALICE
from posthouse.exchange import Attend, Commands, Effects, Held, Open, Outcomes, Resume
from posthouse.server.parting import answers_only, without_messages
from posthouse.wire.messages import Message, Publish, Receipt


def message(name: str, size: int = 10) -> Message:
    return Message(name, 1, bytes(size), 0, 0, 1, recipient=ALICE)


def held(name: str) -> Held:
    return Held(name, 1, None, ALICE, 1)


def resumed(credit: int, *names: str) -> Resume:
    return Resume(Open(ALICE, False, 8, credit), [held(name) for name in names], [], [], {})


ANSWER = Outcomes("delivered", [1], ["x"])
RECEIPT = Receipt("x", "delivered", 5)


def test_only_messages_are_left_out() -> None:
    effects: Effects = [(1, [message("a"), ANSWER, message("b")]), (2, [RECEIPT])]
    assert answers_only(effects) == [(1, [ANSWER]), (2, [RECEIPT])]


def test_a_message_that_did_not_leave_is_not_held_and_its_credit_is_there() -> None:
    effects: Effects = [(1, [message("a", 10), ANSWER]), (1, [message("b", 20)]), (2, [message("c", 5)])]
    attend = Attend(0, [ALICE], [], None, True)
    publish = Publish(1, b"x", ALICE, id="x")
    commands: Commands = [
        (1, [resumed(100, "before", "a", "b")]),
        (2, [resumed(50, "a", "c")]),
        (3, [resumed(7, "a")]),
        (1, [attend]),
        (2, [publish]),
    ]
    assert without_messages(effects, commands) == [
        (1, [resumed(130, "before")]),
        (2, [resumed(55, "a")]),
        (3, [resumed(7, "a")]),
        (1, [attend]),
        (2, [publish]),
    ]
    # What was given is not changed.
    assert commands[0] == (1, [resumed(100, "before", "a", "b")])
