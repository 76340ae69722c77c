"""Sessions that no broker serves for the moment: what they say is kept, in a bound.

Beyond it, and after a while, publishes are rejected ``not-active``. One that a broker may have is never rejected: the
next broker is given it once more.
"""

from __future__ import annotations

from collections.abc import Callable

from posthouse.errors import PosthouseError
from posthouse.exchange import Close, Command, Commands, Effect, Effects
from posthouse.link.memory import Memory
from posthouse.server.cluster.pieces import size_of
from posthouse.server.cluster.upstream import Baggage, Failures, rejected
from posthouse.wire.messages import Publish


class HeldTooMuch(PosthouseError):
    """A session said more than can be kept while no instance is active."""

    def __str__(self) -> str:
        return "no instance is active, and this connection asks for too much meanwhile"


class Nobody:
    """No broker for the moment."""

    def __init__(self, max_bytes: int, wake: Callable[[], None], memory: Memory, kept: Commands) -> None:
        """``max_bytes``: of commands that are kept."""
        self._max_bytes = max_bytes
        self._wake = wake
        self._memory = memory
        self._kept: Commands = []
        self._bytes = 0
        self._effects: Effects = []
        self.refusing = False
        """Whether it has taken too long: publishes are rejected at once."""
        self._keep(kept, bounded=False)

    def submit(self, batch: Commands) -> Failures:
        """Keep them, or reject what cannot be kept."""
        return self._keep(batch, bounded=True)

    def _keep(self, batch: Commands, *, bounded: bool) -> Failures:
        failures: Failures = []
        for number, commands in batch:
            size = sum(map(size_of, commands))
            if self.refusing or self._bytes + size > self._max_bytes:
                commands = self._refuse(number, commands)
                size = sum(map(size_of, commands))
            if bounded and self._bytes + size > 2 * self._max_bytes:
                # Its end is kept all the same, or the next broker would have it for ever.
                commands = [one for one in commands if isinstance(one, Close)]
                size = sum(map(size_of, commands))
                failures.append((number, HeldTooMuch()))
            if commands:
                self._bytes += size
                self._kept.append((number, commands))
        return failures

    def refuse(self) -> None:
        """It has taken too long: reject the publishes that no broker has seen, those that come too."""
        self.refusing = True
        kept, self._kept, self._bytes = self._kept, [], 0
        self._keep(kept, bounded=False)

    def _refuse(self, number: int, commands: list[Command]) -> list[Command]:
        answers: list[Effect] = [rejected(one) for one in commands if isinstance(one, Publish)]
        if answers:
            self._effects.append((number, answers))
            self._wake()
        return [one for one in commands if not isinstance(one, Publish)]

    def take(self) -> Effects:
        """The rejections."""
        effects, self._effects = self._effects, []
        return effects

    def go_on(self, count: int) -> bool:
        """There is nothing that could."""
        return False

    def awaits_results(self) -> bool:
        """Whether a publish is kept, or waits for its result since a broker has gone."""
        kept = any(isinstance(one, Publish) for _, some in self._kept for one in some)
        return kept or self._memory.awaits_results()

    def retire(self) -> Baggage:
        """Somebody is there again."""
        return Baggage(self.take(), self._memory, self._kept)
