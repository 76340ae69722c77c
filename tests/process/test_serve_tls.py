"""TLS of a running relay: a certificate that changes under it."""

import signal
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from certificates import Pair, make_pair
from relay_process import RelayProcess
from websockets.sync.client import ClientConnection, connect
from wire_keys import named_key

MakeRelay = Callable[..., RelayProcess]
FIRST, SECOND = make_pair("first"), make_pair("second")
LOOK_OFTEN = "server.tls_reload_s = 0.1\nserver.drain_s = 0\n"
SELDOM = "server.tls_reload_s = 3600\n"


@pytest.fixture
def make_tls_relay(make_relay: MakeRelay, tmp_path: Path) -> MakeRelay:
    def make(config: str) -> RelayProcess:
        certificate, key = FIRST.write(tmp_path)
        relay = make_relay("--tls-cert", str(certificate), "--tls-key", str(key), config=config)
        return relay.start()

    return make


def client(relay: RelayProcess, trusted: Pair) -> ClientConnection:
    return connect(relay.url, ssl=trusted.trusting(), subprotocols=["posthouse.v2.json"])  # type: ignore[list-item]


def is_trusted(relay: RelayProcess, pair: Pair) -> bool:
    """Whether a new connection is served with this certificate."""
    try:
        with client(relay, pair):
            return True
    except ssl.SSLCertVerificationError:
        return False


def test_a_client_speaks_over_tls_and_hears_the_end(make_tls_relay: MakeRelay) -> None:
    relay = make_tls_relay(LOOK_OFTEN)
    with client(relay, FIRST) as connection:
        assert '"challenge"' in str(connection.recv(timeout=20))
        connection.send('{"type":"hello","client":"t"}')
        assert '"welcome"' in str(connection.recv(timeout=20))
        big = "A" * 400_000
        connection.send(
            f'{{"type":"publish","ref":1,"recipient":"{named_key("alice").address}","ciphertext":"{big}"}}'
        )
        assert '"stored"' in str(connection.recv(timeout=20))
        relay.signal(signal.SIGTERM)
        assert '"goaway"' in str(connection.recv(timeout=20))
        with pytest.raises(Exception, match="1012"):
            connection.recv(timeout=20)
    assert relay.wait() == 0


def test_a_new_certificate_is_taken_up_without_a_restart_and_old_connections_stay(
    make_tls_relay: MakeRelay, tmp_path: Path
) -> None:
    relay = make_tls_relay(LOOK_OFTEN)
    with client(relay, FIRST) as old:
        SECOND.write(tmp_path)
        line = relay.wait_for("certificate loaded")
        assert line["file"] == str(tmp_path / "cert.pem") and line["expires"]
        # Certificate and key are two files: the relay may have looked between them, and then looks again.
        assert is_trusted(relay, SECOND)
        assert not is_trusted(relay, FIRST)
        assert '"challenge"' in str(old.recv(timeout=20))


def test_a_broken_certificate_is_refused_until_it_is_whole(make_tls_relay: MakeRelay, tmp_path: Path) -> None:
    relay = make_tls_relay(LOOK_OFTEN)
    (tmp_path / "key.pem").write_bytes(SECOND.key)
    assert relay.wait_for("new certificate refused, the old one stays")["reason"]
    assert is_trusted(relay, FIRST)
    SECOND.write(tmp_path)
    relay.wait_for("certificate loaded")
    assert is_trusted(relay, SECOND)


def test_sighup_loads_the_certificate_and_the_log_level(make_tls_relay: MakeRelay, tmp_path: Path) -> None:
    relay = make_tls_relay(SELDOM)
    SECOND.write(tmp_path)
    (relay.folder / "posthouse.toml").write_text(SELDOM + "log.level = 'error'\nserver.name = 'other'\n")
    relay.signal(signal.SIGHUP)
    line = relay.wait_for("configuration read again")
    assert (line["applied"], line["needs_restart"]) == (["log.level"], ["server.name"])
    relay.get("/healthz")  # a turn of its loop later
    assert is_trusted(relay, SECOND)
    assert "certificate loaded" not in relay.events()  # below the level
    (relay.folder / "posthouse.toml").write_text(SELDOM + "log.level = 'nonsense'\n")
    relay.signal(signal.SIGHUP)
    assert "log.level" in relay.wait_for("configuration refused, the old one stays")["reason"]
    (relay.folder / "posthouse.toml").write_text(SELDOM)
    relay.signal(signal.SIGHUP)
    relay.wait_for("certificate loaded")
    assert is_trusted(relay, SECOND)
    relay.wait_for("session ended")


def test_half_open_connections_by_the_thousand_leave_it_serving(make_tls_relay: MakeRelay) -> None:
    relay = make_tls_relay("limits.max_handshakes = 200\n")
    before = relay.metrics()["process_resident_memory_bytes"]
    halves = []
    try:
        for number in range(1000):
            half = socket.create_connection(("127.0.0.1", relay.port), 20)
            halves.append(half)
            half.sendall(b"\x16\x03\x01\x02"[: number % 5])
        assert is_trusted(relay, FIRST)
        metrics = relay.metrics()
        assert metrics["posthouse_handshakes_crowded_out_total"] >= 700
        assert metrics["posthouse_handshakes_open"] <= 200
        assert metrics["process_resident_memory_bytes"] - before < 64 * 2**20
    finally:
        for half in halves:
            half.close()


def test_speaking_without_tls_is_refused_and_counted(make_tls_relay: MakeRelay) -> None:
    relay = make_tls_relay(SELDOM)
    with socket.create_connection(("127.0.0.1", relay.port), 20) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"HTTP" not in plain.recv(4096)
    assert relay.metrics()["posthouse_tls_failures_total"] == 1
    assert is_trusted(relay, FIRST)
