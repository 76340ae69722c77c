"""docs/protocol.md 0 (readers) and 2.2, 2.3: subscribe, the fields of a message, who reads what and in which order."""

from collections.abc import Callable

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


# --- subscribe


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_subscribe_answers_pending_then_backlog_in_order_then_caught_up_then_live(
    relay: RelayProcess, dial: Dial, key: KeyOf, sender: WireClient, encoding: str
) -> None:
    reader = key("reader")
    leave(sender, reader.address, b"one", b"two!", b"three")
    client = dial(relay, reader, encoding)
    client.send({"type": "subscribe", "ref": 7})
    client.expect("subscribed", ref=7, pending={"count": 3, "bytes": 12})
    messages = [client.expect("message") for _ in range(3)]
    assert texts(messages) == [b"one", b"two!", b"three"]
    seqs = [message["seq"] for message in messages]
    assert seqs == sorted(set(seqs))
    client.expect("caught_up", ref=7)
    sender.publish(b"four", recipient=reader.address)
    assert client.expect("message", ciphertext=b"four")["seq"] > seqs[-1]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_an_empty_mailbox_is_caught_up_at_once(
    relay: RelayProcess, dial: Dial, key: KeyOf, encoding: str
) -> None:
    client = dial(relay, key("reader"), encoding)
    client.send({"type": "subscribe", "ref": 0})
    client.expect("subscribed", ref=0, pending={"count": 0, "bytes": 0})
    client.expect("caught_up", ref=0)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_fields_of_a_message_for_an_owned_reader(
    relay: RelayProcess, dial: Dial, key: KeyOf, sender: WireClient, encoding: str
) -> None:
    reader = key("reader")
    leave(sender, reader.identity_address, b"text")
    client = dial(relay, reader, encoding)
    message = client.subscribe()[1][0]
    assert message["id"] == message_id(b"text")
    assert message["recipient"] == reader.address
    assert "bucket" not in message
    assert isinstance(message["seq"], int)
    assert abs(message["received_at"] - client.challenge["server_time"]) < 60_000
    assert message["expires_at"] - message["received_at"] == 30 * 24 * 3600 * 1000
    assert message["deliveries"] == 1


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_both_forms_of_an_address_name_one_mailbox(
    relay: RelayProcess, dial: Dial, key: KeyOf, sender: WireClient, encoding: str
) -> None:
    reader = key("reader")
    leave(sender, reader.address, b"to Qm")
    leave(sender, reader.identity_address, b"to 12D3KooW")
    for form in (reader.address, reader.identity_address):
        _, backlog = dial(relay, reader, encoding).subscribe(addresses=[form])
        assert texts(backlog) == [b"to Qm", b"to 12D3KooW"]
    assert sender.post(b"to Qm", recipient=reader.identity_address)["status"] == "duplicate"


