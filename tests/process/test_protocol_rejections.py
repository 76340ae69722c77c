"""docs/protocol.md 2.4, rejected: each code that one machine can show, and what a relay that stops answers."""

import contextlib
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from machine import can_mount_tmpfs, mounted_tmpfs, need
from relay_process import RelayProcess
from wire_client import ENCODINGS, is_result
from wire_fixtures import Dial, RelayOf
from wire_keys import Key, message_id
from wire_socket import TIMEOUT_S

KeyOf = Callable[[str], Key]
MIB = 1 << 20
LONG_TICK = "commit.tick_ms = 1000\n"
"""Messages out with an online reader wait so long for their ack: each `delivered` below is an elided commit."""


@pytest.fixture
def relay(shared_relay: RelayOf) -> RelayProcess:
    return shared_relay()


# --- rejected


def test_neither_or_both_of_recipient_and_bucket_is_invalid(
    relay: RelayProcess, dial: Dial, key: KeyOf
) -> None:
    sender, reader = dial(relay), key("reader")
    is_result(sender.post(b"x"), "rejected", code="invalid")
    both = sender.post(b"x", recipient=reader.address, bucket=reader.bucket_14)
    is_result(both, "rejected", code="invalid")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_too_large(shared_relay: RelayOf, dial: Dial, key: KeyOf, encoding: str) -> None:
    relay = shared_relay("limits.max_message_bytes = 2000\n")
    sender, recipient = dial(relay, None, encoding), key("reader").address
    is_result(sender.post(b"x" * 2000, recipient=recipient), "stored")
    result = sender.post(b"x" * 2001, recipient=recipient)
    is_result(result, "rejected", code="too-large")
    assert dial(relay).welcome["limits"]["max_message_bytes"] == 2000


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_largest_message_reaches_its_reader(
    relay: RelayProcess, dial: Dial, key: KeyOf, encoding: str
) -> None:
    sender, reader = dial(relay, None, encoding), dial(relay, key("reader"), encoding)
    largest = bytes(sender.welcome["limits"]["max_message_bytes"])
    is_result(sender.post(largest, recipient=key("reader").address), "stored")
    assert reader.subscribe()[1][0]["ciphertext"] == largest


@pytest.mark.parametrize(
    ("config", "bytes_each"),
    [("quota.mailbox_messages = 3\n", 5), ("quota.mailbox_bytes = 1024\n", 300)],
    ids=["messages", "bytes"],
)
def test_quota_of_a_mailbox(
    shared_relay: RelayOf, dial: Dial, key: KeyOf, config: str, bytes_each: int
) -> None:
    relay = shared_relay(config)
    sender, recipient = dial(relay, key("sender")), key("reader").address
    contents = [bytes([n]) * bytes_each for n in range(4)]
    refs = [sender.publish(one, recipient=recipient) for one in contents]
    results = [sender.result(ref) for ref in refs]
    for result in results[:3]:
        is_result(result, "stored")
    is_result(results[3], "rejected", code="quota")
    # Another mailbox has its own, and an ack gives room back.
    is_result(sender.post(contents[3], recipient=key("another").address), "stored")
    reader = dial(relay, key("reader"))
    reader.subscribe()
    reader.ack(message_id(contents[0]))
    deadline = time.monotonic() + TIMEOUT_S
    while (result := sender.post(contents[3], recipient=recipient))["status"] == "rejected":
        assert time.monotonic() < deadline
    is_result(result, "stored")


def test_a_repeat_needs_no_room_in_a_full_mailbox(shared_relay: RelayOf, dial: Dial, key: KeyOf) -> None:
    relay = shared_relay("quota.mailbox_messages = 3\n")
    sender, recipient = dial(relay, key("sender")), key("reader").address
    for n in range(3):
        is_result(sender.post(b"%d" % n, recipient=recipient), "stored")
    is_result(sender.post(b"0", recipient=recipient), "duplicate", state="stored")
    is_result(sender.post(b"3", recipient=recipient), "rejected", code="quota")


