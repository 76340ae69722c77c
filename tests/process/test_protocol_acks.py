"""docs/protocol.md 2.2: unsubscribe, ack, nack, status, and how often a message is offered."""

from collections.abc import Callable
from typing import Any

import pytest
from relay_process import RelayProcess
from wire_client import ENCODINGS, WireClient, leave, texts, wait_for_pending
from wire_fixtures import Dial, RelayOf
from wire_keys import Key, message_id

KeyOf = Callable[[str], Key]
READER = "a name of sixteen"


@pytest.fixture
def relay(shared_relay: RelayOf) -> RelayProcess:
    return shared_relay()


@pytest.fixture
def sender(relay: RelayProcess, dial: Dial, key: KeyOf) -> WireClient:
    return dial(relay, key("sender"))


# --- unsubscribe


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_unsubscribe_by_name_keeps_the_rest_and_pending_covers_it(
    relay: RelayProcess, dial: Dial, key: KeyOf, sender: WireClient, encoding: str
) -> None:
    reader, other = key("reader"), key("other")
    client = dial(relay, reader, encoding)
    client.subscribe(addresses=[reader.address], buckets=[other.bucket_16])
    leave_one = sender.publish(b"for the bucket", recipient=other.address)
    client.message(b"for the bucket")
    assert sender.result(leave_one)["status"] == "stored"
    ref = client.request("unsubscribe", addresses=[reader.identity_address])
    assert client.wait_for("subscribed", ref=ref)["pending"] == {"count": 1, "bytes": 14}
    assert sender.post(b"unheard", recipient=reader.address)["status"] == "stored"
    sender.publish(b"heard", recipient=other.address)
    client.message(b"heard")
    assert client.settle() == []
    ref = client.request("unsubscribe", buckets=[other.bucket_16])
    assert client.wait_for("subscribed", ref=ref)["pending"] == {"count": 0, "bytes": 0}


def test_unsubscribe_naming_nothing_ends_all(
    relay: RelayProcess, dial: Dial, key: KeyOf, sender: WireClient
) -> None:
    reader, other = key("reader"), key("other")
    client = dial(relay, reader)
    client.subscribe(addresses=[reader.address], buckets=[other.bucket_16])
    client.wait_for("subscribed", ref=client.request("unsubscribe"))
    for recipient in (reader, other):
        assert sender.post(b"unheard", recipient=recipient.address)["status"] == "stored"
    assert client.settle() == []


def test_an_ack_after_unsubscribe_counts_for_what_was_sent(
    relay: RelayProcess, dial: Dial, key: KeyOf, sender: WireClient
) -> None:
    reader = key("reader")
    leave(sender, reader.address, b"one")
    client = dial(relay, reader)
    client.subscribe()
    client.wait_for("subscribed", ref=client.request("unsubscribe"))
    client.ack(message_id(b"one"))
    assert client.subscribe()[1] == []
    assert sender.post(b"one", recipient=reader.address)["state"] == "delivered"


# --- ack


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_ack_names_many_ids_is_idempotent_and_ignores_unknown_ones(
    relay: RelayProcess, dial: Dial, key: KeyOf, sender: WireClient, encoding: str
) -> None:
    reader = key("reader")
    leave(sender, reader.address, b"one", b"two", b"three")
    client = dial(relay, reader, encoding)
    client.subscribe()
    for _ in range(3):
        client.ack(message_id(b"one"), "0" * 64, "not an id", message_id(b"three"), message_id(b"one"))
    client.ack()
    assert client.settle() == []
    wait_for_pending(client, 1)
    client.close()
    assert texts(dial(relay, reader).subscribe()[1]) == [b"two"]


def test_an_ack_of_what_this_connection_was_not_sent_does_nothing(
    relay: RelayProcess, dial: Dial, key: KeyOf, sender: WireClient
) -> None:
    reader = key("reader")
    leave(sender, reader.address, b"one")
    for client in (dial(relay, reader), dial(relay, key("stranger")), dial(relay)):
        client.ack(message_id(b"one"))
        client.settle()
    assert texts(dial(relay, reader).subscribe()[1]) == [b"one"]


# --- nack


@pytest.mark.parametrize("code", ["not-mine", "undecryptable"])
def test_a_bucket_readers_nack_marks_it_for_that_reader_alone(
    relay: RelayProcess, dial: Dial, key: KeyOf, sender: WireClient, code: str
) -> None:
    owner = key("owner")
    leave(sender, owner.address, b"one")
    client = dial(relay)
    client.subscribe(buckets=[owner.bucket_16], reader=READER)
    client.nack(code, message_id(b"one"))
    client.settle()
    wait_for_pending(client, 0)
    assert dial(relay).subscribe(buckets=[owner.bucket_16], reader=READER)[1] == []
    assert texts(dial(relay, owner).subscribe()[1]) == [b"one"]


