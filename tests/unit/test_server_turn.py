"""The end of a turn: once for all reads of a turn, at once behind a read that was alone."""

import asyncio
from collections import deque
from typing import Any, cast

from posthouse.server.turn import Turn
from websocket_fakes import ManualLoop


class Loop(ManualLoop):
    """A loop that shows what it still has to run, as asyncio's does, and counts what it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self._ready: deque[object] = deque()
        self.asked = 0
        self.failures: list[dict[str, Any]] = []

    def call_soon(self, callback: Any, *args: Any) -> Any:
        self.asked += 1
        return super().call_soon(callback, *args)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.failures.append(context)


def turn_of(loop: Loop) -> Turn:
    return Turn(cast(asyncio.AbstractEventLoop, loop))


def read(turn: Turn, *calls: Any) -> None:
    turn.reading = True
    for call in calls:
        turn.at_end(call)
    turn.reading = False
    if turn.waiting:
        turn.read()


def test_the_end_comes_behind_a_read_that_was_alone_and_asks_for_no_other_turn() -> None:
    loop = Loop()
    turn = turn_of(loop)
    called: list[str] = []

    def first() -> None:
        called.append("first")
        turn.at_end(lambda: called.append("second"))

    read(turn, first)
    assert called == ["first", "second"]
    assert loop.asked == 0


def test_the_end_comes_once_behind_all_reads_of_a_turn() -> None:
    loop = Loop()
    turn = turn_of(loop)
    called: list[int] = []
    loop._ready.append(object())  # another socket of this turn
    read(turn, lambda: called.append(1))
    loop._ready.clear()
    read(turn, lambda: called.append(2))
    assert called == []
    loop.turn()
    assert called == [1, 2]
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
