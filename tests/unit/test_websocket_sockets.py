"""The same connections over real sockets, with and without TLS, served by the relay's selector and by asyncio's own
transports, against the library's client."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from posthouse.server.listeners import bind
from posthouse.server.sockets import Acceptor, ServingLoop, new_event_loop
from posthouse.server.tls_connection import TlsConnection
from posthouse.server.websocket.endpoint import Endpoint
from posthouse.server.websocket.interface import Outlet, RequestInfo, WebSocketLimits
from websocket_fakes import BINARY, CLOSE, REQUEST, V2, RecordingSession, choose, client_frame, server_frames
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

LOOPS = {"served": new_event_loop, "asyncio": asyncio.new_event_loop}
"""Everything here holds both where the selector serves the sockets and on asyncio's own transports."""


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that happens soon."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen within ten seconds")


class Echo(RecordingSession):
    """Sends back what it gets."""

    def received(self, data: bytes, binary: bool) -> None:
        super().received(data, binary)
        self.connection.send_frame(data, binary)


class Running:
    """A listening endpoint and the sessions it has made."""

    def __init__(
        self, limits: WebSocketLimits, session: Callable[[Outlet, RequestInfo], RecordingSession]
    ) -> None:
        self.sessions: list[RecordingSession] = []
        self.port = 0
        self._make = session
        self.endpoint = Endpoint(
            limits, choose=choose, information=lambda _: b"{}", session_factory=self._session
        )

    def _session(self, connection: Outlet, request: RequestInfo) -> RecordingSession:
        self.sessions.append(self._make(connection, request))
        return self.sessions[-1]

    async def ended(self) -> None:
        """Wait until no connection is left."""
        await until(lambda: not self.endpoint.connections())


@asynccontextmanager
async def listening(
    limits: WebSocketLimits | None = None,
    tls: ssl.SSLContext | None = None,
    session: Callable[[Outlet, RequestInfo], RecordingSession] = Echo,
) -> AsyncIterator[Running]:
    running = Running(limits or WebSocketLimits(close_timeout_s=0.5), session)
    endpoint = running.endpoint
    loop = asyncio.get_running_loop()
    server: asyncio.Server | Acceptor
    if isinstance(loop, ServingLoop):
        loop.selector.before, loop.selector.after = endpoint.turn.begin, endpoint.turn.finish
        (listener,) = bind("127.0.0.1:0", backlog=100)
        running.port = listener.getsockname()[1]
        server = Acceptor(
            loop,
            listener,
            endpoint.new_connection if tls is None else lambda: TlsConnection(endpoint, tls),
            most_a_turn=10,
        )
    else:
        server = await loop.create_server(endpoint.new_connection, "127.0.0.1", 0, ssl=tls)
        running.port = server.sockets[0].getsockname()[1]
    try:
        yield running
    finally:
        server.close()
        for connection in running.endpoint.connections():
            connection.abort()
        await running.ended()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    certificate_path, key_path = folder / "cert.pem", folder / "key.pem"
    certificate_path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return certificate_path, key_path


@pytest.fixture(params=["plain", "tls"])
def contexts(
    request: pytest.FixtureRequest, certificate: tuple[Path, Path]
) -> tuple[ssl.SSLContext | None, ssl.SSLContext | None]:
    """The server's and the client's."""
    if request.param == "plain":
        return None, None
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(*certificate)
    return server, ssl.create_default_context(cafile=str(certificate[0]))


Contexts = tuple[ssl.SSLContext | None, ssl.SSLContext | None]


def url(port: int, tls: ssl.SSLContext | None) -> str:
    return f"{'ws' if tls is None else 'wss'}://localhost:{port}/"


