"""The certificate that can change, and TLS between a socket and a WebSocket connection."""

import asyncio
import random
import ssl
from pathlib import Path
from typing import Any, cast

import pytest
from certificates import Pair, make_pair
from posthouse.server.tls import Certificate, UnusableCertificate
from posthouse.server.tls_connection import TlsConnection
from posthouse.server.websocket.interface import WebSocketLimits
from websocket_fakes import BINARY, CLOSE, REQUEST, Peer, RecordingTransport, client_frame, server_frames

PAIR = make_pair()


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return Certificate(*PAIR.write(tmp_path))


class TlsPeer:
    """A client that speaks TLS to a `TlsConnection`, byte by byte as a test wants it."""

    def __init__(
        self, context: ssl.SSLContext, pair: Pair = PAIR, limits: WebSocketLimits | None = None
    ) -> None:
        self.plain = Peer(limits)
        self.endpoint = self.plain.endpoint
        self.connection = TlsConnection(self.endpoint, context)
        self.transport = RecordingTransport(self.plain.loop, cast(Any, self.connection))
        self.connection.connection_made(self.transport)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = pair.trusting().wrap_bio(self.incoming, self.outgoing, server_hostname="127.0.0.1")
        self.said = b""
        self.heard_end = False
        self._read = 0

    def feed(self, data: bytes, pieces: int = 1) -> None:
        """Encrypted bytes, in so many reads of the socket."""
        cuts = sorted(random.Random(len(data)).choices(range(len(data) + 1), k=pieces - 1))
        for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
            piece = data[start:end]
            view = self.connection.get_buffer(-1)
            for at in range(0, len(piece), len(view)):
                if self.transport.is_closing():
                    return
                part = piece[at : at + len(view)]
                view[: len(part)] = part
                self.connection.buffer_updated(len(part))
                self.plain.loop.turn()
        self.listen()

    def listen(self) -> None:
        """Decrypt what the server has sent."""
        data = self.transport.data
        self.incoming.write(data[self._read :])
        self._read = len(data)
        if self.tls.version() is None:
            return
        try:
            while piece := self.tls.read(65536):
                self.said += piece
            self.heard_end = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:  # an alert, or the end after our own
            self.heard_end = True

    def shake_hands(self, pieces: int = 1) -> None:
        for _ in range(4):
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                pass
            self.feed(self.outgoing.read(), pieces)

    def say(self, data: bytes, pieces: int = 1) -> None:
        for at in range(0, len(data), 100_000):
            self.tls.write(data[at : at + 100_000])
        self.feed(self.outgoing.read(), pieces)

    def open(self) -> None:
        self.shake_hands()
        self.say(REQUEST)
        assert self.said.startswith(b"HTTP/1.1 101 ")
        self.said = self.said.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("pieces", [1, 3, 400])
def test_messages_come_through_however_they_are_cut(certificate: Certificate, pieces: int) -> None:
    peer = TlsPeer(certificate.context)
    peer.shake_hands(pieces)
    messages = [b"small", bytes(1000), b"x" * 700_000, b"last"]
    peer.say(REQUEST + b"".join(client_frame(BINARY, message) for message in messages), pieces)
    session = peer.plain.session
    assert [data for data, _ in session.messages] == messages
    for message in messages:
        session.connection.send_frame(message, True)
    peer.plain.loop.turn()
    peer.listen()
    answer = peer.said.partition(b"\r\n\r\n")[2]
    assert server_frames(answer) == [(BINARY, message) for message in messages]


def test_what_arrives_with_the_last_of_the_handshake_is_not_lost(certificate: Certificate) -> None:
    peer = TlsPeer(certificate.context)
    with pytest.raises(ssl.SSLWantReadError):
        peer.tls.do_handshake()
    peer.feed(peer.outgoing.read())
    peer.incoming.write(b"")
    peer.tls.do_handshake()
    peer.tls.write(REQUEST)
    peer.feed(peer.outgoing.read())
    assert peer.said.startswith(b"HTTP/1.1 101 ")


def test_a_close_says_the_end_of_tls_after_the_end_of_the_websocket(certificate: Certificate) -> None:
    peer = TlsPeer(certificate.context)
    peer.open()
    peer.plain.session.connection.close(1012, "restart")
    peer.plain.loop.turn()
    peer.say(client_frame(CLOSE, b"\x03\xf4"))
    assert server_frames(peer.said) == [(CLOSE, b"\x03\xf4restart")]
    assert peer.heard_end and peer.transport.is_closing()
    assert peer.plain.session.codes == [1012]


def test_a_peer_that_ends_tls_without_a_close_frame_is_gone(certificate: Certificate) -> None:
    peer = TlsPeer(certificate.context)
    peer.open()
    with pytest.raises(ssl.SSLWantReadError):
        peer.tls.unwrap()
    peer.feed(peer.outgoing.read())
    peer.plain.loop.turn()
    assert peer.plain.session.codes == [1006]
    assert peer.transport.is_closing()


