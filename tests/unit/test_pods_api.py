"""The way to the API server: by the service account, by a kubeconfig, or one line that says why there is none."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from certificates import make_pair
from fake_api_server import NAMESPACE, FakeApiServer, api_server, connected
from kubernetes.aio import client
from kubernetes.aio.config import incluster_config
from posthouse.config import Config
from posthouse.server.news import News
from posthouse.server.pods import Pod, api, containers
from posthouse.server.pods.api import NoCluster, Refused, answer, own_namespace
from posthouse.single_active.leases.interface import Record

WAIT_S = 20.0
HEAD = "apiVersion: v1\nkind: Config\ncurrent-context: x\n"
PROGRAM = """
import asyncio
from posthouse.server.pods.api import NoCluster, connect
async def main():
    try:
        api = await connect()
    except NoCluster as error:
        print(error)
    else:
        print("to", api.configuration.host)
        await api.close()
asyncio.run(main())
"""


def said(folder: Path, **environment: str) -> str:
    """What a process in this environment says of its way to a cluster."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("KUBE")}
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=clean | {"HOME": str(folder), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return ran.stdout.removesuffix("\n")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "the kubeconfig cannot be used: "),
        ("{[:", "the kubeconfig cannot be used: while parsing"),
        ("just a text", "the kubeconfig cannot be used: "),
        (HEAD.removesuffix("current-context: x\n"), "Invalid kube-config file. Expected key current-context"),
        (HEAD + "contexts: []\n", "Invalid kube-config file. Expected object with name x"),
        (
            HEAD
            + 'clusters: [{name: c, cluster: {server: "https://a", certificate-authority: /none}}]\n'
            + "contexts: [{name: x, context: {cluster: c, user: u}}]\nusers: [{name: u, user: {token: t}}]\n",
            "File does not exist",
        ),
        (
            HEAD
            + 'clusters: [{name: c, cluster: {server: "https://a", certificate-authority: kubeconfig}}]\n'
            + "contexts: [{name: x, context: {cluster: c, user: u}}]\nusers: [{name: u, user: {token: t}}]\n",
            "[X509",
        ),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_is_told_in_one_line(
    tmp_path: Path, content: str, reason: str
) -> None:
    (tmp_path / "kubeconfig").write_text(content)
    line = said(tmp_path, KUBECONFIG=str(tmp_path / "kubeconfig"))
    assert line.startswith(f"no Kubernetes to ask for the lease: {reason}")
    assert "\n" not in line


def test_without_a_cluster_that_is_told_in_one_line(tmp_path: Path) -> None:
    missing = said(tmp_path, KUBECONFIG=str(tmp_path / "missing"))
    assert missing.startswith("no Kubernetes to ask for the lease: ") and "\n" not in missing
    in_pod = said(tmp_path, KUBERNETES_SERVICE_HOST="127.0.0.1", KUBERNETES_SERVICE_PORT="443")
    assert in_pod.startswith("no Kubernetes to ask for the lease: Service ") and "\n" not in in_pod


def test_a_kubeconfig_leads_to_its_server(tmp_path: Path) -> None:
    server = FakeApiServer()
    server.port = 12345
    path = server.kubeconfig(tmp_path / "kubeconfig")
    assert said(tmp_path, KUBECONFIG=str(path)) == "to http://127.0.0.1:12345"


def test_the_namespace_is_that_of_the_service_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "NAMESPACE_FILE", tmp_path / "namespace")
    with pytest.raises(NoCluster, match=r"pod\.namespace is empty, and there is no service account"):
        own_namespace()
    (tmp_path / "namespace").write_text("relays\n")
    assert own_namespace() == "relays"


