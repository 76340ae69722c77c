"""docs/protocol.md 2, the paragraphs before 2.1: frames, arrays, refs, and what is wrong with an item or a frame."""

from collections.abc import Callable
from typing import Any

import pytest
from relay_process import RelayProcess
from wire_client import ENCODINGS, encode
from wire_fixtures import Dial, RelayOf
from wire_keys import Key, message_id
from wire_socket import BINARY, CONTINUATION, PING, TEXT, Closed


@pytest.fixture
def relay(shared_relay: RelayOf) -> RelayProcess:
    return shared_relay()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_frame_is_one_message_or_an_array_handled_in_order(
    relay: RelayProcess, dial: Dial, encoding: str
) -> None:
    client = dial(relay, encoding=encoding)
    client.send({"type": "ping", "t": 1})
    client.expect("pong", t=1)
    client.send_array([{"type": "ping", "t": n} for n in range(100)])
    assert [client.expect("pong")["t"] for _ in range(100)] == list(range(100))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_an_array_may_mix_types(
    relay: RelayProcess, dial: Dial, key: Callable[[str], Key], encoding: str
) -> None:
    reader = key("reader")
    client = dial(relay, reader, encoding)
    client.send_array(
        [
            {"type": "subscribe", "ref": 1},
            {"type": "publish", "ref": 2, "recipient": reader.address, "ciphertext": b"one"},
            {"type": "ack", "ids": [message_id(b"unknown")]},
            {"type": "status", "ref": 3},
            {"type": "ping", "t": 4},
        ]
    )
    for kind in ("subscribed", "message", "status", "pong"):
        client.wait_for(kind)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("items", [[], [{"type": "ping", "t": 0}]], ids=["empty", "of one"])
def test_short_arrays_are_fine(relay: RelayProcess, dial: Dial, encoding: str, items: list[Any]) -> None:
    client = dial(relay, encoding=encoding)
    client.send_array(items)
    assert [item["type"] for item in client.settle()] == ["pong"] * len(items)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_message_in_fragments_with_a_ping_between_is_one_message(
    relay: RelayProcess, dial: Dial, encoding: str
) -> None:
    client = dial(relay, encoding=encoding)
    payload = b'{"type":"ping","t":"parts"}' if encoding == "json" else b"\x82\xa4type\xa4ping\xa1t\xa5parts"
    client.send_frame(TEXT if encoding == "json" else BINARY, payload[:5], fin=False)
    client.send_frame(PING, b"between")
    for byte in payload[5:-1]:
        client.send_frame(CONTINUATION, bytes([byte]), fin=False)
    client.send_frame(CONTINUATION, payload[-1:])
    client.expect("pong", t="parts")
    assert client.pongs == [b"between"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("ref", [0, 1, 2**32, 2**53 - 1])
def test_ref_is_echoed(relay: RelayProcess, dial: Dial, encoding: str, ref: int) -> None:
    client = dial(relay, encoding=encoding)
    client.send({"type": "status", "ref": ref})
    client.expect("status", ref=ref)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("ref", [-1, 2**53, 1.5, "1", None, True])
def test_an_unusable_ref_is_invalid_and_not_echoed(
    relay: RelayProcess, dial: Dial, encoding: str, ref: object
) -> None:
    client = dial(relay, encoding=encoding)
    client.send({"type": "status", "ref": ref})
    assert "ref" not in client.expect("error", code="invalid")
    client.send({"type": "publish", "ref": ref, "recipient": "x", "ciphertext": b"x"})
    assert "ref" not in client.expect("error", code="invalid")
    assert client.settle() == []


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_unknown_fields_are_ignored(
    relay: RelayProcess, dial: Dial, key: Callable[[str], Key], encoding: str
) -> None:
    client = dial.unopened(relay, encoding)
    client.open(key("reader"), colour="red", nested={"a": [1, None]})
    client.send({"type": "ping", "t": 1, "colour": ["x", {"y": 2.5}]})
    client.expect("pong", t=1)
    client.send({"type": "status", "ref": 1, "t": b"bytes"})
    client.expect("status", ref=1)
    result = client.post(
        b"x", recipient=key("reader").address, id="not yours to say", **{"relay:id": "a" * 64}
    )
    assert result["status"] == "stored"


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    "item",
    [
        {"type": "unheard-of"},
        {"type": "unheard-of", "ref": 9},
        {"type": 5},
        {"type": None},
        {},
        {"type": "welcome", "ref": 9},
        {"type": "subscribe"},
        {"type": "subscribe", "ref": 9, "addresses": "one"},
        {"type": "subscribe", "ref": 9, "addresses": [5]},
        {"type": "subscribe", "ref": 9, "buckets": {}},
        {"type": "subscribe", "ref": 9, "live": "yes"},
        {"type": "subscribe", "ref": 9, "reader": 5},
        {"type": "unsubscribe"},
        {"type": "unsubscribe", "ref": 9, "buckets": 1},
        {"type": "ack"},
        {"type": "ack", "ids": "one"},
        {"type": "ack", "ids": [1]},
        {"type": "nack", "ids": []},
        {"type": "nack", "ids": [], "code": "no-such"},
        {"type": "nack", "ids": [], "code": "busy", "retry_after_ms": -1},
        {"type": "nack", "ids": [], "code": "busy", "retry_after_ms": "soon"},
        {"type": "status"},
        5,
        "text",
        None,
        True,
        [],
        [{"type": "ping", "t": 0}],
    ],
    ids=str,
)
def test_a_bad_item_is_answered_alone_and_the_rest_goes_on(
    relay: RelayProcess, dial: Dial, encoding: str, item: Any
) -> None:
    client = dial(relay, encoding=encoding)
    client.send_array([{"type": "ping", "t": 1}, item, {"type": "ping", "t": 2}])
    client.expect("pong", t=1)
    error = client.expect("error", code="invalid")
    assert error["detail"] and error["retryable"] is False
    assert error.get("ref") == (item.get("ref") if isinstance(item, dict) else None)
    client.expect("pong", t=2)
    assert client.settle() == []


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"ciphertext": 5},
        {"ciphertext": None},
        {"ciphertext": ["x"]},
        {"ciphertext": b"x", "recipient": 5},
        {"ciphertext": b"x", "bucket": []},
        {"ciphertext": b"x", "mode": "fast"},
        {"ciphertext": b"x", "mode": 1},
        {"ciphertext": b"x", "ttl_s": "long"},
        {"ciphertext": b"x", "ttl_s": -1},
        {"ciphertext": b"x", "ttl_s": 0},
        {"ciphertext": b"x", "receipts": "delivered"},
        {"ciphertext": b"x", "receipts": ["read"]},
        {"ciphertext": b""},
    ],
    ids=str,
)
def test_a_bad_publish_with_a_usable_ref_is_rejected_invalid(
    relay: RelayProcess, dial: Dial, key: Callable[[str], Key], encoding: str, fields: dict[str, Any]
) -> None:
    client = dial(relay, encoding=encoding)
    item = {"type": "publish", "ref": 9, "recipient": key("reader").address} | fields
    client.send_array([item, {"type": "ping", "t": 2}])
    result = client.expect("result", ref=9, status="rejected", code="invalid", fallback=False)
    assert result.get("id") is None
    client.expect("pong", t=2)


