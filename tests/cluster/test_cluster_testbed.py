"""The test cluster itself: what the tests on it rely on."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from cluster_fixtures import Cluster, Namespace
from cluster_web import Web, fetch, fetch_code, pod
from machine import need
from testbed import build, control_plane, places, volumes
from testbed.commands import run, until

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def web(cluster: Cluster, namespace: Namespace) -> Web:
    need("cluster", cluster.own, "this cluster is not our own: the testbed is not tested")
    return Web(cluster, namespace)


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
        for host in ("web", f"web.{web.namespace}.svc.cluster.local"):
            code = fetch_code(host, 5)
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