def test_quota_of_senders_without_a_key_leaves_room_for_others(
    shared_relay: RelayOf, dial: Dial, key: KeyOf
) -> None:
    relay = shared_relay("quota.guest_mailbox_messages = 2\n")
    guest, recipient = dial(relay), key("reader").address
    for n in range(2):
        is_result(guest.post(b"%d" % n, recipient=recipient), "stored")
    is_result(dial(relay).post(b"2", recipient=recipient), "rejected", code="quota")
    is_result(dial(relay, key("sender")).post(b"2", recipient=recipient), "stored")


def test_quota_of_the_whole_relay(own_relay: RelayOf, dial: Dial, key: KeyOf) -> None:
    relay = own_relay("quota.total_messages = 3\n")
    sender = dial(relay, key("sender"))
    for n in range(3):
        is_result(sender.post(b"x", recipient=key(str(n)).address), "stored")
    is_result(sender.post(b"x", recipient=key("last").address), "rejected", code="quota")


def test_restricted_where_anonymous_may_not_publish(shared_relay: RelayOf, dial: Dial, key: KeyOf) -> None:
    relay = shared_relay("anonymous.publish = false\n")
    recipient = key("reader").address
    is_result(dial(relay).post(b"x", recipient=recipient), "rejected", code="restricted")
    is_result(dial(relay, key("sender")).post(b"x", recipient=recipient), "stored")


def test_rate_limited_by_configuration_says_when_to_come_again(
    shared_relay: RelayOf, dial: Dial, key: KeyOf
) -> None:
    relay = shared_relay("anonymous.max_publish_per_s = 0.01\n")
    sender, recipient = dial(relay), key("reader").address
    results = [sender.post(b"%d" % n, recipient=recipient) for n in range(3)]
    is_result(results[0], "stored")
    is_result(results[-1], "rejected", code="rate-limited")
    assert results[-1]["retry_after_ms"] > 0
    is_result(dial(relay, key("sender")).post(b"x", recipient=recipient), "stored")


def test_rate_limited_when_too_much_is_in_flight_and_acks_and_pings_get_through(
    shared_relay: RelayOf, dial: Dial, key: KeyOf
) -> None:
    relay = shared_relay(
        "limits.max_frame_bytes = 65536\nlimits.max_inflight_bytes = 65536\nlimits.live_timeout_ms = 60000\n"
    )
    client, recipient = dial(relay, key("reader")), key("reader").address
    client.subscribe()
    refs = [client.publish(bytes([n]) * 20_000, recipient=recipient, mode="live") for n in range(5)]
    for ref in refs[3:]:
        result = client.result(ref)
        is_result(result, "rejected", code="rate-limited")
        assert result["retry_after_ms"] > 0
    client.ack(*(client.message()["id"] for _ in range(3)))
    for ref in refs[:3]:
        is_result(client.result(ref), "delivered")
    is_result(client.post(b"room again", recipient=key("other").address), "stored")


def test_network_mode_without_a_network_is_network_unavailable(
    relay: RelayProcess, dial: Dial, key: KeyOf
) -> None:
    sender = dial(relay)
    assert "network" not in sender.welcome["features"]
    result = sender.post(b"x", recipient=key("reader").address, mode="network")
    is_result(result, "rejected", code="network-unavailable")


