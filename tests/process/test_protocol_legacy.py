"""docs/protocol.md 3: the legacy dialect, row by row, byte for byte, and the rules below its table."""

import json
import signal
import time
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from relay_process import RelayProcess
from wire_fixtures import Dial, RelayOf
from wire_keys import Key, bucket_of_number, message_id
from wire_socket import BINARY, TEXT, TIMEOUT_S, WireSocket

KeyOf = Callable[[str], Key]
FIRST_FRAMES = json.loads((Path(__file__).parents[1] / "unit/data/legacy_first_frames.json").read_text())
SUBSCRIBED = '{"subscribe": true}'


@pytest.fixture
def relay(shared_relay: RelayOf) -> RelayProcess:
    return shared_relay()


def subscribe_frame(bucket: str, user: str) -> str:
    return json.dumps({"Type": "SubscribeMessage", "Data": {"userID": user, "subscriptionKey": bucket}})


def publish_frame(ciphertext: bytes, recipient: str) -> str:
    data = {"encryptedMessage": b64encode(ciphertext).decode(), "recipient": recipient}
    return json.dumps({"Type": "EncryptedMessage", "Data": data})


def ack_frame(ciphertext: bytes) -> str:
    return json.dumps({"Type": "AckMessage", "Data": {"messageID": message_id(ciphertext)}})


def message_text(ciphertext: bytes) -> str:
    """Row 7, written out."""
    encoded = b64encode(ciphertext).decode()
    return f'{{\n    "id": "{message_id(ciphertext)}",\n    "encryptedMessage": "{encoded}",\n    "recipient": ""\n}}'


def reader(relay: RelayProcess, dial: Dial, bucket: str, user: str) -> WireSocket:
    """A legacy connection that has its `subscribe` answered."""
    opened = dial.socket(relay)
    opened.send_text(subscribe_frame(bucket, user))
    assert opened.read_text() == SUBSCRIBED
    return opened


def leave(relay: RelayProcess, dial: Dial, recipient: str, *ciphertexts: bytes) -> None:
    """Store messages by way of v2."""
    sender = dial(relay)
    refs = [sender.publish(one, recipient=recipient) for one in ciphertexts]
    assert {sender.result(ref)["status"] for ref in refs} == {"stored"}
    sender.close()


def backlog(relay: RelayProcess, dial: Dial, bucket: str, user: str, last: bytes) -> list[str]:
    """What a new connection is sent, up to and including the message `last`."""
    opened = reader(relay, dial, bucket, user)
    seen = [opened.read_text()]
    while seen[-1] != message_text(last):
        seen.append(opened.read_text())
    opened.close()
    return seen


# --- rows 1 to 6


@pytest.mark.parametrize("opcode", [TEXT, BINARY], ids=["text", "binary"])
@pytest.mark.parametrize("vector", FIRST_FRAMES, ids=lambda one: f"row {one['row']}: {one['name']}")
def test_first_frame(relay: RelayProcess, dial: Dial, vector: dict[str, Any], opcode: int) -> None:
    opened = dial.socket(relay)
    opened.send_frame(opcode, vector["send"].encode())
    assert opened.read_message() == (TEXT, vector["answer"].encode())
    if vector["answer"] == SUBSCRIBED:
        opened.ping()
        assert opened.wait_pong() == []
    else:
        assert opened.wait_closed().code == 1000


def test_row_6_a_connection_that_says_nothing_is_closed_1000(shared_relay: RelayOf, dial: Dial) -> None:
    relay = shared_relay("legacy.hello_timeout_s = 0.3\n")
    silent = dial.socket(relay)
    silent.ping(b"a ping is no frame")
    silent.wait_pong(b"a ping is no frame")
    assert silent.wait_closed().code == 1000
    spoke = reader(relay, dial, bucket_of_number(1), "u")
    assert dial.socket(relay).wait_closed().code == 1000
    spoke.ping()
    assert spoke.wait_pong() == []