async def test_messages_of_every_size_come_back_as_they_went(contexts: Contexts) -> None:
    server_tls, client_tls = contexts
    async with (
        listening(tls=server_tls) as running,
        connect(url(running.port, client_tls), ssl=client_tls, subprotocols=[Subprotocol(V2)]) as client,
    ):
        assert client.subprotocol == V2
        for length in (0, 1, 125, 126, 65_535, 65_536, 300_000, 1_048_576):
            await client.send(bytes(length))
            assert await client.recv() == bytes(length)
        await client.send("text ☂")
        assert await client.recv() == "text ☂"
        await client.send([b"frag", b"men", b"ted"])
        assert await client.recv() == b"fragmented"
        await (await client.ping())
        await client.close(4999, "done")
        await running.ended()
        assert running.sessions[0].codes == [4999]


async def test_many_messages_from_many_clients_stay_apart_and_in_order(contexts: Contexts) -> None:
    server_tls, client_tls = contexts

    async def talk(port: int, number: int) -> None:
        async with connect(url(port, client_tls), ssl=client_tls) as client:
            sent = [bytes([number]) * (number * 50 + index * 7) for index in range(200)]
            sending = asyncio.create_task(send_all(client.send, sent))
            assert [await client.recv() for _ in sent] == sent
            await sending

    async with listening(tls=server_tls) as running:
        await asyncio.gather(*(talk(running.port, number) for number in range(8)))
        await running.ended()
        assert [session.codes for session in running.sessions] == [[1000]] * 8


async def send_all(send: Callable[[bytes], object], messages: list[bytes]) -> None:
    for message in messages:
        await send(message)  # type: ignore[misc]


async def test_a_frame_too_big_is_closed_1009_and_the_client_hears_it(contexts: Contexts) -> None:
    server_tls, client_tls = contexts
    async with listening(WebSocketLimits(max_frame_bytes=1000, close_timeout_s=2), server_tls) as running:
        # Not as a context: leaving it, the client library trips over a transport that ended while it was writing.
        client = await connect(url(running.port, client_tls), ssl=client_tls)
        with pytest.raises(ConnectionClosed) as caught:
            await client.send(bytes(4_000_000))
            await client.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1009
        assert running.sessions[0].messages == []


async def test_the_server_closes_and_the_client_hears_the_code(contexts: Contexts) -> None:
    server_tls, client_tls = contexts
    async with (
        listening(tls=server_tls) as running,
        connect(url(running.port, client_tls), ssl=client_tls) as client,
    ):
        await until(lambda: bool(running.sessions))
        running.sessions[0].connection.close(4505, "superseded")
        with pytest.raises(ConnectionClosed) as caught:
            await client.recv()
        assert caught.value.rcvd is not None
        assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4505, "superseded")
        await running.ended()
        assert running.sessions[0].codes == [4505]


async def test_unknown_subprotocols_are_refused_with_400(contexts: Contexts) -> None:
    server_tls, client_tls = contexts
    async with listening(tls=server_tls) as running:
        with pytest.raises(InvalidStatus) as caught:
            await connect(url(running.port, client_tls), ssl=client_tls, subprotocols=[Subprotocol("chat")])
        assert caught.value.response.status_code == 400


async def test_a_plain_request_ends_with_its_answer_even_if_it_had_a_body(contexts: Contexts) -> None:
    server_tls, client_tls = contexts
    async with listening(tls=server_tls) as running, raw_client(running.port, client_tls) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000))
        answer = await asyncio.wait_for(reader.read(), 5)
        assert answer.startswith(b"HTTP/1.1 426 ")


async def test_a_client_that_says_nothing_is_dropped_and_others_are_served() -> None:
    async with listening(
        WebSocketLimits(handshake_timeout_s=0.4, close_timeout_s=0.4, max_handshakes=5)
    ) as running:
        silent = [await asyncio.open_connection("127.0.0.1", running.port) for _ in range(20)]
        async with connect(url(running.port, None)) as client:
            await client.send(b"hello")
            assert await client.recv() == b"hello"
        answers = [await asyncio.wait_for(reader.read(), 5) for reader, _ in silent]
        assert {answer.split(b" ")[1] for answer in answers} == {b"408", b"503"}
        for _, writer in silent:
            writer.close()
        await running.ended()


