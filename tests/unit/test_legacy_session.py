"""The legacy dialect, row by row and byte for byte (docs/protocol.md 3)."""

from __future__ import annotations

import base64
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from posthouse.exchange import Attend, Close, Command, Credit, Effect, Open, Outcomes
from posthouse.session.legacy import LegacySession
from posthouse.session.settings import Conditions, Policy, SessionSettings
from posthouse.wire.codes import CloseCode, Code
from posthouse.wire.messages import (
    Ack,
    CaughtUp,
    EpochChanged,
    Error,
    Message,
    Pending,
    Publish,
    Result,
    Subscribed,
)
from session_driver import ALICE, BOB, BUCKET, settings

FRAMES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data/legacy_first_frames.json").read_text()
)
SUBSCRIBED = b'{"subscribe": true}'


def connect(with_settings: SessionSettings | None = None, epoch: int | None = 7) -> LegacySession:
    return LegacySession(with_settings or settings(), Conditions(epoch=epoch), now=100.0)


def commands_of(session: LegacySession) -> list[Command]:
    commands, session.commands = session.commands, []
    return commands


def closing_of(session: LegacySession) -> tuple[CloseCode, str] | None:
    return session.closing


def subscribe(user_id: str = "u1", bucket: str = BUCKET) -> bytes:
    data = {"userID": user_id, "subscriptionKey": bucket}
    return json.dumps({"Type": "SubscribeMessage", "Data": data}).encode()


def opened(user_id: str = "u1", with_settings: SessionSettings | None = None) -> LegacySession:
    session = connect(with_settings)
    session.received(subscribe(user_id), 100.0)
    assert session.flush([], 100.0) == [SUBSCRIBED]
    commands_of(session)
    return session


# --- rows 1 to 6


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: f"row {frame['row']}: {frame['name']}")
@pytest.mark.parametrize("carrier", [bytes, bytearray, memoryview])
def test_a_first_frame_has_its_answer(frame: dict[str, Any], carrier: Any) -> None:
    session = connect()
    session.received(carrier(frame["send"].encode()), 100.0)
    assert session.flush([], 100.0) == [frame["answer"].encode()]
    if frame["row"] == 1:
        assert closing_of(session) is None
        assert [type(command) for command in commands_of(session)] == [Open, Attend]
    else:
        assert closing_of(session) == (CloseCode.NORMAL, "")
        assert commands_of(session) == []
        session.received(subscribe(), 101.0)
        assert session.flush([], 101.0) == []


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"\xff\xfe", b'{"error": "invalid incoming message"}'),
        (b"[" * 500_000, b'{"error": "invalid incoming message"}'),
        (b'{"a":' * 150_000, b'{"error": "invalid incoming message"}'),
        (subscribe(bucket="1" * 500_000), b'{"error": "subscription key"}'),
        (b'{"Data":{"userID":"\xff","subscriptionKey":"%s"}}' % BUCKET.encode(), SUBSCRIBED),
    ],
    ids=["no UTF-8", "deep arrays", "deep objects", "long key", "no UTF-8 in a text"],
)
def test_hard_first_frames_have_their_answer(data: bytes, answer: bytes) -> None:
    session = connect()
    session.received(data, 100.0)
    assert session.flush([], 100.0) == [answer]


def test_a_subscription_reads_the_newest_backlog_of_its_bucket_without_a_window() -> None:
    session = connect(settings(legacy_backlog_limit=50))
    session.received(subscribe("user 1"), 100.0)
    assert commands_of(session) == [
        Open(None, True, 0, 4 * 2**20),
        Attend(0, [], [BUCKET], "legacy/user 1", True, 50),  # type: ignore[list-item]
    ]


def test_nothing_for_thirty_seconds_closes_1000() -> None:
    session = connect()
    assert session.next_deadline() == 130.0
    session.tick(129.9)
    assert closing_of(session) is None
    session.tick(130.0)
    assert closing_of(session) == (CloseCode.NORMAL, "")
    assert session.flush([], 130.0) == []


