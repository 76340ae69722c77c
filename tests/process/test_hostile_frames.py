"""Frames that mean harm: lies about lengths, torn and random bytes, wrong types by the thousand, floods."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from relay_process import RelayProcess
from wire_attack import MIB, Patient, memory_bytes, wait_until
from wire_client import ENCODINGS, PROTOCOL, Item, encode
from wire_fixtures import Dial, RelayOf
from wire_keys import Key, message_id
from wire_socket import ABNORMAL, BINARY, CONTINUATION, PING, TEXT, Closed, WireSocket, frame

KeyOf = Callable[[str], Key]
GROWTH_BYTES = 128 * MIB


@pytest.fixture
def relay(shared_relay: RelayOf) -> RelayProcess:
    return shared_relay()


@pytest.fixture
def patient(relay: RelayProcess, key: KeyOf) -> Iterator[Patient]:
    """A healthy client, served before and after what the test does."""
    one = Patient(relay, key("patient"))
    one.is_served()
    yield one
    one.is_served()
    one.close()


def end_of(client: WireSocket) -> int:
    """The code with which the relay closes."""
    return client.wait_closed().code


# --- frames that no client may send


@pytest.mark.parametrize("protocols", [(), *((one,) for one in PROTOCOL.values())], ids=str)
@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(BINARY, b"x", masked=False), 1002),
        (frame(BINARY, b"x", reserved=4), 1002),
        (frame(BINARY, b"x", reserved=1), 1002),
        (frame(0x3, b"x"), 1002),
        (frame(0xB, b"x"), 1002),
        (frame(CONTINUATION, b"x"), 1002),
        (frame(TEXT, b"x", fin=False) + frame(TEXT, b"y"), 1002),
        (frame(PING, b"x" * 126), 1002),
        (frame(PING, b"x", fin=False), 1002),
        (frame(0x8, b"x"), 1002),
        (frame(0x8, (999).to_bytes(2)), 1002),
        (bytes([0x82, 0xFF]) + (1 << 63).to_bytes(8) + b"mask", 1002),
        (bytes([0x82, 0xFF]) + ((1 << 63) - 1).to_bytes(8) + b"mask", 1009),
        (bytes([0x82, 0xFF]) + ((1 << 64) - 1).to_bytes(8) + b"mask", 1002),
        (bytes([0x82, 0xFF]) + (1 << 32).to_bytes(8) + b"mask", 1009),
    ],
    ids=lambda value: repr(value[:12]) if isinstance(value, bytes) else str(value),
)
def test_a_frame_against_the_rules_closes_with_its_code(
    relay: RelayProcess, patient: Patient, dial: Dial, protocols: tuple[str, ...], data: bytes, code: int
) -> None:
    client = dial.socket(relay, protocols=protocols)
    client.send_bytes(data)
    # Of a length that no frame may have, 1002 and 1009 are both true.
    assert end_of(client) in ((1002, 1009) if data[1:2] == b"\xff" else (code,))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_random_bytes_after_the_handshake(
    relay: RelayProcess, patient: Patient, dial: Dial, encoding: str
) -> None:
    chance = random.Random(2)
    for length in [1, 2, 10, 300, 5000] * 12:
        client = dial.unopened(relay, encoding)
        client.send_bytes(chance.randbytes(length))
        client.shut_output()
        assert end_of(client) in (1000, 1002, 1003, 1005, 1007, 1009, 4503, ABNORMAL)
        client.close()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_torn_frames_are_put_together_wherever_they_are_torn(
    relay: RelayProcess, dial: Dial, key: KeyOf, encoding: str
) -> None:
    client, chance = dial(relay, key("device"), encoding), random.Random(3)
    items: list[Item] = [{"type": "ping", "t": n} for n in range(60)]
    opcode = TEXT if encoding == "json" else BINARY
    stream = b"".join(frame(opcode, encode(item, encoding)) for item in items)
    at = 0
    while at < len(stream):
        size = chance.choice([1, 2, 3, 7, 40])
        client.send_bytes(stream[at : at + size])
        at += size
    assert [client.expect("pong")["t"] for _ in items] == list(range(60))


def test_an_end_in_the_middle_of_a_frame_harms_nobody(
    relay: RelayProcess, patient: Patient, dial: Dial
) -> None:
    whole = frame(BINARY, encode({"type": "ping", "t": 1}, "msgpack"))
    for cut in range(len(whole)):
        client = dial(relay)
        client.send_bytes(whole[:cut])
        client.close()


# --- items


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("opening", [b"[", b'{"a":'], ids=["arrays", "maps"])
def test_nesting_as_deep_as_a_frame_holds(
    relay: RelayProcess, patient: Patient, dial: Dial, encoding: str, opening: bytes
) -> None:
    client = dial(relay, encoding=encoding)
    deep = opening * (1_000_000 // len(opening)) if encoding == "json" else b"\x91" * 1_000_000
    head = b'{"type":"ping","t":1,"x":' if encoding == "json" else b"\x83\xa4type\xa4ping\xa1t\x01\xa1x"
    client.send_payload(head + deep)
    assert end_of(client) == 4503


def base_items(reader: Key) -> list[Item]:
    return [
        {
            "type": "publish",
            "recipient": reader.address,
            "ciphertext": b"x",
            "ttl_s": 5,
            "receipts": ["expired"],
        },
        {"type": "publish", "bucket": reader.bucket_14, "ciphertext": b"x", "mode": "store"},
        {"type": "subscribe", "addresses": [reader.address], "buckets": [], "live": True},
        {"type": "unsubscribe", "addresses": [reader.address]},
        {"type": "ack", "ids": [message_id(b"x")]},
        {"type": "nack", "ids": [message_id(b"x")], "code": "busy", "retry_after_ms": 5},
        {"type": "status"},
        {"type": "ping", "t": 1},
        {"type": "hello", "client": "x", "window": 5},
    ]


def random_value(chance: random.Random, depth: int = 0) -> Any:
    choices: list[Callable[[], Any]] = [
        lambda: chance.choice([None, True, False, "", "x", "publish", b"", b"\xff" * 40]),
        lambda: chance.choice([0, -1, 1 << 31, 1 << 53, (1 << 63) - 1, -(1 << 63), 1.5, 1e308]),
        lambda: "\u0000\ud7ff\U0001f4a9" * chance.randrange(50),
        lambda: chance.randbytes(chance.randrange(200)),
        lambda: [random_value(chance, depth + 1) for _ in range(chance.randrange(4))],
        lambda: {str(n): random_value(chance, depth + 1) for n in range(chance.randrange(4))},
    ]
    return chance.choice(choices[: 4 if depth > 3 else 6])()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_thousands_of_items_with_wrong_types_are_each_answered_alone(
    relay: RelayProcess, patient: Patient, dial: Dial, key: KeyOf, encoding: str
) -> None:
    client, chance = dial(relay, key("fuzz"), encoding), random.Random(4)
    bases = base_items(key("reader"))
    for _ in range(100):
        items: list[Any] = []
        for _ in range(40):
            item = dict(chance.choice(bases), ref=client.new_ref())
            for _ in range(chance.randrange(1, 3)):
                name = chance.choice([*item, "type", "new"])
                if chance.random() < 0.2:
                    item.pop(name, None)
                else:
                    item[name] = random_value(chance)
            items.append(item if chance.random() < 0.95 else random_value(chance))
        client.send_array(items)
        for answer in client.settle():
            assert answer["type"] in (
                "result",
                "error",
                "pong",
                "status",
                "subscribed",
                "caught_up",
                "message",
            )
            assert answer.get("code") != "internal", answer


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_thousands_of_mutated_frames_are_answered_or_closed_4503(
    relay: RelayProcess, patient: Patient, dial: Dial, key: KeyOf, encoding: str
) -> None:
    chance = random.Random(5)
    valid = [encode([dict(item, ref=7)], encoding) for item in base_items(key("reader"))]
    client = dial(relay, key("fuzz"), encoding)
    closes = 0
    for _ in range(2500):
        payload = bytearray(chance.choice(valid))
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(len(payload))
            match chance.randrange(4):
                case 0:
                    payload[at] = chance.randrange(256)
                case 1:
                    del payload[at : at + chance.randrange(1, 9)]
                case 2:
                    payload[at:at] = chance.randbytes(chance.randrange(1, 9))
                case _:
                    payload[at] ^= 1 << chance.randrange(8)
            payload = payload or bytearray(b"x")
        client.send_payload(bytes(payload))
        try:
            for answer in client.settle():
                assert answer.get("code") != "internal", answer
        except Closed as closed:
            assert closed.code in (4503, 1007)
            client.close()
            closes += 1
            client = dial(relay, key("fuzz"), encoding)
    assert closes


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_an_array_of_as_many_bad_items_as_a_frame_holds_is_bounded_work(
    relay: RelayProcess, patient: Patient, dial: Dial, encoding: str
) -> None:
    client = dial(relay, encoding=encoding)
    before = memory_bytes(relay)
    client.send_payload(encode([0] * 300_000, encoding))
    patient.is_served()
    try:
        client.settle()
    except Closed as closed:
        assert closed.code in (4503, 4001)
    assert memory_bytes(relay) - before < GROWTH_BYTES


# --- floods


def send_until_it_blocks(client: WireSocket, data: bytes, most_bytes: int) -> int:
    """Send and never read, until the relay takes no more, ends the connection, or `most_bytes` are sent."""
    sent = 0
    while sent < most_bytes:
        taken = client.send_some(data)
        if taken == 0:
            break
        sent += taken
    return sent


def test_a_flood_of_pings_from_a_peer_that_never_reads(
    relay: RelayProcess, patient: Patient, dial: Dial
) -> None:
    before = memory_bytes(relay)
    client = dial.unopened(relay, receive_buffer_bytes=8192).open()
    send_until_it_blocks(client, frame(PING, b"x" * 125) * 500, 64 * MIB)
    patient.is_served()
    assert memory_bytes(relay) - before < GROWTH_BYTES


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_sender_that_never_reads_its_results(
    relay: RelayProcess, patient: Patient, dial: Dial, key: KeyOf, encoding: str
) -> None:
    before = memory_bytes(relay)
    client = dial.unopened(relay, encoding, receive_buffer_bytes=8192).open(key("sender"))
    items = [{"type": "publish", "ref": n, "recipient": "nobody", "ciphertext": b"x"} for n in range(500)]
    data = frame(TEXT if encoding == "json" else BINARY, encode(items, encoding))
    send_until_it_blocks(client, data, 48 * MIB)
    patient.is_served()
    assert memory_bytes(relay) - before < GROWTH_BYTES
    assert end_of(client) in (4001, ABNORMAL)


@pytest.mark.parametrize("fragment", [b"", b"x"], ids=["empty", "of one byte"])
def test_a_message_in_a_million_fragments_is_bounded(
    relay: RelayProcess, patient: Patient, dial: Dial, fragment: bytes
) -> None:
    before = memory_bytes(relay)
    client = dial(relay)
    client.send_frame(BINARY, b"\xc4", fin=False)
    parts = frame(CONTINUATION, fragment, fin=False) * 10_000
    for n in range(100):
        client.send_bytes(parts)
        if n % 20 == 0:
            patient.is_served()
    assert memory_bytes(relay) - before < GROWTH_BYTES
    client.send_frame(CONTINUATION, b"")
    assert end_of(client) in (4503, 1009, ABNORMAL)


def test_publishes_far_above_what_may_be_in_flight_are_rejected_and_the_rest_bounded(
    shared_relay: RelayOf, dial: Dial, key: KeyOf
) -> None:
    relay = shared_relay("limits.live_timeout_ms = 60000\n")
    patient, before = Patient(relay, key("patient")), memory_bytes(relay)
    sender = dial(relay, key("sender"))
    big = bytes(500_000)
    refs = [sender.publish(b"%d" % n + big, recipient=key("reader").address, mode="live") for n in range(100)]
    patient.is_served()
    for ref in refs[20:]:
        assert sender.result(ref)["code"] == "rate-limited"
    assert memory_bytes(relay) - before < GROWTH_BYTES
    patient.is_served()
    patient.close()


def test_readers_that_never_ack_hold_their_window_and_no_more(
    relay: RelayProcess, patient: Patient, dial: Dial, key: KeyOf
) -> None:
    readers = [dial(relay, key(f"reader {n}"), window=4096) for n in range(8)]
    for reader in readers:
        reader.subscribe()
    before = memory_bytes(relay)
    sender = dial(relay, key("sender"))
    for n in range(400):
        refs = [
            sender.publish(b"%d" % n + bytes(20_000), recipient=key(f"reader {at}").address)
            for at in range(8)
        ]
        assert {sender.result(ref)["status"] for ref in refs} == {"stored"}
    patient.is_served()
    # 64 MiB went through; what is out with a reader may stay in memory up to its outbound limit.
    assert memory_bytes(relay) - before < GROWTH_BYTES


def test_subscriptions_by_the_thousand(relay: RelayProcess, patient: Patient, dial: Dial, key: KeyOf) -> None:
    client = dial(relay, key("reader"))
    for n in range(40):
        client.send_array([{"type": "subscribe", "ref": n * 100 + m} for m in range(100)])
        client.send_array([{"type": "unsubscribe", "ref": 9000 + n * 100 + m} for m in range(100)])
    patient.is_served()
    wait_until(lambda: all(item["type"] != "message" for item in client.settle()))


def test_the_relay_never_met_an_unexpected_error(relay: RelayProcess, dial: Dial) -> None:
    assert "text" not in {name for line in relay.lines for name in line}
    assert not [line for line in relay.lines if line.get("level") in ("error", "critical")]
