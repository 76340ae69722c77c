"""The test cluster itself: what the tests on it rely on, and that each fault does what it says and heals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from cluster_fixtures import Cluster, Namespace
from machine import need
from testbed import build, control_plane, nodes, places, volumes
from testbed.commands import ClusterError, run, succeeds, until
from testbed.processes import Process

pytestmark = pytest.mark.timeout(300)

IMAGE = "localhost/posthouse:test"
PORT = 8000
READY_S = 60.0
SERVER = ["python3", "-m", "http.server", str(PORT), "--directory", "/etc"]
"""Serves, among others, /hostname: the name of the pod."""


def pod(name: str, node: str) -> dict[str, object]:
    """A pod on this node that serves its own name, stays when the node is away, and ends at once."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": node},
            "terminationGracePeriodSeconds": 0,
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


@pytest.fixture
def web(cluster: Cluster, namespace: Namespace) -> Web:
    need("cluster", cluster.own, "this cluster is not our own: the testbed is not tested")
    return Web(cluster, namespace)


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


def asked(cluster: Cluster) -> str:
    return cluster.kubectl("get", "nodes", "--request-timeout=1s")


# --- what the tests rely on


def test_two_nodes_are_ready(cluster: Cluster) -> None:
    found = cluster.kubectl.get("nodes")
    ready = {
        node["metadata"]["name"]: condition["status"]
        for node in found
        for condition in node["status"]["conditions"]
        if condition["type"] == "Ready"
    }
    assert len(ready) >= 2
    assert set(ready.values()) == {"True"}


def test_pods_reach_each_other_and_a_service_by_its_name(web: Web) -> None:
    names = {f"on-{node}" for node in web.cluster.nodes}
    for name in names:
        for other in names:
            code = fetch_code(web.address(other), 5)
            assert web.kubectl.exec(name, "python3", "-c", code).strip() == other
        code = fetch_code(f"web.{web.namespace}.svc.cluster.local", 5)
        assert web.kubectl.exec(name, "python3", "-c", code).strip() in names
        code = fetch_code("web", 5)
        assert web.kubectl.exec(name, "python3", "-c", code).strip() in names


def test_clients_inside_and_outside_reach_all_pods_of_a_service(web: Web) -> None:
    names = {f"on-{node}" for node in web.cluster.nodes}
    address = web.service()
    for prefix in [web.cluster.outside(), *(web.cluster.inside(node) for node in web.cluster.nodes)]:
        seen: set[str] = set()
        until(lambda p=prefix, s=seen: bool(s.add(fetch(p, address))) or s == names, "all pods", 30)  # type: ignore[misc]


