"""Publishes that an earlier broker may have stored, made again: they are not rejected for a store that fails.

A rejection means that nothing was kept, and after a broker was lost nobody knows that. So such a publish is made once
more after a while, until the store can tell.
"""

from __future__ import annotations

from typing import Final

from posthouse.exchange import Commands, Effect, Effects, Outcomes
from posthouse.wire.codes import Code
from posthouse.wire.messages import Publish, Result

PAUSE_S: Final = 0.5


class MadeAgain:
    """Those that have no result yet."""

    __slots__ = ("_due", "_open", "_retry")

    def __init__(self) -> None:
        self._open: dict[tuple[int, int], Publish] = {}
        """By session and ref."""
        self._retry: Commands = []
        self._due = 0.0

    def __bool__(self) -> bool:
        return bool(self._open)

    def given(self, batch: Commands) -> None:
        """These are with the broker."""
        for number, commands in batch:
            for command in commands:
                if isinstance(command, Publish):
                    self._open[number, command.ref] = command

    def pass_on(self, effects: Effects, now: float) -> Effects:
        """The effects without rejections that cannot be true for sure. ``now`` in seconds."""
        return [(number, [one for one in some if self._stays(number, one, now)]) for number, some in effects]

    def retry(self, now: float) -> Commands:
        """What is to be made once more by now."""
        if now < self._due:
            return []
        retry, self._retry = self._retry, []
        return retry

    def waiting(self) -> Commands:
        """What will be, whenever."""
        return self._retry

    def _stays(self, number: int, effect: Effect, now: float) -> bool:
        if isinstance(effect, Outcomes):
            for ref in effect.refs:
                self._open.pop((number, ref), None)
        elif isinstance(effect, Result):
            publish = self._open.get((number, effect.ref))
            if publish is not None and effect.code == Code.STORE_UNAVAILABLE:
                self._retry.append((number, [publish]))
                self._due = now + PAUSE_S
                return False
            self._open.pop((number, effect.ref), None)
        return True
