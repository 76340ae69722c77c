"""A server on each node of the test cluster, and clients that say which of them answers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

from cluster_fixtures import Cluster, Namespace
from testbed.commands import run, succeeds, until

IMAGE = "localhost/posthouse:test"
PORT = 8000
SERVICE_S = 30.0
_CODE = f"""
import functools, http.server, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory="/etc")
http.server.ThreadingHTTPServer(("", {PORT}), handler).serve_forever()
"""
SERVER = ["python3", "-c", _CODE]
"""Serves, among others, /hostname: the name of the pod."""


def pod(name: str, node: str) -> dict[str, object]:
    """A pod on this node that serves its own name."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": node},
            "terminationGracePeriodSeconds": 1,
            "containers": [
                {
                    "name": "web",
                    "image": IMAGE,
                    "imagePullPolicy": "Never",
                    "command": SERVER,
                    "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
                }
            ],
        },
    }


class Web:
    """A server on each node behind one Service."""

    def __init__(self, cluster: Cluster, namespace: Namespace) -> None:
        self.cluster = cluster
        self.kubectl = namespace.kubectl
        self.namespace = namespace.name
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": PORT}]},
        }
        pods = [pod(f"on-{node}", node) for node in cluster.nodes]
        self.kubectl.apply(json.dumps({"apiVersion": "v1", "kind": "List", "items": [service, *pods]}))
        self.kubectl.wait_for("condition=Ready", "pod", "--selector=app=web")
        address = self.service()
        for prefix in [cluster.outside(), *(cluster.inside(node) for node in cluster.nodes)]:
            # A kube-proxy may write its rules a second after the pods are ready.
            until(answers(prefix, address, timeout_s=0.5), "answer of the Service", SERVICE_S)

    def address(self, name: str) -> str:
        """Where a pod listens."""
        ip: str = self.kubectl.get("pod", name)["status"]["podIP"]
        return f"{ip}:{PORT}"

    def service(self) -> str:
        """Where the Service is."""
        ip: str = self.kubectl.get("service", "web")["spec"]["clusterIP"]
        return f"{ip}:80"

    def container(self, name: str) -> dict[str, object]:
        """What Kubernetes says of the pod's container."""
        found: dict[str, object] = self.kubectl.get("pod", name)["status"]["containerStatuses"][0]
        return found


def fetch_code(address: str, timeout_s: float) -> str:
    return (
        f"import urllib.request as r; print(r.build_opener(r.ProxyHandler({{}}))"
        f".open('http://{address}/hostname', timeout={timeout_s}).read().decode().strip())"
    )


def fetch(prefix: list[str], address: str, timeout_s: float = 2.0) -> str:
    """The name of the pod that answers there. Raises ClusterError."""
    return run([*prefix, sys.executable, "-c", fetch_code(address, timeout_s)], timeout_s=20).strip()


def answers(prefix: list[str], address: str, timeout_s: float = 2.0) -> Callable[[], bool]:
    """The question whether a server answers there."""
    return lambda: succeeds([*prefix, sys.executable, "-c", fetch_code(address, timeout_s)])
