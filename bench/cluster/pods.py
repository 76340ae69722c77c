"""A relay in a namespace, made of the manifests in `examples/kubernetes`, and what its members say of themselves."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from testbed.kubectl import Kubectl

from bench.errors import RunFailed

EXAMPLES: Final = Path(__file__).parents[2] / "examples" / "kubernetes"
IMAGE: Final = "localhost/posthouse:test"
NAME: Final = "posthouse"
SELECTOR: Final = f"app.kubernetes.io/name={NAME}"
METRICS_PORT: Final = 9090
STATUS_LIMIT_S: Final = 0.5
SETTLE_LIMIT_S: Final = 120.0
ROLLOUT_LIMIT_S: Final = 180.0
POLL_S: Final = 0.02

Change = Callable[[dict[str, Any]], None]
"""Changes one object of a manifest in place."""


@dataclass(frozen=True)
class PodMember:
    """A member, as the cluster knows it."""

    name: str
    uid: str
    ip: str
    node: str
    ready: bool
    ending: bool

    def status(self) -> dict[str, Any] | None:
        """What it says on its metrics port; None if it does not answer soon."""
        try:
            connection = http.client.HTTPConnection(self.ip, METRICS_PORT, timeout=STATUS_LIMIT_S)
            try:
                connection.request("GET", "/status")
                found: dict[str, Any] = json.loads(connection.getresponse().read())
                return found
            finally:
                connection.close()
        except (OSError, ValueError, http.client.HTTPException):
            return None

    def active_epoch(self) -> int | None:
        """Its epoch if it is active, sure of it or not."""
        status = self.status()
        return int(status["epoch"]) if status and status["role"] in ("active", "in doubt") else None


class RelayInPods:
    """The relay of one namespace."""

    def __init__(self, kubectl: Kubectl) -> None:
        """``kubectl``: in that namespace."""
        self.kubectl = kubectl

    def deploy(self, example: str, *changes: Change) -> None:
        """Apply `common.yaml` and this example, changed, and wait until all members are ready. Raises ClusterError."""
        objects = [one for name in ("common", example) for one in documents(name)]
        for one in objects:
            if one["kind"] == "Deployment":
                one["spec"]["template"]["spec"]["containers"][0]["image"] = IMAGE
            for change in changes:
                change(one)
        self.kubectl.apply(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
        self.kubectl.rollout("status", f"deployment/{NAME}", timeout_s=SETTLE_LIMIT_S)

    def restart(self) -> None:
        """Replace every member, one after another, and wait for it. Raises ClusterError."""
        self.kubectl.rollout("restart", f"deployment/{NAME}")
        self.kubectl.rollout("status", f"deployment/{NAME}", timeout_s=ROLLOUT_LIMIT_S)

    def address(self) -> str:
        """Of the Service that clients use."""
        spec = self.kubectl.get("service", NAME)["spec"]
        return f"{spec['clusterIP']}:{spec['ports'][0]['port']}"

    def replicas(self) -> int:
        """How many members there should be."""
        return int(self.kubectl.get("deployment", NAME)["spec"]["replicas"])

    def members(self) -> list[PodMember]:
        """The pods that have an address."""
        return [
            PodMember(
                pod["metadata"]["name"], pod["metadata"]["uid"], pod["status"]["podIP"], pod["spec"]["nodeName"],
                any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"]["conditions"]),
                "deletionTimestamp" in pod["metadata"],
            )
            for pod in self.kubectl.get("pods", selector=SELECTOR)
            if "podIP" in pod["status"]
        ]  # fmt: skip

    def wait_active(
        self, above: int = -1, among: Sequence[PodMember] | None = None, limit_s: float = SETTLE_LIMIT_S
    ) -> tuple[PodMember, int]:
        """The active member and its epoch, once that is above a number. Raises RunFailed."""
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            for member in self.members() if among is None else among:
                epoch = member.active_epoch()
                if epoch is not None and epoch > above:
                    return member, epoch
            time.sleep(POLL_S)
        raise RunFailed(f"no member became active after epoch {above} within {limit_s:.0f} s")

    def wait_settled(self) -> tuple[PodMember, int, list[PodMember]]:
        """All members are there and ready, none is ending, and one is active: it, its epoch, and the others."""
        wanted = self.replicas()
        end = time.monotonic() + SETTLE_LIMIT_S
        while time.monotonic() < end:
            members = self.members()
            if len(members) == wanted and all(one.ready and not one.ending for one in members):
                active = [(one, epoch) for one in members if (epoch := one.active_epoch()) is not None]
                if len(active) == 1 and self._all_linked(members, *active[0]):
                    member, epoch = active[0]
                    return member, epoch, [one for one in members if one is not member]
            time.sleep(0.1)
        raise RunFailed(f"the members did not settle within {SETTLE_LIMIT_S:.0f} s")

    def _all_linked(self, members: list[PodMember], active: PodMember, epoch: int) -> bool:
        """Whether the active knows all of them, and they it."""
        said = active.status()
        known = said["members"] if said else []
        return len(known) == len(members) and all(
            status is not None and status["epoch"] == epoch and status["ready"]
            for status in (one.status() for one in members)
        )


def documents(example: str) -> list[dict[str, Any]]:
    """The objects of an example."""
    return list(yaml.safe_load_all((EXAMPLES / f"{example}.yaml").read_text()))


def setting(section: str, name: str, value: object) -> Change:
    """A setting of the relay, in its environment."""

    def change(one: dict[str, Any]) -> None:
        if one["kind"] == "Deployment":
            variable = f"POSTHOUSE_{section}_{name}".upper()
            container = one["spec"]["template"]["spec"]["containers"][0]
            container["env"].append({"name": variable, "value": str(value)})

    return change


def replicas(count: int) -> Change:
    """Another number of members."""

    def change(one: dict[str, Any]) -> None:
        if one["kind"] == "Deployment":
            one["spec"]["replicas"] = count

    return change
