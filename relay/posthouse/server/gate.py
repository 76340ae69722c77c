"""Effects of a broker whose lease is in doubt: each leaves behind a commit that the store has checked since.

Nothing is lost here, and nothing overtakes but a refusal: what waits for a check, what is under it and what has passed
it leave in the order in which they were made.
"""

from __future__ import annotations

from posthouse.broker import Port
from posthouse.exchange import Effect, Effects
from posthouse.wire.messages import Error, Result


class Gate:
    """What is held back, by port."""

    __slots__ = ("_checked", "_idle", "_under_check", "_waiting")

    def __init__(self) -> None:
        self._waiting: dict[Port, Effects] = {}
        self._under_check: dict[Port, Effects] = {}
        self._checked: dict[Port, Effects] = {}
        self._idle = False

    def __bool__(self) -> bool:
        """Whether anything is held back."""
        return bool(self._waiting or self._under_check or self._checked)

    @property
    def wants_check(self) -> bool:
        """Whether a commit should begin for the sake of the fence."""
        return self._idle or bool(self._waiting)

    def ask(self) -> None:
        """Have a check though nothing waits for it: an idle broker has to hear of its end too."""
        self._idle = True

    def hold(self, port: Port, effects: Effects) -> Effects:
        """Keep effects until a commit that has not begun yet is confirmed. Gives back those that promise nothing."""
        free: Effects = []
        waiting: Effects = []
        for number, some in effects:
            refusals = [one for one in some if _promises_nothing(one)]
            others = [one for one in some if not _promises_nothing(one)] if refusals else some
            if refusals:
                free.append((number, refusals))
            if others:
                waiting.append((number, others))
        if waiting:
            self._waiting.setdefault(port, []).extend(waiting)
        return free

    def begun(self) -> None:
        """A commit has begun: it covers what has waited until now."""
        self._idle = False
        waiting, self._waiting = self._waiting, {}
        _append(self._under_check, waiting)

    def passed(self) -> list[Port]:
        """It is confirmed. Returns the ports that have effects to take."""
        under_check, self._under_check = self._under_check, {}
        _append(self._checked, under_check)
        return list(self._checked)

    def failed(self) -> None:
        """The store did not take it: what it covered waits for the next."""
        under_check, self._under_check = self._under_check, {}
        _append(under_check, self._waiting)
        self._waiting = under_check

    def take(self, port: Port) -> Effects:
        """What has passed, for one port."""
        return self._checked.pop(port, [])

    def release(self, port: Port) -> Effects:
        """All that is held back for one port: there is no doubt any more, or no broker."""
        return [
            *self._checked.pop(port, ()),
            *self._under_check.pop(port, ()),
            *self._waiting.pop(port, ()),
        ]

    def ports(self) -> list[Port]:
        """The ports for which something is held back."""
        return list({**self._checked, **self._under_check, **self._waiting})


def _append(to: dict[Port, Effects], what: dict[Port, Effects]) -> None:
    for port, effects in what.items():
        to.setdefault(port, []).extend(effects)


def _promises_nothing(effect: Effect) -> bool:
    """A sender that is told no must hear it at once, above all when the store cannot be asked."""
    return isinstance(effect, Error) or (isinstance(effect, Result) and effect.status == "rejected")
