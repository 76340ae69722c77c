"""docs/protocol.md 0 (identities) and 1: choosing the dialect, plain HTTP, frame limits, keep-alive."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from relay_process import RelayProcess
from wire_client import ENCODINGS, PROTOCOL, WireClient
from wire_fixtures import Dial, RelayOf
from wire_keys import Key, base58, bucket_of_number
from wire_socket import BINARY, CONTINUATION, PING, TEXT, Closed, Refused, WireSocket

VECTORS = json.loads((Path(__file__).parents[1] / "unit/data/identity_vectors.json").read_text())
SUBSCRIBE_LEGACY = json.dumps(
    {"Type": "SubscribeMessage", "Data": {"userID": "u", "subscriptionKey": bucket_of_number(7)}}
)


@pytest.fixture
def relay(shared_relay: RelayOf) -> RelayProcess:
    return shared_relay()


# --- 0


@pytest.mark.parametrize("vector", [one for one in VECTORS if "key" in one], ids=lambda one: str(one["name"]))
def test_both_forms_of_an_address_and_both_buckets_are_those_of_the_vectors(
    vector: dict[str, dict[str, str]],
) -> None:
    key = Key(bytes.fromhex(vector["key"]["seed_hex"]))
    assert key.public.hex() == vector["key"]["public_hex"]
    assert [key.address, key.identity_address] == list(vector["addresses"])
    assert {"14 bits": key.bucket_14, "16 bits": key.bucket_16} == vector["buckets"]


# --- 1, the table


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (["posthouse.v2.msgpack"], "posthouse.v2.msgpack"),
        (["posthouse.v2.json"], "posthouse.v2.json"),
        (["posthouse.v2.json", "posthouse.v2.msgpack"], "posthouse.v2.json"),
        (["posthouse.v2.msgpack", "posthouse.v2.json"], "posthouse.v2.msgpack"),
        (["chat", "posthouse.v2.json", "mqtt"], "posthouse.v2.json"),
    ],
)
def test_the_clients_first_known_subprotocol_wins(
    relay: RelayProcess, dial: Dial, offered: list[str], chosen: str
) -> None:
    opened = dial.socket(relay, protocols=offered)
    assert opened.response["sec-websocket-protocol"] == chosen
    opcode, _ = opened.read_message()
    assert opcode == (TEXT if chosen.endswith("json") else BINARY)


def test_no_subprotocol_is_the_legacy_dialect(relay: RelayProcess, dial: Dial) -> None:
    opened = dial.socket(relay)
    assert "sec-websocket-protocol" not in opened.response
    opened.send_text(SUBSCRIBE_LEGACY)
    assert opened.read_text() == '{"subscribe": true}'


def test_no_subprotocol_is_refused_with_400_where_legacy_is_off(shared_relay: RelayOf) -> None:
    relay = shared_relay("legacy.enabled = false\n")
    with pytest.raises(Refused) as refused:
        WireSocket(relay.port)
    assert refused.value.status == 400
    assert "legacy" not in json.loads(relay.get("/", port=relay.port)[1])["dialects"]


@pytest.mark.parametrize("offered", [["chat"], ["posthouse.v3.msgpack", "POSTHOUSE.V2.JSON"]])
def test_only_unknown_subprotocols_are_refused_with_400(relay: RelayProcess, offered: list[str]) -> None:
    with pytest.raises(Refused) as refused:
        WireSocket(relay.port, protocols=offered)
    assert refused.value.status == 400


# --- 1, the sentences


@pytest.mark.parametrize("path", ["/", "/ws", "/a/b?c=d", "/%20"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_any_path_is_accepted(relay: RelayProcess, dial: Dial, path: str, encoding: str) -> None:
    dial.unopened(relay, encoding, path=path).open()


def test_plain_get_of_the_root_answers_the_information_document(relay: RelayProcess, dial: Dial) -> None:
    status, body = relay.get("/", port=relay.port)
    assert status == 200
    document = json.loads(body)
    welcome = dial(relay).welcome
    assert document["relay"] == welcome["relay"]
    assert document["epoch"] == welcome["epoch"]
    assert document["role"] == "active"
    assert document["name"] and document["version"]
    assert set(document["dialects"]) >= set(PROTOCOL.values()) | {"legacy"}
    assert document["public_names"] == []
    assert document["limits"]["max_frame_bytes"] == 1 << 20
    assert welcome["limits"].items() - document["limits"].items() <= {
        # It differs by what the connection is; the document has that of keys.
        ("buckets_per_connection", welcome["limits"]["buckets_per_connection"])
    }


@pytest.mark.parametrize(("method", "path"), [("GET", "/other"), ("POST", "/"), ("HEAD", "/"), ("PUT", "/x")])
def test_other_plain_requests_answer_426(relay: RelayProcess, method: str, path: str) -> None:
    assert relay.get(path, method, port=relay.port)[0] == 426


def test_permessage_deflate_is_never_negotiated(relay: RelayProcess, dial: Dial) -> None:
    opened = dial.unopened(
        relay, headers=["Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"]
    )
    assert "sec-websocket-extensions" not in opened.response
    opened.open()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_frame_over_the_limit_closes_1009_before_it_is_read(
    relay: RelayProcess, dial: Dial, encoding: str
) -> None:
    client = dial(relay, encoding=encoding)
    # Only the head of the frame: the relay must not wait for the rest.
    client.send_bytes(
        bytes([0x81 if encoding == "json" else 0x82, 0xFF]) + ((1 << 20) + 1).to_bytes(8) + b"mask"
    )
    assert client.wait_closed().code == 1009


def test_fragments_over_the_limit_together_close_1009(relay: RelayProcess, dial: Dial) -> None:
    client = dial(relay)
    part = bytes(300_000)
    client.send_frame(BINARY, part, fin=False)
    for _ in range(3):
        client.send_frame(CONTINUATION, part, fin=False)
    assert client.wait_closed().code == 1009


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_frame_of_just_the_limit_is_read(relay: RelayProcess, dial: Dial, encoding: str) -> None:
    client = dial(relay, encoding=encoding)
    empty = len('{"type":"ping","t":"","pad":""}') if encoding == "json" else 0
    if encoding == "json":
        client.send_payload(b'{"type":"ping","t":"","pad":"' + b"x" * ((1 << 20) - empty) + b'"}')
    else:
        head = b"\x83\xa4type\xa4ping\xa1t\xa0\xa3pad\xdb"
        length = (1 << 20) - len(head) - 4
        client.send_payload(head + length.to_bytes(4) + b"x" * length)
    client.expect("pong", t="")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_servers_own_arrays_stay_below_the_frame_limit(
    shared_relay: RelayOf, dial: Dial, key: Callable[[str], Key], encoding: str
) -> None:
    relay = shared_relay("limits.max_frame_bytes = 65536\n")
    reader, sender = key("reader"), dial(relay, key("sender"))
    refs = [sender.publish(bytes([n]) * 9000, recipient=reader.address) for n in range(40)]
    assert {sender.result(ref)["status"] for ref in refs} == {"stored"}
    client = dial(relay, reader, encoding)
    client.request("subscribe")
    seen, sizes = 0, []
    while seen < 40:
        _, payload = client.read_message()
        sizes.append(len(payload))
        seen += payload.count(b"received_at")
    assert max(sizes) <= 65536
    assert len(sizes) < 40


# --- 1, keep-alive


def test_pings_of_either_dialect_are_answered_with_their_payload(relay: RelayProcess, dial: Dial) -> None:
    legacy = dial.socket(relay)
    for opened in (legacy, dial(relay)):
        opened.send_frame(PING, b"are you there")
        opened.wait_pong(b"are you there")


@pytest.mark.parametrize("protocols", [(), ("posthouse.v2.json",), ("posthouse.v2.msgpack",)], ids=str)
def test_a_silent_peer_is_pinged_and_then_closed_1011(
    shared_relay: RelayOf, dial: Dial, protocols: tuple[str, ...]
) -> None:
    relay = shared_relay("limits.idle_timeout_s = 1.0\n")
    opened = dial.socket(relay, protocols=protocols)
    opened.auto_pong = False
    assert opened.wait_closed().code == 1011
    assert opened.pings


def test_a_peer_that_answers_pings_stays(shared_relay: RelayOf, dial: Dial) -> None:
    relay = shared_relay("limits.idle_timeout_s = 1.0\n")
    answering = dial(relay)
    # Two silent ones, one after the other, are closed meanwhile: longer than the limit in any case.
    for _ in range(2):
        silent = dial(relay)
        silent.auto_pong = False
        closed = None
        while closed is None:
            _look(answering)
            closed = _look(silent)
        assert closed.code == 1011
    assert answering.pings
    assert answering.settle() == []


def _look(client: WireClient) -> Closed | None:
    """Answer a ping if there is one; how the relay has closed it, if it has."""
    try:
        client.read_message(0.02)
    except TimeoutError:
        return None
    except Closed as closed:
        return closed
    raise AssertionError("nothing but pings was expected")


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("t", [0, 1.5, "text", None, 2**53])
def test_v2_has_a_ping_of_its_own(relay: RelayProcess, dial: Dial, encoding: str, t: object) -> None:
    client = dial(relay, encoding=encoding)
    client.send({"type": "ping", "t": t})
    pong = client.expect("pong", t=t)
    assert abs(pong["server_time"] - client.challenge["server_time"]) < 60_000


def test_an_address_is_only_valid_in_its_exact_base58_form(
    relay: RelayProcess, dial: Dial, key: Callable[[str], Key]
) -> None:
    reader, sender = key("reader"), dial(relay)
    for wrong in (
        f" {reader.address}",
        f"{reader.address} ",
        reader.address[:-1],
        f"1{reader.address}",
        base58(b"x" * 34),
    ):
        result = sender.post(b"x", recipient=wrong)
        assert (result["status"], result["code"], result["fallback"]) == ("rejected", "invalid", False)