def test_after_its_first_frame_a_connection_may_be_silent() -> None:
    session = opened()
    assert session.next_deadline() is None
    session.tick(1e9)
    assert closing_of(session) is None


def test_a_subscription_waits_for_an_active_instance() -> None:
    session = connect(epoch=None)
    session.received(subscribe(), 100.0)
    session.received(ack("x"), 100.0)
    assert session.flush([], 100.0) == []
    assert session.next_deadline() == 110.0
    session._conditions.epoch = 3
    session.activated(101.0)
    assert session.flush([], 101.0) == [SUBSCRIBED]
    assert [type(command) for command in commands_of(session)] == [Open, Attend, Ack]


def test_no_active_instance_closes_1013_without_a_word() -> None:
    session = connect(epoch=None)
    session.received(subscribe(), 100.0)
    session.tick(110.0)
    assert closing_of(session) == (CloseCode.TRY_LATER, "not-active")
    assert session.flush([], 110.0) == []


# --- reader names


def reader_of(user_id: str) -> str | None:
    session = connect()
    session.received(subscribe(user_id), 100.0)
    attend = commands_of(session)[1]
    assert isinstance(attend, Attend)
    return attend.reader


@pytest.mark.parametrize(
    "user_id", [*ALICE.addresses, "16Uiu2HAkyX8rWKZDqRpYTVTRVxPjNRWdtEUxKKCKNRkWFdqFBsQF"]
)
def test_a_user_id_that_is_a_peer_id_counts_for_its_connection_only(user_id: str) -> None:
    assert reader_of(user_id) is None


@pytest.mark.parametrize("user_id", ["u1", "11", "a/b", "\u00fc", BUCKET[:-1]])
def test_any_other_user_id_is_a_name_in_a_space_of_its_own(user_id: str) -> None:
    assert reader_of(user_id) == f"legacy/{user_id}"


def test_half_a_surrogate_pair_in_a_user_id_is_replaced() -> None:
    assert reader_of("a\ud800b") == "legacy/a\ufffdb"


def test_a_long_user_id_is_kept_as_its_hash() -> None:
    assert reader_of("u" * 256) == "legacy/" + "u" * 256
    assert reader_of("u" * 257) == "legacy/" + sha256(b"u" * 257).hexdigest()


def test_where_legacy_may_not_read_it_is_answered_and_gets_nothing() -> None:
    session = connect(settings(legacy=Policy(read_buckets=False)))
    session.received(subscribe(), 100.0)
    assert session.flush([], 100.0) == [SUBSCRIBED]
    assert [type(command) for command in commands_of(session)] == [Open]


# --- row 7


def test_a_message_is_written_byte_for_byte() -> None:
    session = opened()
    ciphertext = bytes(range(250, 256))
    message = Message(sha256(ciphertext).hexdigest(), 5, ciphertext, 1, 2, 3, bucket=BUCKET)
    expected = (b'{\n    "id": "%s",\n    "encryptedMessage": "+vv8/f7/",\n    "recipient": ""\n}') % sha256(
        b"\xfa\xfb\xfc\xfd\xfe\xff"
    ).hexdigest().encode()
    assert session.flush([message, message], 100.0) == [expected, expected]


def test_nothing_but_messages_is_ever_sent() -> None:
    session = opened()
    effects: list[Effect] = [
        Subscribed(0, Pending(1, 2)),
        CaughtUp(0),
        EpochChanged(8),
        Error("quota", "d", True),
        Outcomes("stored", [1], ["id"]),
        Result(2, "undeliverable", True, "id"),
    ]
    assert session.flush(effects, 100.0) == []
    session.goaway("drain", (1, 2), [])
    assert session.flush([], 100.0) == []
    assert session.dropped == 0


