"""Publishes that an earlier broker may have stored, made again: they are not rejected for a store that fails.

A rejection means that nothing was kept, and after a broker was lost nobody knows that. So such a publish is made once
more after a while, until the store can tell. What its sender publishes meanwhile may overtake it.
"""

from __future__ import annotations

from typing import Final

from posthouse.exchange import Close, Commands, Effect, Effects, Outcomes
from posthouse.wire.codes import Code
from posthouse.wire.messages import Publish, Result

PAUSE_S: Final = 0.5
NOT_NOW: Final = frozenset({Code.STORE_UNAVAILABLE, Code.RATE_LIMITED})
"""Rejections for which the store was not asked what it holds."""
_Key = tuple[int, int, str]


class MadeAgain:
    """Those that have no result yet, by session, ref and id: nothing keeps a client from using a ref twice."""

    __slots__ = ("_due", "_open", "_retry")

    def __init__(self) -> None:
        self._open: dict[_Key, Publish] = {}
        self._retry: dict[_Key, Publish] = {}
        """Those among them that this broker has refused."""
        self._due = 0.0

    def __bool__(self) -> bool:
        return bool(self._open)

    def given(self, batch: Commands) -> None:
        """These are with the broker."""
        for number, commands in batch:
            for command in commands:
                if isinstance(command, Publish):
                    self._open[number, command.ref, command.id or ""] = command

    def said(self, batch: Commands) -> None:
        """Sessions say this: those that close wait for nothing any more."""
        closed = {number for number, some in batch if any(isinstance(one, Close) for one in some)}
        if closed:
            for waiting in (self._open, self._retry):
                for key in [key for key in waiting if key[0] in closed]:
                    del waiting[key]

    def pass_on(self, effects: Effects, now: float) -> Effects:
        """The effects without rejections that cannot be true for sure. ``now`` in seconds."""
        return [(number, [one for one in some if self._stays(number, one, now)]) for number, some in effects]

    def retry(self, now: float) -> Commands:
        """What is to be made once more by now."""
        return self.waiting() if now >= self._due else []

    def waiting(self) -> Commands:
        """What is to be made once more, whenever."""
        retry, self._retry = self._retry, {}
        return [(number, [publish]) for (number, _, _), publish in retry.items()]

    def _stays(self, number: int, effect: Effect, now: float) -> bool:
        if isinstance(effect, Outcomes):
            for ref, message in zip(effect.refs, effect.ids, strict=True):
                self._open.pop((number, ref, message), None)
        elif isinstance(effect, Result):
            key = (number, effect.ref, effect.id or "")
            publish = self._open.get(key)
            if publish is not None and effect.code in NOT_NOW:
                self._retry[key] = publish
                self._due = now + PAUSE_S
                return False
            self._open.pop(key, None)
        return True
