"""docs/protocol.md 2.2 (publish), 2.3 (result, results, receipt) and 2.4: stored, delivered, undeliverable."""

from collections.abc import Callable

import pytest
from relay_process import RelayProcess
from wire_client import ENCODINGS, is_result
from wire_fixtures import Dial, RelayOf
from wire_keys import Key, message_id

KeyOf = Callable[[str], Key]
LONG_TICK = "commit.tick_ms = 1000\n"
"""Messages out with an online reader wait so long for their ack: each `delivered` below is an elided commit."""
SHORT_LIVE = "limits.live_timeout_ms = 100\n"


@pytest.fixture
def relay(shared_relay: RelayOf) -> RelayProcess:
    return shared_relay()


# --- stored, delivered


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("to", ["address", "identity_address", "bucket_14", "bucket_16"])
def test_nobody_online_is_stored(relay: RelayProcess, dial: Dial, key: KeyOf, encoding: str, to: str) -> None:
    place = {"bucket" if to.startswith("bucket") else "recipient": getattr(key("reader"), to)}
    result = dial(relay, key("sender"), encoding).post(b"one", **place)
    is_result(result, "stored", id=message_id(b"one"))
    assert set(result) == {"type", "ref", "id", "status", "fallback"}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_an_owners_ack_before_the_commit_is_delivered(
    shared_relay: RelayOf, dial: Dial, key: KeyOf, encoding: str
) -> None:
    relay = shared_relay(LONG_TICK)
    reader, sender = dial(relay, key("reader"), encoding), dial(relay, None, encoding)
    reader.subscribe()
    ref = sender.publish(b"one", recipient=key("reader").address)
    message = reader.expect("message", ciphertext=b"one", deliveries=1)
    assert sender.settle() == []  # nothing is promised before the ack
    reader.ack(message["id"])
    is_result(sender.expect("result", ref=ref), "delivered", id=message_id(b"one"))


def test_a_bucket_readers_ack_is_no_delivery(relay: RelayProcess, dial: Dial, key: KeyOf) -> None:
    reader, sender = dial(relay), dial(relay)
    reader.subscribe(buckets=[key("owner").bucket_16], reader="a reader's long name")
    ref = sender.publish(b"one", recipient=key("owner").address)
    reader.ack(reader.message()["id"])
    is_result(sender.result(ref), "stored")


def test_an_online_owner_that_does_not_ack_makes_it_stored(
    relay: RelayProcess, dial: Dial, key: KeyOf
) -> None:
    reader, sender = dial(relay, key("reader")), dial(relay)
    reader.subscribe()
    ref = sender.publish(b"one", recipient=key("reader").address)
    reader.message(b"one")
    is_result(sender.result(ref), "stored")


def test_what_is_stored_survives_kill_9(own_relay: RelayOf, dial: Dial, key: KeyOf) -> None:
    relay = own_relay()
    reader, sender = key("reader"), dial(relay)
    sent = [b"message %d" % n for n in range(50)]
    for ref in [sender.publish(one, recipient=reader.address) for one in sent]:
        is_result(sender.result(ref), "stored")
    relay.kill()
    relay.start()
    client = dial(relay, reader)
    assert [message["ciphertext"] for message in client.subscribe()[1]] == sent
    is_result(dial(relay).post(sent[0], recipient=reader.address), "duplicate", state="stored")


def test_sequence_numbers_rise_across_epochs(own_relay: RelayOf, dial: Dial, key: KeyOf) -> None:
    relay = own_relay(LONG_TICK)
    highest = 0
    for start in range(2):
        reader, sender = dial(relay, key("reader")), dial(relay)
        reader.subscribe()
        # One that never touches the store, and one that does.
        for stored in (False, True):
            ref = sender.publish(b"%d %d" % (start, stored), recipient=key("reader").address)
            message = reader.message(b"%d %d" % (start, stored))
            assert message["seq"] > highest
            highest = message["seq"]
            if not stored:
                reader.ack(message["id"])
            is_result(sender.result(ref), "stored" if stored else "delivered")
        relay.kill()
        relay.start()


