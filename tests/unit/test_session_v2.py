"""Dialect v2, row by row, as far as the session decides it (docs/protocol.md 2)."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import pytest
from posthouse.exchange import Attend, Close, Command, Credit, Effect, Open, Outcomes, Superseded
from posthouse.identity import identity_address_of_key
from posthouse.session.outbound import MAX_REFS
from posthouse.session.settings import Policy
from posthouse.wire.codec import JSON, MSGPACK, Codec
from posthouse.wire.codes import CloseCode, Code
from posthouse.wire.messages import (
    Ack,
    Challenge,
    EpochChanged,
    Error,
    Goaway,
    Hello,
    Message,
    Nack,
    Ping,
    Pong,
    Publish,
    Receipt,
    Result,
    Results,
    ServerMessage,
    StatusRequest,
    Subscribe,
    Unsubscribe,
    Welcome,
)
from session_driver import (
    ALICE,
    AUDIENCE,
    BOB,
    BUCKET,
    BUCKETS,
    NONCE,
    READER,
    connect,
    hello,
    opened,
    settings,
)

both = pytest.mark.parametrize("codec", [MSGPACK, JSON], ids=lambda codec: codec.subprotocol)


def id_of(ciphertext: bytes) -> str:
    return sha256(ciphertext).hexdigest()


def publish(ref: int = 1, **fields: Any) -> Publish:
    return Publish(**{"ref": ref, "ciphertext": b"x", "recipient": BOB.address, **fields})


def error_of(said: list[ServerMessage]) -> tuple[str, int | None]:
    (error,) = said
    assert isinstance(error, Error)
    assert error.detail
    return error.code, error.ref


# --- 2.1 opening


@both
def test_hello_with_a_key_is_welcomed_with_both_forms_of_its_address(codec: Codec) -> None:
    driver = connect(codec)
    assert driver.send(hello(ALICE, window=10)) == [
        Welcome(
            "session-1",
            "relay-id",
            7,
            list(ALICE.addresses),
            {"max_window": 4096, "buckets_per_connection": 16},
            [],
        )
    ]
    assert driver.commands() == [Open(ALICE.address, False, 10, 4 * 2**20)]
    assert driver.session.address == ALICE.address


def test_hello_without_a_key_is_anonymous() -> None:
    driver = connect()
    (welcome,) = driver.send(hello())
    assert isinstance(welcome, Welcome)
    assert welcome.addresses == []
    assert welcome.limits["buckets_per_connection"] == 4
    assert driver.commands() == [Open(None, True, 256, 4 * 2**20)]


def test_features_are_in_the_welcome() -> None:
    (welcome,) = connect(with_settings=settings(features=("network-listen",))).send(hello())
    assert isinstance(welcome, Welcome)
    assert welcome.features == ["network-listen"]


@pytest.mark.parametrize(("wish", "window"), [(None, 256), (1, 1), (4096, 4096), (5000, 4096), (2**40, 4096)])
def test_the_window_is_cut_to_the_limit(wish: int | None, window: int) -> None:
    driver = connect()
    driver.send(hello(ALICE, window=wish))
    (command,) = driver.commands()
    assert isinstance(command, Open)
    assert command.window == window


def signed(audience: str = AUDIENCE, nonce: bytes = NONCE) -> bytes:
    return ALICE.sign_hello(audience, nonce)


@pytest.mark.parametrize(
    "bad",
    [
        Hello("c", ALICE.public_key, signed(audience="other.example")),
        Hello("c", ALICE.public_key, signed(nonce=bytes(32))),
        Hello("c", BOB.public_key, signed()),
        Hello("c", ALICE.public_key, bytes(64)),
        Hello("c", b"\xff" * 32, signed()),
        Hello("c", ALICE.public_key),
        Hello("c", None, signed()),
    ],
    ids=["audience", "nonce", "key", "signature", "no point", "no signature", "no key"],
)
def test_a_key_that_is_not_proved_closes_4501(bad: Hello) -> None:
    driver = connect()
    assert error_of(driver.send(bad, Subscribe(1))) == ("auth-required", None)
    assert driver.closing() == (CloseCode.BAD_AUTHENTICATION, "auth-required")
    assert driver.commands() == []


def test_anonymous_where_it_is_not_served_closes_4501() -> None:
    driver = connect(with_settings=settings(anonymous=Policy(enabled=False)))
    assert error_of(driver.send(hello())) == ("auth-required", None)
    assert driver.closing() == (CloseCode.BAD_AUTHENTICATION, "auth-required")


@both
@pytest.mark.parametrize(
    ("first", "ref"),
    [
        (Subscribe(5), 5),
        (Ping(1), None),
        ({"type": "hello"}, None),
        ({"type": "hello", "client": "x", "window": 0}, None),
        ({"type": "hello", "client": "x", "key": b"short"}, None),
        ({"type": "dance", "ref": 3}, 3),
        (None, None),
    ],
    ids=str,
)
def test_a_first_item_other_than_hello_closes_4503(codec: Codec, first: Any, ref: int | None) -> None:
    driver = connect(codec)
    assert error_of(driver.send(first, hello())) == ("invalid", ref)
    assert driver.closing() == (CloseCode.BAD_MESSAGE, "invalid")
    assert driver.commands() == []


def test_no_hello_within_its_time_closes_4504() -> None:
    driver = connect()
    assert driver.session.next_deadline() == 5.0
    driver.session.tick(4.99)
    assert driver.closing() is None
    driver.session.tick(5.0)
    assert driver.closing() == (CloseCode.NO_HELLO, "auth-required")
    assert driver.session.next_deadline() is None
    assert driver.send(hello()) == []
    assert driver.commands() == []


def test_after_hello_there_is_no_deadline() -> None:
    driver = opened()
    assert driver.session.next_deadline() is None
    driver.session.tick(1e9)
    assert driver.closing() is None


def test_what_follows_hello_in_its_frame_is_handled_after_the_welcome() -> None:
    driver = connect()
    said = driver.send(hello(ALICE), Ping(1), Subscribe(2))
    assert [type(item) for item in said] == [Welcome, Pong]
    assert [type(command) for command in driver.commands()] == [Open, Attend]


def test_welcome_waits_for_an_active_instance_and_what_follows_waits_with_it() -> None:
    driver = connect(epoch=None)
    assert driver.send(hello(ALICE), Ping(1)) == []
    assert driver.send(publish(3)) == []
    assert driver.send(Ping(2)) == []
    assert driver.commands() == []
    driver.conditions.epoch = 8
    driver.session.activated(1.0)
    said = driver.said()
    assert [type(item) for item in said] == [Welcome, Pong, Pong]
    assert isinstance(said[0], Welcome)
    assert said[0].epoch == 8
    assert [item.t for item in said if isinstance(item, Pong)] == [1, 2]
    assert [type(command) for command in driver.commands()] == [Open, Publish]
    assert driver.session.next_deadline() is None
    driver.session.activated(2.0)
    assert driver.said() == []


def test_no_active_instance_for_ten_seconds_closes_1013() -> None:
    driver = connect(epoch=None)
    driver.now = 3.0
    driver.send(hello(ALICE))
    assert driver.session.next_deadline() == 13.0
    driver.session.tick(13.0)
    assert driver.closing() == (CloseCode.TRY_LATER, "not-active")
    driver.conditions.epoch = 8
    driver.session.activated(14.0)
    assert driver.said() == []
    assert driver.commands() == []


@pytest.mark.parametrize("size", [0, 5000])
def test_what_waits_for_the_welcome_is_bounded(size: int) -> None:
    driver = connect(with_settings=settings(max_held_bytes=64_000), epoch=None)
    driver.send(hello(ALICE))
    sent = 0
    while driver.closing() is None:
        driver.send_raw(b"\x81" + bytes(size))
        sent += 1
    assert driver.closing() == (CloseCode.TRY_LATER, "not-active")
    assert sent == (13 if size else 985)


def test_a_frame_held_for_the_welcome_may_still_be_bad() -> None:
    driver = connect(epoch=None)
    driver.send(hello(ALICE))
    driver.send_raw(b"\xc1")
    driver.send(Ping())
    driver.conditions.epoch = 8
    driver.session.activated(1.0)
    assert [type(item) for item in driver.said()] == [Welcome, Error]
    assert driver.closing() == (CloseCode.BAD_MESSAGE, "invalid")
    assert [type(command) for command in driver.commands()] == [Open, Close]


def test_the_challenge_gives_the_wall_clocks_time() -> None:
    driver = connect()
    driver.now = 2.5
    assert driver.send(hello(), Ping("t"))[1] == Pong("t", 1_002_500)


# --- 2 frames and items


@both
@pytest.mark.parametrize("data", [b"\xc1", b"", b'{"type":'], ids=repr)
def test_a_frame_that_does_not_parse_is_answered_and_closes_4503(codec: Codec, data: bytes) -> None:
    for driver in (opened(codec=codec), connect(codec)):
        was_open = driver.session.phase.value == "open"
        assert error_of(driver.send_raw(data)) == ("invalid", None)
        assert driver.closing() == (CloseCode.BAD_MESSAGE, "invalid")
        assert driver.commands() == ([Close()] if was_open else [])
        assert driver.send(Ping()) == []


@both
def test_wrong_items_are_answered_alone_and_the_rest_goes_on(codec: Codec) -> None:
    driver = opened(codec=codec)
    said = driver.send(
        Ping(1),
        {"type": "dance", "ref": 5},
        {"type": "publish", "ref": 6},
        {"type": "publish", "ref": -6},
        None,
        publish(7),
        Ping(2),
    )
    assert [(type(item), getattr(item, "ref", None), getattr(item, "code", None)) for item in said] == [
        (Pong, None, None),
        (Error, 5, "invalid"),
        (Result, 6, "invalid"),
        (Error, None, "invalid"),
        (Error, None, "invalid"),
        (Pong, None, None),
    ]
    refused = said[2]
    assert isinstance(refused, Result)
    assert (refused.status, refused.fallback, refused.id) == ("rejected", False, None)
    assert driver.closing() is None
    assert [type(command) for command in driver.commands()] == [Publish]


def test_a_second_hello_is_invalid() -> None:
    driver = opened()
    assert error_of(driver.send(hello(ALICE))) == ("invalid", None)
    assert driver.closing() is None
    assert driver.commands() == []


def test_an_empty_array_says_nothing() -> None:
    driver = connect()
    assert driver.send() == []
    assert driver.closing() is None
    assert isinstance(driver.send(hello())[0], Welcome)


# --- 2.2 publish


@both
@pytest.mark.parametrize("form", [0, 1])
def test_a_publish_goes_on_with_its_canonical_recipient_and_its_id(codec: Codec, form: int) -> None:
    driver = opened(codec=codec)
    ask = publish(9, recipient=BOB.addresses[form], ttl_s=60, receipts=["delivered"], mode="live")
    assert driver.send(ask) == []
    assert driver.commands() == [
        Publish(9, b"x", BOB.address, None, "live", 60, ["delivered"], id_of(b"x")),
    ]


def test_a_publish_to_a_bucket_goes_on() -> None:
    driver = opened()
    driver.send(publish(recipient=None, bucket=BUCKET))
    assert driver.commands() == [Publish(1, b"x", None, BUCKET, id=id_of(b"x"))]


@pytest.mark.parametrize(
    "fields",
    [
        {"bucket": BUCKET},
        {"recipient": None},
        {"recipient": ""},
        {"recipient": "nobody"},
        {"recipient": BOB.address + " "},
        {"recipient": None, "bucket": ""},
        {"recipient": None, "bucket": "0OIl"},
        {"ciphertext": b""},
    ],
    ids=str,
)
def test_an_invalid_publish_is_rejected_without_fallback(fields: dict[str, Any]) -> None:
    driver = opened()
    (result,) = driver.send(publish(4, **fields))
    assert isinstance(result, Result)
    assert (result.ref, result.status, result.code, result.fallback) == (4, "rejected", "invalid", False)
    assert result.id == (None if "ciphertext" in fields else id_of(b"x"))
    assert result.detail
    assert driver.commands() == []


def rejection(driver_settings: Any, ask: Publish, key: Any = ALICE) -> Result:
    driver = opened(key, with_settings=driver_settings)
    (result,) = driver.send(ask)
    assert isinstance(result, Result)
    assert driver.commands() == []
    assert driver.closing() is None
    assert driver.session.dropped == 1
    assert driver.conditions.refused == {("v2", result.code): 1}
    assert result.status == "rejected"
    assert result.fallback
    assert result.id == id_of(ask.ciphertext)
    return result


def test_a_message_over_the_limit_is_rejected_too_large() -> None:
    allowed = settings(max_message_bytes=100)
    assert rejection(allowed, publish(ciphertext=bytes(101))).code == "too-large"
    driver = opened(with_settings=allowed)
    assert driver.send(publish(ciphertext=bytes(100))) == []
    assert len(driver.commands()) == 1


def test_mode_network_without_a_network_is_rejected() -> None:
    assert rejection(settings(), publish(mode="network")).code == "network-unavailable"
    driver = opened(with_settings=settings(network=True))
    assert driver.send(publish(mode="network")) == []
    assert len(driver.commands()) == 1


def test_who_may_not_publish_is_rejected_restricted() -> None:
    assert rejection(settings(anonymous=Policy(publish=False)), publish(), key=None).code == "restricted"
    assert rejection(settings(authenticated=Policy(publish=False)), publish()).code == "restricted"
    assert opened(ALICE, with_settings=settings(anonymous=Policy(publish=False))).send(publish()) == []


@pytest.mark.parametrize("code", [Code.DRAINING, Code.RATE_LIMITED])
def test_while_the_relay_refuses_publishes_each_is_rejected(code: Code) -> None:
    driver = opened()
    driver.conditions.refuse = code
    driver.conditions.refuse_retry_ms = 700
    (result,) = driver.send(publish())
    assert isinstance(result, Result)
    assert (result.code, result.fallback, result.retry_after_ms) == (code, True, 700)
    driver.conditions.refuse = None
    assert driver.send(publish()) == []
    assert len(driver.commands()) == 1


def test_publishes_over_the_rate_are_rejected_with_the_time_to_wait() -> None:
    driver = opened(None, with_settings=settings(anonymous=Policy(max_publish_per_s=2)))
    said = driver.send(*[publish(ref) for ref in range(5)])
    assert [type(item) for item in said] == [Result] * 3
    for item in said:
        assert isinstance(item, Result)
        assert (item.code, item.fallback) == ("rate-limited", True)
        assert item.retry_after_ms is not None
        assert 500 <= item.retry_after_ms <= 501
    driver.now += 0.501
    assert [type(item) for item in driver.send(publish(6), publish(7))] == [Result]
    driver.now += 1000
    assert [type(item) for item in driver.send(*[publish(ref) for ref in range(5)])] == [Result] * 3
    assert len(driver.commands()) == 5


def test_a_refused_publish_costs_no_share_of_the_rate() -> None:
    driver = opened(None, with_settings=settings(anonymous=Policy(max_publish_per_s=1)))
    driver.send(publish(recipient="nobody"))
    assert driver.send(publish()) == []


# --- 2.2 subscribe and unsubscribe


def subscribed(driver: Any, ask: Subscribe) -> Attend:
    assert driver.send(ask) == []
    (command,) = driver.commands()
    assert isinstance(command, Attend)
    assert command.ref == ask.ref
    return command


@pytest.mark.parametrize("form", [0, 1])
def test_a_proved_address_may_be_read_in_either_form(form: int) -> None:
    command = subscribed(opened(ALICE), Subscribe(1, addresses=[ALICE.addresses[form], ALICE.address]))
    assert command == Attend(1, [ALICE.address], [], f"key/{ALICE.address}", True)


@pytest.mark.parametrize("nothing", [None, []])
def test_naming_nothing_subscribes_all_proved_addresses(nothing: list[str] | None) -> None:
    command = subscribed(opened(ALICE), Subscribe(1, addresses=nothing, buckets=nothing, live=False))
    assert command == Attend(1, [ALICE.address], [], f"key/{ALICE.address}", False)


def test_only_buckets_named_subscribes_only_those() -> None:
    command = subscribed(
        opened(ALICE), Subscribe(1, buckets=[BUCKET, BUCKET], reader="mine-is-ignored-with-a-key")
    )
    assert command == Attend(1, [], [BUCKET], f"key/{ALICE.address}", True)  # type: ignore[list-item]


def test_addresses_and_buckets_may_be_named_together() -> None:
    command = subscribed(opened(ALICE), Subscribe(1, addresses=[ALICE.address], buckets=[BUCKET]))
    assert (command.addresses, command.buckets) == ([ALICE.address], [BUCKET])


def test_an_anonymous_reader_reads_buckets_under_its_own_name() -> None:
    command = subscribed(opened(None), Subscribe(1, buckets=[BUCKET], reader="x" * 16))
    assert command == Attend(1, [], [BUCKET], "name/" + "x" * 16, True)  # type: ignore[list-item]


def refusal(driver: Any, ask: Subscribe | Unsubscribe) -> str:
    code, ref = error_of(driver.send(ask))
    assert ref == ask.ref
    assert driver.commands() == []
    assert driver.closing() is None
    return code


@pytest.mark.parametrize(
    "addresses",
    [[BOB.address], [ALICE.address, BOB.address], ["nobody"], [""]],
    ids=["other", "both", "bad", "empty"],
)
def test_an_address_not_proved_is_not_owner_and_nothing_is_subscribed(addresses: list[str]) -> None:
    for driver in (opened(ALICE), opened(None)):
        assert (
            refusal(driver, Subscribe(5, addresses=addresses, buckets=[BUCKET], reader=READER)) == "not-owner"
        )


def test_an_anonymous_subscribe_that_names_nothing_is_invalid() -> None:
    assert refusal(opened(None), Subscribe(5, reader=READER)) == "invalid"


@pytest.mark.parametrize("reader", [None, "", "x" * 15])
def test_an_anonymous_reader_needs_a_name_of_16_characters(reader: str | None) -> None:
    assert refusal(opened(None), Subscribe(5, buckets=[BUCKET], reader=reader)) == "invalid"


@pytest.mark.parametrize("bucket", ["", "0OIl", "abc", BUCKET + "1"])
def test_a_bucket_that_is_none_is_invalid(bucket: str) -> None:
    assert refusal(opened(ALICE), Subscribe(5, buckets=[BUCKET, bucket])) == "invalid"


def test_who_may_not_read_buckets_is_restricted() -> None:
    with_settings = settings(anonymous=Policy(read_buckets=False))
    ask = Subscribe(5, buckets=[BUCKET], reader=READER)
    assert refusal(opened(None, with_settings=with_settings), ask) == "restricted"
    subscribed(opened(ALICE, with_settings=with_settings), ask)


def test_buckets_of_one_connection_are_counted_over_all_its_subscribes() -> None:
    driver = opened(None)
    subscribed(driver, Subscribe(1, buckets=BUCKETS[:3], reader=READER))
    subscribed(driver, Subscribe(2, buckets=BUCKETS[:4], reader=READER))
    assert refusal(driver, Subscribe(3, buckets=BUCKETS[4:5], reader=READER)) == "quota"
    assert driver.send(Unsubscribe(4, buckets=BUCKETS[:1])) == []
    driver.commands()
    subscribed(driver, Subscribe(5, buckets=BUCKETS[4:5], reader=READER))
    assert refusal(driver, Subscribe(6, buckets=BUCKETS[5:6], reader=READER)) == "quota"
    driver.send(Unsubscribe(7, addresses=[ALICE.address]))
    driver.commands()
    assert refusal(driver, Subscribe(8, buckets=BUCKETS[5:6], reader=READER)) == "quota"
    driver.send(Unsubscribe(9))
    driver.commands()
    subscribed(driver, Subscribe(10, buckets=BUCKETS[5:9], reader=READER))


def test_a_refused_subscribe_counts_no_buckets() -> None:
    driver = opened(None)
    refusal(driver, Subscribe(1, buckets=[*BUCKETS[:3], "bad"], reader=READER))
    subscribed(driver, Subscribe(2, buckets=BUCKETS[4:8], reader=READER))


def test_an_unsubscribe_goes_on_with_canonical_names() -> None:
    driver = opened(ALICE)
    assert (
        driver.send(Unsubscribe(3, addresses=[identity_address_of_key(ALICE.public_key)], buckets=[])) == []
    )
    assert driver.commands() == [Unsubscribe(3, addresses=[ALICE.address])]
    assert driver.send(Unsubscribe(4, [], [])) == []
    assert driver.commands() == [Unsubscribe(4)]
    assert refusal(driver, Unsubscribe(5, buckets=["bad"])) == "invalid"


def test_an_unsubscribe_that_names_more_than_anyone_reads_is_invalid() -> None:
    driver = opened(ALICE)
    assert refusal(driver, Unsubscribe(1, buckets=[BUCKET] * 1025)) == "invalid"
    assert driver.send(Unsubscribe(2, buckets=[BUCKET] * 1024)) == []
    assert driver.commands() == [Unsubscribe(2, buckets=[BUCKET])]


def test_acks_nacks_and_status_go_on_as_they_are() -> None:
    driver = opened()
    asked: list[Command] = [Ack(["a", "b"]), Nack(["c"], "busy", 50), StatusRequest(3)]
    assert driver.send(*asked) == []
    assert driver.commands() == asked


def test_commands_of_one_frame_are_one_batch_in_its_order() -> None:
    driver = opened()
    driver.send(publish(1), Ack(["a"]), Subscribe(2), publish(3), Nack(["b"], "not-mine"), StatusRequest(4))
    assert [type(command) for command in driver.commands()] == [
        Publish, Ack, Attend, Publish, Nack, StatusRequest,
    ]  # fmt: skip


# --- 2.3 and 2.5 to the client


def outcomes(status: Any, *refs: int) -> Outcomes:
    return Outcomes(status, list(refs), [f"id{ref}" for ref in refs])


def test_plain_results_are_single_for_a_client_that_did_not_ask() -> None:
    assert opened().said([outcomes("stored", 1, 2), outcomes("delivered", 3)]) == [
        Result(1, "stored", False, "id1"),
        Result(2, "stored", False, "id2"),
        Result(3, "delivered", False, "id3"),
    ]


def test_plain_results_are_compact_for_a_client_that_asked() -> None:
    driver = opened(compact_results=True)
    receipt = Receipt("id1", "published", 5)
    effects: list[Effect] = [
        outcomes("stored", 1),
        outcomes("delivered", 2),
        receipt,
        outcomes("stored", 3, 4),
    ]
    assert driver.said(effects) == [Results("stored", [1, 3, 4]), Results("delivered", [2]), receipt]
    assert effects[0] == outcomes("stored", 1)


def test_compact_results_are_split() -> None:
    driver = opened(codec=JSON, compact_results=True)
    high = 2**53 - 1
    refs = list(range(high - 3 * MAX_REFS - 5, high))
    for effects in ([outcomes("stored", *refs)], [outcomes("stored", ref) for ref in refs]):
        said = driver.said(effects)
        assert [ref for item in said if isinstance(item, Results) for ref in item.refs] == refs
        assert all(len(item.refs) <= MAX_REFS for item in said if isinstance(item, Results))
        assert len(said) == 4


def test_other_effects_go_out_as_they_are() -> None:
    effects: list[Effect] = [
        Message("id", 1, b"x", 2, 3, 1, recipient=ALICE.address),
        Result(1, "undeliverable", True, "id"),
        EpochChanged(9),
        Error("store-unavailable", "d", True, 4),
    ]
    assert opened().said(effects) == effects


def test_own_words_come_before_the_brokers() -> None:
    driver = opened()
    driver.session.received(MSGPACK.encode([Ping(1)], 2**20)[0], 0.0)
    assert [type(item) for item in driver.said([EpochChanged(9)])] == [Pong, EpochChanged]


def test_a_large_backlog_leaves_in_frames_below_the_limit() -> None:
    driver = opened(codec=JSON)
    backlog = [Message(f"{seq:064}", seq, bytes(700_000), 2, 3, 1) for seq in range(6)]
    assert driver.said(backlog) == backlog


def test_superseded_says_goaway_and_closes_4505() -> None:
    driver = opened()
    before, after = EpochChanged(1), EpochChanged(2)
    said = driver.said([before, Superseded(), after])
    assert [type(item) for item in said] == [EpochChanged, Goaway]
    assert isinstance(said[1], Goaway)
    assert said[1].reason == "superseded"
    assert driver.closing() == (CloseCode.SUPERSEDED, "superseded")
    assert driver.commands() == [Close()]
    assert driver.said([after]) == []


def test_goaway_is_said_and_the_session_goes_on() -> None:
    driver = opened()
    driver.session.goaway("drain", (100, 5000), ["wss://b.example"])
    assert driver.said() == [Goaway("drain", (100, 5000), ["wss://b.example"])]
    assert driver.closing() is None
    assert driver.send(Ping(1)) == [Pong(1, 1_000_000)]


def test_credit_returns_in_lumps_for_what_the_socket_has_taken() -> None:
    driver = opened(with_settings=settings(max_outbound_bytes=4000))
    message = Message("id", 1, bytes(600), 2, 3, 1)
    driver.said([message])
    driver.session.wrote(0)
    assert driver.commands() == []
    driver.said([message, message])
    driver.session.wrote(900)
    assert driver.commands() == []
    driver.session.wrote(800)
    assert driver.commands() == [Credit(1000)]
    driver.session.wrote(0)
    assert driver.commands() == []
    driver.said([message])
    driver.session.wrote(0)
    assert driver.commands() == [Credit(1400)]


def test_a_lost_connection_closes_the_session_once() -> None:
    driver = opened()
    driver.session.transport_closed()
    driver.session.transport_closed()
    assert driver.commands() == [Close()]
    assert driver.send(Ping(), publish()) == []
    assert driver.said([EpochChanged(1)]) == []
    driver.session.goaway("drain", (1, 2), [])
    driver.session.wrote(0)
    assert driver.said() == []
    assert driver.commands() == []


def test_a_connection_lost_before_its_welcome_tells_the_broker_nothing() -> None:
    for epoch in (None, 7):
        driver = connect(epoch=epoch)
        if epoch is None:
            driver.send(hello(ALICE))
        driver.session.transport_closed()
        assert driver.commands() == []
        assert driver.session.next_deadline() is None


def test_the_first_word_is_the_challenge() -> None:
    driver = connect(JSON)
    assert driver.session.binary is False
    assert connect(MSGPACK).session.binary is True
    assert Challenge(NONCE, AUDIENCE, 0).nonce == NONCE
