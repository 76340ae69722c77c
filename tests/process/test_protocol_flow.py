"""docs/protocol.md 2.3 (goaway), 2.4 (connections of a key, close codes) and 2.5: windows, slow readers, limits."""

import time
from collections.abc import Callable

import pytest
from relay_process import RelayProcess
from wire_client import ENCODINGS
from wire_fixtures import Dial, RelayOf
from wire_keys import Key, message_id
from wire_socket import TIMEOUT_S, Closed

KeyOf = Callable[[str], Key]
SMALL = "limits.max_frame_bytes = 65536\nlimits.max_outbound_bytes = 65536\n"
IMPATIENT = f"{SMALL}limits.slow_reader_s = 1\n"


@pytest.fixture
def relay(shared_relay: RelayOf) -> RelayProcess:
    return shared_relay()


def leave(relay: RelayProcess, dial: Dial, sender: Key, recipient: str, count: int, size: int) -> list[str]:
    """Store that many messages of that size; their ids, in order."""
    client = dial(relay, sender)
    contents = [b"%08d" % n + bytes(size - 8) for n in range(count)]
    refs = [client.publish(one, recipient=recipient) for one in contents]
    assert {client.result(ref)["status"] for ref in refs} == {"stored"}
    client.close()
    return [message_id(one) for one in contents]


def closed_with(relay: RelayProcess, code: int) -> float:
    """How many connections the relay has closed with this code."""
    return sum(
        value
        for name, value in relay.metrics().items()
        if name.startswith("posthouse_connections_closed") and f'"{code}"' in name
    )


# --- connections of a key


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_of_too_many_connections_of_a_key_the_oldest_is_superseded_and_closed_4505(
    shared_relay: RelayOf, dial: Dial, key: KeyOf, encoding: str
) -> None:
    relay = shared_relay("limits.connections_per_key = 2\n")
    oldest, second = (dial(relay, key("device"), encoding) for _ in range(2))
    oldest.subscribe()
    third = dial(relay, key("device"), encoding)
    goaway = oldest.expect("goaway", reason="superseded")
    assert len(goaway["reconnect_after_ms"]) == 2
    assert isinstance(goaway["alternates"], list)
    closed = oldest.wait_closed()
    assert (closed.code, closed.reason) == (4505, "superseded")
    assert second.settle() == third.settle() == []


def test_other_keys_and_anonymous_connections_do_not_count(
    shared_relay: RelayOf, dial: Dial, key: KeyOf
) -> None:
    relay = shared_relay("limits.connections_per_key = 2\n")
    clients = [dial(relay, key("device")), dial(relay, key("device")), dial(relay, key("other"))]
    clients += [dial(relay) for _ in range(5)]
    for client in clients:
        assert client.settle() == []


def test_a_superseded_reader_loses_nothing(shared_relay: RelayOf, dial: Dial, key: KeyOf) -> None:
    relay = shared_relay("limits.connections_per_key = 2\n")
    ids = leave(relay, dial, key("sender"), key("device").address, 3, 100)
    oldest = dial(relay, key("device"))
    oldest.subscribe()
    others = [dial(relay, key("device")) for _ in range(2)]
    oldest.wait_closed()
    assert [message["id"] for message in others[0].subscribe()[1]] == ids


# --- to a reader


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_rest_follows_as_acks_arrive(relay: RelayProcess, dial: Dial, key: KeyOf, encoding: str) -> None:
    ids = leave(relay, dial, key("sender"), key("reader").address, 100, 200)
    client = dial(relay, key("reader"), encoding, window=7)
    client.request("subscribe")
    outstanding: list[str] = []
    seen: list[str] = []
    while len(seen) < 100:
        message = client.message()
        seen.append(message["id"])
        outstanding.append(message["id"])
        assert len(outstanding) <= 7
        if len(outstanding) == 7:
            client.ack(*outstanding[:4])
            del outstanding[:4]
    assert seen == ids
    client.ack(*outstanding)
    client.wait_for("caught_up")


