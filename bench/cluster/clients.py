"""Publishers at the relay's Service, inside the cluster and outside, each put at the member where it is wanted.

A client is a process of this machine in the network of a pod, or in that of the cluster's edge: it reaches the Service
as every client does, by the node's rules, and whichever member these choose.
"""

from __future__ import annotations

import re
import subprocess
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from testbed import clients as places_of_clients
from testbed import places

from bench.cluster.pods import PodMember
from bench.errors import RunFailed
from bench.probing import ProberProcess

INTERVAL_MS: Final = 5.0
"""From message to message: as many clients share two cores with a whole cluster."""
TRIES: Final = 80
CONNECT_LIMIT_S: Final = 10.0
PATIENCE_S: Final = 2.0
"""A client of a member that no longer answers connects anew after so long: its keep-alive."""
OUTSIDE: Final = "outside"
_ANSWERED_BY: Final = re.compile(r"src=\S+ dst=\S+ sport=\d+ dport=\d+ src=(\S+)")


@dataclass(frozen=True)
class PlacedClient:
    """A publisher and where it stands: the name of a node, or `outside`."""

    place: str
    prober: ProberProcess

    def put(self, service: str, wanted: set[str], patience_s: float | None) -> None:
        """Connect to the Service until a member with one of these addresses has it. Raises RunFailed."""
        seen: set[str] = set()
        for _ in range(TRIES):
            self.prober.connect([service], patience_s)
            address = self._served_by()
            if address in wanted:
                return
            seen.add(address)
        raise RunFailed(f"the Service led {self.prober.name} to {', '.join(sorted(seen))} only")

    def _served_by(self) -> str:
        end = time.monotonic() + CONNECT_LIMIT_S
        while time.monotonic() < end:
            figures = self.prober.peek()
            if figures["local"]:
                address = served_by(self.place, figures["local"])
                if address is not None:
                    return address
            time.sleep(0.005)
        raise RunFailed(f"{self.prober.name} does not connect: {figures['codes']}")


def served_by(place: str, local: str) -> str | None:
    """The address of the pod that a connection from ``local`` was led to; None if it is not known there."""
    netns = places.EDGE_NETNS if place == OUTSIDE else places.node(place).netns
    host, _, port = local.rpartition(":")
    words = ["conntrack", "-L", "--proto", "tcp", "--orig-src", host, "--orig-port-src", port]
    command = ["nsenter", f"--net={places.netns_path(netns)}", "--", *words]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    found = [_ANSWERED_BY.search(line) for line in said.splitlines() if "ESTABLISHED" in line]
    return next((match.group(1) for match in found if match), None)


class Clients:
    """One client of the active and one of another member at each place."""

    def __init__(self, stack: ExitStack) -> None:
        """Their processes are ended by the stack."""
        self.own: list[PlacedClient] = []
        """Of the member that is active when a round begins."""
        self.other: list[PlacedClient] = []
        """Of another one."""
        for place in (*(node.name for node in places.NODES), OUTSIDE):
            words = places_of_clients.outside() if place == OUTSIDE else places_of_clients.inside(place)
            for kind, some in (("active", self.own), ("other", self.other)):
                name = f"client of the {kind}, {place}"
                prober = ProberProcess(name, interval_ms=INTERVAL_MS, place=words)
                some.append(PlacedClient(place, stack.enter_context(prober)))

    def at(self, places: list[str]) -> list[PlacedClient]:
        """Those of these places, those of the active first."""
        return [client for client in (*self.own, *self.other) if client.place in places]

    def put(
        self,
        chosen: list[PlacedClient],
        service: str,
        active: PodMember,
        others: list[PodMember],
        *,
        patient: bool,
    ) -> None:
        """Each at its member. Those of the active give a silent connection up after a while; ``patient``: only they do.

        Raises RunFailed.
        """
        for client in chosen:
            if client in self.own:
                client.put(service, {active.ip}, PATIENCE_S)
            else:
                client.put(service, {one.ip for one in others}, None if patient else PATIENCE_S)
