"""The end of a broker: what fails for other members does not keep the own front from going on."""

from typing import cast

import pytest
from posthouse.server.cluster.active import ActiveWork
from posthouse.server.cluster.hosting import Host
from posthouse.server.cluster.switch import Switch
from posthouse.server.engine import Engine


class Told:
    """A host, or a switch, that notes what it is told."""

    def __init__(self, *, fails: bool = False) -> None:
        self.heard: list[tuple[str, ...]] = []
        self._fails = fails

    def cease(self, reason: str, successor: str) -> None:
        self.heard.append((reason, successor))
        if self._fails:
            raise ZeroDivisionError

    def leave_local(self, reason: str) -> None:
        self.heard.append((reason,))


@pytest.mark.parametrize("fails", [False, True])
def test_the_own_front_parts_whatever_becomes_of_the_others(fails: bool) -> None:
    host, switch = Told(fails=fails), Told()
    work = ActiveWork(cast(Engine, None), cast(Switch, switch), cast(Host, host), member="me", control=None)
    work.successor = "unix:/next"
    work.end("promote")
    assert host.heard == [("promote", "unix:/next")]
    assert switch.heard == [("promote",)]
