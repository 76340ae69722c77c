"""docs/protocol.md 2.1: challenge, hello, welcome, and how an opening fails."""

from collections.abc import Callable

import pytest
from relay_process import RelayProcess
from wire_client import ENCODINGS, WireClient
from wire_fixtures import Dial, RelayOf
from wire_keys import Key
from wire_socket import Closed

SMALL_WINDOW = "limits.max_window = 3\nlimits.default_window = 3\nlimits.live_timeout_ms = 50\n"
KeyOf = Callable[[str], Key]


@pytest.fixture
def relay(shared_relay: RelayOf) -> RelayProcess:
    return shared_relay()


def refused(client: WireClient, code: str, close_code: int) -> None:
    error = client.expect("error", code=code)
    assert error["detail"] and error["retryable"] is False
    assert client.wait_closed().code == close_code


# --- challenge


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_challenge_has_a_fresh_nonce_the_audience_and_the_time(
    relay: RelayProcess, dial: Dial, encoding: str
) -> None:
    one, two = (dial.unopened(relay, encoding).challenge for _ in range(2))
    assert len(one["nonce"]) == len(two["nonce"]) == 32
    assert one["nonce"] != two["nonce"]
    assert one["audience"] == f"127.0.0.1:{relay.port}"
    assert isinstance(one["server_time"], int) and one["server_time"] > 1_600_000_000_000


@pytest.mark.parametrize(
    ("host", "audience"),
    [
        ("localhost:{port}", "localhost:{port}"),
        ("LocalHost:{port}", "localhost:{port}"),
        ("[::1]:{port}", "[::1]:{port}"),
        ("localhost:1234", "localhost:1234"),
        ("127.0.0.1:9", "127.0.0.1:9"),
        ("localhost:80", "localhost"),
        ("localhost", "localhost"),
        ("evil.example", "127.0.0.1:{port}"),
    ],
)
def test_audience_without_public_names_is_the_listen_address_or_a_loopback_name(
    relay: RelayProcess, dial: Dial, host: str, audience: str
) -> None:
    client = dial.unopened(relay, authority=host.format(port=relay.port))
    assert client.challenge["audience"] == audience.format(port=relay.port)


@pytest.mark.parametrize(
    ("host", "audience"),
    [
        ("relay.example", "relay.example"),
        ("RELAY.example:443", "relay.example"),
        ("relay.example:80", "relay.example"),
        ("other.example:8443", "other.example:8443"),
        ("other.example", "relay.example"),
        ("localhost", "relay.example"),
        ("evil.example", "relay.example"),
    ],
)
def test_audience_is_the_host_if_it_is_public_else_the_first_public_name(
    shared_relay: RelayOf, dial: Dial, host: str, audience: str
) -> None:
    relay = shared_relay('server.public_names = ["Relay.Example", "other.example:8443"]\n')
    assert dial.unopened(relay, authority=host).challenge["audience"] == audience


# --- hello and welcome


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_hello_with_a_key_proves_both_forms_of_its_address(
    relay: RelayProcess, dial: Dial, key: KeyOf, encoding: str
) -> None:
    device = key("device")
    welcome = dial(relay, device, encoding).welcome
    assert sorted(welcome["addresses"]) == sorted([device.address, device.identity_address])
    assert isinstance(welcome["epoch"], int) and welcome["epoch"] >= 1
    assert welcome["session"] and welcome["relay"]
    assert isinstance(welcome["features"], list)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_hello_without_a_key_is_anonymous(relay: RelayProcess, dial: Dial, encoding: str) -> None:
    assert dial(relay, encoding=encoding).welcome["addresses"] == []


def test_every_session_has_a_name_of_its_own_and_the_relay_one(relay: RelayProcess, dial: Dial) -> None:
    one, two = dial(relay).welcome, dial(relay).welcome
    assert one["session"] != two["session"]
    assert one["relay"] == two["relay"]


def test_the_relays_id_outlives_a_restart_and_the_epoch_rises(own_relay: RelayOf, dial: Dial) -> None:
    relay = own_relay()
    before = dial(relay).welcome
    relay.kill()
    relay.start()
    after = dial(relay).welcome
    assert after["relay"] == before["relay"]
    assert after["epoch"] > before["epoch"]