def test_what_the_broker_refuses_is_counted() -> None:
    session = opened()
    session.flush([Result(1, "rejected", True, "id", code="quota")], 100.0)
    assert session._conditions.refused == {("legacy", "quota"): 1}


def test_credit_returns_for_what_the_socket_has_taken() -> None:
    session = opened(with_settings=settings(max_outbound_bytes=4000))
    session.flush([Message("id", 1, bytes(1000), 1, 2, 1)], 100.0)
    session.wrote(0)
    assert commands_of(session) == [Credit(1000)]


# --- row 8


def encrypted(recipient: object = BOB.address, message: object = "AAEC", **more: object) -> bytes:
    data = {"encryptedMessage": message, "recipient": recipient, **more}
    return json.dumps({"Type": "EncryptedMessage", "Data": data}).encode()


def ack(identity: object) -> bytes:
    return json.dumps({"Type": "AckMessage", "Data": {"messageID": identity}}).encode()


@pytest.mark.parametrize(
    "frame",
    [
        encrypted(),
        encrypted(BOB.addresses[1]),
        encrypted(message="AA\r\nEC\n"),
        encrypted().replace(b"AAEC", b"AA\nEC"),
        encrypted().replace(b"AAEC", b"\\u0041\\u0041EC"),
        encrypted(more=[1, None]),
        encrypted().replace(b"recipient", b"RECIPIENT").replace(b"Type", b"tYPE"),
        b"\n" + encrypted() + b"\n ",
    ],
    ids=range(8),
)
def test_an_encrypted_message_goes_the_way_of_a_publish(frame: bytes) -> None:
    session = opened()
    session.received(frame, 100.0)
    session.received(frame, 100.0)
    identity = sha256(b"\0\1\2").hexdigest()
    assert commands_of(session) == [
        Publish(ref, b"\0\1\2", BOB.address, mode="store", id=identity) for ref in (1, 2)
    ]
    assert session.flush([], 100.0) == []
    assert session.dropped == 0


def test_its_mode_is_network_where_there_is_one() -> None:
    session = opened(with_settings=settings(network=True))
    session.received(encrypted(), 100.0)
    (command,) = commands_of(session)
    assert isinstance(command, Publish)
    assert command.mode == "network"


@pytest.mark.parametrize(
    "frame",
    [
        encrypted(recipient="nobody"),
        encrypted(recipient=None),
        encrypted(recipient=5),
        encrypted(message=""),
        encrypted(message=None),
        encrypted(message=5),
        encrypted(message="AAE"),
        encrypted(message="AAE-"),
        encrypted(message="AA=="[:3]),
        encrypted(message="é"),
        b'{"Type":"EncryptedMessage"}',
        b'{"Type":"EncryptedMessage","Data":null}',
        b'{"Type":"EncryptedMessage","Data":"x"}',
    ],
    ids=lambda frame: frame.decode()[:90],
)
def test_a_bad_encrypted_message_is_dropped_and_counted(frame: bytes) -> None:
    session = opened()
    session.received(frame, 100.0)
    assert session.flush([], 100.0) == []
    assert commands_of(session) == []
    assert closing_of(session) is None
    assert session.dropped == 1
    assert session._conditions.refused == {("legacy", "invalid"): 1}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"max_message_bytes": 2}, "too-large"),
        ({"legacy": Policy(publish=False)}, "restricted"),
    ],
)
def test_a_message_that_is_not_allowed_is_dropped_and_counted(changes: dict[str, Any], code: str) -> None:
    session = opened(with_settings=settings(**changes))
    session.received(encrypted(), 100.0)
    assert commands_of(session) == []
    assert session._conditions.refused == {("legacy", code): 1}


def test_messages_over_the_rate_are_dropped() -> None:
    session = opened(with_settings=settings(legacy=Policy(max_publish_per_s=1)))
    for _ in range(3):
        session.received(encrypted(), 100.0)
    assert len(commands_of(session)) == 1
    session.received(encrypted(), 101.0)
    assert len(commands_of(session)) == 1
    assert session._conditions.refused == {("legacy", "rate-limited"): 2}