# --- row 7


def test_row_7_backlog_in_order_then_live_byte_for_byte(relay: RelayProcess, dial: Dial, key: KeyOf) -> None:
    recipient = key("recipient")
    contents = [bytes(range(256)), b"f", b"fo", b"foo"]
    leave(relay, dial, recipient.address, *contents)
    opened = reader(relay, dial, recipient.bucket_14, "u")
    assert [opened.read_text() for _ in contents] == [message_text(one) for one in contents]
    leave(relay, dial, recipient.address, b"live")
    assert opened.read_text() == message_text(b"live")


@pytest.mark.parametrize("width", ["bucket_14", "bucket_16"])
def test_row_7_both_bucket_widths_are_read(relay: RelayProcess, dial: Dial, key: KeyOf, width: str) -> None:
    leave(relay, dial, key("recipient").identity_address, b"one")
    assert backlog(relay, dial, getattr(key("recipient"), width), "u", b"one") == [message_text(b"one")]


# --- row 8


def test_row_8_a_publish_is_answered_by_nothing_and_reaches_its_owner(
    relay: RelayProcess, dial: Dial, key: KeyOf
) -> None:
    owner = dial(relay, key("owner"))
    owner.subscribe()
    sender = reader(relay, dial, bucket_of_number(2), "u")
    for recipient in (key("owner").address, key("owner").identity_address):
        sender.send_text(publish_frame(recipient.encode(), recipient))
        message = owner.message(recipient.encode())
        assert message["recipient"] == key("owner").address
        owner.ack(message["id"])
    owner.settle()
    sender.ping()
    assert sender.wait_pong() == []


def test_row_8_what_is_published_to_somebody_away_is_stored(
    own_relay: RelayOf, dial: Dial, key: KeyOf
) -> None:
    relay = own_relay()
    sender = reader(relay, dial, key("owner").bucket_16, "u")
    sender.send_text(publish_frame(b"one", key("owner").address))
    assert sender.read_text() == message_text(b"one")  # it reads that bucket itself
    deadline = time.monotonic() + TIMEOUT_S
    while relay.status()["store"]["messages"] == 0:
        assert time.monotonic() < deadline
    relay.kill()
    relay.start()
    assert [item["ciphertext"] for item in dial(relay, key("owner")).subscribe()[1]] == [b"one"]


@pytest.mark.parametrize(
    "data",
    [
        {"encryptedMessage": "AAA=", "recipient": "nobody"},
        {"encryptedMessage": "AAA", "recipient": None},
        {"encryptedMessage": "AAA", "recipient": "{address}"},
        {"encryptedMessage": "A-_=", "recipient": "{address}"},
        {"encryptedMessage": "", "recipient": "{address}"},
        {"encryptedMessage": 5, "recipient": "{address}"},
        {"encryptedMessage": "AAA=", "recipient": 5},
        {"encryptedMessage": "AAA="},
        {"recipient": "{address}"},
    ],
    ids=str,
)
def test_row_8_a_bad_publish_is_dropped_without_a_word(
    relay: RelayProcess, dial: Dial, key: KeyOf, data: dict[str, Any]
) -> None:
    owner = key("owner")
    sender = reader(relay, dial, owner.bucket_14, "u")
    frame = json.dumps({"Type": "EncryptedMessage", "Data": data}).replace("{address}", owner.address)
    sender.send_text(frame)
    sender.send_text(publish_frame(b"a good one", owner.address))
    assert sender.read_text() == message_text(b"a good one")
    sender.ping()
    assert sender.wait_pong() == []


def test_row_8_a_publish_above_the_quota_is_dropped_without_a_word(
    shared_relay: RelayOf, dial: Dial, key: KeyOf
) -> None:
    relay = shared_relay("quota.guest_mailbox_messages = 2\n")
    sender = reader(relay, dial, key("owner").bucket_14, "u")
    for n in range(4):
        sender.send_text(publish_frame(b"%d" % n, key("owner").address))
    assert [sender.read_text() for _ in range(2)] == [message_text(b"%d" % n) for n in range(2)]
    sender.ping()
    assert sender.wait_pong() == []


