"""Members in pods: a Lease of an API server that comes and goes says who is active, and events tell of it."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from api_server_thread import ApiServerThread, api_server_thread
from fake_api_server import NAMESPACE, FakeApiServer
from members import Members, epochs, settled, survives, until
from posthouse.single_active.leases.processes import start_ticks
from relay_process import RelayProcess
from wire_client import is_result, texts
from wire_fixtures import Dial
from wire_keys import Key

KeyOf = Callable[[str], Key]
LEASE = "posthouse"
TIMING = {
    "POSTHOUSE_LEASE_DURATION_S": "2",
    "POSTHOUSE_LEASE_DEADLINE_S": "1.2",
    "POSTHOUSE_LEASE_RENEW_S": "0.3",
    "POSTHOUSE_LEASE_REQUEST_TIMEOUT_S": "0.5",
}
LONG = TIMING | {"POSTHOUSE_LEASE_DURATION_S": "60"}
"""Nobody claims what a silent member holds, for as long as a test lasts."""
AWAY_S = 8.0
WINDOW = 4096
"""As many messages as a reader can be sent at once."""
PATIENT = "limits.hold_s = 60\n"
"""Publishes wait for the next active member as long as a test lasts."""


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServerThread]:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with api_server_thread() as made:
        yield made


def pod_of(group: Members, member: RelayProcess) -> str:
    """Name of the member's pod."""
    return f"relay-{group.name(member)}"


def show_pod(api: ApiServerThread, group: Members, member: RelayProcess) -> None:
    """The cluster shows the container of the process that runs now, and as ended the one before."""
    ticks = start_ticks(member.pid)
    assert ticks is not None
    began = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / 100
    name = pod_of(group, member)
    status = {
        "name": "relay",
        "containerID": f"containerd://{member.pid}",
        "state": {"running": {"startedAt": datetime.fromtimestamp(began, UTC).isoformat()}},
    }
    pod = {"metadata": {"name": name, "uid": f"uid-{name}"}, "status": {"containerStatuses": [status]}}
    api.do(lambda: api.server.pods.update({name: pod}))


def show_ended(api: ApiServerThread, group: Members, member: RelayProcess) -> None:
    """The cluster shows the container of that process as ended."""

    def change(server: FakeApiServer) -> None:
        (status,) = server.pods[pod_of(group, member)]["status"]["containerStatuses"]
        status["lastState"] = {"terminated": {"containerID": status["containerID"], "exitCode": 137}}
        status["state"] = {"waiting": {"reason": "CrashLoopBackOff"}}

    api.do(lambda: change(api.server))


@contextmanager
def in_pods(
    folder: Path, api: ApiServerThread, count: int = 2, *, timing: dict[str, str] = TIMING, config: str = ""
) -> Iterator[Members]:
    """Members that are told of pods by their environment; nobody is started."""
    environment = {
        "KUBECONFIG": str(api.server.kubeconfig(folder / "kubeconfig")),
        "POSTHOUSE_POD_NAMESPACE": NAMESPACE,
    }
    group = Members(folder, count, timing=timing | environment, config=config)
    for member in group.all:
        name = pod_of(group, member)
        member.environment |= {"POSTHOUSE_POD_NAME": name, "POSTHOUSE_POD_UID": f"uid-{name}"}
        del member.environment["POSTHOUSE_SERVER_MEMBER"]
    try:
        yield group
    finally:
        group.clean_up()


@contextmanager
def running(
    folder: Path, api: ApiServerThread, count: int = 2, *, timing: dict[str, str] = TIMING, config: str = ""
) -> Iterator[Members]:
    """Such members that run, the first one active."""
    with in_pods(folder, api, count, timing=timing, config=config) as group:
        for member in group.all:
            member.start_unseen()
            show_pod(api, group, member)
            group.wait_started(member)
            group.wait_active()
        group.wait_whole()
        yield group


def notes(api: ApiServerThread) -> dict[str, str]:
    """The annotations of the Lease, without their prefix."""
    found = api.do(lambda: dict(api.server.annotations(LEASE)))
    return {name.removeprefix("posthouse.dev/"): text for name, text in found.items()}


def spec(api: ApiServerThread) -> dict[str, Any]:
    """What the Lease says."""
    return api.do(lambda: dict(api.server.leases[LEASE]["spec"]))


def told(api: ApiServerThread) -> list[tuple[str, str, str]]:
    """Pod, reason and note of each event."""
    events = api.do(lambda: list(api.server.events))
    return [(event["regarding"]["name"], event["reason"], event["note"]) for event in events]


def test_one_is_active_and_the_cluster_shows_which(tmp_path: Path, api: ApiServerThread) -> None:
    with running(tmp_path, api) as group:
        active, (other,) = group.split()
        assert active is group.all[0]
        status = active.status()
        assert status["member"].startswith("relay-a.")
        assert status["lease"] == {"kind": "kubernetes", "held": True}
        assert other.status()["lease"] == {"kind": "kubernetes", "held": False}
        assert spec(api)["holderIdentity"] == f"{status['member']}_uid-relay-a"
        assert spec(api)["leaseDurationSeconds"] == 2
        until(
            lambda: notes(api).get("container-id") == f"containerd://{active.pid}", "it knows its container"
        )
        assert notes(api)["epoch"] == str(status["epoch"])
        assert notes(api)["address"].startswith("unix:")
        assert notes(api)["pod"] == "relay-a"
        assert told(api) == [("relay-a", "Promoted", f"active with epoch {status['epoch']}")]
        renewed = spec(api)["renewTime"]
        until(lambda: spec(api)["renewTime"] > renewed, "it is renewed")


