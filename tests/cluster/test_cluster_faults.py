"""Each fault of the test cluster does what it says, and heals."""

from __future__ import annotations

import time
from pathlib import Path
from types import ModuleType

import pytest
from cluster_fixtures import Cluster, Namespace
from cluster_web import SERVER, Web, answers, fetch
from machine import need
from testbed import control_plane, nodes, places
from testbed.commands import ClusterError, until

pytestmark = pytest.mark.timeout(300)

READY_S = 60.0


@pytest.fixture
def web(cluster: Cluster, namespace: Namespace) -> Web:
    need("cluster", cluster.own, "this cluster is not our own: the testbed is not tested")
    return Web(cluster, namespace)


def asked(cluster: Cluster) -> str:
    return cluster.kubectl("get", "nodes", "--request-timeout=1s")


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
