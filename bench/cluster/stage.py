"""A relay in pods with its clients: one fault after another, and what became of every promise."""

from __future__ import annotations

import itertools
import random
import time
from contextlib import ExitStack
from typing import Final

from testbed.kubectl import Kubectl

from bench.cluster import stores
from bench.cluster.clients import OUTSIDE, Clients, PlacedClient
from bench.cluster.faults import ALL, API_AWAY_S, Kind, Struck
from bench.cluster.pods import Change, PodMember, RelayInPods
from bench.errors import RunFailed
from bench.rounds import ClientRound, ClusterRound
from bench.wire import Closed, take_all

PROMISES: Final = 20
"""So many in a row are taken for a client that is well."""


class Stage:
    """One deployment of one store, used for many rounds."""

    def __init__(self, store: str, kubectl: Kubectl, stack: ExitStack, *changes: Change) -> None:
        """``kubectl``: in a fresh namespace. All processes are ended by the stack. Raises RunFailed, ClusterError."""
        self.store = store
        self.relay = RelayInPods(kubectl)
        self.broken: list[str] = []
        """What should not have been."""
        self._namespace = kubectl.namespace or "default"
        dsn = ""
        if store == "postgresql":
            server = stack.enter_context(stores.postgres_for_pods())
            stores.make_secrets(kubectl, server)
            dsn = server.dsn()
        self.relay.deploy(store, *changes)
        self.relay.wait_settled()
        self.record: stores.EpochRecord = (
            stores.PostgresRecord(dsn) if dsn else stores.SqliteRecord(self.relay)
        )
        self._service = self.relay.address()
        self._clients = Clients(stack)
        self._received: dict[str, set[str]] = {}

    def round(self, kind: Kind, api_away_s: float = API_AWAY_S) -> ClusterRound:
        """One fault. Raises RunFailed, ClusterError."""
        active, epoch, others = self._settled()
        chosen, elsewhere = self._clients.at(list(ALL)), others
        if kind.beside:
            chosen = self._clients.at([place for place in ALL if place != active.node])
            elsewhere = [one for one in others if one.node != active.node]
        # Where a fault leaves no member untouched, every client has to notice by itself.
        self._clients.put(chosen, self._service, active, elsewhere or others, patient=bool(elsewhere))
        for client in chosen:
            client.prober.run()
        self._flow(chosen)
        time.sleep(random.uniform(0.05, 0.5))  # anywhere between two renewals
        for client in chosen:
            client.prober.mark()
        kind.do(
            Struck(self.relay, self._namespace, active, epoch, others, lambda: self._flow(chosen), api_away_s)
        )
        self._flow(chosen)
        return self._told_by(chosen)

    def check_epochs(self) -> list[tuple[int, int]]:
        """What the store has recorded of the epochs of its commits; one that came back is noted as broken."""
        changes = self.record.changes()
        for (before, _), (after, _) in itertools.pairwise(changes):
            if after < before:
                self.broken.append(f"a commit of epoch {after} came after one of epoch {before}")
        return changes

    def _settled(self) -> tuple[PodMember, int, list[PodMember]]:
        """All is well, and members of a store that is not a node's own are on more than one."""
        active, epoch, others = self.relay.wait_settled()
        if self.store == "postgresql" and all(one.node == active.node for one in others):
            self.relay.restart()
            active, epoch, others = self.relay.wait_settled()
        return active, epoch, others

    def _flow(self, chosen: list[PlacedClient]) -> None:
        for client in chosen:
            client.prober.wait_for_more(PROMISES)

    def _told_by(self, chosen: list[PlacedClient]) -> ClusterRound:
        clients, promised, lost = [], 0, 0
        for client in chosen:
            figures = client.prober.pause()
            if figures["epochs"] != sorted(figures["epochs"]):
                self.broken.append(f"the {client.prober.name} was told the epochs {figures['epochs']}")
            clients.append(
                ClientRound(
                    "outside" if client.place == OUTSIDE else "inside", client in self._clients.own,
                    figures["longest_ms"], figures["closed"], figures["codes"],
                )
            )  # fmt: skip
            promised += figures["promised"]
            lost += self._lost(client, figures["ids"])
        return ClusterRound(clients, promised, lost)

    def _lost(self, client: PlacedClient, promised: list[str]) -> int:
        """How many of the promised messages its reader cannot find."""
        received = self._received.setdefault(client.prober.name, set())
        try:
            received |= take_all(self._service, client.prober.reader)
        except Closed as closed:
            raise RunFailed(f"the messages cannot be read back: {closed}") from None
        return len(set(promised) - received)
