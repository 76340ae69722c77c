"""What tests and measurements do to the cluster: for real, and back again.

A function makes its fault and returns when the fault is there. What has a way back is a `Fault`: its `undo` is that
way, and so is the end of a `with` block. `heal` brings back everything, whoever broke it. Only our own cluster has
faults.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from types import TracebackType

from testbed import cluster, containers, control_groups, control_plane, network, nodes, places
from testbed.commands import ClusterError, until
from testbed.duty_cycle import DutyCycle
from testbed.places import NODES, Node
from testbed.processes import Process

HEAL_S = 90.0


class Fault:
    """One fault that was made. `at` is when, on the monotonic clock."""

    def __init__(self, undo: Callable[[], None]) -> None:
        self.at = time.monotonic()
        self._undo: Callable[[], None] | None = undo

    def undo(self) -> None:
        """Take it back and wait until that has worked. Nothing the second time. Raises ClusterError."""
        undo, self._undo = self._undo, None
        if undo is not None:
            undo()

    def __enter__(self) -> Fault:
        """It is there already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """Take it back."""
        self.undo()


# --- a pod's process


def process_of(pod: str, namespace: str, container: str | None = None) -> Process:
    """The main process of a pod's container, found without the API server. To have it at hand before a fault."""
    return containers.process_of(pod, namespace, container)


def kill(pod: str, namespace: str, container: str | None = None) -> float:
    """kill -9 of the main process of a pod's container. When, on the monotonic clock."""
    process = process_of(pod, namespace, container)
    at = time.monotonic()
    process.kill()
    return at


def freeze(pod: str, namespace: str, container: str | None = None) -> Fault:
    """Stop the main process of a pod's container (SIGSTOP)."""
    process = process_of(pod, namespace, container)
    fault = Fault(process.thaw)
    process.freeze()
    return fault


# --- a node


def cut(node: str) -> Fault:
    """Cut the node's network off: nothing goes in or out, and nobody is told."""
    where = places.node(node)
    fault = Fault(lambda: network.set_link(where, up=True))
    network.set_link(where, up=False)
    return fault


def stop_node(node: str) -> Fault:
    """The power of the node fails: it falls silent first, then all that ran there is gone, and its disks stay."""
    where = places.node(node)
    fault = Fault(lambda: start_node(node))
    network.set_link(where, up=False)
    nodes.kill(where)
    return fault


def start_node(node: str) -> None:
    """Start a node that was stopped, and wait until it runs pods. Raises ClusterError."""
    where = places.node(node)
    network.set_link(where, up=True)
    _start_dead(where)
    until(lambda: cluster.runs_pods(where), f"pods on {node}", HEAL_S, nodes.kubelet(where).log)


def _start_dead(node: Node) -> bool:
    """Start those processes of the node that do not run. Whether there were any."""
    dead = [
        start
        for daemon, start in zip(nodes.daemons(node), nodes.STARTS, strict=True)
        if daemon.process is None
    ]
    for start in dead:
        start(node)
    return bool(dead)


# --- the API server


def _api_server() -> Process:
    process = control_plane.API_SERVER.process
    if process is None:
        raise ClusterError("the API server does not run")
    return process


def _continue(process: Process) -> None:
    process.thaw()
    until(control_plane.api_answers, "answer of the API server", HEAL_S, control_plane.API_SERVER.log)


def stop_api_server() -> Fault:
    """Stop the API server (SIGSTOP): connections stay open, and nothing is answered."""
    process = _api_server()
    fault = Fault(lambda: _continue(process))
    process.freeze()
    return fault


def kill_api_server() -> Fault:
    """kill -9 of the API server: connections break, new ones are refused. It is started again by `undo`."""
    _api_server()
    fault = Fault(control_plane.start_api_server)
    control_plane.API_SERVER.kill()
    return fault


def slow_api_server(stopped: float, limit_s: float = 120.0) -> Fault:
    """Let the API server stand still for this part of the time, in short turns, until `undo` or the limit."""
    process = _api_server()
    cycle = DutyCycle(process, stopped, limit_s)

    def undo() -> None:
        cycle.end()
        _continue(process)

    fault = Fault(undo)
    cycle.start()
    return fault


# --- whatever is left


def heal() -> None:
    """Undo all that these faults can have left, and drains; wait until the cluster is whole. Raises ClusterError."""
    for node in NODES:
        network.set_link(node, up=True)
    for daemon in cluster.daemons():
        process = daemon.process
        if process is not None and process.frozen:
            process.thaw()
    for daemon in control_plane.DAEMONS:
        if daemon.process is None:
            control_plane.START[daemon]()
    until(control_plane.api_answers, "answer of the API server", HEAL_S, control_plane.API_SERVER.log)
    kubectl = cluster.kubectl()
    for node in NODES:
        for process in control_groups.processes(node):
            if process.frozen:
                process.thaw()
        # A node that was dead is believed to be ready until somebody notices.
        whole = cluster.runs_pods if _start_dead(node) else cluster.ready
        until(partial(whole, node), f"readiness of {node.name}", HEAL_S, nodes.kubelet(node).log)
        if kubectl.get("node", node.name)["spec"].get("unschedulable"):
            kubectl.uncordon(node.name)