def test_welcome_names_the_limits(relay: RelayProcess, dial: Dial) -> None:
    limits = dial(relay).welcome["limits"]
    assert (
        limits.items()
        >= {
            "max_frame_bytes": 1 << 20,
            "idle_timeout_s": 60,
            "max_window": 4096,
            "live_timeout_ms": 2000,
            "connections_per_key": 8,
            "slow_reader_s": 30,
        }.items()
    )
    assert {"max_outbound_bytes", "max_inflight_bytes", "dedupe_window_s"} <= set(limits)


def test_there_is_room_for_100_000_messages_of_1_kib_in_a_mailbox(relay: RelayProcess, dial: Dial) -> None:
    limits = dial(relay).welcome["limits"]
    assert limits["mailbox_messages"] >= 100_000
    assert limits["mailbox_bytes"] >= 100_000 * 1024
    assert limits["guest_mailbox_messages"] < limits["mailbox_messages"]
    assert limits["guest_mailbox_bytes"] < limits["mailbox_bytes"]


def test_the_limits_in_welcome_are_those_configured(shared_relay: RelayOf, dial: Dial) -> None:
    relay = shared_relay(SMALL_WINDOW)
    assert dial(relay).welcome["limits"].items() >= {"max_window": 3, "live_timeout_ms": 50}.items()


# --- failures


def test_a_wrong_signature_is_auth_required_and_closed_4501(
    relay: RelayProcess, dial: Dial, key: KeyOf
) -> None:
    client = dial.unopened(relay)
    client.send(client.hello_item(key("device"), signature=bytes(64)))
    refused(client, "auth-required", 4501)


def test_a_signature_of_another_key_is_closed_4501(relay: RelayProcess, dial: Dial, key: KeyOf) -> None:
    client = dial.unopened(relay)
    client.send(client.hello_item(key("device")) | {"key": key("other").public})
    refused(client, "auth-required", 4501)


def test_a_signature_for_another_audience_is_closed_4501(relay: RelayProcess, dial: Dial, key: KeyOf) -> None:
    client, device = dial.unopened(relay), key("device")
    signature = device.sign("evil.example", client.challenge["nonce"])
    client.send(client.hello_item(device, signature=signature))
    refused(client, "auth-required", 4501)


def test_a_signature_over_another_connections_nonce_is_closed_4501(
    relay: RelayProcess, dial: Dial, key: KeyOf
) -> None:
    first, second, device = dial.unopened(relay), dial.unopened(relay), key("device")
    replayed = first.hello_item(device)
    first.send(replayed)
    first.expect("welcome")
    second.send(replayed)
    refused(second, "auth-required", 4501)


@pytest.mark.parametrize("left_out", ["key", "signature"])
def test_key_and_signature_go_together(relay: RelayProcess, dial: Dial, key: KeyOf, left_out: str) -> None:
    client = dial.unopened(relay)
    hello = client.hello_item(key("device"))
    del hello[left_out]
    client.send(hello)
    refused(client, "auth-required", 4501)


def test_anonymous_hello_is_auth_required_where_it_is_off(
    shared_relay: RelayOf, dial: Dial, key: KeyOf
) -> None:
    relay = shared_relay("anonymous.enabled = false\n")
    client = dial.unopened(relay)
    client.send(client.hello_item())
    refused(client, "auth-required", 4501)
    dial(relay, key("device"))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    "item",
    [
        {"type": "ping", "t": 1},
        {"type": "subscribe", "ref": 1},
        {"type": "unheard-of"},
        {"type": "hello"},
        {"type": "hello", "client": "x" * 65},
        {"type": "hello", "client": 5},
        {"type": "hello", "client": "x", "window": 0},
        {"type": "hello", "client": "x", "key": b"short", "signature": bytes(64)},
        {"no": "type"},
        [],
        7,
    ],
    ids=str,
)
def test_a_first_item_other_than_a_hello_closes_4503(
    relay: RelayProcess, dial: Dial, encoding: str, item: object
) -> None:
    client = dial.unopened(relay, encoding)
    client.send_array([item, client.hello_item()])
    assert client.wait_closed().code == 4503


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_no_hello_in_time_closes_4504(shared_relay: RelayOf, dial: Dial, encoding: str) -> None:
    relay = shared_relay("limits.hello_timeout_s = 0.3\n")
    client = dial.unopened(relay, encoding)
    client.ping(b"a ping is no hello")
    assert client.wait_closed().code == 4504
    dial(relay, encoding=encoding).settle()


