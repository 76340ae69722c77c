"""Where a process of this machine stands as a client: in the network of a pod, or outside the cluster."""

from __future__ import annotations

import json

from testbed import containers, places
from testbed.kubectl import Kubectl

NAMESPACE = "testbed-clients"
APP = "client"


def make(kubectl: Kubectl) -> None:
    """A pod on each node that does nothing but have a network. A drained or lost node keeps its own."""
    labels = {"app": APP}
    pod = {
        "terminationGracePeriodSeconds": 0,
        "tolerations": [{"operator": "Exists"}],
        "containers": [{"name": APP, "image": places.PAUSE_IMAGE, "imagePullPolicy": "Never"}],
    }
    daemon_set = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": APP, "namespace": NAMESPACE},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    kubectl.apply(json.dumps({"apiVersion": "v1", "kind": "List", "items": [namespace, daemon_set]}))
    kubectl.within(NAMESPACE).rollout("status", f"daemonset/{APP}")


def inside(node: str) -> list[str]:
    """What to put before a command so that its network is that of a pod on this node. Names are still the machine's."""
    path = containers.network_of(places.node(node), NAMESPACE, APP)
    return ["nsenter", f"--net={path}", "--"]


def outside() -> list[str]:
    """What to put before a command so that it is a client outside, which reaches Services as a load balancer does."""
    return ["nsenter", f"--net={places.netns_path(places.EDGE_NETNS)}", "--"]
