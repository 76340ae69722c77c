"""A node: container runtime, kubelet and kube-proxy in the node's network namespace, and how all of it ends."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from testbed import control_groups, places
from testbed.commands import run, succeeds, until
from testbed.control_plane import start_proxy
from testbed.daemons import Daemon
from testbed.places import Node
from testbed.processes import with_argument

START_S = 30.0
CNI_PROGRAMS = "/usr/lib/cni"
# Version 2 of the file, which containerd 1.6 and later read. A machine that may not lower the score of a process for
# the out-of-memory killer would otherwise not start a single pod.
_CONTAINERD = """version = 2
root = "{folder}/ct/root"
state = "{folder}/ct/state"
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni}"
    conf_dir = "{folder}/cni"
"""


def containerd(node: Node) -> Daemon:
    """The node's container runtime."""
    return Daemon(f"{node.name}-containerd")


def kubelet(node: Node) -> Daemon:
    """The node's kubelet."""
    return Daemon(f"{node.name}-kubelet")


def proxy(node: Node) -> Daemon:
    """The node's kube-proxy."""
    return Daemon(f"{node.name}-proxy")


def daemons(node: Node) -> tuple[Daemon, ...]:
    """All of them, in the order of their start."""
    return containerd(node), kubelet(node), proxy(node)


def start(node: Node) -> None:
    """Start the node. It joins the cluster by itself; nobody waits for that here. Raises ClusterError."""
    for step in STARTS:
        step(node)


def start_containerd(node: Node) -> None:
    """Start the container runtime and wait until it answers."""
    folder = node.folder
    (folder / "cni").mkdir(parents=True, exist_ok=True)
    (folder / "cni" / "10-bridge.conflist").write_text(json.dumps(_network(node)))
    config = folder / "containerd.toml"
    words = {"folder": folder, "socket": node.socket, "pause": places.PAUSE_IMAGE, "cni": CNI_PROGRAMS}
    config.write_text(_CONTAINERD.format(**words))
    daemon = containerd(node)
    daemon.start(["containerd", "--config", config], node.netns)
    answers = ["ctr", "-a", str(node.socket), "version"]
    until(lambda: succeeds(answers), f"container runtime of {node.name}", START_S, daemon.log)


def start_kubelet(node: Node) -> None:
    """Start the kubelet."""
    control_groups.make(node)
    config = node.folder / "kubelet.json"
    config.write_text(json.dumps(_kubelet_config(node)))
    kubelet(node).start(
        [
            places.programs() / "kubelet",
            f"--config={config}",
            f"--kubeconfig={places.kubeconfig()}",
            f"--hostname-override={node.name}",
            f"--node-ip={node.address}",
            f"--root-dir={node.folder / 'kubelet'}",
        ],
        node.netns,
    )


def start_node_proxy(node: Node) -> None:
    """Start the proxy that makes the addresses of Services known on the node."""
    start_proxy(proxy(node), node.netns, node.name)


STARTS = (start_containerd, start_kubelet, start_node_proxy)
"""How each of `daemons` is started, in the same order."""


def _network(node: Node) -> dict[str, object]:
    """Pods of a node share a bridge; addresses of other nodes' pods go out of the node."""
    addresses = {
        "type": "host-local",
        "dataDir": str(node.folder / "addresses"),
        "ranges": [[{"subnet": node.pods}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": False, "hairpinMode": True}
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "0.4.0", "name": node.name, "plugins": [{**bridge, "ipam": addresses}, ports]}


def _kubelet_config(node: Node) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": f"unix://{node.socket}",
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{node.cgroup}",
        "enforceNodeAllocatable": [],
        # Only this machine can reach it.
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "clusterDNS": [places.MACHINE],
        "clusterDomain": "cluster.local",
        "resolvConf": "",
        "podLogsDir": str(node.folder / "podlogs"),
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "nodeStatusUpdateFrequency": "5s",
        # The disk is that of the machine, whose owner decides how full it may be.
        "evictionHard": {"nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
    }


def kill(node: Node) -> None:
    """End at once all that runs on the node, in no order, as when its power fails."""
    for daemon in reversed(daemons(node)):
        daemon.kill()
    for shim in with_argument(str(node.socket)):
        shim.kill()
    control_groups.kill(node)
    forget(node)


def forget(node: Node) -> None:
    """Remove what a restart of a real machine would remove: mounts, pods' networks, the runtime's running state."""
    state = node.folder / "ct" / "state"
    bundles = list(state.glob("io.containerd.runtime.v2.task/k8s.io/*"))
    networks = {name for bundle in bundles if (name := _network_of(bundle)) is not None}
    for bundle in bundles:
        _remove_shim_socket(bundle)
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted((m for m in mounts if m.startswith(f"{node.folder}/")), reverse=True):
        run(["umount", "-l", mount])
    for name in networks:
        succeeds(["ip", "netns", "del", name])
    shutil.rmtree(state, ignore_errors=True)


def _network_of(bundle: Path) -> str | None:
    """The name of the network namespace that a pod's first container was given."""
    try:
        spaces = json.loads((bundle / "config.json").read_text())["linux"]["namespaces"]
    except (OSError, ValueError, KeyError):
        return None
    path = next(
        (Path(space["path"]) for space in spaces if space["type"] == "network" and "path" in space), None
    )
    # Containers after the first are given /proc/PID/ns/net.
    return path.name if path is not None and path.parent.name == "netns" else None


def _remove_shim_socket(bundle: Path) -> None:
    """Shims put their sockets into a folder that all container runtimes of a machine share."""
    try:
        address = (bundle / "address").read_text()
    except OSError:
        return
    Path(address.removeprefix("unix://")).unlink(missing_ok=True)