@pytest.mark.parametrize("by", ["owner", "bucket reader"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_busy_is_offered_again_to_this_reader_after_the_delay(
    relay: RelayProcess, dial: Dial, key: KeyOf, sender: WireClient, encoding: str, by: str
) -> None:
    owner = key("owner")
    leave(sender, owner.address, b"one")
    client = dial(relay, owner if by == "owner" else None, encoding)
    names: dict[str, Any] = {} if by == "owner" else {"buckets": [owner.bucket_16], "reader": READER}
    (first,) = client.subscribe(**names)[1]
    client.nack("busy", first["id"], retry_after_ms=200)
    assert client.settle() == []
    again = client.message(b"one")
    assert again["seq"] == first["seq"]
    client.ack(again["id"])
    client.settle()
    wait_for_pending(client, 0)


def test_busy_keeps_its_place_in_the_window(
    relay: RelayProcess, dial: Dial, key: KeyOf, sender: WireClient
) -> None:
    owner = key("owner")
    leave(sender, owner.address, b"one", b"two")
    client = dial(relay, owner, window=1)
    client.subscribe_without_waiting()
    client.nack("busy", client.message(b"one")["id"], retry_after_ms=50)
    client.expect("message", ciphertext=b"one")
    client.ack(message_id(b"one"))
    client.expect("message", ciphertext=b"two")


def test_an_owners_undecryptable_deletes_the_message(
    relay: RelayProcess, dial: Dial, key: KeyOf, sender: WireClient
) -> None:
    owner = key("owner")
    assert sender.post(b"broken", recipient=owner.address, receipts=["expired"])["status"] == "stored"
    client = dial(relay, owner)
    client.subscribe()
    client.nack("undecryptable", message_id(b"broken"))
    receipt = sender.wait_for("receipt")
    assert (receipt["id"], receipt["status"]) == (message_id(b"broken"), "expired")
    client.close()
    assert dial(relay, owner).subscribe()[1] == []
    # Nothing holds any more, so the same message is taken anew.
    assert sender.post(b"broken", recipient=owner.address)["status"] == "stored"


def test_an_owners_undecryptable_of_a_pending_message_is_undeliverable_to_its_sender(
    shared_relay: RelayOf, dial: Dial, key: KeyOf
) -> None:
    # A long tick: the message is still on its way to the store when the answer comes.
    relay = shared_relay("commit.tick_ms = 1000\n")
    client, sender = dial(relay, key("owner")), dial(relay)
    client.subscribe()
    ref = sender.publish(b"broken", recipient=key("owner").address)
    client.nack("undecryptable", client.message()["id"])
    result = sender.result(ref)
    assert (result["status"], result["fallback"]) == ("undeliverable", True)


def test_an_owners_not_mine_ends_the_delivery_on_this_connection_only(
    relay: RelayProcess, dial: Dial, key: KeyOf, sender: WireClient
) -> None:
    owner = key("owner")
    leave(sender, owner.address, b"one")
    client = dial(relay, owner)
    client.subscribe()
    client.nack("not-mine", message_id(b"one"))
    assert client.settle() == []
    client.close()
    assert texts(dial(relay, owner).subscribe()[1]) == [b"one"]


# --- deliveries


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_what_was_not_acked_is_offered_to_the_next_connection_and_counted(
    relay: RelayProcess, dial: Dial, key: KeyOf, sender: WireClient, encoding: str
) -> None:
    reader = key("reader")
    leave(sender, reader.address, b"one", b"two")
    seqs = set()
    for nth in (1, 2, 3):
        client = dial(relay, reader, encoding)
        one, two = client.subscribe()[1]
        assert (one["deliveries"], two["deliveries"]) == (nth, nth)
        seqs.add((one["seq"], two["seq"]))
        client.close()
        wait_until_gone(relay, sender)
    assert len(seqs) == 1


def wait_until_gone(relay: RelayProcess, stays: WireClient) -> None:
    """Give the relay two turns after a connection has ended, so that it has read the end."""
    stays.settle()
    stays.settle()


def test_what_was_not_acked_is_offered_at_once_to_the_readers_other_connection(
    relay: RelayProcess, dial: Dial, key: KeyOf, sender: WireClient
) -> None:
    reader = key("reader")
    # The window of the other connection is full of another message, so that it has not been sent this one.
    leave(sender, reader.address, b"in the way")
    other = dial(relay, reader, window=1)
    other.subscribe_without_waiting()
    other.message(b"in the way")
    first = dial(relay, reader)
    first.subscribe_without_waiting()
    first.message(b"in the way")
    ref = sender.publish(b"one", recipient=reader.address)
    first.message(b"one")
    assert sender.result(ref)["status"] == "stored"
    first.close()
    other.ack(message_id(b"in the way"))
    other.message(b"one")


# --- status


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_status_tells_pending_quota_and_epoch(
    relay: RelayProcess, dial: Dial, key: KeyOf, sender: WireClient, encoding: str
) -> None:
    reader = key("reader")
    client = dial(relay, reader, encoding)
    client.send({"type": "status", "ref": 1})
    client.expect("status", ref=1, epoch=client.welcome["epoch"])
    client.subscribe()
    sender.publish(b"four", recipient=reader.address)
    client.message()
    client.send({"type": "status", "ref": 2})
    status = client.expect("status", ref=2)
    assert status["pending"] == {"count": 1, "bytes": 4}
    assert status["quota"] and all(isinstance(value, int) for value in status["quota"].values())


def test_anonymous_may_ask_for_status(relay: RelayProcess, dial: Dial) -> None:
    client = dial(relay)
    client.send({"type": "status", "ref": 1})
    client.expect("status", ref=1, pending={"count": 0, "bytes": 0})
