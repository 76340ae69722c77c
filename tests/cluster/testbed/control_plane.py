"""The control plane: etcd, the API server, the controllers, the scheduler, DNS, and the proxy of the edge."""

from __future__ import annotations

import json
import socket
import ssl
import urllib.request

from testbed import pki, places
from testbed.commands import until
from testbed.daemons import Daemon

ETCD = Daemon("etcd")
API_SERVER = Daemon("kube-apiserver")
CONTROLLERS = Daemon("kube-controller-manager")
SCHEDULER = Daemon("kube-scheduler")
DNS = Daemon("coredns")
EDGE_PROXY = Daemon("edge-proxy")
DAEMONS = (ETCD, API_SERVER, CONTROLLERS, SCHEDULER, DNS, EDGE_PROXY)
START_S = 60.0
_ETCD_URL = "http://127.0.0.1:12379"


def start() -> None:
    """Start all of it, and wait until it answers. Raises ClusterError."""
    start_etcd()
    start_api_server()
    start_controllers()
    start_scheduler()
    start_dns()
    start_edge_proxy()
    until(_dns_answers, "DNS of the cluster", START_S, DNS.log)


def kill() -> None:
    """End all of it."""
    for daemon in reversed(DAEMONS):
        daemon.kill()


def start_etcd() -> None:
    """Start the store of the API server. It may forget on a crash of this machine, not on one of its own."""
    ETCD.start(
        [
            places.programs() / "etcd",
            f"--data-dir={places.run() / 'etcd'}",
            "--unsafe-no-fsync",
            f"--listen-client-urls={_ETCD_URL}",
            f"--advertise-client-urls={_ETCD_URL}",
            "--listen-peer-urls=http://127.0.0.1:12380",
        ]
    )


def start_api_server() -> None:
    """Start the API server and wait until it is ready. Raises ClusterError."""
    keys = pki.folder()
    API_SERVER.start(
        [
            places.programs() / "kube-apiserver",
            f"--etcd-servers={_ETCD_URL}",
            f"--bind-address={places.MACHINE}",
            f"--advertise-address={places.MACHINE}",
            f"--secure-port={places.API_PORT}",
            f"--tls-cert-file={keys / 'api.crt'}",
            f"--tls-private-key-file={keys / 'api.key'}",
            f"--client-ca-file={keys / 'ca.crt'}",
            f"--token-auth-file={keys / 'tokens.csv'}",
            f"--service-account-key-file={keys / 'accounts.pub'}",
            f"--service-account-signing-key-file={keys / 'accounts.key'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-cluster-ip-range={places.SERVICE_CIDR}",
            "--authorization-mode=RBAC",
            "--allow-privileged=true",
            "--kubelet-preferred-address-types=InternalIP",
        ]
    )
    until(api_answers, "readiness of the API server", START_S, API_SERVER.log)


def start_controllers() -> None:
    """Start the controllers."""
    keys = pki.folder()
    CONTROLLERS.start(
        [
            places.programs() / "kube-controller-manager",
            f"--kubeconfig={places.kubeconfig()}",
            f"--service-account-private-key-file={keys / 'accounts.key'}",
            f"--root-ca-file={keys / 'ca.crt'}",
            "--use-service-account-credentials=true",
            "--leader-elect=false",
            # Each node's network plug-in is told its addresses below, whichever node joins first.
            "--allocate-node-cidrs=false",
        ]
    )


def start_scheduler() -> None:
    """Start the scheduler."""
    program = places.programs() / "kube-scheduler"
    SCHEDULER.start([program, f"--kubeconfig={places.kubeconfig()}", "--leader-elect=false"])


def start_dns() -> None:
    """Start DNS, on this machine's address. It knows the cluster's names and asks nobody else."""
    corefile = places.run() / "Corefile"
    corefile.write_text(
        f""".:53 {{
  bind {places.MACHINE}
  kubernetes cluster.local in-addr.arpa {{
    kubeconfig {places.kubeconfig()} testbed
  }}
}}
"""
    )
    DNS.start([places.programs() / "coredns", "-conf", corefile])


def start_edge_proxy() -> None:
    """Start the proxy that makes the addresses of Services known at the edge."""
    start_proxy(EDGE_PROXY, places.EDGE_NETNS, "edge")


def start_proxy(daemon: Daemon, netns: str, name: str) -> None:
    """A kube-proxy in a network namespace."""
    config = places.run() / f"{name}-proxy.json"
    config.write_text(
        json.dumps(
            {
                "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
                "kind": "KubeProxyConfiguration",
                "mode": "iptables",
                "clientConnection": {"kubeconfig": str(places.kubeconfig())},
                "hostnameOverride": name,
                "clusterCIDR": places.POD_CIDR,
                # This machine may not be allowed to lower a score, nor to change the table of connections.
                "oomScoreAdj": 0,
                "conntrack": {"maxPerCore": 0},
            }
        )
    )
    daemon.start([places.programs() / "kube-proxy", f"--config={config}"], netns)


START = {
    ETCD: start_etcd,
    API_SERVER: start_api_server,
    CONTROLLERS: start_controllers,
    SCHEDULER: start_scheduler,
    DNS: start_dns,
    EDGE_PROXY: start_edge_proxy,
}
"""How each of them is started again."""


def api_answers(timeout_s: float = 2.0) -> bool:
    """Whether the API server says that it is ready."""
    try:
        trust = ssl.create_default_context(cafile=str(pki.folder() / "ca.crt"))
        request = urllib.request.Request(
            f"{places.API_URL}/readyz", headers={"Authorization": f"Bearer {pki.token()}"}
        )
        # No proxy of this machine's environment may stand between.
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust)
        )
        with opener.open(request, timeout=timeout_s) as answer:
            ready: bool = answer.status == 200
            return ready
    except OSError:
        return False


def _dns_answers() -> bool:
    try:
        socket.create_connection((places.MACHINE, 53), timeout=1).close()
    except OSError:
        return False
    return True