def test_a_full_window_does_not_hold_back_results_and_pongs(
    relay: RelayProcess, dial: Dial, key: KeyOf
) -> None:
    leave(relay, dial, key("sender"), key("reader").address, 3, 20)
    client = dial(relay, key("reader"), window=1)
    client.subscribe_without_waiting()
    client.message()
    assert client.post(b"x", recipient=key("other").address)["status"] == "stored"
    assert client.settle() == []


def test_live_messages_beyond_the_window_wait_in_the_store_and_follow_in_order(
    relay: RelayProcess, dial: Dial, key: KeyOf
) -> None:
    client, sender = dial(relay, key("reader"), window=2), dial(relay)
    client.subscribe()
    contents = [b"%d" % n for n in range(20)]
    refs = [sender.publish(one, recipient=key("reader").address) for one in contents]
    assert {sender.result(ref)["status"] for ref in refs} == {"stored"}
    seen = []
    for _ in contents:
        message = client.message()
        seen.append(message["ciphertext"])
        client.ack(message["id"])
    assert seen == contents


def test_a_reader_that_takes_its_time_gets_everything(shared_relay: RelayOf, dial: Dial, key: KeyOf) -> None:
    relay = shared_relay(SMALL)
    ids = leave(relay, dial, key("sender"), key("reader").address, 200, 20_000)
    client = dial.unopened(relay, receive_buffer_bytes=8192).open(key("reader"), window=4096)
    client.request("subscribe")
    # It reads nothing until its acks could not be what lets the rest out.
    dial(relay).settle()
    assert [client.message()["id"] for _ in ids] == ids


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_reader_whose_socket_takes_nothing_is_closed_4001(
    shared_relay: RelayOf, dial: Dial, key: KeyOf, encoding: str
) -> None:
    relay = shared_relay(IMPATIENT)
    ids = leave(relay, dial, key("sender"), key("reader").address, 200, 30_000)
    before = closed_with(relay, 4001)
    slow = dial.unopened(relay, encoding, receive_buffer_bytes=8192).open(key("reader"), window=4096)
    slow.request("subscribe")
    deadline = time.monotonic() + 3 * TIMEOUT_S
    while closed_with(relay, 4001) == before:
        assert time.monotonic() < deadline
    _, closed = slow.read_to_close()
    assert closed.code in (4001, 1006)
    healthy = dial(relay, key("reader"), encoding, window=4096)
    healthy.request("subscribe")
    assert [healthy.message()["id"] for _ in ids] == ids


# --- from a sender


def test_a_sender_that_does_not_read_its_results_can_still_ack(
    relay: RelayProcess, dial: Dial, key: KeyOf
) -> None:
    client, other = dial(relay, key("reader")), dial(relay)
    client.subscribe()
    ref = other.publish(b"one", recipient=key("reader").address)
    recipient = key("elsewhere").address
    client.send_array(
        [{"type": "publish", "ref": n, "recipient": recipient, "ciphertext": b"%d" % n} for n in range(2000)]
    )
    client.ack(message_id(b"one"))
    assert other.result(ref)["status"] in ("stored", "delivered")
    assert other.post(b"one", recipient=key("reader").address)["state"] == "delivered"


# --- the whole relay


def test_a_connection_beyond_the_limit_is_closed_1013(own_relay: RelayOf, dial: Dial) -> None:
    relay = own_relay("limits.max_connections = 3\n")
    kept = [dial(relay) for _ in range(3)]
    with pytest.raises(Closed) as refused:
        dial(relay)
    assert refused.value.code == 1013
    assert all(client.settle() == [] for client in kept)
    kept[0].close()
    kept[1].settle()
    kept[1].settle()
    dial(relay)


def test_no_error_of_these_tests_was_an_internal_one(relay: RelayProcess, dial: Dial) -> None:
    assert "text" not in {name for line in relay.lines for name in line}
    assert not [line for line in relay.lines if line.get("level") in ("error", "critical")]