def test_after_a_crash_another_takes_over_and_says_so(
    tmp_path: Path, api: ApiServerThread, dial: Dial, key: KeyOf
) -> None:
    with running(tmp_path, api, timing=LONG) as group:
        active, (other,) = group.split()
        name, epoch = group.id_of(active), active.status()["epoch"]
        client = dial(other)
        is_result(client.post(b"before", recipient=key("reader").address), "stored")
        active.kill()
        # Long before the lease is over: its socket says that the process is no more.
        group.wait_role(other, "active")
        is_result(client.post(b"after", recipient=key("reader").address), "stored")
        assert epochs(settled(client)) == [epoch + 1]
        until(lambda: notes(api).get("epoch") == str(epoch + 1), "the lease says so")
        handover = json.loads(notes(api)["last-handover"])
        assert (handover["from"], handover["to"], handover["epoch"]) == (name, group.id_of(other), epoch + 1)
        assert handover == other.status()["last_handover"]
        until(lambda: len(told(api)) == 2, "there is an event")
        pod, kind, note = told(api)[1]
        assert (pod, kind) == ("relay-b", "Promoted")
        assert note.startswith(f"active with epoch {epoch + 1} after {name}: ")
        active.start_unseen()
        show_pod(api, group, active)
        group.wait_started(active)
        group.wait_whole()
        assert active.status()["role"] == "standby"
        assert texts(dial(active, key("reader")).subscribe()[1]) == [b"before", b"after"]


def test_the_end_of_a_container_is_a_proof_where_the_link_tells_nothing(
    tmp_path: Path, api: ApiServerThread, dial: Dial, key: KeyOf
) -> None:
    with running(tmp_path, api, timing=LONG, config=PATIENT) as group:
        active, (other,) = group.split()
        epoch = active.status()["epoch"]
        until(lambda: "container-id" in notes(api), "it knows its container")
        client = dial(other)
        ref = client.publish(b"1", recipient=key("reader").address)
        is_result(client.result(ref), "stored")
        active.signal(signal.SIGSTOP)
        until(lambda: other.status()["active"] is None, "the link is lost")
        ref = client.publish(b"2", recipient=key("reader").address)
        assert other.status()["role"] == "standby"
        show_ended(api, group, active)
        group.wait_active(among=[other], above=epoch)
        is_result(client.result(ref), "stored")
        active.signal(signal.SIGCONT)
        group.wait_whole()
        assert (active.status()["role"], other.status()["role"]) == ("standby", "active")
        # Whether the lease or the store is the first to tell it.
        lost = {("relay-a", "LeaseLost"), ("relay-a", "Fenced")}
        until(lambda: lost & {event[:2] for event in told(api)}, "it says that it has lost its place")


@pytest.mark.parametrize("how", ["refuses", "hangs"])
def test_an_api_server_that_is_away_costs_nobody_anything(
    tmp_path: Path, api: ApiServerThread, dial: Dial, key: KeyOf, how: str
) -> None:
    with running(tmp_path, api) as group:
        active, (other,) = group.split()
        before = active.status()
        senders = [dial(active), dial(other)]
        reader = dial(other, key("reader"))
        reader.subscribe()
        if how == "refuses":
            api.run(api.server.stop())
        else:
            api.do(api.server.hang)
        away = time.monotonic() + AWAY_S
        sent = 0
        doubted = False
        while time.monotonic() < away:
            for sender in senders if sent < WINDOW - 1 else ():
                is_result(sender.post(b"%d" % sent, recipient=key("away").address), "stored")
                sent += 1
            doubted = doubted or active.status()["role"] == "in doubt"
            assert active.get("/readyz")[0] == other.get("/readyz")[0] == 200
        assert doubted and sent > 50
        assert other.status()["role"] == "standby"
        ref = senders[0].publish(b"to the reader", recipient=key("reader").address)
        assert texts([reader.message()]) == [b"to the reader"]
        is_result(senders[0].result(ref), "stored")
        if how == "refuses":
            api.run(api.server.start())
        api.do(api.server.go_on)
        group.wait_role(active, "active")
        after = active.status()
        assert (after["epoch"], after["member"]) == (before["epoch"], before["member"])
        assert all(survives(one) for one in (*senders, reader))
        assert epochs([*settled(senders[0]), *settled(senders[1])]) == []
        until(lambda: len(told(api)) == 3, "it is told what happened")
        assert [event[1] for event in told(api)] == ["Promoted", "InDoubt", "LeaseRenewed"]
        got = texts(dial(other, key("away"), window=WINDOW).subscribe()[1])
        assert got == [b"%d" % number for number in range(sent)]


