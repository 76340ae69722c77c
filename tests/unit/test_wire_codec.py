"""Frames of dialect v2 in both encodings (docs/protocol.md 1 and 2)."""

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from posthouse.wire.codec import JSON, MAX_INVALID_ITEMS, MSGPACK, Codec, FrameError, Invalid
from posthouse.wire.messages import (
    Ack,
    CaughtUp,
    Challenge,
    ClientMessage,
    EpochChanged,
    Error,
    Goaway,
    Hello,
    Message,
    Nack,
    Pending,
    Ping,
    Pong,
    Publish,
    Receipt,
    Result,
    Results,
    ServerMessage,
    Status,
    StatusRequest,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Welcome,
)

LIMIT = 2**20
BOTH = [MSGPACK, JSON]
both = pytest.mark.parametrize("codec", BOTH, ids=lambda codec: codec.subprotocol)

refs = st.integers(0, 2**53 - 1)
texts = st.text(max_size=40)
names = st.none() | st.lists(texts, max_size=4)
client_messages: st.SearchStrategy[ClientMessage] = st.one_of(
    st.builds(
        Publish,
        ref=refs,
        ciphertext=st.binary(max_size=200),
        recipient=st.none() | texts,
        bucket=st.none() | texts,
        mode=st.sampled_from(["store", "live", "network"]),
        ttl_s=st.none() | st.integers(1, 2**31),
        receipts=st.none() | st.lists(st.sampled_from(["delivered", "published", "expired"]), max_size=4),
        id=st.just(""),
    ),
    st.builds(Ack, ids=st.lists(texts, max_size=5)),
    st.builds(
        Nack,
        ids=st.lists(texts, max_size=5),
        code=st.sampled_from(["not-mine", "undecryptable", "busy"]),
        retry_after_ms=st.none() | st.integers(0, 86_400_000),
    ),
    st.builds(
        Subscribe, ref=refs, addresses=names, buckets=names, reader=st.none() | texts, live=st.booleans()
    ),
    st.builds(Unsubscribe, ref=refs, addresses=names, buckets=names),
    st.builds(StatusRequest, ref=refs),
    st.builds(
        Ping,
        t=st.none()
        | st.integers(-(2**63), 2**63 - 1)
        | texts
        | st.floats(allow_nan=False, allow_infinity=False),
    ),
    st.builds(
        Hello,
        client=texts,
        key=st.none() | st.binary(min_size=32, max_size=32),
        signature=st.none() | st.binary(min_size=64, max_size=64),
        window=st.none() | st.integers(1, 2**40),
        compact_results=st.booleans(),
    ),
)
SERVER_MESSAGES: list[ServerMessage] = [
    Challenge(bytes(range(32)), "relay.example", 1),
    Welcome("s", "r", 3, ["Qm"], {"max_window": 5}, ["network"]),
    Message("ab", 5, b"\x00\xff", 1, 2, 1, recipient="Qm"),
    Message("ab", 5, b"", 1, 2, 3, bucket="Qm"),
    Result(1, "stored", False, "ab"),
    Result(2, "rejected", True, code="quota", detail="d", retry_after_ms=5),
    Results("delivered", [1, 2, 3]),
    Receipt("ab", "published", 5, "Qm", "baf"),
    Subscribed(1, Pending(2, 3)),
    CaughtUp(1),
    Status(1, Pending(0, 0), {"messages": 5}, 6),
    Pong(None, 5),
    Pong("x", 5),
    EpochChanged(9),
    Goaway("drain", (1, 2), ["wss://b.example"]),
    Error("invalid", "d", False),
    Error("quota", "d", True, 7),
]


@both
@given(items=st.lists(client_messages, max_size=6))
def test_what_a_client_encodes_the_relay_decodes(codec: Codec, items: list[ClientMessage]) -> None:
    frames = codec.encode(items, LIMIT)
    assert [item for frame in frames for item in codec.decode(frame)] == items


