"""The relay in pods, and every fault that a cluster brings: made for real, and judged by what clients noticed.

The clients publish through the Service all the time, inside the cluster and outside. Nothing that was promised may be
missing afterwards; no commit of an older epoch comes after one of a newer, and no client is told an older one; sockets
are closed only where a process or a node is gone, or after a `goaway`.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from cluster_fixtures import Cluster, Namespace
from machine import need
from testbed.commands import until

from bench.cluster.command import namespace as fresh_namespace
from bench.cluster.faults import KINDS
from bench.cluster.pods import setting
from bench.cluster.stage import Stage
from bench.rounds import ClusterRound
from bench.wire import Connection, device_key

API_AWAY_S = 15.0
LINGER_S = 3.0
GOAWAY = "goaway drain"
ON_POSTGRESQL = pytest.mark.parametrize("stage", ["postgresql"], indirect=True)
ON_SQLITE = pytest.mark.parametrize("stage", ["sqlite"], indirect=True)

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def stage(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Stage]:
    """A relay with clients, for all tests on its store."""
    need("cluster", cluster.own, "this cluster is not our own: faults of nodes and processes are not tested")
    changes = (setting("server", "linger_s", LINGER_S), setting("server", "drain_s", 1))
    with fresh_namespace(cluster.kubectl) as kubectl, ExitStack() as stack:
        made = Stage(request.param, kubectl, stack, *changes)
        yield made
        # Of the whole run: all faults, one after another.
        changed = made.check_epochs()
        assert made.broken == []
        assert len({epoch for epoch, _ in changed}) == len(changed) > 1


@pytest.fixture
def namespace(stage: Stage) -> Namespace:
    """For the report of a test that fails."""
    kubectl = stage.relay.kubectl
    assert kubectl.namespace is not None
    return Namespace(kubectl.namespace, kubectl)


def one_round(stage: Stage, name: str) -> ClusterRound:
    """A fault, of which nothing was lost."""
    found = stage.round(KINDS[name], api_away_s=API_AWAY_S)
    for client in found.clients:
        print(
            f"{name} on {stage.store}: {'own' if client.own else 'other'} {client.place}: {client.longest_ms:.0f} ms"
        )
    assert found.promised > 0
    assert found.lost == 0
    assert stage.broken == []
    return found


def others(found: ClusterRound) -> list[dict[str, int]]:
    """Of the clients of members that were not active: why connections ended, or results were no promises."""
    return [client.codes for client in found.clients if not client.own]


def owns(found: ClusterRound) -> list[dict[str, int]]:
    """The same of the clients of the active."""
    return [client.codes for client in found.clients if client.own]


def events(stage: Stage) -> list[tuple[str, str]]:
    """What the members have told of themselves: reason and note."""
    found = [
        one for one in stage.relay.kubectl.events() if one.get("reportingComponent") == "posthouse.dev/relay"
    ]
    return [(one["reason"], one["message"]) for one in found]


@pytest.mark.parametrize("_again", [1, 2])
def test_a_killed_process_costs_only_its_own_clients_their_sockets(stage: Stage, _again: int) -> None:
    _, epoch, _ = stage.relay.wait_settled()
    found = one_round(stage, "kill")
    assert others(found) == [{}] * len(others(found))
    assert all(client.closed == 1 for client in found.clients if client.own)
    _, after, _ = stage.relay.wait_settled()
    assert after == epoch + 1
    assert any(reason == "Promoted" and f"epoch {after} after" in note for reason, note in events(stage))


@pytest.mark.parametrize("_again", [1, 2])
def test_a_deleted_pod_says_goaway_to_its_own_clients_and_nobody_else_notices(
    stage: Stage, _again: int
) -> None:
    active, epoch, _ = stage.relay.wait_settled()
    found = one_round(stage, "delete")
    assert others(found) == [{}] * len(others(found))
    assert owns(found) == [{GOAWAY: 1}] * len(owns(found))
    _, after, _ = stage.relay.wait_settled()
    assert after == epoch + 1
    told = [note for reason, note in events(stage) if reason == "HandingOver"]
    assert any(note.endswith(": stopping") for note in told)
    assert any(f"after {active.name}." in note and "stopping" in note for _, note in events(stage))


def test_a_planned_hand_over_costs_nobody_a_socket(stage: Stage) -> None:
    active, epoch, _ = stage.relay.wait_settled()
    found = one_round(stage, "promote")
    assert all(client.closed == 0 and client.codes == {} for client in found.clients)
    other, after, _ = stage.relay.wait_settled()
    assert after == epoch + 1
    assert other.name != active.name
    lease = stage.relay.kubectl.get("lease", "posthouse")
    assert lease["spec"]["holderIdentity"].startswith(f"{other.name}.")
    assert lease["spec"]["holderIdentity"].endswith(f"_{other.uid}")
    notes = lease["metadata"]["annotations"]
    assert notes["posthouse.dev/epoch"] == str(after)
    assert '"reason":"promote"' in notes["posthouse.dev/last-handover"]


def test_a_rollout_closes_no_socket_without_a_goaway(stage: Stage) -> None:
    before = {member.uid for member in stage.relay.members()}
    found = one_round(stage, "restart")
    assert all(set(client.codes) <= {GOAWAY} for client in found.clients)
    assert not before & {member.uid for member in stage.relay.members()}


@ON_POSTGRESQL
def test_a_drained_node_hands_over_first(stage: Stage) -> None:
    active, _, _ = stage.relay.wait_settled()
    found = one_round(stage, "drain")
    assert all(set(client.codes) <= {GOAWAY} for client in found.clients)
    assert {member.node for member in stage.relay.members()} != {active.node}


@ON_SQLITE
def test_a_drained_node_with_the_volume_keeps_what_was_promised(stage: Stage) -> None:
    active, epoch, _ = stage.relay.wait_settled()
    one_round(stage, "drain")
    back, after, _ = stage.relay.wait_settled()
    assert after > epoch
    assert back.node == active.node  # where the volume is


def test_a_process_that_hangs_is_killed_and_followed(stage: Stage) -> None:
    _, epoch, _ = stage.relay.wait_settled()
    found = one_round(stage, "freeze")
    assert others(found) == [{}] * len(others(found))
    _, after, _ = stage.relay.wait_settled()
    assert after > epoch
    killed = [one for one in stage.relay.kubectl.events() if one["reason"] == "Killing"]
    assert any("failed liveness probe" in one["message"] for one in killed)


@ON_POSTGRESQL
def test_a_node_that_is_cut_off_is_followed_and_fenced(stage: Stage) -> None:
    active, epoch, _ = stage.relay.wait_settled()
    found = one_round(stage, "cut")
    assert others(found) == [{}] * len(others(found))
    other, after, _ = stage.relay.wait_settled()
    assert after > epoch
    assert other.node != active.node


def test_an_api_server_that_is_away_costs_nothing(stage: Stage) -> None:
    active, epoch, _ = stage.relay.wait_settled()
    found = one_round(stage, "api")
    assert all(client.closed == 0 and client.codes == {} for client in found.clients)
    # Promises went on all the time; a gap of the outage's length would be one.
    assert max(client.longest_ms for client in found.clients) < 1000 * API_AWAY_S / 3
    same, after, _ = stage.relay.wait_settled()
    assert (same.uid, after) == (active.uid, epoch)
    told = [reason for reason, _ in events(stage)]
    assert "InDoubt" in told
    assert "LeaseRenewed" in told


@ON_POSTGRESQL
def test_nobody_takes_over_without_the_api_server_and_nothing_is_lost(stage: Stage) -> None:
    _, epoch, _ = stage.relay.wait_settled()
    found = one_round(stage, "api-kill")
    assert all(set(codes) <= {"not-active"} for codes in others(found))
    _, after, _ = stage.relay.wait_settled()
    assert after == epoch + 1


@ON_SQLITE
def test_a_lost_node_with_the_volume_keeps_what_was_promised(stage: Stage) -> None:
    active, epoch, _ = stage.relay.wait_settled()
    one_round(stage, "lost-node")
    back, after, _ = stage.relay.wait_settled()
    assert after > epoch
    assert back.node == active.node  # where the volume is, and nowhere else


def test_a_pod_that_ends_is_not_led_to_but_serves_who_still_comes(stage: Stage) -> None:
    active, _, (standby, *_) = stage.relay.wait_settled()
    kubectl = stage.relay.kubectl
    kubectl("delete", "pod", active.name, "--wait=false")
    with Connection(f"{active.ip}:8080", device_key("late"), limit_s=2.0) as late:
        late.send(
            {"type": "publish", "ref": 1, "recipient": device_key("away").address, "ciphertext": b"late"}
        )
        assert receive_until(late, "result")[-1]["status"] == "stored"
        going = receive_until(late, "goaway")[-1]
        assert going["reason"] == "drain"
    kubectl.wait_for("delete", f"pod/{active.name}")
    with pytest.raises(OSError):
        socket.create_connection((active.ip, 8080), timeout=2.0).close()
    assert standby.status() is not None
    stage.relay.wait_settled()


def receive_until(connection: Connection, kind: str) -> list[dict[str, Any]]:
    """The items up to the first of a kind."""
    found: list[dict[str, Any]] = []
    for _ in range(200):
        for item in connection.receive(0.2):
            found.append(item)
            if item["type"] == kind:
                return found
    raise AssertionError(f"no {kind} came: {found}")


@ON_POSTGRESQL
def test_members_that_serve_nobody_do_not_keep_a_node_from_being_drained(stage: Stage) -> None:
    kubectl = stage.relay.kubectl
    stranger = {"spec": {"holderIdentity": "stranger", "leaseDurationSeconds": 25}}
    kubectl("patch", "lease", "posthouse", "--type=merge", "--patch", json.dumps(stranger))
    until(lambda: not any(one.ready for one in stage.relay.members()), "members without an active one", 60.0)
    pod = stage.relay.members()[0].name
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
    path = f"/api/v1/namespaces/{kubectl.namespace}/pods/{pod}/eviction?dryRun=All"
    assert json.loads(kubectl("create", "--raw", path, "--filename", "-", text=json.dumps(eviction)))
    # What is not renewed is claimed, whoever held it.
    stage.relay.wait_settled()


def test_the_service_account_may_do_what_it_needs_and_nothing_else(stage: Stage) -> None:
    kubectl = stage.relay.kubectl
    account = f"system:serviceaccount:{kubectl.namespace}:posthouse"
    said = kubectl("auth", "can-i", "--list", "--as", account, "--no-headers")
    # What every account may ask about itself, and of the API's paths, is left out.
    rows = [line for line in said.splitlines() if line[0] != " " and not line.startswith("selfsubject")]
    assert {tuple(line.split(maxsplit=3)) for line in rows} == {
        ("leases.coordination.k8s.io", "[]", "[]", "[create]"),
        ("leases.coordination.k8s.io", "[]", "[posthouse]", "[get list watch patch]"),
        ("events.events.k8s.io", "[]", "[]", "[create]"),
        ("pods", "[]", "[]", "[get]"),
    }
