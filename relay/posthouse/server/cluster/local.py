"""Sessions served by the broker of this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from posthouse.exchange import Commands, Effects
from posthouse.link.memory import Memory
from posthouse.server.cluster.made_again import MadeAgain
from posthouse.server.cluster.nobody import Nobody
from posthouse.server.cluster.pieces import PIECE_BYTES, PIECE_ITEMS
from posthouse.server.cluster.upstream import Baggage, Failures, Idle
from posthouse.server.engine import Engine

MOST_KEPT_BYTES: Final = 32 * 2**20
"""Of what comes while the broker ends."""


class Local:
    """The broker of this process, from its promotion to its end."""

    def __init__(
        self,
        engine: Engine,
        wake: Callable[[], None],
        memory: Memory,
        kept: Commands,
        max_kept_bytes: int = MOST_KEPT_BYTES,
    ) -> None:
        """The sessions go on here."""
        self._engine = engine
        self._wake = wake
        self._port = engine.open_port(wake)
        self._max_kept_bytes = max_kept_bytes
        self._keeper: Nobody | None = None
        """Keeps what the broker does not take any more."""
        self._memory = memory
        """What it knows of sessions that have not gone on yet."""
        self._failures: Failures = []
        self._again = MadeAgain()
        self._idle = Idle(memory, kept)
        self._give(memory.resume_batches(PIECE_ITEMS, PIECE_BYTES, self._idle.pressing))
        memory.forget(self._idle.pressing)
        memory.forget_acknowledged()
        self._failures += engine.submit(self._port, kept)

    def close(self) -> None:
        """The broker takes no commands any more: keep them for the next one."""
        self._keeper = Nobody(self._max_kept_bytes, self._wake, Memory(), [])

    def submit(self, batch: Commands) -> Failures:
        """Give them to the broker, unless it takes none any more."""
        if self._keeper is not None:
            return self._keeper.submit(batch)
        if self._idle and (speaking := self._idle.among(batch)):
            self._more(speaking)
        if self._again:
            self._again.said(batch)
        if self._failures:
            failures, self._failures = self._failures, []
            return failures + self._engine.submit(self._port, batch)
        return self._engine.submit(self._port, batch)

    def take(self) -> Effects:
        """What the broker has."""
        effects = self._engine.take_effects(self._port)
        if self._again:
            effects = self._again.pass_on(effects, self._engine.now)
        if self._keeper is not None:
            effects = effects + self._keeper.take()
        return effects

    def go_on(self, count: int) -> bool:
        """Give the broker so many more sessions, and what is to be made once more."""
        if self._keeper is not None:
            return False
        if self._idle:
            self._more(self._idle.some(count))
        if self._again:
            self._failures += self._engine.submit(self._port, self._again.retry(self._engine.now))
        if self._failures:
            self._wake()
        return bool(self._idle or self._again)

    def awaits_results(self) -> bool:
        """Whether the broker owes one, or will be asked for it once more."""
        return bool(self._again) or any(session.awaits_result for session in self._port.sessions.values())

    def retire(self) -> Baggage:
        """To be called before the broker is dropped."""
        effects, commands = self._engine.part(self._port)
        effects = self._again.pass_on(effects, self._engine.now)
        self._memory.given(commands + self._again.waiting())
        if self._keeper is None:
            return Baggage(effects, self._memory, [])
        refused, _, kept = self._keeper.retire()
        return Baggage(effects + refused, self._memory, kept)

    def _more(self, numbers: list[int]) -> None:
        try:
            self._give(self._memory.more_batches(PIECE_ITEMS, PIECE_BYTES, numbers))
        except Exception as error:
            self._failures += [(number, error) for number in numbers]
        self._memory.forget(numbers)

    def _give(self, batches: Iterable[Commands]) -> None:
        for batch in batches:
            self._again.given(batch)
            self._failures += self._engine.submit(self._port, batch)
