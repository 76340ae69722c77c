"""What is done to a relay in pods, each for real. A fault returns when it is over and the relay serves again."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from testbed import faults, places

from bench.cluster.clients import OUTSIDE
from bench.cluster.pods import PodMember, RelayInPods

CONTAINER: Final = "relay"
API_AWAY_S: Final = 60.0
API_AWAY_WHILE_KILLED_S: Final = 12.0
NODE_AWAY_S: Final = 12.0
ALL: Final = (*(node.name for node in places.NODES), OUTSIDE)


@dataclass
class Struck:
    """What a fault is done to, and what it may need."""

    relay: RelayInPods
    namespace: str
    active: PodMember
    epoch: int
    others: list[PodMember]
    flow: Callable[[], None]
    """Waits until every client has promises again."""
    api_away_s: float = API_AWAY_S

    @property
    def elsewhere(self) -> list[PodMember]:
        """Members on other nodes than the active's."""
        return [one for one in self.others if one.node != self.active.node]


def kill(struck: Struck) -> None:
    """kill -9 of the active's process."""
    faults.kill(struck.active.name, struck.namespace, CONTAINER)
    struck.flow()
    struck.relay.wait_active(struck.epoch, struck.others)
    _replace(struck)


def delete(struck: Struck) -> None:
    """The active's pod is deleted: SIGTERM."""
    struck.relay.kubectl("delete", "pod", struck.active.name, timeout_s=120)
    struck.flow()


def promote(struck: Struck) -> None:
    """`posthouse promote`: another member is to be active."""
    struck.relay.kubectl.exec(struck.active.name, "posthouse", "promote", container=CONTAINER)
    struck.flow()


def restart(struck: Struck) -> None:
    """`kubectl rollout restart`: every member is replaced, one after another."""
    struck.relay.restart()
    struck.relay.wait_settled()
    struck.flow()


def drain(struck: Struck) -> None:
    """The active's node is drained, and used again afterwards."""
    try:
        struck.relay.kubectl.drain(struck.active.node, timeout_s=120)
        if struck.elsewhere:
            struck.flow()
    finally:
        struck.relay.kubectl.uncordon(struck.active.node)
    struck.flow()


def freeze(struck: Struck) -> None:
    """The active's process is stopped (SIGSTOP), until the kubelet kills it."""
    with faults.freeze(struck.active.name, struck.namespace, CONTAINER):
        struck.relay.wait_active(struck.epoch, struck.others)
        struck.flow()
    _replace(struck)


def cut(struck: Struck) -> None:
    """The active's node is cut off from everything."""
    with faults.cut(struck.active.node):
        struck.relay.wait_active(struck.epoch, struck.elsewhere)
        struck.flow()


def stop_api_server(struck: Struck) -> None:
    """The API server is stopped (SIGSTOP) for a minute."""
    with faults.stop_api_server():
        time.sleep(struck.api_away_s)
    struck.flow()


def kill_without_api_server(struck: Struck) -> None:
    """The active is killed while the API server is stopped."""
    with faults.stop_api_server():
        faults.kill(struck.active.name, struck.namespace, CONTAINER)
        time.sleep(API_AWAY_WHILE_KILLED_S)
    struck.flow()
    _replace(struck)


def lose_node(struck: Struck) -> None:
    """The power of the active's node fails, and is back after a while."""
    with faults.stop_node(struck.active.node):
        time.sleep(NODE_AWAY_S)
    struck.flow()


def _replace(struck: Struck) -> None:
    """A new pod in place of the one whose container was killed: the kubelet would restart that one later each time."""
    struck.relay.kubectl.delete("pod", struck.active.name, grace_s=1)


@dataclass(frozen=True)
class Kind:
    """One fault and what it needs."""

    name: str
    do: Callable[[Struck], None]
    rounds: int
    """In a measurement."""
    stores: tuple[str, ...] = ("sqlite", "postgresql")
    beside: bool = False
    """Whether clients on the active's node are left out: they are struck themselves."""


KINDS: Final = {
    kind.name: kind
    for kind in (
        Kind("kill", kill, 100),
        Kind("delete", delete, 100),
        Kind("promote", promote, 100),
        Kind("drain", drain, 10),
        Kind("restart", restart, 20),
        Kind("freeze", freeze, 10),
        Kind("cut", cut, 10, ("postgresql",), beside=True),
        Kind("api", stop_api_server, 3),
        Kind("api-kill", kill_without_api_server, 3, ("postgresql",)),
        Kind("lost-node", lose_node, 3, ("sqlite",), beside=True),
    )
}
"""What each is called in a report, and what it may cost, is in `bench/pods_budgets.py`."""
