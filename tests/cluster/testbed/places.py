"""Where everything is: folders, addresses, names. Nothing is read or written here."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

CLUSTER_CIDR = "198.18.0.0/15"
"""The range for benchmarks (RFC 2544). It is never routed, so that nothing leaves the machine."""
MACHINE = "198.18.0.1"
"""This machine as the nodes see it: API server and DNS."""
EDGE = "198.18.0.2"
POD_CIDR = "198.18.128.0/17"
SERVICE_CIDR = "198.19.0.0/24"
KUBERNETES_SERVICE = "198.19.0.1"
API_PORT = 6443
API_URL = f"https://{MACHINE}:{API_PORT}"
BRIDGE = "ph-bridge"
EDGE_NETNS = "ph-edge"
EDGE_LINK = "ph-edge"
PAUSE_IMAGE = "localhost/pause:1"
CLAIM = Path("/run/posthouse-cluster")
"""Locked while the cluster of this machine is changed. Holds the folder of the one that runs."""


def cache() -> Path:
    """What is kept between runs."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "posthouse" / "cluster"


def run() -> Path:
    """The state of the running cluster."""
    return cache() / "run"


def logs() -> Path:
    """One log a process; those of the cluster before are beside it, in `log.before`."""
    return run() / "log"


def kubeconfig() -> Path:
    """How to reach the cluster, with all rights."""
    return run() / "kubeconfig"


def programs() -> Path:
    """A link to the programs that the running cluster was started with."""
    return run() / "bin"


@dataclass(frozen=True)
class Node:
    """One node: a network namespace with a container runtime, a kubelet and a kube-proxy of its own."""

    number: int

    @property
    def name(self) -> str:
        """Its name in Kubernetes."""
        return f"node{self.number}"

    @property
    def address(self) -> str:
        """Its address on the bridge."""
        return f"198.18.0.{10 + self.number}"

    @property
    def pods(self) -> str:
        """The addresses of its pods."""
        return f"198.18.{127 + self.number}.0/24"

    @property
    def netns(self) -> str:
        """Its network namespace."""
        return f"ph-{self.name}"

    @property
    def link(self) -> str:
        """This machine's end of the node's only link."""
        return f"ph-{self.name}"

    @property
    def cgroup(self) -> str:
        """The parent of all its pods' control groups."""
        return f"posthouse-{self.name}"

    @property
    def folder(self) -> Path:
        """Its own files."""
        return run() / self.name

    @property
    def socket(self) -> Path:
        """Where its container runtime answers."""
        return self.folder / "ct.sock"


NODES = (Node(1), Node(2))


def node(name: str) -> Node:
    """The node of this name. Raises KeyError."""
    return {node.name: node for node in NODES}[name]


def netns_path(name: str) -> Path:
    """The file that stands for a named network namespace."""
    return Path("/var/run/netns") / name
