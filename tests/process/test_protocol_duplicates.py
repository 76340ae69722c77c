"""docs/protocol.md 2.4, duplicate: what a repeat is answered, and a repeat that asks for more."""

import time
from collections.abc import Callable

import pytest
from relay_process import RelayProcess
from wire_client import ENCODINGS, is_result
from wire_fixtures import Dial, RelayOf
from wire_keys import Key, message_id
from wire_socket import TIMEOUT_S

KeyOf = Callable[[str], Key]
DAY_S = 24 * 3600
LONG_TICK = "commit.tick_ms = 1000\n"
"""Messages out with an online reader wait so long for their ack: each `delivered` below is an elided commit."""


@pytest.fixture
def relay(shared_relay: RelayOf) -> RelayProcess:
    return shared_relay()


# --- duplicate


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_repeat_of_a_stored_message_is_duplicate_stored(
    relay: RelayProcess, dial: Dial, key: KeyOf, encoding: str
) -> None:
    recipient = key("reader").address
    is_result(dial(relay, None, encoding).post(b"one", recipient=recipient), "stored")
    for _ in range(2):
        result = dial(relay, None, encoding).post(b"one", recipient=recipient)
        is_result(result, "duplicate", state="stored", id=message_id(b"one"))
    assert len(dial(relay, key("reader")).subscribe()[1]) == 1


def test_a_repeat_of_a_delivered_message_is_duplicate_delivered_and_not_sent_again(
    shared_relay: RelayOf, dial: Dial, key: KeyOf
) -> None:
    relay = shared_relay(LONG_TICK)
    reader, sender = dial(relay, key("reader")), dial(relay)
    reader.subscribe()
    ref = sender.publish(b"one", recipient=key("reader").address)
    reader.ack(reader.message()["id"])
    is_result(sender.result(ref), "delivered")
    is_result(sender.post(b"one", recipient=key("reader").address), "duplicate", state="delivered")
    assert reader.settle() == []


def test_a_repeat_of_one_acked_after_its_commit_is_duplicate_delivered(
    relay: RelayProcess, dial: Dial, key: KeyOf
) -> None:
    sender, reader = dial(relay), dial(relay, key("reader"))
    is_result(sender.post(b"one", recipient=key("reader").address), "stored")
    reader.subscribe()
    reader.ack(message_id(b"one"))
    reader.settle()
    is_result(sender.post(b"one", recipient=key("reader").address), "duplicate", state="delivered")


def test_a_repeat_of_one_still_pending_waits_and_shares_its_outcome(
    shared_relay: RelayOf, dial: Dial, key: KeyOf
) -> None:
    relay = shared_relay(LONG_TICK)
    reader, sender, other = dial(relay, key("reader")), dial(relay), dial(relay)
    reader.subscribe()
    first = sender.publish(b"one", recipient=key("reader").address)
    message = reader.message(b"one")
    second = sender.publish(b"one", recipient=key("reader").identity_address)
    third = other.publish(b"one", recipient=key("reader").address)
    assert other.settle() == []
    reader.ack(message["id"])
    is_result(sender.result(first), "delivered")
    is_result(sender.result(second), "duplicate", state="delivered")
    is_result(other.result(third), "duplicate", state="delivered")
    assert reader.settle() == []


def test_a_repeat_in_the_same_array_is_duplicate_stored(relay: RelayProcess, dial: Dial, key: KeyOf) -> None:
    sender, recipient = dial(relay), key("reader").address
    sender.send_array(
        [{"type": "publish", "ref": n, "recipient": recipient, "ciphertext": b"same"} for n in range(3)]
    )
    is_result(sender.result(0), "stored")
    for ref in (1, 2):
        is_result(sender.result(ref), "duplicate", state="stored")


def test_the_same_ciphertext_for_another_mailbox_is_no_duplicate(
    relay: RelayProcess, dial: Dial, key: KeyOf
) -> None:
    sender = dial(relay)
    for place in (
        {"recipient": key("one").address},
        {"recipient": key("two").address},
        {"bucket": key("one").bucket_14},
        {"bucket": key("one").bucket_16},
    ):
        is_result(sender.post(b"same", **place), "stored")