async def test_each_request_has_the_token_as_it_is_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    authority, _ = make_pair().write(tmp_path)
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(authority))
    monkeypatch.setattr(api, "TOKEN_FILE", token)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    async with await api.connect() as connection:
        sent = []
        for content in ("second\n", "third", "", None, "fourth"):
            token.unlink() if content is None else token.write_text(content)
            request = await connection.param_serialize("GET", "/", auth_settings=["BearerToken"])
            sent.append(request[2]["authorization"])
    # While the file is being replaced the last one does.
    assert sent == ["Bearer second", "Bearer third", "Bearer third", "Bearer third", "Bearer fourth"]


# --- answers


@pytest.fixture
async def server() -> AsyncIterator[FakeApiServer]:
    async with api_server() as made:
        yield made


async def ask(connection: client.ApiClient, path: str) -> dict[str, Any]:
    request = await connection.param_serialize("GET", path)
    found: dict[str, Any] = await answer(connection.call_api(*request, _request_timeout=0.2), dict[str, Any])
    return found


async def test_an_answer_or_the_reason_why_there_is_none(server: FakeApiServer) -> None:
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/relay-0"
    async with connected(server) as connection:
        with pytest.raises(Refused, match=r"^404 ") as missing:
            await ask(connection, path)
        assert not missing.value.passing
        server.pods["relay-0"] = {"metadata": {"uid": "u"}}
        assert await ask(connection, path) == {"metadata": {"uid": "u"}}
        for status, passing in ((403, False), (429, True), (500, True), (503, True)):
            server.fail_with = status
            with pytest.raises(Refused, match=f"^{status} ") as refused:
                await ask(connection, path)
            assert refused.value.passing is passing
        server.fail_with = 0
        server.hang()
        with pytest.raises(Refused) as hung:
            await ask(connection, path)
        await server.stop()
        with pytest.raises(Refused) as away:
            await ask(connection, path)
        for unheard in (hung.value, away.value):
            assert unheard.status is None and unheard.passing and str(unheard)


# --- the pod as a whole


def config(**fields: str) -> Config:
    plain = Config()
    return replace(plain, pod=replace(plain.pod, **fields))


async def test_a_pod_learns_its_container_and_says_so_with_its_lease(
    server: FakeApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(containers, "LONGEST_PAUSE_S", 0.01)
    began = containers.process_start()
    settings = client.Configuration()
    settings.host = f"http://127.0.0.1:{server.port}"
    me = Pod(
        client.ApiClient(settings),
        config(name="relay-0", uid="uid-0", container="main"),
        NAMESPACE,
        lambda: {"epoch": "3"},
    )
    try:
        assert me.lease.container.id == ""
        first = await me.lease.write(Record("relay-0.1", 1, 1, 5.0), None)
        assert first.container is None
        status = {"name": "main", "containerID": "containerd://1"}
        state = {"running": {"startedAt": datetime.fromtimestamp(int(began), UTC).isoformat()}}
        server.pods["relay-0"] = {
            "metadata": {"uid": "uid-0"},
            "status": {"containerStatuses": [status | {"state": state}]},
        }
        async with asyncio.timeout(WAIT_S):
            while not me.lease.container.id:  # noqa: ASYNC110  it tells nobody
                await asyncio.sleep(0.005)
        second = await me.lease.write(Record("relay-0.1", 2, 1, 5.0), first.version)
        assert second.container is not None and second.container.id == "containerd://1"
        assert server.annotations("posthouse")["posthouse.dev/epoch"] == "3"
        me.tell(News("Promoted", "active with epoch 3"))
    finally:
        await me.close()
    assert [event["note"] for event in server.events] == ["active with epoch 3"]


async def test_what_is_not_in_a_pod_has_a_lease_and_no_events(server: FakeApiServer) -> None:
    settings = client.Configuration()
    settings.host = f"http://127.0.0.1:{server.port}"
    me = Pod(client.ApiClient(settings), config(), NAMESPACE, dict)
    try:
        me.tell(News("Promoted", "nobody hears this"))
        await me.lease.write(Record("host.1", 1, 1, 5.0), None)
        assert server.leases["posthouse"]["spec"]["holderIdentity"] == "host.1"
    finally:
        await me.close()
    assert server.events == []