@given(items=st.lists(client_messages, min_size=1, max_size=6))
def test_both_encodings_say_the_same(items: list[ClientMessage]) -> None:
    as_json = json.loads(JSON.encode(items, LIMIT)[0])
    as_msgpack = msgspec.to_builtins(msgspec.msgpack.decode(MSGPACK.encode(items, LIMIT)[0]))
    assert as_json == as_msgpack


@both
def test_what_the_relay_encodes_a_client_decodes(codec: Codec) -> None:
    (frame,) = codec.encode(SERVER_MESSAGES, LIMIT)
    assert codec.decode_from_server(frame) == SERVER_MESSAGES
    for item in SERVER_MESSAGES:
        assert codec.decode_from_server(codec.encode([item], LIMIT)[0]) == [item]


@both
def test_one_item_is_bare_and_many_are_an_array(codec: Codec) -> None:
    as_plain = json.loads if codec is JSON else msgspec.msgpack.decode
    assert isinstance(as_plain(codec.encode([CaughtUp(1)], LIMIT)[0]), dict)
    assert isinstance(as_plain(codec.encode([CaughtUp(1), CaughtUp(2)], LIMIT)[0]), list)
    assert codec.encode([], LIMIT) == []


def test_absent_fields_are_left_out() -> None:
    assert json.loads(JSON.encode([Result(1, "stored", False, "ab")], LIMIT)[0]) == {
        "type": "result",
        "ref": 1,
        "status": "stored",
        "fallback": False,
        "id": "ab",
    }


def test_the_relays_own_field_of_a_publish_is_not_on_the_wire() -> None:
    assert b"relay:id" not in JSON.encode([Publish(1, b"x", "Qm")], LIMIT)[0]
    words: list[object] = ["x", 5, None, []]
    for word in words:
        (item,) = JSON.decode(
            json.dumps({"type": "publish", "ref": 1, "ciphertext": "eA==", "id": word}).encode()
        )
        assert isinstance(item, Publish)
        assert item.id == ""


@both
@given(
    sizes=st.lists(st.integers(0, 3000), min_size=1, max_size=40),
    limit=st.integers(6000, 20_000),
)
def test_arrays_are_split_below_the_limit_and_keep_their_order(
    codec: Codec, sizes: list[int], limit: int
) -> None:
    items = [Message("ab" * 32, seq, bytes(size), 1, 2, 1) for seq, size in enumerate(sizes)]
    frames = codec.encode(items, limit)
    assert all(len(frame) <= limit for frame in frames)
    assert [item for frame in frames for item in codec.decode_from_server(frame)] == items


def encoded(codec: Codec, item: Any) -> bytes:
    if codec is MSGPACK:
        return msgspec.msgpack.encode(item)
    return msgspec.json.encode(item)