def test_a_full_disk_is_store_unavailable_until_there_is_room_and_nothing_promised_is_lost(
    own_relay: RelayOf, dial: Dial, key: KeyOf, tmp_path: Path
) -> None:
    need(
        "tmpfs", can_mount_tmpfs(), "no tmpfs can be mounted here, so a full disk is not tested from outside"
    )
    (tmp_path / "disk").mkdir()
    with mounted_tmpfs(tmp_path / "disk", 8 * MIB) as disk:
        relay = own_relay(f"store.min_free_bytes = 0\n{LONG_TICK}", store=f"sqlite:///{disk}/relay.db")
        sender, recipient = dial(relay, key("sender")), key("reader").address
        contents = [bytes([n]) * 50_000 for n in range(3)]
        for one in contents:
            is_result(sender.post(one, recipient=recipient), "stored")
        fill(disk / "in the way")
        # A first one may find room in the log; a repeat in the same batch shares the outcome of the first.
        result = sender.post(b"x" * 600_000, recipient=recipient)
        is_result(result, "rejected", code="store-unavailable")
        refs = [sender.publish(b"y" * 600_000, recipient=recipient) for _ in range(2)]
        for ref in refs:
            is_result(sender.result(ref), "rejected", code="store-unavailable")
        # What its reader acknowledges is delivered all the same.
        reader = dial(relay, key("other"))
        reader.subscribe()
        ref = sender.publish(b"z" * 50_000, recipient=key("other").address)
        reader.ack(reader.message()["id"])
        is_result(sender.result(ref), "delivered")
        (disk / "in the way").unlink()
        deadline = time.monotonic() + TIMEOUT_S
        while (result := sender.post(b"x" * 600_000, recipient=recipient))["status"] == "rejected":
            assert result["code"] == "store-unavailable"
            assert time.monotonic() < deadline
        is_result(result, "stored")
        relay.kill()
        relay.start()
        kept = [message["ciphertext"] for message in dial(relay, key("reader")).subscribe()[1]]
        assert kept == [*contents, b"x" * 600_000]
        relay.kill()


def fill(path: Path) -> None:
    """Fill the file system of this file."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(65536))


def test_every_publish_has_a_result_or_the_relay_has_not_taken_it_when_a_relay_stops(
    own_relay: RelayOf, dial: Dial, key: KeyOf
) -> None:
    relay = own_relay()
    sender, recipient = dial(relay, key("sender")), key("reader").address
    refs = {sender.publish(b"%d" % n, recipient=recipient) for n in range(300)}
    relay.signal(signal.SIGTERM)
    items, closed = sender.read_to_close()
    assert closed.code == 1012
    assert items[-1]["type"] == "goaway"
    results = [item for item in items if item["type"] == "result"]
    assert len({result["ref"] for result in results}) == len(results)
    for result in results:
        if result["status"] != "stored":
            is_result(result, "rejected", code="draining")
    assert {result["ref"] for result in results} <= refs
    assert relay.wait() == 0
    relay.start()
    kept = {message["id"] for message in dial(relay, key("reader"), window=4096).subscribe()[1]}
    assert kept >= {result["id"] for result in results if result["status"] == "stored"}


def test_a_relay_that_drains_rejects_publishes_and_sends_its_clients_away_one_after_another(
    own_relay: RelayOf, dial: Dial, key: KeyOf
) -> None:
    relay = own_relay(drain_s=60)
    crowd = [dial(relay, key(str(n))) for n in range(4)]
    is_result(crowd[3].post(b"before", recipient=key("3").address), "stored")
    relay.signal(signal.SIGTERM)
    crowd[0].wait_for("goaway", reason="drain")
    assert crowd[0].wait_closed().code == 1012
    is_result(crowd[3].post(b"after", recipient=key("3").address), "rejected", code="draining")
    # What was taken can be read and acknowledged meanwhile.
    assert [message["ciphertext"] for message in crowd[3].subscribe()[1]] == [b"before"]
    crowd[3].ack(message_id(b"before"))
    crowd[3].settle()
    relay.signal(signal.SIGTERM)
    goaway = crowd[3].wait_for("goaway", reason="drain")
    earliest, latest = goaway["reconnect_after_ms"]
    assert 0 <= earliest <= latest
    assert goaway["alternates"] == []
    for client in crowd[1:]:
        assert client.wait_closed().code == 1012
    assert relay.wait() == 0
    relay.start()
    assert dial(relay, key("3")).subscribe()[1] == []