def test_while_the_relay_refuses_publishes_they_are_dropped() -> None:
    session = opened()
    session._conditions.refuse = Code.DRAINING
    session.received(encrypted(), 100.0)
    assert commands_of(session) == []
    assert session._conditions.refused == {("legacy", "draining"): 1}


# --- rows 9 and 10


def test_an_ack_goes_on() -> None:
    session = opened()
    session.received(ack("abc"), 100.0)
    session.received(b'{"TYPE":"AckMessage","DATA":{"MESSAGEID":"def"}}', 100.0)
    assert commands_of(session) == [Ack(["abc"]), Ack(["def"])]


@pytest.mark.parametrize(
    "frame",
    [
        subscribe(),
        b'{"Type":"Banana","Data":{}}',
        b'{"Type":"encryptedmessage","Data":{}}',
        b"nonsense",
        b"",
        b"[1]",
        b"\xff",
        b"{}",
        b"[" * 500_000,
        ack(5),
        ack(None),
        ack(""),
        encrypted() + b"x",
    ],
    ids=range(13),
)
def test_anything_else_is_passed_over(frame: bytes) -> None:
    session = opened()
    session.received(frame, 100.0)
    assert session.flush([], 100.0) == []
    assert closing_of(session) is None
    assert commands_of(session) == []
    session.received(ack("abc"), 100.0)
    assert commands_of(session) == [Ack(["abc"])]


def test_a_lost_connection_closes_the_session_once() -> None:
    session = opened()
    session.transport_closed()
    session.transport_closed()
    session.received(ack("abc"), 100.0)
    assert commands_of(session) == [Close()]
    assert session.flush([Message("id", 1, b"x", 1, 2, 1)], 100.0) == []


# --- whatever comes

keys = st.sampled_from(
    [
        "Type",
        "DATA",
        "data",
        "userID",
        "userid",
        "subscriptionKey",
        "encryptedMessage",
        "recipient",
        "messageID",
    ]
) | st.text(max_size=4)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=8,
)
envelopes = st.fixed_dictionaries(
    {"Type": st.sampled_from(["EncryptedMessage", "AckMessage", "SubscribeMessage"]) | json_values},
    optional={"Data": json_values, "userID": json_values},
)
frames = st.binary(max_size=60) | (envelopes | json_values).map(lambda value: json.dumps(value).encode())


@given(first=frames | st.just(subscribe()), later=st.lists(frames, max_size=8))
def test_any_frames_at_all_give_at_most_one_answer(first: bytes, later: list[bytes]) -> None:
    session = connect()
    session.received(first, 100.0)
    (answer,) = session.flush([], 100.0)
    assert answer.startswith((b'{"error": "', b'{"subscribe": true}'))
    assert (closing_of(session) is None) == (answer == SUBSCRIBED)
    for frame in later:
        session.received(frame, 100.0)
    assert session.flush([], 100.0) == []
    for command in session.commands:
        if isinstance(command, Publish):
            assert command.ciphertext
            assert command.recipient is not None
            assert command.id == sha256(command.ciphertext).hexdigest()


@given(ciphertext=st.binary(min_size=1, max_size=200))
def test_a_message_reads_back_as_it_was_sent(ciphertext: bytes) -> None:
    sender, reader = opened(), opened()
    sender.received(encrypted(message=base64.b64encode(ciphertext).decode()), 100.0)
    (command,) = commands_of(sender)
    assert isinstance(command, Publish)
    (frame,) = reader.flush([Message(command.id, 1, command.ciphertext, 1, 2, 1)], 100.0)
    assert json.loads(frame) == {
        "id": sha256(ciphertext).hexdigest(),
        "encryptedMessage": base64.b64encode(ciphertext).decode(),
        "recipient": "",
    }
    assert list(json.loads(frame)) == ["id", "encryptedMessage", "recipient"]