def test_both_forms_in_one_subscribe_count_once(
    relay: RelayProcess, dial: Dial, key: KeyOf, sender: WireClient
) -> None:
    reader = key("reader")
    leave(sender, reader.address, b"one")
    answer, backlog = dial(relay, reader).subscribe(addresses=[reader.address, reader.identity_address])
    assert answer["pending"] == {"count": 1, "bytes": 3}
    assert texts(backlog) == [b"one"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_live_false_gives_the_backlog_and_nothing_live(
    relay: RelayProcess, dial: Dial, key: KeyOf, sender: WireClient, encoding: str
) -> None:
    reader = key("reader")
    leave(sender, reader.address, b"before")
    client = dial(relay, reader, encoding)
    _, backlog = client.subscribe(live=False)
    assert texts(backlog) == [b"before"]
    assert sender.post(b"after", recipient=reader.address)["status"] == "stored"
    assert client.settle() == []
    assert texts(client.subscribe()[1]) == [b"after"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_an_address_not_proved_is_not_owner_and_nothing_is_subscribed(
    relay: RelayProcess, dial: Dial, key: KeyOf, sender: WireClient, encoding: str
) -> None:
    reader, other = key("reader"), key("other")
    leave(sender, reader.address, b"mine")
    leave(sender, other.address, b"not mine")
    client = dial(relay, reader, encoding)
    for wanted in ([other.address], [reader.address, other.address], ["nonsense"]):
        ref = client.request("subscribe", addresses=wanted, buckets=[reader.bucket_14])
        client.expect("error", code="not-owner", ref=ref)
    assert sender.post(b"live", recipient=reader.address)["status"] == "stored"
    assert client.settle() == []


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_anonymous_subscribes_to_no_address(
    relay: RelayProcess, dial: Dial, key: KeyOf, encoding: str
) -> None:
    client = dial(relay, encoding=encoding)
    client.send({"type": "subscribe", "ref": 1})
    client.expect("error", code="invalid", ref=1)
    client.send({"type": "subscribe", "ref": 2, "addresses": [key("reader").address]})
    client.expect("error", code="not-owner", ref=2)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("width", ["bucket_14", "bucket_16"])
def test_every_message_with_an_address_is_readable_under_both_buckets(
    relay: RelayProcess, dial: Dial, key: KeyOf, sender: WireClient, encoding: str, width: str
) -> None:
    reader = key("reader")
    leave(sender, reader.address, b"before")
    client = dial(relay, encoding=encoding)
    bucket = getattr(reader, width)
    answer, backlog = client.subscribe(buckets=[bucket], reader=READER)
    assert answer["pending"] == {"count": 1, "bytes": 6}
    sender.publish(b"live", recipient=reader.address)
    for message in (*backlog, client.message(b"live")):
        assert message["bucket"] == bucket
        assert "recipient" not in message
    assert texts(backlog) == [b"before"]


def test_only_buckets_given_means_only_those(
    relay: RelayProcess, dial: Dial, key: KeyOf, sender: WireClient
) -> None:
    reader, other = key("reader"), key("other")
    client = dial(relay, reader)
    client.subscribe(buckets=[other.bucket_16])
    sender.publish(b"to other", recipient=other.address)
    client.message(b"to other")
    assert sender.post(b"to me", recipient=reader.address)["status"] == "stored"
    assert client.settle() == []


def test_overlapping_names_send_a_message_once_and_the_owner_wins(
    relay: RelayProcess, dial: Dial, key: KeyOf, sender: WireClient
) -> None:
    reader = key("reader")
    leave(sender, reader.address, b"before")
    client = dial(relay, reader)
    _, backlog = client.subscribe(addresses=[reader.address], buckets=[reader.bucket_14, reader.bucket_16])
    ref = sender.publish(b"live", recipient=reader.address)
    live = client.message(b"live")
    assert texts(backlog) == [b"before"]
    for message in (*backlog, live):
        assert message["recipient"] == reader.address
        client.ack(message["id"])
    assert sender.result(ref)["status"] in ("delivered", "stored")
    assert client.settle() == []
    wait_for_pending(client, 0)
    # The ack was an owner's: it is deleted for everybody.
    assert dial(relay).subscribe(buckets=[reader.bucket_14], reader=READER)[1] == []


@pytest.mark.parametrize("names", [["bucket_14", "bucket_16"], ["address", "bucket_14"]], ids=str)
def test_overlapping_names_count_a_message_once(
    relay: RelayProcess, dial: Dial, key: KeyOf, sender: WireClient, names: list[str]
) -> None:
    reader = key("reader")
    leave(sender, reader.address, b"one")
    wanted = {"addresses": [reader.address]} if "address" in names else {}
    buckets = [getattr(reader, name) for name in names if name.startswith("bucket")]
    answer, backlog = dial(relay, reader).subscribe(buckets=buckets, **wanted)
    assert answer["pending"] == {"count": 1, "bytes": 3}
    assert texts(backlog) == [b"one"]


def test_the_owners_ack_deletes_also_where_it_subscribed_the_bucket_first(
    relay: RelayProcess, dial: Dial, key: KeyOf, sender: WireClient
) -> None:
    reader = key("reader")
    leave(sender, reader.address, b"one")
    client = dial(relay, reader)
    _, by_bucket = client.subscribe(buckets=[reader.bucket_16])
    assert texts(by_bucket) == [b"one"]
    _, by_address = client.subscribe(addresses=[reader.address])
    assert len(by_address) <= 1
    client.ack(message_id(b"one"))
    wait_for_pending(client, 0)
    assert sender.post(b"one", recipient=reader.address)["state"] == "delivered"


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_subscribing_again_does_not_send_what_is_outstanding(
    relay: RelayProcess, dial: Dial, key: KeyOf, sender: WireClient, encoding: str
) -> None:
    reader = key("reader")
    leave(sender, reader.address, b"one", b"two")
    client = dial(relay, reader, encoding)
    assert texts(client.subscribe()[1]) == [b"one", b"two"]
    for again in ({}, {"addresses": [reader.identity_address]}):
        answer, backlog = client.subscribe(**again)
        assert backlog == []
        assert answer["pending"]["count"] == 2
    client.ack(message_id(b"one"))
    wait_for_pending(client, 1)
    answer, backlog = client.subscribe()
    assert (answer["pending"]["count"], backlog) == (1, [])


def test_a_key_reads_a_bucket_under_its_own_name_whatever_reader_says(
    relay: RelayProcess, dial: Dial, key: KeyOf, sender: WireClient
) -> None:
    reader, other = key("reader"), key("other")
    leave(sender, other.address, b"one")
    client = dial(relay, reader)
    assert texts(client.subscribe(buckets=[other.bucket_16], reader="first")[1]) == [b"one"]
    client.ack(message_id(b"one"))
    client.settle()
    assert (
        dial(relay, reader).subscribe(buckets=[other.bucket_16], reader="second name, long enough")[1] == []
    )
    # And nobody takes that name without the key.
    assert texts(dial(relay).subscribe(buckets=[other.bucket_16], reader=f"key/{reader.address}")[1]) == [
        b"one"
    ]


@pytest.mark.parametrize("reader", [None, "", "fifteen letters"])
def test_anonymous_must_give_a_reader_of_sixteen_characters(
    relay: RelayProcess, dial: Dial, lone_bucket: str, reader: str | None
) -> None:
    client = dial(relay)
    fields = {} if reader is None else {"reader": reader}
    ref = client.request("subscribe", buckets=[lone_bucket], **fields)
    client.expect("error", code="invalid", ref=ref)
    client.subscribe(buckets=[lone_bucket], reader="sixteen letters!")


@pytest.mark.parametrize("bucket", ["", "nonsense", "0OIl"])
def test_a_bucket_that_is_no_key_is_invalid(relay: RelayProcess, dial: Dial, bucket: str) -> None:
    client = dial(relay)
    ref = client.request("subscribe", buckets=[bucket], reader=READER)
    client.expect("error", code="invalid", ref=ref)


# --- readers do not disturb each other


def test_a_bucket_readers_ack_concerns_its_name_alone(
    relay: RelayProcess, dial: Dial, key: KeyOf, sender: WireClient
) -> None:
    owner = key("owner")
    leave(sender, owner.address, b"one")
    first = dial(relay)
    assert texts(first.subscribe(buckets=[owner.bucket_14], reader=READER)[1]) == [b"one"]
    first.ack(message_id(b"one"))
    first.settle()
    assert dial(relay).subscribe(buckets=[owner.bucket_14], reader=READER)[1] == []
    assert texts(dial(relay).subscribe(buckets=[owner.bucket_14], reader="another reader's")[1]) == [b"one"]
    assert texts(dial(relay, owner).subscribe()[1]) == [b"one"]


def test_only_the_owner_receives_by_address(
    relay: RelayProcess, dial: Dial, key: KeyOf, sender: WireClient
) -> None:
    owner, stranger = dial(relay, key("owner")), dial(relay, key("stranger"))
    owner.subscribe()
    stranger.subscribe()
    sender.publish(b"to owner", recipient=key("owner").address)
    owner.message(b"to owner")
    assert stranger.settle() == []


def test_all_connections_of_a_key_receive_and_after_one_acks_none_is_offered_it_again(
    relay: RelayProcess, dial: Dial, key: KeyOf, sender: WireClient
) -> None:
    reader = key("reader")
    one, two = dial(relay, reader), dial(relay, reader)
    one.subscribe()
    two.subscribe()
    ref = sender.publish(b"to all", recipient=reader.address)
    one.message(b"to all")
    two.message(b"to all")
    two.ack(message_id(b"to all"))
    assert sender.result(ref)["status"] in ("delivered", "stored")
    one.close()
    assert dial(relay, reader).subscribe()[1] == []


# --- what configuration allows


def test_anonymous_may_not_read_buckets_where_that_is_off(
    shared_relay: RelayOf, dial: Dial, key: KeyOf, lone_bucket: str
) -> None:
    relay = shared_relay("anonymous.read_buckets = false\n")
    client = dial(relay)
    ref = client.request("subscribe", buckets=[lone_bucket], reader=READER)
    client.expect("error", code="restricted", ref=ref)
    dial(relay, key("reader")).subscribe(buckets=[lone_bucket])


@pytest.mark.parametrize("who", ["anonymous", "key"])
def test_buckets_a_connection_are_limited(shared_relay: RelayOf, dial: Dial, key: KeyOf, who: str) -> None:
    relay = shared_relay("limits.buckets_per_connection = 2\nanonymous.buckets_per_connection = 1\n")
    client = dial(relay, key("reader") if who == "key" else None)
    allowed = client.welcome["limits"]["buckets_per_connection"]
    assert allowed == (2 if who == "key" else 1)
    buckets = [key(str(n)).bucket_16 for n in range(allowed + 1)]
    for bucket in buckets[:-1]:
        client.subscribe(buckets=[bucket], reader=READER)
    ref = client.request("subscribe", buckets=buckets[-1:], reader=READER)
    client.expect("error", code="quota", ref=ref)
    client.wait_for("subscribed", ref=client.request("unsubscribe", buckets=buckets[:1]))
    client.subscribe(buckets=buckets[-1:], reader=READER)


# --- the order of first deliveries


def test_first_deliveries_of_an_address_come_in_order_from_backlog_to_live(
    relay: RelayProcess, dial: Dial, key: KeyOf, sender: WireClient
) -> None:
    reader = key("reader")
    numbered = [b"message %04d" % n for n in range(1200)]
    leave(sender, reader.address, *numbered[:600])
    client = dial(relay, reader, window=50)
    client.request("subscribe")
    refs, seen, seqs = [], [], []
    for ciphertext in numbered[600:]:
        refs.append(sender.publish(ciphertext, recipient=reader.address))
        if len(refs) % 2:
            message = client.message()
            seen.append(message["ciphertext"])
            seqs.append(message["seq"])
            client.ack(message["id"])
    while len(seen) < len(numbered):
        message = client.message()
        seen.append(message["ciphertext"])
        seqs.append(message["seq"])
        client.ack(message["id"])
    assert seen == numbered
    assert seqs == sorted(set(seqs))
    assert {sender.result(ref)["status"] for ref in refs} <= {"stored", "delivered"}