def test_a_hello_in_time_keeps_the_connection_beyond_the_limit(shared_relay: RelayOf, dial: Dial) -> None:
    relay = shared_relay("limits.hello_timeout_s = 0.3\n")
    early, late = dial(relay), dial.unopened(relay)
    assert late.wait_closed().code == 4504
    assert early.settle() == []


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_what_follows_hello_in_the_same_array_is_handled_after_welcome(
    relay: RelayProcess, dial: Dial, key: KeyOf, encoding: str
) -> None:
    client, reader = dial.unopened(relay, encoding), key("reader")
    client.send(
        client.hello_item(reader),
        {"type": "subscribe", "ref": 1},
        {"type": "publish", "ref": 2, "recipient": reader.address, "ciphertext": b"to myself"},
        {"type": "status", "ref": 3},
    )
    client.send({"type": "ping", "t": 4})
    client.expect("welcome")
    client.wait_for("subscribed", ref=1)
    client.wait_for("caught_up", ref=1)
    client.ack(client.message(b"to myself")["id"])
    client.wait_for("status", ref=3)
    client.wait_for("pong", t=4)
    assert client.result(2)["status"] in ("delivered", "stored")


def test_frames_that_follow_hello_without_waiting_are_handled_after_welcome(
    relay: RelayProcess, dial: Dial, key: KeyOf
) -> None:
    client = dial.unopened(relay)
    client.send(client.hello_item(key("reader")))
    client.send({"type": "ping", "t": 1})
    client.send({"type": "ping", "t": 2})
    assert [client.next_item()["type"] for _ in range(3)] == ["welcome", "pong", "pong"]


def test_a_second_hello_is_an_error_and_the_connection_goes_on(relay: RelayProcess, dial: Dial) -> None:
    client = dial(relay)
    client.send(client.hello_item())
    client.expect("error", code="invalid")
    assert client.settle() == []


# --- window


def test_window_bounds_the_unacknowledged_messages(relay: RelayProcess, dial: Dial, key: KeyOf) -> None:
    reader, sender = key("reader"), dial(relay)
    for n in range(5):
        sender.post(b"message %d" % n, recipient=reader.address)
    client = dial(relay, reader, window=2)
    client.request("subscribe")
    first, second = client.message(), client.message()
    assert not [item for item in client.settle() if item["type"] == "message"]
    client.ack(first["id"])
    third = client.message()
    assert first["seq"] < second["seq"] < third["seq"]
    client.ack(second["id"], third["id"])
    client.ack(*(client.message()["id"] for _ in range(2)))
    client.wait_for("caught_up")


def test_window_above_the_limit_counts_as_the_limit(shared_relay: RelayOf, dial: Dial, key: KeyOf) -> None:
    relay = shared_relay(SMALL_WINDOW)
    reader, sender = key("reader"), dial(relay)
    for n in range(4):
        sender.post(b"message %d" % n, recipient=reader.address)
    client = dial(relay, reader, window=1_000_000)
    client.request("subscribe")
    for _ in range(3):
        client.message()
    assert not [item for item in client.settle() if item["type"] == "message"]


def test_window_defaults_to_256(relay: RelayProcess, dial: Dial, key: KeyOf) -> None:
    reader, sender = key("reader"), dial(relay)
    refs = [sender.publish(b"message %d" % n, recipient=reader.address) for n in range(257)]
    assert {sender.result(ref)["status"] for ref in refs} == {"stored"}
    client = dial(relay, reader)
    client.request("subscribe")
    messages = [client.message() for _ in range(256)]
    assert not [item for item in client.settle() if item["type"] == "message"]
    client.ack(messages[0]["id"])
    client.message(b"message 256")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_client_that_hangs_up_at_any_step_harms_nobody(
    relay: RelayProcess, dial: Dial, key: KeyOf, encoding: str
) -> None:
    dial.unopened(relay, encoding).close()
    half = dial.unopened(relay, encoding)
    half.send(half.hello_item(key("device")))
    half.close()
    dial(relay, key("device"), encoding).close()
    with pytest.raises(Closed):
        gone = dial(relay, encoding=encoding)
        gone.shut_output()
        gone.read_message()
    assert dial(relay, key("device"), encoding).settle() == []