@pytest.mark.parametrize(
    ("encoding", "payload"),
    [
        ("json", b"not json"),
        ("json", b""),
        ("json", b'{"type":"ping","t":1'),
        ("json", b'{"type":"ping"} trailing'),
        ("json", b"[" * 100_000),
        ("msgpack", b""),
        ("msgpack", b"\xc1"),
        ("msgpack", b"\x81\xa4type\xa4pi"),
        ("msgpack", b"\x91" * 100_000),
        ("msgpack", b"\xc0trailing"),
        ("msgpack", b"\xdd\xff\xff\xff\xff"),
        ("msgpack", b"\xdf\xff\xff\xff\xff"),
        ("msgpack", b"\xc6\xff\xff\xff\xff"),
    ],
    ids=lambda value: str(value[:30]),
)
def test_a_frame_that_does_not_parse_is_answered_and_closed_4503(
    relay: RelayProcess, dial: Dial, encoding: str, payload: bytes
) -> None:
    client = dial(relay, encoding=encoding)
    client.send_payload(payload)
    client.expect("error", code="invalid")
    assert client.wait_closed().code == 4503


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("frame", [5, "text", None])
def test_a_frame_of_something_else_is_answered(
    relay: RelayProcess, dial: Dial, encoding: str, frame: object
) -> None:
    client = dial(relay, encoding=encoding)
    client.send_payload(encode(frame, encoding))
    client.expect("error", code="invalid")
    try:
        assert client.settle() == []
    except Closed as closed:
        assert closed.code == 4503


def test_text_that_is_not_utf8_closes_1007(relay: RelayProcess, dial: Dial) -> None:
    client = dial(relay, encoding="json")
    client.send_frame(TEXT, b'{"type":"ping","t":"\xff"}')
    assert client.wait_closed().code in (1007, 4503)


@pytest.mark.parametrize("ciphertext", ["AAA", "AA==AA==", "A A=", "_-_-", "AAAA\n"])
def test_json_byte_strings_are_standard_base64_with_padding(
    relay: RelayProcess, dial: Dial, key: Callable[[str], Key], ciphertext: str
) -> None:
    client = dial(relay, encoding="json")
    client.send({"type": "publish", "ref": 1, "recipient": key("reader").address, "ciphertext": ciphertext})
    client.expect("result", ref=1, status="rejected", code="invalid")


def test_messages_cross_from_one_encoding_to_the_other_unchanged(
    relay: RelayProcess, dial: Dial, key: Callable[[str], Key]
) -> None:
    every_byte = bytes(range(256)) * 3 + b"x"
    for sent_in, read_in in (("json", "msgpack"), ("msgpack", "json")):
        reader = key(read_in)
        client = dial(relay, reader, read_in)
        client.subscribe()
        sender = dial(relay, encoding=sent_in)
        ref = sender.publish(every_byte, recipient=reader.address)
        message = client.message()
        assert message["ciphertext"] == every_byte
        assert message["id"] == message_id(every_byte)
        client.ack(message["id"])
        assert sender.result(ref)["status"] in ("delivered", "stored")
