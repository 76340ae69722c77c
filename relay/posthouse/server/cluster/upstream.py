"""Where the sessions of a front are served: by the broker of this process (`local.py`), by another member's
(`remote.py`), or by nobody just now (`nobody.py`).

Each takes the commands of a front and gives it effects. What ends one of them is ``retire``: it gives what the sessions
take with them to the one that follows. Those that hold, publish or ask something go on at once; the others follow a few
at a time (``go_on``), or when they speak, so that a crowd of idle sessions delays nobody.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

from posthouse.exchange import Commands, Effect, Effects
from posthouse.link.memory import Memory
from posthouse.wire.codes import Code
from posthouse.wire.messages import Publish, Result

RETRY_MS: Final = 1000
AT_ONCE: Final = 64
"""So many idle sessions go on together with those that cannot wait."""
Failures = list[tuple[int, Exception]]


class Baggage(NamedTuple):
    """With what the sessions of a front go from one upstream to the next."""

    effects: Effects
    """What they still have to hear of the one that they leave."""
    memory: Memory
    """What the next broker has to know of them."""
    kept: Commands
    """What they have said that no broker has seen."""


class Upstream(Protocol):
    """One place in which sessions are served."""

    def submit(self, batch: Commands) -> Failures:
        """Take commands. Returns the sessions that have to end, and why."""

    def take(self) -> Effects:
        """Effects for sessions."""

    def go_on(self, count: int) -> bool:
        """Have so many more idle sessions go on, and what else waits; False when there is nothing more to wait for."""

    def awaits_results(self) -> bool:
        """Whether a publish has no result yet."""

    def retire(self) -> Baggage:
        """The sessions leave."""


class Idle:
    """Sessions that have not gone on yet."""

    __slots__ = ("_left", "pressing")

    def __init__(self, memory: Memory, kept: Commands) -> None:
        numbers = memory.numbers()
        pressing = memory.pressing
        speaking = {number for number, _ in kept}
        self.pressing = [one for one in numbers if one in pressing or one in speaking]
        """Those that go on at once."""
        others = [one for one in numbers if not (one in pressing or one in speaking)]
        self.pressing += others[:AT_ONCE]
        self._left = dict.fromkeys(others[AT_ONCE:])

    def __bool__(self) -> bool:
        return bool(self._left)

    def some(self, count: int) -> list[int]:
        """The next so many of them."""
        chosen = [number for number, _ in zip(self._left, range(count), strict=False)]
        for number in chosen:
            del self._left[number]
        return chosen

    def among(self, batch: Commands) -> list[int]:
        """Those that speak: they go on before what they say."""
        chosen = [number for number, _ in batch if number in self._left]
        for number in chosen:
            self._left.pop(number, None)
        return list(dict.fromkeys(chosen))


def rejected(publish: Publish) -> Result:
    """The answer to a publish that no broker has seen, when there is none."""
    return Result(
        publish.ref,
        "rejected",
        True,
        publish.id,
        code=Code.NOT_ACTIVE,
        detail="no instance of the relay is active",
        retry_after_ms=RETRY_MS,
    )


def without_publishes(batch: Commands, effects: Effects) -> Commands:
    """The other commands; a rejection of each publish is appended to the effects."""
    left: Commands = []
    for number, commands in batch:
        answers: list[Effect] = [rejected(one) for one in commands if isinstance(one, Publish)]
        if answers:
            effects.append((number, answers))
            commands = [one for one in commands if not isinstance(one, Publish)]
        if commands:
            left.append((number, commands))
    return left