@pytest.mark.parametrize("junk", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05junk!", b"\x00" * 300])
def test_what_is_not_tls_ends_the_connection_and_is_counted(certificate: Certificate, junk: bytes) -> None:
    peer = TlsPeer(certificate.context)
    peer.feed(junk)
    peer.plain.loop.turn()
    assert peer.transport.is_closing()
    assert peer.endpoint.counts.tls_failures == 1
    assert peer.endpoint.opening == {peer.plain.connection: None}  # the fake's own, which never was TLS


def test_a_damaged_record_ends_the_connection(certificate: Certificate) -> None:
    peer = TlsPeer(certificate.context)
    peer.open()
    peer.tls.write(client_frame(BINARY, b"hello"))
    record = bytearray(peer.outgoing.read())
    record[-1] ^= 1
    peer.feed(bytes(record))
    assert peer.heard_end  # by the alert that says why
    peer.plain.loop.turn()
    assert peer.plain.session.messages == []
    assert peer.plain.session.codes == [1006]
    assert peer.transport.is_closing()


def test_a_handshake_that_does_not_end_is_dropped_in_time(certificate: Certificate) -> None:
    peer = TlsPeer(certificate.context, limits=WebSocketLimits(handshake_timeout_s=2))
    with pytest.raises(ssl.SSLWantReadError):
        peer.tls.do_handshake()
    peer.feed(peer.outgoing.read()[:20])
    peer.plain.loop.sleep(1)
    assert not peer.transport.is_closing()
    peer.plain.loop.sleep(3)
    assert peer.transport.is_closing()
    assert peer.transport.data == b""  # nothing that could be read without TLS


def test_half_open_tls_counts_against_the_limit_of_handshakes(certificate: Certificate) -> None:
    peer = TlsPeer(certificate.context, limits=WebSocketLimits(max_handshakes=2))
    newer = TlsConnection(peer.endpoint, certificate.context)
    newer.connection_made(RecordingTransport(peer.plain.loop, cast(Any, newer)))
    newest = TlsConnection(peer.endpoint, certificate.context)
    newest.connection_made(RecordingTransport(peer.plain.loop, cast(Any, newest)))
    assert peer.transport.is_closing()
    assert peer.endpoint.counts.crowded_out == 2  # the fake's own went first


def test_a_socket_that_takes_nothing_is_seen_through_tls(certificate: Certificate) -> None:
    peer = TlsPeer(certificate.context)
    peer.open()
    peer.transport.take(0)
    peer.plain.session.connection.send_frame(bytes(200_000), True)
    peer.plain.loop.turn()
    assert peer.plain.session.pressure == [False]
    assert peer.plain.session.connection.unsent_bytes > 200_000
    peer.transport.take(None)
    peer.plain.loop.turn()
    assert peer.plain.session.pressure == [False, True]


def is_served(context: ssl.SSLContext, pair: Pair) -> bool:
    """Whether a client that trusts this pair completes a handshake."""
    peer = TlsPeer(context, pair)
    try:
        peer.shake_hands()
    except ssl.SSLCertVerificationError:
        return False
    return peer.tls.version() is not None


def test_a_new_certificate_is_used_for_connections_that_begin_after_it(
    certificate: Certificate, tmp_path: Path
) -> None:
    assert not certificate.reload_if_changed()
    before = TlsPeer(certificate.context)
    second = make_pair()
    second.write(tmp_path)
    assert certificate.reload_if_changed()
    assert not certificate.reload_if_changed()
    assert is_served(certificate.context, second)
    assert not is_served(certificate.context, PAIR)
    before.open()


@pytest.mark.parametrize("broken", ["other key", "junk", "no file", "empty"])
def test_a_broken_new_certificate_leaves_the_old_one(
    certificate: Certificate, tmp_path: Path, broken: str
) -> None:
    key = tmp_path / "key.pem"
    if broken == "no file":
        key.unlink()
    else:
        key.write_bytes({"other key": make_pair().key, "junk": b"junk", "empty": b""}[broken])
    assert not certificate.reload_if_changed()
    assert is_served(certificate.context, PAIR)
    PAIR.write(tmp_path)
    assert certificate.reload_if_changed()


def test_a_pair_that_does_not_fit_cannot_be_started_with(tmp_path: Path) -> None:
    files = Pair(PAIR.certificate, make_pair().key).write(tmp_path)
    with pytest.raises(UnusableCertificate, match=r"cert\.pem.*key values mismatch"):
        Certificate(*files)
    with pytest.raises(UnusableCertificate, match=r"missing\.pem.*no such file"):
        Certificate(tmp_path / "missing.pem", files[1])


def test_an_encrypted_key_is_refused_without_asking_for_its_passphrase(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(PAIR.key, None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    files = Pair(PAIR.certificate, locked).write(tmp_path)
    with pytest.raises(UnusableCertificate, match="passphrase"):
        Certificate(*files)


async def test_it_works_over_a_real_socket_with_asyncio(certificate: Certificate) -> None:
    peer = Peer()
    endpoint = peer.endpoint
    server = await asyncio.get_running_loop().create_server(
        lambda: TlsConnection(endpoint, certificate.context), "127.0.0.1", 0
    )
    port = server.sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=PAIR.trusting())
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = await reader.readuntil(b"}")
    assert answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b'{"name":"test"}')
    writer.close()
    server.close()
    await server.wait_closed()


def test_a_socket_that_takes_nothing_is_closed_4001_though_there_is_always_more_to_write(
    certificate: Certificate,
) -> None:
    peer = TlsPeer(certificate.context, limits=WebSocketLimits(slow_reader_s=30))
    peer.open()
    peer.transport.room = 0
    session = peer.plain.session
    for _ in range(20):
        session.connection.send_frame(b"more", True)
        peer.plain.loop.sleep(2)
        peer.say(client_frame(BINARY, b"still here"))
    assert session.codes == [4001]


def test_a_socket_that_takes_little_is_not_taken_for_one_that_takes_nothing(certificate: Certificate) -> None:
    peer = TlsPeer(certificate.context, limits=WebSocketLimits(slow_reader_s=30))
    peer.open()
    peer.transport.room = 0
    session = peer.plain.session
    for _ in range(40):
        session.connection.send_frame(b"more", True)  # more overhead than words
        peer.plain.loop.sleep(2)
        peer.transport.take(1)
        peer.say(client_frame(BINARY, b"still here"))
    assert session.codes == []