WRONG: list[tuple[Any, Invalid]] = [
    ({"type": "dance", "ref": 5}, Invalid(5, "dance", "")),
    ({"type": "d" * 500, "ref": 5}, Invalid(5, "d" * 500, "")),
    ({"type": "status"}, Invalid(None, "status", "")),
    ({"type": "status", "ref": -1}, Invalid(None, "status", "")),
    ({"type": "status", "ref": 2**53}, Invalid(None, "status", "")),
    ({"type": "status", "ref": 1.0}, Invalid(None, "status", "")),
    ({"type": "status", "ref": True}, Invalid(None, "status", "")),
    ({"type": "status", "ref": "1"}, Invalid(None, "status", "")),
    ({"type": "publish", "ref": 4}, Invalid(4, "publish", "")),
    ({"type": "publish", "ref": 4, "ciphertext": "no base64!"}, Invalid(4, "publish", "")),
    ({"type": "publish", "ref": 4, "ciphertext": None}, Invalid(4, "publish", "")),
    ({"type": "publish", "ref": 4, "ciphertext": b"x", "mode": "now"}, Invalid(4, "publish", "")),
    ({"type": "publish", "ref": 4, "ciphertext": b"x", "ttl_s": 0}, Invalid(4, "publish", "")),
    ({"type": "publish", "ref": 4, "ciphertext": b"x", "recipient": 5}, Invalid(4, "publish", "")),
    ({"type": "publish", "ref": 4, "ciphertext": b"x", "receipts": ["lost"]}, Invalid(4, "publish", "")),
    ({"type": "ack"}, Invalid(None, "ack", "")),
    ({"type": "ack", "ids": "ab"}, Invalid(None, "ack", "")),
    ({"type": "nack", "ids": [], "code": "meh"}, Invalid(None, "nack", "")),
    ({"type": "ping", "t": "x" * 257}, Invalid(None, "ping", "")),
    ({"type": "ping", "t": 2**63}, Invalid(None, "ping", "")),
    ({"type": "ping", "t": [1]}, Invalid(None, "ping", "")),
    ({"type": "hello"}, Invalid(None, "hello", "")),
    ({"type": "hello", "client": "x" * 65}, Invalid(None, "hello", "")),
    ({"type": "hello", "client": "x", "key": b"short"}, Invalid(None, "hello", "")),
    ({"type": "subscribe", "ref": 3, "buckets": "x"}, Invalid(3, "subscribe", "")),
    ({"type": 5}, Invalid(None, None, "")),
    ({}, Invalid(None, None, "")),
    ([], Invalid(None, None, "")),
    (5, Invalid(None, None, "")),
    ("x", Invalid(None, None, "")),
    (None, Invalid(None, None, "")),
]


@both
@pytest.mark.parametrize(("wrong", "report"), WRONG, ids=lambda value: str(value)[:50])
def test_a_wrong_item_is_reported_alone(codec: Codec, wrong: Any, report: Invalid) -> None:
    items = codec.decode(encoded(codec, [{"type": "ping"}, wrong, {"type": "ack", "ids": ["a"]}]))
    assert items[0] == Ping()
    assert items[2] == Ack(["a"])
    invalid = items[1]
    assert isinstance(invalid, Invalid)
    assert invalid.detail
    assert len(invalid.detail) <= 160
    assert (invalid.ref, invalid.type) == (report.ref, report.type)


@both
@pytest.mark.parametrize("wrong", [{"type": "dance", "ref": 5}, {}, 5, None, "x"], ids=str)
def test_a_wrong_item_without_an_array_is_reported_too(codec: Codec, wrong: Any) -> None:
    (item,) = codec.decode(encoded(codec, wrong))
    assert isinstance(item, Invalid)


def test_messagepack_takes_bytes_only_as_bin() -> None:
    (item,) = MSGPACK.decode(msgspec.msgpack.encode({"type": "publish", "ref": 1, "ciphertext": "text"}))
    assert isinstance(item, Invalid)


@pytest.mark.parametrize("text", ["YQ", "YQ=", "Y Q=", "-_==", "====", "YQ==\n", "YQ==YQ=="])
def test_json_takes_bytes_only_as_padded_standard_base64(text: str) -> None:
    (item,) = JSON.decode(json.dumps({"type": "publish", "ref": 1, "ciphertext": text}).encode())
    assert isinstance(item, Invalid)


def test_unknown_fields_are_ignored() -> None:
    assert JSON.decode(b'{"type":"ping","t":1,"more":[{"a":[1e5,null]}]}') == [Ping(1)]


@pytest.mark.parametrize(
    "data",
    [b"", b" ", b"{", b"[1,", b'{"type":"ping"} x', b"[]]", b"nonsense", b"{'type':'ping'}", b'[{"t":NaN}]'],
)
def test_what_is_not_json_does_not_parse(data: bytes) -> None:
    with pytest.raises(FrameError):
        JSON.decode(data)


@pytest.mark.parametrize(
    "data", [b"", b"\xc1", b"\x92\x01", b"\xdd\xff\xff\xff\xff", b"\x81\xa4type\xa4ping\xc0", b"\x91\xc1"]
)
def test_what_is_not_messagepack_does_not_parse(data: bytes) -> None:
    with pytest.raises(FrameError):
        MSGPACK.decode(data)


