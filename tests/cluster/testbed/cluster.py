"""The cluster as a whole: up, down, whether it is healthy, and how a part that failed is brought back."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from testbed import clients, containers, control_groups, control_plane, network, nodes, pki, places, volumes
from testbed.commands import ClusterError, missing, run, succeeds, until
from testbed.daemons import Daemon
from testbed.kubectl import Kubectl
from testbed.places import NODES, Node

READY_S = 90.0
TURN_S = 5.0
SOCKET_PATH_BYTES = 100
PACKAGES = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "conntrack": "conntrack",
    "socat": "socat",
    "ebtables": "ebtables",
    "ipset": "ipset",
    "iptables": "iptables",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "sysctl": "procps",
    "openssl": "openssl",
}
"""Programs, and the Debian packages that have them."""


def kubectl() -> Kubectl:
    """kubectl with all rights."""
    return Kubectl(places.kubeconfig())


def daemons() -> list[Daemon]:
    """Every process that the cluster consists of."""
    return [*control_plane.DAEMONS, *(daemon for node in NODES for daemon in nodes.daemons(node))]


def check_machine() -> None:
    """Raises ClusterError, with all that is missing in one line."""
    if not may_run():
        raise ClusterError(
            "a cluster of its own needs Linux and root; or name one in KUBECONFIG, or install kind"
        )
    packages = missing(PACKAGES)
    if not (Path(nodes.CNI_PROGRAMS) / "bridge").exists():
        packages.append("containernetworking-plugins")
    if packages:
        raise ClusterError(f"not installed: {' '.join(packages)}")
    if max(len(os.fsencode(node.socket)) for node in NODES) > SOCKET_PATH_BYTES:
        raise ClusterError(f"{places.cache()}: too long a path for sockets in it; set XDG_CACHE_HOME")


def may_run() -> bool:
    """Whether this process may run a cluster here."""
    return sys.platform == "linux" and os.geteuid() == 0


def is_up() -> bool:
    """Whether there is one that was brought up, and that this process may use; perhaps it is broken."""
    return may_run() and network.exists() and places.programs().exists()


@contextlib.contextmanager
def changing() -> Iterator[None]:
    """While the cluster is changed nobody else may. A machine has one such cluster. Raises ClusterError."""
    with places.CLAIM.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        other = file.read().strip()
        if other and Path(other) != places.run() and Path(other).exists():
            raise ClusterError(f"this machine runs a cluster in {other} already")
        yield


@contextlib.contextmanager
def turn(timeout_s: float) -> Iterator[None]:
    """One at a time disturbs the cluster: a run of tests, or who takes it down. Raises ClusterError."""
    with (places.cache() / "turn").open("w") as file:

        def taken() -> bool:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        until(taken, "end of the tests that use the cluster", timeout_s)
        yield


def _claim(text: str) -> None:
    places.CLAIM.write_text(text)


def healthy() -> bool:
    """Whether all of it runs, is connected and answers."""
    return (
        all(daemon.healthy for daemon in daemons())
        and all(network.link_is_up(node) for node in NODES)
        and control_plane.api_answers()
        and all_ready()
    )


def ready(node: Node) -> bool:
    """Whether Kubernetes says that the node is ready."""
    try:
        found = kubectl().get("node", node.name)
    except ClusterError:
        return False
    return any(c["type"] == "Ready" and c["status"] == "True" for c in found["status"].get("conditions", ()))


def all_ready() -> bool:
    """Whether all nodes are."""
    return all(ready(node) for node in NODES)


def runs_pods(node: Node) -> bool:
    """Whether the node is ready and has a pod that runs now: what Kubernetes says of a node may be a minute old."""
    try:
        return ready(node) and bool(clients.inside(node.name))
    except ClusterError:
        return False


def up(programs: Path, pause: Path) -> bool:
    """Bring the cluster up from these programs; False if it is up already. A broken one is removed first.

    `pause` is the archive of the image that holds a pod's network. Raises ClusterError.
    """
    check_machine()
    with changing():
        if places.programs().exists() and places.programs().resolve() == programs.resolve() and healthy():
            return False
        with turn(TURN_S):
            _down()
        _keep_logs()
        places.run().mkdir(parents=True, exist_ok=True)
        _claim(str(places.run()))
        places.programs().symlink_to(programs)
        network.up()
        pki.make()
        control_plane.start()
        for node in NODES:
            nodes.start(node)
        containers.load(pause)
        for node in NODES:
            until(partial(ready, node), f"readiness of {node.name}", READY_S, nodes.kubelet(node).log)
        volumes.make(kubectl())
        clients.make(kubectl())
        for node in NODES:
            until(partial(_sees_services, node), f"Services on {node.name}", READY_S, nodes.proxy(node).log)
        return True


def _sees_services(node: Node) -> bool:
    """Whether a pod of the node reaches the API server by its Service."""
    there = f"import socket; socket.create_connection(('{places.KUBERNETES_SERVICE}', 443), 2)"
    return succeeds([*clients.inside(node.name), sys.executable, "-c", there])


def _keep_logs() -> None:
    before = places.run() / "log.before"
    if places.logs().exists():
        shutil.rmtree(before, ignore_errors=True)
        places.logs().rename(before)


def down() -> None:
    """Remove all of it but the logs. It may be up in part, or not at all."""
    places.cache().mkdir(parents=True, exist_ok=True)
    with changing(), turn(TURN_S):
        _down()
        _claim("")


def _down() -> None:
    if not places.run().exists():
        return
    for node in NODES:
        nodes.kill(node)
    control_plane.kill()
    network.down()
    for node in NODES:
        control_groups.remove(node)
    for entry in places.run().iterdir():
        if entry.name.startswith("log"):
            continue
        if entry.is_dir() and not entry.is_symlink():
            run(["rm", "-rf", "--one-file-system", entry])
        else:
            entry.unlink()