def test_a_volume_is_emptied_and_given_back(cluster: Cluster, namespace: Namespace) -> None:
    need("cluster", cluster.own, "this cluster is not our own: its volumes are not tested")
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    writer = pod("writer", "node2")
    spec = writer["spec"]
    assert isinstance(spec, dict)
    spec["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]
    spec["containers"][0]["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
    namespace.kubectl.apply(json.dumps({"apiVersion": "v1", "kind": "List", "items": [claim, writer]}))
    namespace.kubectl.wait_for("condition=Ready", "pod/writer")
    namespace.kubectl.exec("writer", "python3", "-c", "open('/data/kept', 'w').write('x')")
    name = namespace.kubectl.get("persistentvolumeclaim", "data")["spec"]["volumeName"]
    file = places.run() / "volumes" / name / "kept"
    assert name.startswith("node2-")
    assert file.read_text() == "x"
    volumes.free(cluster.kubectl)
    assert file.read_text() == "x"  # its claim is there

    namespace.kubectl.delete("pod", "writer")
    namespace.kubectl.delete("persistentvolumeclaim", "data")
    volumes.free(cluster.kubectl)
    assert cluster.kubectl.get("persistentvolume", name)["status"]["phase"] == "Available"
    assert not file.exists()


def test_up_leaves_a_healthy_cluster_alone(cluster: Cluster) -> None:
    need("cluster", cluster.own, "this cluster is not our own: it is not brought up again")
    before = control_plane.API_SERVER.process
    words = [sys.executable, "-m", "testbed", "up", "--no-image"]
    environment = {**os.environ, "PYTHONPATH": str(Path(build.__file__).parents[1])}
    assert "is up already" in run(words, environment=environment)
    assert before is not None
    assert control_plane.API_SERVER.process == before


# --- faults of a pod


def test_a_killed_container_is_started_again(web: Web, faults: ModuleType) -> None:
    before = web.container("on-node2")
    main = faults.process_of("on-node2", web.namespace)
    assert Path(f"/proc/{main.pid}/cmdline").read_bytes().split(b"\0")[:-1] == [w.encode() for w in SERVER]
    faults.kill("on-node2", web.namespace)
    assert not main.lives
    until(lambda: web.container("on-node2")["restartCount"] == 1, "restart of the container", READY_S)
    until(lambda: bool(web.container("on-node2")["ready"]), "readiness of the container", READY_S)
    assert web.container("on-node2")["containerID"] != before["containerID"]
    assert fetch(web.cluster.outside(), web.address("on-node2")) == "on-node2"


def test_a_frozen_container_stands_still_until_it_is_thawed(web: Web, faults: ModuleType) -> None:
    address = web.address("on-node1")
    main = faults.process_of("on-node1", web.namespace)
    with faults.freeze("on-node1", web.namespace):
        assert main.state == "T"
        assert not answers(web.cluster.outside(), address, timeout_s=0.5)()
    assert main.state != "T"
    assert fetch(web.cluster.outside(), address) == "on-node1"
    assert web.container("on-node1")["restartCount"] == 0


def test_a_container_that_does_not_run_has_no_process(web: Web, faults: ModuleType) -> None:
    with pytest.raises(ClusterError, match="on-node9: 0 running containers"):
        faults.kill("on-node9", web.namespace)


# --- faults of a node


def test_a_cut_node_is_silent_until_it_is_healed(web: Web, faults: ModuleType) -> None:
    away, here = web.address("on-node2"), web.address("on-node1")
    inside, outside = web.cluster.inside("node1"), web.cluster.outside()
    with faults.cut("node2"):
        for prefix in (inside, outside):
            assert not answers(prefix, away, timeout_s=0.5)()
            assert fetch(prefix, here) == "on-node1"
        # Within the node all goes on.
        assert fetch(web.cluster.inside("node2"), away) == "on-node2"
    for prefix in (inside, outside):
        until(answers(prefix, away), "answer of a pod on the healed node", READY_S)
    assert web.container("on-node2")["restartCount"] == 0


def test_a_stopped_node_loses_what_ran_there_and_comes_back(web: Web, faults: ModuleType) -> None:
    main = faults.process_of("on-node2", web.namespace)
    address = web.address("on-node2")
    with faults.stop_node("node2"):
        assert not main.lives
        assert all(daemon.process is None for daemon in nodes.daemons(places.node("node2")))
        assert not answers(web.cluster.outside(), address, timeout_s=0.5)()
        assert fetch(web.cluster.inside("node1"), web.address("on-node1")) == "on-node1"
    until(lambda: web.container("on-node2")["restartCount"] == 1, "restart of the container", READY_S)
    until(lambda: bool(web.container("on-node2")["ready"]), "readiness of the container", READY_S)
    assert fetch(web.cluster.inside("node1"), web.address("on-node2")) == "on-node2"


# --- faults of the API server


def test_a_stopped_api_server_answers_nothing_until_it_continues(web: Web, faults: ModuleType) -> None:
    service = web.service()
    began = time.monotonic()
    with faults.stop_api_server():
        with pytest.raises(ClusterError):
            asked(web.cluster)
        assert time.monotonic() - began >= 1  # silent, not refused
        assert faults.process_of("on-node1", web.namespace).lives  # nobody is needed to find a process
        assert fetch(web.cluster.outside(), service)  # nor to reach a Service
    assert "node1" in asked(web.cluster)


def test_a_killed_api_server_refuses_until_it_is_started(web: Web, faults: ModuleType) -> None:
    fault = faults.kill_api_server()
    with pytest.raises(ClusterError, match="refused"):
        asked(web.cluster)
    fault.undo()
    assert web.kubectl.get("pod", "on-node1")["metadata"]["name"] == "on-node1"
    after = control_plane.API_SERVER.process
    fault.undo()
    assert control_plane.API_SERVER.process == after


def test_a_slow_api_server_stands_still_at_times_but_answers(cluster: Cluster, faults: ModuleType) -> None:
    process = control_plane.API_SERVER.process
    assert process is not None
    with faults.slow_api_server(0.5):
        until(lambda: process.state == "T", "the API server standing still", 5)
        until(lambda: process.state != "T", "the API server going on", 5)
        until(lambda: process.state == "T", "the API server standing still again", 5)
        assert "node1" in cluster.kubectl("get", "nodes", "--request-timeout=20s")
    assert not process.frozen


def test_slowness_ends_by_itself(faults: ModuleType) -> None:
    fault = faults.slow_api_server(0.9, limit_s=0.3)
    assert control_plane.API_SERVER.process is not None
    until(control_plane.api_answers, "answer of the API server", 10)
    fault.undo()
    with pytest.raises(ValueError, match="between 0 and 1"):
        faults.slow_api_server(1.0)


# --- healing


def test_whatever_is_left_is_healed(web: Web, faults: ModuleType) -> None:
    main = faults.process_of("on-node1", web.namespace)
    web.cluster.kubectl("cordon", "node1")
    faults.freeze("on-node1", web.namespace)
    faults.cut("node2")
    control_plane.SCHEDULER.kill()
    faults.stop_api_server()
    faults.heal()
    assert "SchedulingDisabled" not in asked(web.cluster)
    assert not main.frozen
    assert control_plane.SCHEDULER.healthy
    until(answers(web.cluster.outside(), web.address("on-node2")), "answer of a pod", READY_S)


# --- the means, which need no cluster


@pytest.fixture
def sleeper() -> subprocess.Popen[bytes]:
    need("linux", sys.platform == "linux", "not Linux: the test cluster's means are not tested")
    return subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)


def test_a_number_that_passed_to_another_process_is_not_signalled(sleeper: subprocess.Popen[bytes]) -> None:
    with sleeper:
        now = Process.of(sleeper.pid)
        assert now is not None
        before = Process(now.pid, now.started - 1)
        assert not before.lives
        assert not before.signal(signal.SIGKILL)
        assert now.lives
        now.freeze()
        assert now.frozen
        now.kill()
        assert now.state in ("", "Z")


def test_a_wait_that_fails_shows_the_end_of_the_log(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("\n".join(f"line {number}" for number in range(100)))
    with pytest.raises(ClusterError, match=r"readiness of x: not within 0 s.*(?s:.)*line 99") as caught:
        until(lambda: False, "readiness of x", 0, log)
    assert "line 50" not in str(caught.value)


def test_a_command_that_fails_says_why_in_a_line() -> None:
    with pytest.raises(ClusterError, match="there-is-no-such-program is not installed"):
        run(["there-is-no-such-program"])
    with pytest.raises(ClusterError, match=r"exit 3: first / second$") as caught:
        run([sys.executable, "-c", "import sys; print('first\\nsecond', file=sys.stderr); sys.exit(3)"])
    assert "\n" not in str(caught.value)[-40:]


def test_what_is_built_is_known_by_versions_and_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = build.digest()
    assert build.digest() == before
    shutil.copytree(build.SOURCES, tmp_path / "go")
    monkeypatch.setattr(build, "SOURCES", tmp_path / "go")
    assert build.digest() == before
    with (tmp_path / "go" / "coredns" / "go.sum").open("a") as file:
        file.write("another\n")
    changed = build.digest()
    assert changed != before
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-race"))
    assert build.digest() not in (before, changed)


def test_an_interrupted_build_is_not_taken_for_a_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiler is replaced by one that fails at the third program."""
    compiler = tmp_path / "bin" / "go"
    compiler.parent.mkdir()
    compiler.write_text(
        '#!/bin/sh\necho x >> "$COUNT"\n[ "$(wc -l < "$COUNT")" -eq 3 ] && exit 1\n'
        'while [ "$1" != -o ]; do shift; done\nmkdir -p "$(dirname "$2")"; echo made > "$2"\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{compiler.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("COUNT", str(tmp_path / "count"))
    with pytest.raises(ClusterError, match="exit 1"):
        build.programs()
    assert list(places.cache().iterdir()) == []
    assert {file.name for file in build.programs().iterdir()} == set(build.PROGRAMS)
    calls = (tmp_path / "count").read_text()
    build.programs()
    assert (tmp_path / "count").read_text() == calls
