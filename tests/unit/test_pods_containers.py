"""Which run of a container this process is, and what proves that another one has ended."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from fake_api_server import NAMESPACE, FakeApiServer, api_server, connected
from kubernetes.aio import client
from kubernetes.aio.config.config_exception import ConfigException
from posthouse.server.pods import containers
from posthouse.server.pods.containers import Containers, PodObject, process_start
from posthouse.single_active.leases.interface import Container
from structlog.testing import capture_logs

WAIT_S = 20.0
POD, UID = "relay-0", "uid-0"
HOLDER = Container(POD, UID, "containerd://held")
Json = dict[str, Any]


def shown(seconds: float) -> str:
    """A time as a pod shows it: the fraction is cut off."""
    return datetime.fromtimestamp(int(seconds), UTC).isoformat().replace("+00:00", "Z")


def running(container_id: str, started: float, name: str = "relay", last: Json | None = None) -> Json:
    state = {"running": {"startedAt": shown(started)}}
    return {"name": name, "containerID": container_id, "state": state, "lastState": last or {}}


def terminated(container_id: str) -> Json:
    return {"terminated": {"containerID": container_id, "exitCode": 137, "reason": "Error"}}


def pod(*statuses: Json, uid: str = UID) -> Json:
    return {"metadata": {"name": POD, "uid": uid}, "status": {"containerStatuses": list(statuses)}}


def parsed(found: Json) -> PodObject:
    return msgspec.convert(found, PodObject)


@pytest.fixture
async def server() -> AsyncIterator[FakeApiServer]:
    async with api_server() as made:
        yield made


@pytest.fixture
async def asking(server: FakeApiServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Containers]:
    monkeypatch.setattr(containers, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(containers, "LONGEST_PAUSE_S", 0.02)
    monkeypatch.setattr(containers, "LOOK_S", 0.01)
    monkeypatch.setattr(containers, "REQUEST_S", 0.2)
    async with connected(server) as api:
        made = Containers(api, NAMESPACE)
        yield made
        made.stop()
        await asyncio.sleep(0)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110  requests of the server, which tells nobody
            await asyncio.sleep(0.002)


async def asked(server: FakeApiServer, times: int = 3) -> None:
    """Until the pod was asked for so often again."""
    before = len(server.requests)
    await until(lambda: len(server.requests) >= before + times)


# --- our own container


def test_a_process_knows_when_it_began() -> None:
    before = time.time()
    program = "from posthouse.server.pods.containers import process_start; print(process_start())"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    # Ticks of the kernel's clock are hundredths.
    assert before - 0.05 <= float(ran.stdout) <= time.time()
    assert process_start() < before


@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.99])
@pytest.mark.parametrize(
    ("after_s", "ours"),
    [
        (0.0, True),
        (1.5, True),
        (4.0, False),
        # One that lived for two seconds and was started again at once.
        (-2.1, False),
        (-60.0, False),
    ],
)
def test_a_container_is_ours_if_it_began_with_this_process(
    fraction: float, after_s: float, ours: bool
) -> None:
    began = 1_800_000_000 + fraction
    found = parsed(pod(running("containerd://x", began + after_s)))
    assert found.running_id("relay", began) == ("containerd://x" if ours else "")


def test_a_container_of_another_name_is_not_ours() -> None:
    found = parsed(pod(running("containerd://side", 1000.0, name="side"), running("containerd://x", 1000.0)))
    assert found.running_id("relay", 1000.0) == "containerd://x"
    assert found.running_id("main", 1000.0) == ""


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"metadata": {"uid": UID}, "status": {}},
        pod({"name": "relay", "state": {"waiting": {"reason": "ContainerCreating"}}}),
        pod({"name": "relay", "containerID": "containerd://x", "state": terminated("containerd://x")}),
    ],
)
def test_a_container_that_is_not_shown_as_running_is_not_taken(found: Json) -> None:
    assert parsed(found).running_id("relay", 1000.0) == ""


async def test_the_own_id_is_taken_when_the_cluster_shows_it(
    server: FakeApiServer, asking: Containers
) -> None:
    began = process_start()
    finding = asyncio.ensure_future(asking.own_id(POD, "relay"))
    await asked(server)  # there is no such pod yet
    server.fail_with = 500
    await asked(server)
    server.fail_with = 0
    # Right after a restart the container before is shown, as if it ran still.
    server.pods[POD] = pod(running("containerd://before", began - 60))
    await asked(server)
    assert not finding.done()
    server.pods[POD] = pod(running("containerd://now", began, last=terminated("containerd://before")))
    async with asyncio.timeout(WAIT_S):
        assert await finding == "containerd://now"


async def test_why_the_own_pod_cannot_be_read_is_logged_once(
    server: FakeApiServer, asking: Containers
) -> None:
    server.fail_with = 403
    with capture_logs() as logs:
        finding = asyncio.ensure_future(asking.own_id(POD, "relay"))
        await asked(server, 5)
        server.fail_with = 500
        await asked(server, 5)
    finding.cancel()
    assert [line["reason"] for line in logs] == ["403 Forbidden", "500 Internal Server Error"]


@pytest.mark.parametrize("error", [ConfigException("no token"), OSError("no file")])
async def test_credentials_that_cannot_be_had_for_a_while_end_nothing(
    server: FakeApiServer, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(containers, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(containers, "LOOK_S", 0.01)
    ended = asyncio.Event()
    asked_for = 0

    def refresh(_settings: client.Configuration) -> None:
        nonlocal asked_for
        asked_for += 1
        if asked_for <= 6:
            raise error

    server.pods[POD] = pod(running("containerd://now", process_start(), last=terminated(HOLDER.id)))
    async with connected(server) as api, asyncio.timeout(WAIT_S):
        api.configuration.api_key["BearerToken"] = "Bearer last"
        api.configuration.refresh_api_key_hook = refresh
        made = Containers(api, NAMESPACE)
        made.look_after(HOLDER, WAIT_S, ended.set)
        assert await made.own_id(POD, "relay") == "containerd://now"
        await ended.wait()
    assert asked_for > 6


# --- that of another


@pytest.mark.parametrize("where", ["state", "lastState"])
def test_a_container_has_ended_if_it_is_shown_so_with_this_id_in_this_pod(where: str) -> None:
    status = running("containerd://new", 1000.0) | {where: terminated(HOLDER.id)}
    assert parsed(pod(status)).has_ended(HOLDER)
    assert not parsed(pod(status, uid="uid-1")).has_ended(HOLDER)
    assert not parsed(pod(status)).has_ended(Container(POD, UID, "containerd://new"))
    assert not parsed(pod(running(HOLDER.id, 1000.0))).has_ended(HOLDER)


@pytest.mark.parametrize("found", [{}, pod(), pod({"name": "relay", "lastState": {"terminated": {}}})])
def test_a_pod_that_shows_nothing_proves_nothing(found: Json) -> None:
    assert not parsed(found).has_ended(HOLDER)
    assert not parsed(found).has_ended(Container("", "", "containerd://other"))


async def test_the_end_of_a_container_is_seen_once(server: FakeApiServer, asking: Containers) -> None:
    ended = asyncio.Event()
    server.pods[POD] = pod(running(HOLDER.id, 1000.0))
    asking.look_after(HOLDER, WAIT_S, ended.set)
    await asked(server)
    assert not ended.is_set()
    server.fail_with = 503
    await asked(server)
    server.fail_with = 429
    await asked(server)
    server.fail_with = 403  # as of an API server that has just started
    await asked(server)
    server.fail_with = 0
    server.pods[POD] = pod(running("containerd://new", 1000.0, last=terminated(HOLDER.id)))
    async with asyncio.timeout(WAIT_S):
        await ended.wait()
    seen = len(server.requests)
    await asyncio.sleep(5 * containers.LOOK_S)
    assert len(server.requests) == seen


async def test_an_api_server_that_hangs_or_is_away_is_asked_again(
    server: FakeApiServer, asking: Containers
) -> None:
    ended = asyncio.Event()
    server.pods[POD] = pod({"name": "relay", "state": terminated(HOLDER.id)})
    server.hang()
    asking.look_after(HOLDER, WAIT_S, ended.set)
    await asked(server, 2)
    await server.stop()
    server.go_on()
    await server.start()
    async with asyncio.timeout(WAIT_S):
        await ended.wait()


@pytest.mark.parametrize("why", ["no such pod", "another pod"])
async def test_looking_ends_without_a_proof_where_there_is_none_to_come(
    server: FakeApiServer, asking: Containers, why: str
) -> None:
    calls: list[str] = []
    if why == "another pod":
        server.pods[POD] = pod({"name": "relay", "state": terminated(HOLDER.id)}, uid="uid-1")
    asking.look_after(HOLDER, WAIT_S, lambda: calls.append(why))
    await asked(server, 1)
    # Shown too late: nobody looks any more.
    server.pods[POD] = pod({"name": "relay", "state": terminated(HOLDER.id)})
    await asyncio.sleep(10 * containers.LOOK_S)
    assert len(server.requests) == 1
    assert calls == []


async def test_looking_ends_when_the_lease_is_over_and_when_it_is_told_to(
    server: FakeApiServer, asking: Containers
) -> None:
    calls: list[str] = []
    server.pods[POD] = pod(running(HOLDER.id, 1000.0))
    asking.look_after(HOLDER, 0.1, lambda: calls.append("first"))
    await asked(server, 2)
    asking.look_after(HOLDER, 0.1, lambda: calls.append("second"))
    await asyncio.sleep(0.2)
    seen = len(server.requests)
    server.pods[POD] = pod({"name": "relay", "state": terminated(HOLDER.id)})
    await asyncio.sleep(5 * containers.LOOK_S)
    assert len(server.requests) == seen
    asking.look_after(HOLDER, WAIT_S, lambda: calls.append("third"))
    asking.stop()
    asking.look_after(Container(POD, UID, ""), WAIT_S, lambda: calls.append("without an id"))
    await asyncio.sleep(5 * containers.LOOK_S)
    assert calls == []
    # Only the last one that is looked after counts.
    asking.look_after(HOLDER, WAIT_S, lambda: calls.append("fourth"))
    asking.look_after(HOLDER, WAIT_S, lambda: calls.append("fifth"))
    await until(lambda: calls)
    assert calls == ["fifth"]
