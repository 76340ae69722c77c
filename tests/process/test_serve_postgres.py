"""`posthouse serve` with its store on a PostgreSQL server: promises outlive it, and an absent server is told."""

import time
from collections.abc import Callable, Iterator

import pytest
from postgres_server import PostgresServer, need_server, running_server
from relay_process import RelayProcess
from wire_fixtures import Dial
from wire_keys import named_key

MakeRelay = Callable[..., RelayProcess]
ALICE = named_key("alice")


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A server of its own, because it is ended."""
    need_server()
    with running_server() as started:
        yield started


def test_what_was_stored_outlives_a_killed_relay(
    server: PostgresServer, make_relay: MakeRelay, dial: Dial
) -> None:
    relay = make_relay(store=server.url()).start()
    assert relay.status()["store"]["durable"] is True
    assert dial(relay).post(b"kept", recipient=ALICE.address)["status"] == "stored"
    before = relay.status()["epoch"]
    relay.kill()
    relay.start()
    reader = dial(relay, ALICE)
    _, backlog = reader.subscribe()
    assert [item["ciphertext"] for item in backlog] == [b"kept"]
    assert relay.status()["epoch"] == before + 1


def test_a_server_that_is_gone_is_told_and_comes_back(
    server: PostgresServer, make_relay: MakeRelay, dial: Dial
) -> None:
    relay = make_relay(store=server.url(), config="store.commit_timeout_s = 2\n").start()
    sender = dial(relay)
    assert sender.post(b"before", recipient=ALICE.address)["status"] == "stored"
    server.kill()
    # The first commit that finds it gone may be in doubt, and then has no answer until it is back; later ones have.
    doubtful = sender.publish(b"doubtful", recipient=ALICE.address)
    deadline = time.monotonic() + 10
    while relay.get("/readyz")[0] == 200:
        assert time.monotonic() < deadline
    answer = sender.post(b"meanwhile", recipient=ALICE.address)
    assert (answer["status"], answer["fallback"]) == ("rejected", True)
    assert answer["code"] == "store-unavailable"
    server.start()
    deadline = time.monotonic() + 30
    while sender.post(b"after", recipient=ALICE.address)["status"] == "rejected":
        assert time.monotonic() < deadline
    assert relay.get("/readyz")[0] == 200
    kept = sender.result(doubtful)["status"] != "rejected"
    reader = dial(relay, ALICE)
    _, backlog = reader.subscribe()
    texts = {item["ciphertext"] for item in backlog}
    assert texts >= {b"before", b"after"} and (b"doubtful" in texts) is kept


def test_a_second_relay_that_takes_itself_for_alone_fences_the_first(
    server: PostgresServer, make_relay: MakeRelay, dial: Dial
) -> None:
    first = make_relay("--lease", "none", store=server.url()).start()
    sender = dial(first)
    assert sender.post(b"by the first", recipient=ALICE.address)["status"] == "stored"
    second = make_relay("--lease", "none", store=server.url()).start()
    assert second.status()["epoch"] == 2
    sender.send({"type": "publish", "ref": 5, "recipient": ALICE.address, "ciphertext": b"too late"})
    assert first.wait() == 1
    assert "another promotion owns the store: this relay ends" in first.events()
    reader = dial(second, ALICE)
    _, backlog = reader.subscribe()
    assert [item["ciphertext"] for item in backlog] == [b"by the first"]