def test_delivered_is_forgotten_after_the_dedupe_window(
    shared_relay: RelayOf, dial: Dial, key: KeyOf
) -> None:
    relay = shared_relay("limits.dedupe_window_s = 0\n")
    reader, sender = dial(relay, key("reader")), dial(relay)
    reader.subscribe()
    recipient = key("reader").address
    ref = sender.publish(b"one", recipient=recipient)
    reader.ack(reader.message()["id"])
    assert sender.result(ref)["status"] in ("delivered", "stored")
    deadline = time.monotonic() + TIMEOUT_S
    while sender.post(b"one", recipient=recipient)["status"] != "stored":
        assert time.monotonic() < deadline
    assert reader.message()["id"] == message_id(b"one")


def test_expired_messages_do_not_count_as_taken(relay: RelayProcess, dial: Dial, key: KeyOf) -> None:
    sender, recipient = dial(relay), key("reader").address
    is_result(sender.post(b"one", recipient=recipient, ttl_s=1, receipts=["expired"]), "stored")
    is_result(sender.post(b"one", recipient=recipient, ttl_s=1), "duplicate", state="stored")
    assert sender.wait_for("receipt", id=message_id(b"one"))["status"] == "expired"
    is_result(sender.post(b"one", recipient=recipient), "stored")


# --- a repeat that asks for more


def expiry(relay: RelayProcess, dial: Dial, key: Key) -> int:
    message = dial(relay, key).subscribe()[1][0]
    kept_ms: int = message["expires_at"] - message["received_at"]
    return round(kept_ms / 1000)


def test_a_longer_ttl_of_a_repeat_raises_the_message_and_a_shorter_does_not(
    relay: RelayProcess, dial: Dial, key: KeyOf
) -> None:
    sender, reader = dial(relay), key("reader")
    is_result(sender.post(b"one", recipient=reader.address, ttl_s=1000), "stored")
    is_result(sender.post(b"one", recipient=reader.address, ttl_s=10), "duplicate", state="stored")
    assert expiry(relay, dial, reader) == 1000
    is_result(sender.post(b"one", recipient=reader.address, ttl_s=5000), "duplicate", state="stored")
    assert abs(expiry(relay, dial, reader) - 5000) <= 60


def test_a_raised_ttl_survives_kill_9(own_relay: RelayOf, dial: Dial, key: KeyOf) -> None:
    relay = own_relay()
    sender, reader = dial(relay), key("reader")
    is_result(sender.post(b"one", recipient=reader.address, ttl_s=100), "stored")
    is_result(sender.post(b"one", recipient=reader.address, ttl_s=5000), "duplicate", state="stored")
    relay.kill()
    relay.start()
    assert abs(expiry(relay, dial, reader) - 5000) <= 60


@pytest.mark.parametrize("ttl_s", [None, 60, 10 * DAY_S, 31 * DAY_S])
def test_ttl_is_as_asked_or_the_default_and_never_more_than_the_limit(
    relay: RelayProcess, dial: Dial, key: KeyOf, ttl_s: int | None
) -> None:
    fields = {} if ttl_s is None else {"ttl_s": ttl_s}
    is_result(dial(relay).post(b"one", recipient=key("reader").address, **fields), "stored")
    assert expiry(relay, dial, key("reader")) == min(ttl_s or 30 * DAY_S, 30 * DAY_S)


def test_a_repeat_that_asks_for_receipts_gets_them(relay: RelayProcess, dial: Dial, key: KeyOf) -> None:
    first, second, reader = dial(relay), dial(relay), dial(relay, key("reader"))
    recipient = key("reader").address
    is_result(first.post(b"one", recipient=recipient), "stored")
    result = second.post(b"one", recipient=recipient, receipts=["delivered"])
    is_result(result, "duplicate", state="stored")
    reader.subscribe()
    reader.ack(message_id(b"one"))
    second.wait_for("receipt", id=message_id(b"one"), status="delivered")
    assert first.settle() == []
