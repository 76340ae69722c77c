"""Peers that mean harm before they are clients: no request, half a request, too many of them."""

import contextlib
import random
import socket
from collections.abc import Callable, Iterator

import pytest
from machine import need
from relay_process import RelayProcess
from wire_attack import MIB, Patient, memory_bytes, raise_open_files, wait_until
from wire_client import WireClient
from wire_fixtures import Dial, RelayOf
from wire_keys import Key
from wire_socket import TIMEOUT_S, Closed, WireSocket, request_head

HALF_OPEN = 10_000
GROWTH_BYTES = 96 * MIB


@pytest.fixture
def crowd() -> Iterator[list[socket.socket]]:
    """Sockets that are closed in the end."""
    sockets: list[socket.socket] = []
    yield sockets
    for one in sockets:
        one.close()


def connect(relay: RelayProcess) -> socket.socket:
    """A TCP connection that has said nothing."""
    return socket.create_connection(("127.0.0.1", relay.port), TIMEOUT_S)


def read_all(one: socket.socket) -> bytes:
    """Everything until the relay ends the connection."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while part := one.recv(1 << 16):
            data += part
    return data


@pytest.fixture
def besieged(
    own_relay: RelayOf, key: Callable[[str], Key]
) -> Iterator[Callable[[str], tuple[RelayProcess, Patient]]]:
    """besieged(config): a relay of this test, and a healthy client of it."""
    patients: list[Patient] = []

    def start(config: str = "") -> tuple[RelayProcess, Patient]:
        relay = own_relay(config)
        patients.append(Patient(relay, key("patient")))
        return relay, patients[-1]

    yield start
    for one in patients:
        one.close()


Besieged = Callable[..., tuple[RelayProcess, Patient]]


def test_random_bytes_instead_of_a_request_are_answered_400_or_ended(
    besieged: Besieged, crowd: list[socket.socket]
) -> None:
    relay, patient = besieged("limits.handshake_timeout_s = 0.5\n")
    chance = random.Random(1)
    for length in [1, 3, 100, 5000, 200_000] * 20:
        crowd.append(connect(relay))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            crowd[-1].sendall(chance.randbytes(length))
    patient.is_served()
    for one in crowd:
        answer = read_all(one)
        assert not answer or answer.startswith(b"HTTP/1.1 4")
    patient.is_served()


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\r\n\r\n",
        b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 7\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
        b"GET /" + b"y" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: \x00\xff\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n",
    ],
    ids=lambda head: repr(head[:40]),
)
def test_a_request_that_is_none_is_answered_with_an_error(
    shared_relay: RelayOf, crowd: list[socket.socket], head: bytes
) -> None:
    crowd.append(connect(shared_relay()))
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        crowd[0].sendall(head)
    answer = read_all(crowd[0])
    assert not answer or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5")), answer[:100]


def test_slow_loris_handshakes_are_dropped_in_time_however_they_drip(
    besieged: Besieged, crowd: list[socket.socket]
) -> None:
    relay, patient = besieged("limits.handshake_timeout_s = 1\n")
    head = request_head("127.0.0.1", ["posthouse.v2.json"])
    crowd += [connect(relay) for _ in range(300)]
    alive, at = list(crowd), 0
    while alive:
        at += 1
        patient.is_served()
        for one in list(alive):
            one.setblocking(False)
            try:
                one.send(head[at % (len(head) - 4) :][:1])
                if one.recv(100) == b"":
                    alive.remove(one)
            except BlockingIOError:
                pass
            except (BrokenPipeError, ConnectionResetError):
                alive.remove(one)
        assert at < 100_000
    patient.is_served()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("held", [1024, HALF_OPEN])
def test_ten_thousand_half_open_connections_leave_the_relay_up_and_small(
    besieged: Besieged, crowd: list[socket.socket], held: int
) -> None:
    possible = raise_open_files(HALF_OPEN + 2000)
    need("open-files", possible, "too few open files are allowed for 10,000 half-open connections")
    relay, patient = besieged(f"limits.max_handshakes = {held}\nlimits.handshake_timeout_s = 100\n")
    before = memory_bytes(relay)
    for n in range(HALF_OPEN + 10):
        one = connect(relay)
        crowd.append(one)
        if n % 2:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                one.sendall(b"GET / HTTP/1.1\r\nHost: half")
        if n % 500 == 0:
            patient.is_served()
    patient.is_served()
    with WireClient(relay.port) as newcomer:
        newcomer.open()
    assert memory_bytes(relay) - before < GROWTH_BYTES
    # Those that came first have to go, and are told so.
    assert read_all(crowd[0]).startswith(b"HTTP/1.1 503")


def test_a_flood_beyond_max_connections_is_closed_1013_and_those_inside_are_served(
    besieged: Besieged, dial: Dial
) -> None:
    relay, patient = besieged("limits.max_connections = 30\n")
    inside = [dial(relay) for _ in range(29)]
    for n in range(500):
        with WireSocket(relay.port, protocols=["posthouse.v2.json"]) as one, pytest.raises(Closed) as refused:
            one.read_message()
        assert refused.value.code == 1013
        if n % 50 == 0:
            patient.is_served()
    for one_inside in inside:
        assert one_inside.settle() == []
        one_inside.close()

    def admitted() -> bool:
        try:
            with WireClient(relay.port) as newcomer:
                newcomer.open()
        except Closed:
            return False
        return True

    wait_until(admitted)


def test_connections_that_come_and_go_leave_nothing_behind(besieged: Besieged) -> None:
    relay, patient = besieged()
    for _ in range(300):
        WireSocket(relay.port).close()
    before = memory_bytes(relay)
    for n in range(1500):
        with WireSocket(relay.port, protocols=["posthouse.v2.json"]) as one:
            if n % 3:
                one.send_text("[" * (n % 100))
        if n % 300 == 0:
            patient.is_served()
    patient.is_served()
    assert memory_bytes(relay) - before < 32 * MIB
    wait_until(lambda: relay.status()["connections"] == 1)