def test_exactly_one_result_for_each_of_many_publishes_in_one_array(
    relay: RelayProcess, dial: Dial, key: KeyOf
) -> None:
    sender = dial(relay, key("sender"))
    sender.send_array(
        [
            {"type": "publish", "ref": n, "recipient": key(str(n % 7)).address, "ciphertext": b"%d" % n}
            for n in range(500)
        ]
    )
    results = [sender.expect("result", status="stored") for _ in range(500)]
    assert sorted(result["ref"] for result in results) == list(range(500))
    assert {result["ref"]: result["id"] for result in results} == {
        n: message_id(b"%d" % n) for n in range(500)
    }
    assert sender.settle() == []


# --- compact results


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_compact_results_only_for_those_that_asked(
    relay: RelayProcess, dial: Dial, key: KeyOf, encoding: str
) -> None:
    compact = dial(relay, encoding=encoding, compact_results=True)
    recipient = key("reader").address
    compact.send_array(
        [{"type": "publish", "ref": n, "recipient": recipient, "ciphertext": b"%d" % n} for n in range(40)]
    )
    refs: list[int] = []
    while len(refs) < 40:
        item = compact.expect("results", status="stored")
        assert set(item) == {"type", "status", "refs"}
        refs += item["refs"]
    assert sorted(refs) == list(range(40))
    # What is not plain has an item of its own.
    is_result(compact.post(b"0", recipient=recipient), "duplicate", state="stored")
    is_result(compact.post(b"x", recipient="nobody"), "rejected", code="invalid")


def test_compact_results_of_delivered_messages(shared_relay: RelayOf, dial: Dial, key: KeyOf) -> None:
    relay = shared_relay(LONG_TICK)
    compact, reader = dial(relay, compact_results=True), dial(relay, key("reader"))
    reader.subscribe()
    sent = {compact.publish(b"%d" % n, recipient=key("reader").address) for n in range(5)}
    reader.ack(*(reader.message()["id"] for _ in range(5)))
    refs: set[int] = set()
    while len(refs) < 5:
        refs |= set(compact.expect("results", status="delivered")["refs"])
    assert refs == sent


# --- receipts


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_delivered_receipt_follows_a_stored_result(
    relay: RelayProcess, dial: Dial, key: KeyOf, encoding: str
) -> None:
    sender, reader = dial(relay, None, encoding), dial(relay, key("reader"))
    recipient = key("reader").identity_address
    result = sender.post(b"one", recipient=recipient, receipts=["delivered", "expired"])
    is_result(result, "stored")
    reader.subscribe()
    reader.ack(message_id(b"one"))
    receipt = sender.wait_for("receipt", id=message_id(b"one"), status="delivered")
    assert receipt["recipient"] == key("reader").address
    assert abs(receipt["at"] - sender.challenge["server_time"]) < 60_000
    assert "cid" not in receipt
    assert sender.settle() == []


def test_a_receipt_never_repeats_what_the_result_said(shared_relay: RelayOf, dial: Dial, key: KeyOf) -> None:
    relay = shared_relay(LONG_TICK)
    sender, reader = dial(relay), dial(relay, key("reader"))
    reader.subscribe()
    ref = sender.publish(b"one", recipient=key("reader").address, receipts=["delivered", "expired"])
    reader.ack(reader.message()["id"])
    is_result(sender.result(ref), "delivered")
    reader.settle()
    assert sender.settle() == []


def test_receipts_not_asked_for_do_not_come(relay: RelayProcess, dial: Dial, key: KeyOf) -> None:
    sender, witness, reader = dial(relay), dial(relay), dial(relay, key("reader"))
    is_result(sender.post(b"one", recipient=key("reader").address, receipts=["expired"]), "stored")
    is_result(witness.post(b"two", recipient=key("reader").address, receipts=["delivered"]), "stored")
    reader.subscribe()
    reader.ack(message_id(b"one"), message_id(b"two"))
    witness.wait_for("receipt", id=message_id(b"two"))
    assert sender.settle() == []


