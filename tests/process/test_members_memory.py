"""Members that keep nothing: their Lease alone makes them one relay, which delivers now or says no."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from api_server_thread import ApiServerThread, api_server_thread
from members import Members, survives, until
from pod_members import members_in_pods
from wire_client import is_result, texts
from wire_fixtures import Dial
from wire_keys import Key, message_id

KeyOf = Callable[[str], Key]


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServerThread]:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with api_server_thread() as made:
        yield made


@pytest.fixture
def group(tmp_path: Path, api: ApiServerThread) -> Iterator[Members]:
    with members_in_pods(tmp_path, api, "memory:", config="limits.hold_s = 1.0\n") as made:
        yield made


def test_the_members_are_one_relay_and_the_next_one_goes_on(group: Members, dial: Dial, key: KeyOf) -> None:
    active, (other,) = group.split()
    assert active.status()["relay"] == other.status()["relay"]
    sender, reader = dial(other), dial(other, key("reader"))
    reader.subscribe()
    ref = sender.publish(b"before", recipient=key("reader").address, mode="live")
    assert texts([reader.message()]) == [b"before"]
    reader.ack(message_id(b"before"))
    is_result(sender.result(ref), "delivered")
    epoch = active.status()["epoch"]
    active.signal(signal.SIGKILL)
    active.wait()
    until(lambda: other.status()["role"] == "active", "the other one takes over")
    assert other.status()["epoch"] > epoch
    ref = sender.publish(b"after", recipient=key("reader").address, mode="live")
    assert texts([reader.message()]) == [b"after"]
    reader.ack(message_id(b"after"))
    is_result(sender.result(ref), "delivered")
    is_result(sender.post(b"away", recipient=key("away").address, mode="live"), "undeliverable")
    assert survives(sender) and survives(reader)


def test_without_the_api_server_nobody_goes_on_beyond_the_deadline(
    group: Members, api: ApiServerThread, dial: Dial, key: KeyOf
) -> None:
    active, (other,) = group.split()
    sender = dial(active)
    api.do(api.server.hang)
    # No store would fence it: it may not serve when another one may.
    until(lambda: active.status()["role"] == "standby", "the active one stops")
    until(lambda: active.get("/readyz")[0] == 503, "nobody is sent there any more")
    api.do(api.server.go_on)
    until(lambda: "active" in (active.status()["role"], other.status()["role"]), "one is active again")
    is_result(sender.post(b"away", recipient=key("away").address, mode="live"), "undeliverable")
