"""The network of the cluster: one bridge, a namespace a node, and one for those outside.

The edge is where this machine (webhook calls of the API server, clients outside the cluster) enters the addresses of
Services, as a load balancer would be.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from testbed import places
from testbed.commands import ClusterError, run, succeeds
from testbed.places import NODES, Node

_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
_BRIDGE_FILTER = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")


def _ip(*words: str, netns: str | None = None) -> None:
    run(["ip", *(["-n", netns] if netns else []), *words])


def _join(netns: str, link: str, address: str) -> None:
    """A namespace with one link to the bridge, that forwards for what is behind it."""
    _ip("netns", "add", netns)
    _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", netns)
    _ip("link", "set", link, "master", places.BRIDGE, "up")
    _ip("addr", "add", f"{address}/24", "dev", "eth0", netns=netns)
    _ip("link", "set", "eth0", "up", netns=netns)
    _ip("link", "set", "lo", "up", netns=netns)
    _ip("route", "add", "default", "via", places.MACHINE, netns=netns)
    run(["nsenter", f"--net={places.netns_path(netns)}", "sysctl", "-qw", "net.ipv4.ip_forward=1"])


def _settings() -> dict[Path, str]:
    """What the kernel is told for this, and would keep."""
    return {path: value for path, value in ((_FORWARD, "1"), (_BRIDGE_FILTER, "0")) if path.exists()}


def up() -> None:
    """Make all of it. Nothing of it may exist."""
    _ip("link", "add", places.BRIDGE, "type", "bridge")
    _ip("addr", "add", f"{places.MACHINE}/24", "dev", places.BRIDGE)
    _ip("link", "set", places.BRIDGE, "up")
    for path, value in _settings().items():
        before = places.run() / path.name
        before.write_text(path.read_text())
        path.write_text(value)
    # Whatever has no better route below stays on this machine.
    _ip("route", "add", "unreachable", places.CLUSTER_CIDR)
    _join(places.EDGE_NETNS, places.EDGE_LINK, places.EDGE)
    _ip("route", "add", places.SERVICE_CIDR, "via", places.EDGE)
    for node in NODES:
        _join(node.netns, node.link, node.address)
        _ip("route", "add", node.pods, "via", node.address)
    for netns in (places.EDGE_NETNS, *(node.netns for node in NODES)):
        for node in NODES:
            if node.netns != netns:
                _ip("route", "add", node.pods, "via", node.address, netns=netns)


def down() -> None:
    """Remove whatever there is of it."""
    links = [places.EDGE_LINK, *(node.link for node in NODES), places.BRIDGE]
    for netns in (places.EDGE_NETNS, *(node.netns for node in NODES)):
        succeeds(["ip", "netns", "del", netns])
    for link in links:
        succeeds(["ip", "link", "del", link])
    succeeds(["ip", "route", "del", "unreachable", places.CLUSTER_CIDR])
    for path in _settings():
        before = places.run() / path.name
        with contextlib.suppress(OSError):
            path.write_text(before.read_text())
            before.unlink()


def exists() -> bool:
    """Whether there is any of it: a restart of this machine leaves none."""
    return Path("/sys/class/net", places.BRIDGE).exists()


def set_link(node: Node, up: bool) -> None:
    """The node's only link, at the end of this machine: the node notices nothing but silence."""
    _ip("link", "set", node.link, "up" if up else "down")


def link_is_up(node: Node) -> bool:
    """Whether the link exists and is up."""
    try:
        return ",UP" in run(["ip", "link", "show", "dev", node.link]).partition(">")[0]
    except ClusterError:
        return False