def test_receipts_that_are_outstanding_are_bounded(shared_relay: RelayOf, dial: Dial, key: KeyOf) -> None:
    relay = shared_relay("limits.receipts_per_connection = 2\n")
    sender, recipient = dial(relay), key("reader").address
    for n in range(2):
        is_result(sender.post(b"%d" % n, recipient=recipient, receipts=["delivered"]), "stored")
    result = sender.post(b"2", recipient=recipient, receipts=["delivered"])
    is_result(result, "rejected", code="rate-limited")
    assert result["retry_after_ms"] > 0
    is_result(sender.post(b"2", recipient=recipient), "stored")


# --- undeliverable


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_live_without_an_owner_is_undeliverable_after_the_limit(
    shared_relay: RelayOf, dial: Dial, key: KeyOf, encoding: str
) -> None:
    relay = shared_relay(SHORT_LIVE)
    sender = dial(relay, None, encoding)
    is_result(sender.post(b"one", recipient=key("reader").address, mode="live"), "undeliverable")
    assert dial(relay, key("reader")).subscribe()[1] == []
    is_result(sender.post(b"one", recipient=key("reader").address), "stored")


def test_live_to_an_owner_that_acks_is_delivered(relay: RelayProcess, dial: Dial, key: KeyOf) -> None:
    sender, reader = dial(relay), dial(relay, key("reader"))
    reader.subscribe()
    ref = sender.publish(b"one", recipient=key("reader").address, mode="live")
    reader.ack(reader.message(b"one")["id"])
    is_result(sender.result(ref), "delivered")


def test_live_to_an_owner_that_does_not_ack_is_undeliverable(
    shared_relay: RelayOf, dial: Dial, key: KeyOf
) -> None:
    relay = shared_relay(SHORT_LIVE)
    sender, reader = dial(relay), dial(relay, key("reader"))
    reader.subscribe()
    ref = sender.publish(b"one", recipient=key("reader").address, mode="live")
    reader.message(b"one")
    is_result(sender.result(ref), "undeliverable")
    reader.close()
    assert dial(relay, key("reader")).subscribe()[1] == []


def test_live_waits_for_an_owner_that_is_on_its_way(shared_relay: RelayOf, dial: Dial, key: KeyOf) -> None:
    relay = shared_relay("limits.live_timeout_ms = 60000\n")
    sender = dial(relay)
    ref = sender.publish(b"one", recipient=key("reader").address, mode="live")
    assert sender.settle() == []
    reader = dial(relay, key("reader"))
    reader.request("subscribe")
    reader.ack(reader.message(b"one")["id"])
    is_result(sender.result(ref), "delivered")


def test_live_to_a_bucket_is_sent_to_its_readers_and_undeliverable_at_once(
    shared_relay: RelayOf, dial: Dial, lone_bucket: str
) -> None:
    relay = shared_relay("limits.live_timeout_ms = 60000\n")
    sender, reader = dial(relay), dial(relay)
    reader.subscribe(buckets=[lone_bucket], reader="a reader's long name")
    is_result(sender.post(b"one", bucket=lone_bucket, mode="live"), "undeliverable")
    assert reader.message(b"one")["bucket"] == lone_bucket


def test_without_a_store_nobody_there_is_undeliverable_and_an_ack_delivered(
    shared_relay: RelayOf, dial: Dial, key: KeyOf
) -> None:
    relay = shared_relay(SHORT_LIVE, store="memory:")
    sender, recipient = dial(relay), key("reader").address
    is_result(sender.post(b"one", recipient=recipient), "undeliverable")
    reader = dial(relay, key("reader"))
    assert reader.subscribe()[1] == []
    ref = sender.publish(b"one", recipient=recipient)
    reader.ack(reader.message(b"one")["id"])
    is_result(sender.result(ref), "delivered")
    is_result(sender.post(b"one", recipient=recipient), "duplicate", state="delivered")
    ref = sender.publish(b"two", recipient=recipient)
    reader.message(b"two")
    is_result(sender.result(ref), "undeliverable")  # `stored` is never said