class Firehose(RecordingSession):
    """Sends as long as it may, and counts."""

    sent = 0

    def received(self, data: bytes, binary: bool) -> None:
        super().received(data, binary)
        self.pour()

    def writable(self, writable: bool) -> None:
        super().writable(writable)
        if writable:
            self.pour()

    def pour(self) -> None:
        while self.sent < 2000 and (not self.pressure or self.pressure[-1]):
            self.sent += 1
            self.connection.write_frames([bytes(10_000)], True)


async def settled(value: Callable[[], int]) -> None:
    """Wait until a number has been the same for a fifth of a second."""
    seen: list[int] = []

    def is_settled() -> bool:
        seen.append(value())
        return len(seen) > 20 and len(set(seen[-20:])) == 1

    await until(is_settled)


@asynccontextmanager
async def raw_client(
    port: int, tls: ssl.SSLContext | None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("localhost", port, ssl=tls, limit=1)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def test_a_stalled_reader_holds_its_session_back_and_gets_everything_later(contexts: Contexts) -> None:
    server_tls, client_tls = contexts
    async with (
        listening(tls=server_tls, session=Firehose) as running,
        raw_client(running.port, client_tls) as (reader, writer),
    ):
        writer.write(REQUEST + client_frame(BINARY, b"go"))
        await until(lambda: bool(running.sessions))
        session = running.sessions[0]
        assert isinstance(session, Firehose)
        await settled(lambda: session.sent)
        assert session.pressure[-1:] == [False]
        assert session.sent < 2000
        assert session.connection.unsent_bytes < 64 * 1024 + 3 * 10_004

        writer.write(client_frame(BINARY, b"still heard"))
        await until(lambda: len(session.messages) == 2)
        received = bytearray()
        while b"\r\n\r\n" not in received:
            received += await reader.read(1_000_000)
        expected = (b"\x82\x7e\x27\x10" + bytes(10_000)) * 2000
        head = received.index(b"\r\n\r\n") + 4
        received += await reader.readexactly(head + len(expected) - len(received))
        assert received[head:] == expected
        assert session.pressure[-1:] == [True]


async def test_a_socket_that_takes_nothing_is_closed_4001() -> None:
    limits = WebSocketLimits(slow_reader_s=0.4, close_timeout_s=0.2, idle_timeout_s=30)
    async with listening(limits, session=Firehose) as running:
        raw = socket.create_connection(("127.0.0.1", running.port))
        raw.sendall(REQUEST + client_frame(BINARY, b"go"))
        await ended_after_opening(running)
        assert running.sessions[0].codes == [4001]
        raw.close()


async def test_a_silent_peer_is_closed_1011() -> None:
    limits = WebSocketLimits(idle_timeout_s=0.4, close_timeout_s=0.2)
    async with listening(limits) as running:
        raw = socket.create_connection(("127.0.0.1", running.port))
        raw.sendall(REQUEST)
        await ended_after_opening(running)
        raw.settimeout(5)
        data = b""
        try:
            while piece := raw.recv(65536):
                data += piece
        except ConnectionResetError:
            pass
        frames = server_frames(data.split(b"\r\n\r\n", 1)[1])
        assert frames[-1][0] == CLOSE
        assert frames[-1][1][:2] == (1011).to_bytes(2, "big")
        raw.close()


async def ended_after_opening(running: Running) -> None:
    await until(lambda: bool(running.sessions))
    await running.ended()


async def test_a_closed_connection_is_freed_without_the_cycle_collector() -> None:
    async with listening() as running:
        gc.disable()
        try:
            async with connect(url(running.port, None)) as client:
                await client.send(b"x")
                await client.recv()
            await running.ended()
            gone = weakref.ref(running.sessions.pop())
            await asyncio.sleep(0)
            assert gone() is None
        finally:
            gc.enable()
