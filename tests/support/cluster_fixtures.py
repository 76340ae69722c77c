"""Fixtures of the tests on a real Kubernetes: the cluster, a namespace for each test, and faults that are healed.

`make cluster` brings the cluster up; where there is none these tests are skipped. When one fails, its report has the
pods, events and logs of its namespace.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from types import ModuleType

import pytest
from machine import need
from testbed import choice, clients, places, volumes
from testbed import cluster as own_cluster
from testbed import faults as own_faults
from testbed.commands import ClusterError
from testbed.kubectl import Kubectl

TURN_S = 60.0
NAMESPACE_S = 60.0
GRACE_S = 1
"""How long pods have to end when their test is over."""
REPORT_S = 10.0


@dataclass(frozen=True)
class Cluster:
    """The cluster of this run of the tests."""

    kubectl: Kubectl
    own: bool
    """Whether it is one of ours: only that has faults, and clients inside and outside."""

    @property
    def nodes(self) -> tuple[str, ...]:
        """The names of its nodes."""
        return tuple(node["metadata"]["name"] for node in self.kubectl.get("nodes"))

    def inside(self, node: str) -> list[str]:
        """What to put before a command so that it is a client inside the cluster, on this node."""
        return clients.inside(node)

    def outside(self) -> list[str]:
        """What to put before a command so that it is a client outside the cluster."""
        return clients.outside()


@dataclass(frozen=True)
class Namespace:
    """A namespace of one test."""

    name: str
    kubectl: Kubectl
    """kubectl in this namespace."""


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster that is up. Nobody else's tests use it meanwhile, if it is ours."""
    if choice.chosen() is not None:
        need("cluster", True, "")
        yield Cluster(Kubectl(places.kubeconfig()), own=False)
        return
    need(
        "cluster",
        own_cluster.is_up(),
        "no test cluster here (make cluster): nothing is tested on a real Kubernetes",
    )
    with own_cluster.turn(TURN_S):
        own_faults.heal()  # a run that was ended by force could not
        yield Cluster(own_cluster.kubectl(), own=True)


@pytest.fixture
def faults(cluster: Cluster) -> Iterator[ModuleType]:
    """The module `testbed.faults`. What is not undone by the end of the test is healed."""
    need("cluster", cluster.own, "this cluster is not our own: faults of nodes and processes are not tested")
    yield own_faults
    own_faults.heal()


@pytest.fixture(scope="session")
def ended_namespaces(cluster: Cluster) -> Iterator[list[str]]:
    """Namespaces of tests that are over. Kubernetes removes each some seconds later; the last test waits for that."""
    names: list[str] = []
    yield names
    if names:
        cluster.kubectl.wait_for("delete", *(f"namespace/{name}" for name in names), timeout_s=NAMESPACE_S)


@pytest.fixture
def namespace(
    cluster: Cluster, ended_namespaces: list[str], request: pytest.FixtureRequest
) -> Iterator[Namespace]:
    """A fresh namespace. When the test is over its pods and claims are gone, and its volumes are empty and free."""
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:40].strip("-")
    name = f"{words}-{secrets.token_hex(3)}"
    inside = cluster.kubectl.within(name)
    cluster.kubectl("create", "namespace", name)
    try:
        # Until it is there, pods are refused.
        inside.wait_for("create", "serviceaccount/default", timeout_s=NAMESPACE_S)
        yield Namespace(name, inside)
    finally:
        if cluster.own:
            own_faults.heal()
        # From the first moment of its end nothing new can be made in it.
        cluster.kubectl("delete", "namespace", name, "--wait=false")
        ended_namespaces.append(name)
        inside("delete", "all,persistentvolumeclaims", "--all", "--wait=false", f"--grace-period={GRACE_S}")
        inside.wait_for("delete", "pods,persistentvolumeclaims", "--all", timeout_s=NAMESPACE_S)
        if cluster.own:
            volumes.free(cluster.kubectl)


def _report(kubectl: Kubectl) -> Iterator[tuple[str, str]]:
    """What there is to see in a namespace."""
    yield "pods", kubectl("get", "pods", "--output", "wide", timeout_s=REPORT_S)
    yield "events", kubectl("get", "events", "--sort-by=.metadata.creationTimestamp", timeout_s=REPORT_S)
    for pod in kubectl.get("pods"):
        name = pod["metadata"]["name"]
        recent = ["logs", name, "--all-containers", "--prefix", "--tail=200"]
        yield f"log of {name}", kubectl(*recent, timeout_s=REPORT_S)
        if any(status["restartCount"] for status in pod["status"].get("containerStatuses", ())):
            yield f"log of {name} before its restart", kubectl(*recent, "--previous", timeout_s=REPORT_S)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure shows the pods, events and logs of the test's namespace."""
    report = yield
    namespace = getattr(item, "funcargs", {}).get("namespace")
    if report.failed and call.when == "call" and isinstance(namespace, Namespace):
        try:
            report.sections.extend(_report(namespace.kubectl))
        except ClusterError as error:
            report.sections.append(("namespace", str(error)))
    return report
