"""A database that the active member does not reach any more, and the others do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from api_server_thread import ApiServerThread, api_server_thread
from members import Members, survives, until
from pod_members import members_in_pods
from postgres_server import PostgresServer, need_server, running_server
from store_proxy import Proxy, proxy_to
from wire_client import is_result, texts
from wire_fixtures import Dial
from wire_keys import Key

KeyOf = Callable[[str], Key]
HAND_OVER_S = 40.0
CONFIG = "store.commit_timeout_s = 2\n"


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServerThread]:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with api_server_thread() as made:
        yield made


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    need_server()
    with running_server({}) as started:
        yield started


@pytest.fixture
def way(server: PostgresServer) -> Iterator[Proxy]:
    """The first member's own way to the database."""
    with proxy_to(server.port) as made:
        yield made


@pytest.fixture
def group(tmp_path: Path, api: ApiServerThread, server: PostgresServer, way: Proxy) -> Iterator[Members]:
    direct = server.url("reach")
    through = direct.replace(f":{server.port}", f":{way.port}")
    assert through != direct
    with members_in_pods(tmp_path, api, through, direct, count=3, config=CONFIG) as made:
        yield made


def test_who_reaches_the_store_is_to_be_active(group: Members, way: Proxy, dial: Dial, key: KeyOf) -> None:
    active, (other, _) = group.split()
    epoch = active.status()["epoch"]
    sender, reader = dial(active), key("reader")
    is_result(sender.post(b"before", recipient=reader.address), "stored")
    way.close()
    refused = sender.post(b"refused", recipient=reader.address)
    is_result(refused, "rejected", code="store-unavailable")
    until(lambda: other.status()["epoch"] > epoch, "another one takes over", HAND_OVER_S)
    until(lambda: active.status()["active"] not in (None, group.id_of(active)), "it is followed", HAND_OVER_S)
    assert active.status()["last_handover"]["reason"] == "its store is out of reach"
    # The one that does not reach the store is a front like the others, and well.
    is_result(sender.post(b"after", recipient=reader.address), "stored")
    assert active.get("/readyz")[0] == 200
    assert texts(dial(active, reader).subscribe()[1]) == [b"before", b"after"]
    assert survives(sender)


def test_a_store_that_answers_nobody_changes_nothing(
    group: Members, server: PostgresServer, dial: Dial, key: KeyOf
) -> None:
    active, others = group.split()
    before = active.status()
    sender, reader = dial(others[0]), key("reader")
    server.stop()
    is_result(sender.post(b"refused", recipient=reader.address), "rejected", code="store-unavailable")
    # Longer than the active waits before it would hand over.
    asked = [other.wait_for("the store does not answer here either") for other in others]
    assert len(asked) == 2
    until(lambda: others[0].status()["since"] and active.get("/readyz")[0] == 503, "the active says so")
    server.start()
    until(lambda: active.get("/readyz")[0] == 200, "the store is back", HAND_OVER_S)
    is_result(sender.post(b"after", recipient=reader.address), "stored")
    after = active.status()
    assert (after["epoch"], after["active"]) == (before["epoch"], before["active"])
