"""The end of a turn: once for all that the turn has gathered."""

import asyncio
from typing import Any, cast

import pytest
from posthouse.server.turn import Turn
from websocket_fakes import ManualLoop


class Loop(ManualLoop):
    """A loop that counts what it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.failures: list[dict[str, Any]] = []

    def call_soon(self, callback: Any, *args: Any) -> Any:
        self.asked += 1
        return super().call_soon(callback, *args)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.failures.append(context)


def turn_of(loop: Loop) -> Turn:
    return Turn(cast(asyncio.AbstractEventLoop, loop))


def test_the_end_comes_once_for_all_that_a_turn_gathers_and_for_what_it_adds_itself() -> None:
    loop = Loop()
    turn = turn_of(loop)
    called: list[str] = []

    def first() -> None:
        called.append("first")
        turn.at_end(lambda: called.append("third"))

    turn.at_end(first)
    turn.at_end(lambda: called.append("second"))
    assert called == []
    loop.turn()
    assert called == ["first", "second", "third"]
    assert loop.asked == 1


def test_the_last_call_comes_when_nothing_else_waits() -> None:
    loop = Loop()
    turn = turn_of(loop)
    called: list[str] = []
    turn.last = lambda: called.append("last")
    turn.come()
    turn.at_end(lambda: turn.at_end(lambda: called.append("added")))
    loop.turn()
    assert called == ["added", "last"]
    assert loop.asked == 1


def test_a_call_that_fails_takes_neither_the_others_nor_later_turns_with_it() -> None:
    loop = Loop()
    turn = turn_of(loop)
    called: list[int] = []

    def fail() -> None:
        raise ZeroDivisionError

    turn.at_end(fail)
    turn.at_end(lambda: called.append(1))
    loop.turn()
    assert called == [1]
    assert isinstance(loop.failures[0]["exception"], ZeroDivisionError)
    turn.at_end(lambda: called.append(2))
    loop.turn()
    assert called == [1, 2]


def test_what_was_asked_for_before_sockets_are_served_is_part_of_their_turn() -> None:
    loop = Loop()
    turn = turn_of(loop)
    called: list[str] = []
    turn.at_end(lambda: called.append("before"))
    turn.begin()
    turn.at_end(lambda: called.append("served"))
    loop.turn()
    assert called == []
    turn.finish()
    assert called == ["before", "served"]
    turn.at_end(lambda: called.append("after"))
    loop.turn()
    assert called == ["before", "served", "after"]
    assert loop.asked == 2


def test_a_cancelled_error_is_a_failure_like_others_and_an_exit_is_not() -> None:
    loop = Loop()
    turn = turn_of(loop)
    called: list[int] = []

    def fail(error: type[BaseException]) -> None:
        raise error

    turn.at_end(lambda: fail(asyncio.CancelledError))
    turn.at_end(lambda: called.append(1))
    loop.turn()
    assert called == [1]
    assert isinstance(loop.failures[0]["exception"], asyncio.CancelledError)
    turn.at_end(lambda: fail(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        loop.turn()
    turn.at_end(lambda: called.append(2))
    loop.turn()
    assert called == [1, 2]


def test_the_loop_is_asked_for_nothing_while_sockets_are_served() -> None:
    loop = Loop()
    turn = turn_of(loop)
    called: list[int] = []
    turn.begin()
    turn.at_end(lambda: called.append(1))
    turn.finish()
    assert called == [1]
    assert loop.asked == 0