def test_while_the_api_server_is_away_nobody_takes_over_and_nothing_promised_is_lost(
    tmp_path: Path, api: ApiServerThread, dial: Dial, key: KeyOf
) -> None:
    with running(tmp_path, api, 3, config=PATIENT) as group:
        active, others = group.split()
        epoch = active.status()["epoch"]
        sender, reader = dial(others[0]), key("reader")
        promised = [b"%d" % number for number in range(20)]
        for text in promised:
            is_result(sender.post(text, recipient=reader.address), "stored")
        api.run(api.server.stop())
        group.wait_role(active, "in doubt")
        is_result(sender.post(b"in doubt", recipient=reader.address), "stored")
        # Nobody could claim what it gave up.
        refused = group.promote(active)
        assert not refused["ok"] and "the lease cannot be reached" in refused["error"]
        assert active.status()["role"] == "in doubt"
        active.kill()
        waiting = sender.publish(b"waits", recipient=reader.address)
        away = time.monotonic() + 6.0
        while time.monotonic() < away:
            assert [member.status()["role"] for member in others] == ["standby", "standby"]
        assert sender.settle() == []
        api.run(api.server.start())
        group.wait_active(above=epoch)
        is_result(sender.result(waiting), "stored")
        assert survives(sender)
        group.wait_whole()
        assert sorted(member.status()["role"] for member in others) == ["active", "standby"]
        with dial(others[1], reader) as again:
            assert texts(again.subscribe()[1]) == [*promised, b"in doubt", b"waits"]
        until(lambda: notes(api).get("epoch") == str(epoch + 1), "the lease says so")
        until(lambda: len(told(api)) == 2, "there is an event of the new one")


def test_members_that_start_while_the_api_server_is_away_wait_for_it(
    tmp_path: Path, api: ApiServerThread, dial: Dial, key: KeyOf
) -> None:
    with in_pods(tmp_path, api, config=PATIENT) as group:
        api.run(api.server.stop())
        for member in group.all:
            member.start_unseen()
        for member in group.all:
            group.wait_started(member)
            assert member.status()["role"] == "standby"
            assert member.get("/readyz") == (503, b"no active instance is reached\n")
            assert member.get("/healthz")[0] == 200
        early = dial.unopened(group.all[0])
        early.send(early.hello_item())
        ref = early.publish(b"early", recipient=key("reader").address)
        api.run(api.server.start())
        group.wait_whole()
        early.expect("welcome")
        is_result(early.result(ref), "stored")
        assert [member.get("/readyz")[0] for member in group.all] == [200, 200]


def test_a_member_that_stops_hands_over_and_the_last_one_leaves_the_lease_free(
    tmp_path: Path, api: ApiServerThread
) -> None:
    with running(tmp_path, api) as group:
        active, (other,) = group.split()
        ids = group.id_of(active), group.id_of(other)
        epoch = active.status()["epoch"]
        assert active.stop() == 0
        assert other.status()["role"] == "active"
        until(lambda: notes(api).get("epoch") == str(epoch + 1), "the lease says so")
        assert spec(api)["holderIdentity"] == f"{ids[1]}_uid-relay-b"
        until(lambda: len(told(api)) == 3, "both have told")
        assert sorted(told(api)[1:])[0] == (
            "relay-a",
            "HandingOver",
            f"handing over to {ids[1]}: stopping",
        )
        pod, kind, note = sorted(told(api)[1:])[1]
        assert (pod, kind) == ("relay-b", "Promoted")
        assert note.startswith(f"active with epoch {epoch + 1} after {ids[0]}: stopping, after ")
        assert other.stop() == 0
        assert spec(api)["holderIdentity"] == ""
        assert notes(api)["released-by"] == f"{ids[1]}_uid-relay-b"
        assert told(api)[3] == ("relay-b", "HandingOver", "handing over to whoever claims first: stopping")
        other.start()
        group.wait_active(above=epoch + 1)


def test_who_says_that_it_is_ready_is_known_as_a_successor(tmp_path: Path, api: ApiServerThread) -> None:
    with in_pods(tmp_path, api) as group:
        active, other = group.all
        for member in group.all:
            member.start_unseen()
            group.wait_started(member)
            group.wait_active()
        until(lambda: other.get("/readyz")[0] == 200, "it is ready")
        # As a rolling update does: a pod that is ready lets an older one end, at once.
        assert active.stop() == 0
        until(lambda: any(event[1] == "HandingOver" for event in told(api)), "it says to whom")
        (note,) = [note for _, kind, note in told(api) if kind == "HandingOver"]
        assert note == f"handing over to {group.id_of(other)}: stopping"


def test_a_cluster_that_cannot_be_asked_at_all_ends_the_start_with_one_line(
    tmp_path: Path, api: ApiServerThread
) -> None:
    with in_pods(tmp_path, api, 1) as group:
        (tmp_path / "kubeconfig").write_text("{}")
        (member,) = group.all
        member.start_unseen()
        assert member.wait() == 1
        said = [line["text"] for line in member.lines if "text" in line]
        assert len(said) == 1
        assert "no Kubernetes to ask for the lease: " in said[0]