@pytest.mark.parametrize(
    "prefix", [b"", b'[{"type":"ping"},', b'{"type":"ping","more":', b'{"type":"ack","ids":']
)
def test_deep_json_does_not_parse(prefix: bytes) -> None:
    with pytest.raises(FrameError):
        JSON.decode(prefix + b"[" * 500_000)
    with pytest.raises(FrameError):
        JSON.decode(prefix + b'{"a":' * 150_000)


@pytest.mark.parametrize("prefix", [b"", b"\x81\xa4more", b"\x82\xa4type\xa4ping\xa4more"])
def test_deep_messagepack_does_not_parse(prefix: bytes) -> None:
    with pytest.raises(FrameError):
        MSGPACK.decode(prefix + b"\x91" * 500_000 + b"\xc0")


@both
def test_an_array_of_nonsense_does_not_parse(codec: Codec) -> None:
    assert len(codec.decode(encoded(codec, [None] * MAX_INVALID_ITEMS))) == MAX_INVALID_ITEMS
    with pytest.raises(FrameError):
        codec.decode(encoded(codec, [None] * (MAX_INVALID_ITEMS + 1)))


@both
def test_a_client_passes_over_what_it_does_not_know(codec: Codec) -> None:
    frame = encoded(codec, [{"type": "news", "x": 1}, {"type": "epoch", "epoch": 2, "more": 1}, 5])
    assert codec.decode_from_server(frame) == [EpochChanged(2)]
    assert codec.decode_from_server(encoded(codec, {"type": "news"})) == []


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
near_misses = st.fixed_dictionaries(
    {"type": st.sampled_from(["publish", "ack", "nack", "subscribe", "status", "ping", "hello", "x"])},
    optional=dict.fromkeys(
        ("ref", "ciphertext", "recipient", "bucket", "ids", "code", "t", "client", "key", "buckets"),
        json_values,
    ),
)


@given(items=st.lists(near_misses | json_values, max_size=6))
def test_every_item_of_an_array_is_accounted_for(items: list[Any]) -> None:
    assert len(JSON.decode(json.dumps(items).encode())) == len(items)


@given(items=st.lists(near_misses, max_size=6))
def test_both_encodings_refuse_the_same_items(items: list[Any]) -> None:
    plain = json.loads(json.dumps(items))
    for item in plain:
        if isinstance(item.get("ciphertext"), str):
            item["ciphertext"] = base64.b64encode(item["ciphertext"].encode()).decode()
        if isinstance(item.get("key"), str):
            item["key"] = None
    from_json = JSON.decode(json.dumps(plain).encode())
    for item in plain:
        if isinstance(item.get("ciphertext"), str):
            item["ciphertext"] = base64.b64decode(item["ciphertext"])
    try:
        data = msgspec.msgpack.encode(plain)
    except OverflowError:
        return

    def verdict(item: Any) -> Any:
        return (item.ref, item.type) if isinstance(item, Invalid) else item

    assert list(map(verdict, MSGPACK.decode(data))) == list(map(verdict, from_json))


@both
@given(data=st.binary(max_size=300))
def test_random_bytes_raise_nothing_but_frame_error(codec: Codec, data: bytes) -> None:
    for view in (data, bytearray(data), memoryview(data)):
        for decode in (codec.decode, codec.decode_from_server):
            try:
                decode(view)
            except FrameError as error:
                assert str(error)


@both
@given(items=st.lists(client_messages, min_size=1, max_size=4), data=st.data())
def test_damaged_frames_raise_nothing_but_frame_error(
    codec: Codec, items: list[ClientMessage], data: st.DataObject
) -> None:
    frame = bytearray(codec.encode(items, LIMIT)[0])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(frame) - 1))
        frame[at] = data.draw(st.integers(0, 255))
    try:
        decoded = codec.decode(frame)
    except FrameError:
        return
    for item in decoded:
        if isinstance(item, Ping):
            codec.encode([Pong(item.t, 1)], LIMIT)
