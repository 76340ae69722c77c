"""What runs in the nodes' containers, as their runtimes know it: no API server is needed to ask."""

from __future__ import annotations

from pathlib import Path

from testbed.commands import ClusterError, run
from testbed.places import NODES, Node
from testbed.processes import Process

IMPORT_S = 300.0


def _ctr(node: Node, *words: str, timeout_s: float = 20.0) -> str:
    return run(["ctr", "-a", node.socket, "-n", "k8s.io", *words], timeout_s=timeout_s)


def load(archive: Path) -> None:
    """Give an image archive to each node that was not given just this one last. Raises ClusterError."""
    written = archive.stat()
    which = f"{archive.resolve()} {written.st_size} {written.st_mtime_ns}"
    for node in NODES:
        last = node.folder / "last-image"
        if last.exists() and last.read_text() == which:
            continue
        _ctr(node, "images", "import", str(archive), timeout_s=IMPORT_S)
        last.write_text(which)


def _running(node: Node, labels: dict[str, str]) -> list[Process]:
    """The main processes of the containers with these labels."""
    wanted = ",".join(f'labels."{name}"=={value}' for name, value in labels.items())
    containers = set(_ctr(node, "containers", "ls", "-q", wanted).split())
    if not containers:
        return []
    tasks = [line.split() for line in _ctr(node, "tasks", "ls").splitlines()[1:]]
    pids = [int(task[1]) for task in tasks if task[0] in containers and task[2] != "STOPPED"]
    return [process for pid in pids if (process := Process.of(pid)) is not None and process.lives]


def process_of(pod: str, namespace: str, container: str | None = None) -> Process:
    """The main process of a pod's container; of its only one, if none is named. Raises ClusterError."""
    labels = {
        "io.cri-containerd.kind": "container",
        "io.kubernetes.pod.namespace": namespace,
        "io.kubernetes.pod.name": pod,
    }
    if container is not None:
        labels["io.kubernetes.container.name"] = container
    found = [process for node in NODES if node.socket.exists() for process in _running(node, labels)]
    if len(found) != 1:
        which = f"{namespace}/{pod}" + (f", container {container}" if container else "")
        raise ClusterError(f"{which}: {len(found)} running containers, not one")
    return found[0]


def network_of(node: Node, namespace: str, app: str) -> Path:
    """The network namespace of the pod with this label `app` on a node. Raises ClusterError."""
    labels = {"io.cri-containerd.kind": "sandbox", "io.kubernetes.pod.namespace": namespace, "app": app}
    found = _running(node, labels)
    if len(found) != 1:
        raise ClusterError(f"{namespace}: {len(found)} pods {app} on {node.name}, not one")
    return Path(f"/proc/{found[0].pid}/ns/net")