# --- row 9


def test_row_9_an_ack_marks_for_that_user_alone_and_is_idempotent(
    relay: RelayProcess, dial: Dial, key: KeyOf
) -> None:
    recipient = key("recipient")
    leave(relay, dial, recipient.address, b"one", b"two")
    opened = reader(relay, dial, recipient.bucket_14, "alice")
    opened.read_text(), opened.read_text()
    for _ in range(3):
        opened.send_text(ack_frame(b"one"))
    opened.ping()
    assert opened.wait_pong() == []
    assert backlog(relay, dial, recipient.bucket_14, "alice", b"two") == [message_text(b"two")]
    both = [message_text(b"one"), message_text(b"two")]
    assert backlog(relay, dial, recipient.bucket_14, "bob", b"two") == both
    # Nor does it touch the message.
    owner = dial(relay, key("recipient"))
    assert [item["ciphertext"] for item in owner.subscribe()[1]] == [b"one", b"two"]


def test_acks_have_a_name_space_of_their_own(relay: RelayProcess, dial: Dial, key: KeyOf) -> None:
    name = "a name of both dialects"
    leave(relay, dial, key("recipient").address, b"one")
    opened = reader(relay, dial, key("recipient").bucket_14, name)
    opened.read_text()
    opened.send_text(ack_frame(b"one"))
    opened.ping()
    opened.wait_pong()
    v2 = dial(relay)
    assert len(v2.subscribe(buckets=[key("recipient").bucket_14], reader=name)[1]) == 1


def test_marks_outlive_a_restart(own_relay: RelayOf, dial: Dial, key: KeyOf) -> None:
    relay = own_relay()
    leave(relay, dial, key("recipient").address, b"one", b"two")
    opened = reader(relay, dial, key("recipient").bucket_16, "alice")
    opened.read_text(), opened.read_text()
    opened.send_text(ack_frame(b"one"))
    opened.ping()
    opened.wait_pong()
    relay.stop()
    relay.start()
    assert backlog(relay, dial, key("recipient").bucket_16, "alice", b"two") == [message_text(b"two")]


@pytest.mark.parametrize("form", ["address", "identity_address"])
def test_acks_of_a_user_that_is_a_peer_id_count_for_that_connection_only(
    relay: RelayProcess, dial: Dial, key: KeyOf, form: str
) -> None:
    recipient = key("recipient")
    leave(relay, dial, recipient.address, b"one")
    user = getattr(recipient, form)
    opened = reader(relay, dial, recipient.bucket_14, user)
    opened.read_text()
    opened.send_text(ack_frame(b"one"))
    opened.ping()
    assert opened.wait_pong() == []
    assert backlog(relay, dial, recipient.bucket_14, user, b"one") == [message_text(b"one")]


# --- row 10


@pytest.mark.parametrize(
    "frame",
    [
        "not json",
        "",
        "[]",
        "{}",
        "5",
        '{"Type":"Other","Data":{}}',
        '{"Type":"AckMessage"}',
        '{"Type":"AckMessage","Data":{"messageID":5}}',
        '{"Type":"AckMessage","Data":{"messageID":"unknown"}}',
        '{"Type":"EncryptedMessage","Data":5}',
        '{"Type":5,"Data":{}}',
        "[" * 5000,
        "second subscribe",
    ],
)
@pytest.mark.parametrize("opcode", [TEXT, BINARY], ids=["text", "binary"])
def test_row_10_anything_else_is_answered_by_nothing_and_the_connection_stays(
    relay: RelayProcess, dial: Dial, key: KeyOf, frame: str, opcode: int
) -> None:
    opened = reader(relay, dial, key("recipient").bucket_14, "u")
    if frame == "second subscribe":
        frame = subscribe_frame(key("other").bucket_14, "v")
    opened.send_frame(opcode, frame.encode())
    opened.ping()
    assert opened.wait_pong() == []
    leave(relay, dial, key("other").address, b"not subscribed")
    leave(relay, dial, key("recipient").address, b"still here")
    assert opened.read_text() == message_text(b"still here")


# --- the rules


def test_every_socket_of_a_subscription_key_gets_every_message(
    relay: RelayProcess, dial: Dial, key: KeyOf
) -> None:
    recipient = key("recipient")
    sockets = [reader(relay, dial, recipient.bucket_14, user) for user in ("a", "b", "b")]
    sockets.append(reader(relay, dial, recipient.bucket_16, "a"))
    leave(relay, dial, recipient.address, b"one")
    assert [one.read_text() for one in sockets] == [message_text(b"one")] * 4


def test_a_reader_that_never_acks_is_not_held_back(relay: RelayProcess, dial: Dial, key: KeyOf) -> None:
    recipient = key("recipient")
    contents = [b"%d" % n for n in range(700)]
    leave(relay, dial, recipient.address, *contents[:400])
    opened = reader(relay, dial, recipient.bucket_14, "u")
    assert [opened.read_text() for _ in range(400)] == [message_text(one) for one in contents[:400]]
    leave(relay, dial, recipient.address, *contents[400:])
    assert [opened.read_text() for _ in range(300)] == [message_text(one) for one in contents[400:]]
    opened.close()
    again = backlog(relay, dial, recipient.bucket_14, "u", contents[-1])
    assert again == [message_text(one) for one in contents]


def test_the_backlog_is_the_newest_up_to_the_limit_oldest_of_them_first(
    shared_relay: RelayOf, dial: Dial, key: KeyOf
) -> None:
    relay = shared_relay("legacy.backlog_limit = 5\n")
    contents = [b"%d" % n for n in range(12)]
    leave(relay, dial, key("recipient").address, *contents)
    seen = backlog(relay, dial, key("recipient").bucket_14, "u", contents[-1])
    assert seen == [message_text(one) for one in contents[-5:]]


def test_keys_match_whatever_their_case_and_the_last_of_duplicates_wins_in_later_frames_too(
    relay: RelayProcess, dial: Dial, key: KeyOf
) -> None:
    owner = key("owner")
    sender = reader(relay, dial, owner.bucket_14, "u")
    encoded = b64encode(b"one").decode()
    sender.send_text(
        f'{{"TYPE":"EncryptedMessage","dAtA":{{"RECIPIENT":"x","recipient":"{owner.address}",'
        f'"encryptedmessage":"{encoded}","more":1}},\n"other":[]}}'
    )
    assert sender.read_text() == message_text(b"one")


def test_legacy_may_be_kept_from_publishing_and_from_reading(
    shared_relay: RelayOf, dial: Dial, key: KeyOf
) -> None:
    silent = shared_relay("legacy.publish = false\nlegacy.read_buckets = false\n")
    owner, recipient = dial(silent, key("owner")), key("owner")
    owner.subscribe()
    opened = reader(silent, dial, recipient.bucket_14, "u")
    opened.send_text(publish_frame(b"one", recipient.address))
    leave_ref = owner.publish(b"two", recipient=recipient.address)
    assert owner.message()["ciphertext"] == b"two"
    assert owner.result(leave_ref)["status"] == "stored"
    opened.ping()
    assert opened.wait_pong() == []


def test_nothing_but_a_close_frame_is_sent_when_the_relay_stops(own_relay: RelayOf, dial: Dial) -> None:
    relay = own_relay()
    opened = reader(relay, dial, bucket_of_number(3), "u")
    relay.signal(signal.SIGTERM)
    opcode, payload, _ = opened.read_frame()
    assert opcode == 0x8
    assert int.from_bytes(payload[:2]) == 1012
