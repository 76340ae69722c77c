"""One connection by hand: handshake, coalesced writes, pings, closing, silence, slow readers. Time passes when told."""

from __future__ import annotations

import gc
import random
import weakref

import pytest
from posthouse.server.websocket.interface import Outlet, Refusal, RequestInfo, WebSocketLimits
from websocket_fakes import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    REQUEST,
    TEXT,
    V2,
    Peer,
    RecordingSession,
    client_frame,
    server_frames,
)
from websockets.server import ServerProtocol

LIMITS = WebSocketLimits(max_frame_bytes=1000, max_handshake_bytes=2000)


def request(*lines: str, start: str = "GET / HTTP/1.1", host: str | None = "relay.example") -> bytes:
    head = [start, *([] if host is None else [f"Host: {host}"]), *lines, "", ""]
    return "\r\n".join(head).encode()


def upgrade(*lines: str, start: str = "GET / HTTP/1.1", host: str | None = "relay.example") -> bytes:
    return request(
        "Upgrade: websocket",
        "Connection: keep-alive, Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
        *lines,
        start=start,
        host=host,
    )


def close_frame(code: int, reason: bytes = b"") -> bytes:
    return client_frame(CLOSE, code.to_bytes(2, "big") + reason)


def status(peer: Peer) -> int:
    return int(peer.transport.data.split(b" ")[1])


# The handshake.


def test_an_offered_subprotocol_is_chosen_and_the_session_sees_host_and_path() -> None:
    peer = Peer()
    peer.feed(upgrade("Sec-WebSocket-Protocol: other, posthouse.v2.json", f"Sec-WebSocket-Protocol: {V2}"))
    assert status(peer) == 101
    head = peer.transport.data.lower()
    assert b"sec-websocket-protocol: posthouse.v2.json\r\n" in head
    assert b"sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n" in head
    assert b"extensions" not in head
    offered = ("other", "posthouse.v2.json", V2)
    assert peer.session.request == RequestInfo("GET", "/", "relay.example", offered, "posthouse.v2.json")


def test_no_subprotocol_is_accepted_on_any_path_without_extensions() -> None:
    peer = Peer()
    peer.feed(
        upgrade("Sec-WebSocket-Extensions: permessage-deflate", start="GET /ws/x?y=1 HTTP/1.1", host="h:1")
    )
    assert status(peer) == 101
    assert b"deflate" not in peer.transport.data
    assert peer.session.request == RequestInfo("GET", "/ws/x?y=1", "h:1")


def test_a_request_without_host_is_accepted_with_an_empty_one() -> None:
    peer = Peer()
    peer.feed(upgrade(host=None))
    assert status(peer) == 101
    assert peer.session.request.host == ""


@pytest.mark.parametrize("target", ["/", "/?x=1"])
def test_a_plain_get_gets_the_information_document(target: str) -> None:
    peer = Peer()
    peer.feed(request(start=f"GET {target} HTTP/1.1"))
    head, body = peer.transport.data.split(b"\r\n\r\n")
    assert status(peer) == 200
    assert b"Content-Type: application/json\r\n" in head + b"\r\n"
    assert f"Content-Length: {len(body)}".encode() in head
    assert body == b'{"name":"test"}'
    assert peer.ended


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (request(start="GET /other HTTP/1.1"), 426),
        (request(start="HEAD / HTTP/1.1"), 426),
        (request("Content-Length: 2", start="POST / HTTP/1.1") + b"{}", 426),
        (request("Transfer-Encoding: chunked", start="POST / HTTP/1.1"), 426),
        (upgrade("Sec-WebSocket-Protocol: chat"), 400),
        (upgrade("Sec-WebSocket-Protocol: ,,"), 400),
        (upgrade("Host: another"), 400),
        (upgrade("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), 400),
        (request("Upgrade: websocket", "Connection: Upgrade"), 400),
        (upgrade(start="POST / HTTP/1.1"), 405),
        (upgrade(start="GET / HTTP/1.0"), 505),
        (b"\x16\x03\x01 nonsense\r\n\r\n", 400),
        (b"GET / HTTP/2\r\n\r\n", 400),
        (request("no colon"), 400),
        (request("A: " + "a" * 3000), 431),
        (b"x" * 2001, 431),
        (b"\r\n" * 1001, 400),
    ],
)
def test_what_is_no_handshake_is_answered_and_ended(data: bytes, expected: int) -> None:
    peer = Peer(LIMITS)
    peer.feed(data)
    assert status(peer) == expected
    assert b"Connection: close\r\n" in peer.transport.data
    assert peer.ended
    assert not peer.sessions
    assert peer.endpoint.counts.answered == {expected: 1}
    assert not peer.endpoint.opening


def test_426_names_the_protocol_to_upgrade_to() -> None:
    peer = Peer()
    peer.feed(request(start="GET /x HTTP/1.1"))
    assert b"Upgrade: websocket\r\n" in peer.transport.data


def test_a_refusal_by_the_callback_becomes_its_status() -> None:
    peer = Peer()
    peer.endpoint.choose = lambda _: Refusal(503, "Full.")
    peer.feed(upgrade())
    assert status(peer) == 503
    assert peer.transport.data.endswith(b"Full.\n")


def test_a_callback_that_raises_answers_500(capsys: pytest.CaptureFixture[str]) -> None:
    def choose(_: RequestInfo) -> str:
        raise RuntimeError("broken")

    peer = Peer()
    peer.endpoint.choose = choose
    peer.feed(upgrade())
    assert status(peer) == 500
    assert "handshake failed" in capsys.readouterr().out


@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_a_request_in_pieces_is_accepted_with_the_frames_behind_it(size: int) -> None:
    data = REQUEST + client_frame(BINARY, b"first") + client_frame(BINARY, b"second")
    peer = Peer()
    for start in range(0, len(data), size):
        peer.feed(data[start : start + size])
    assert peer.session.messages == [(b"first", True), (b"second", True)]


def test_frames_in_the_same_read_as_the_request_reach_the_session() -> None:
    peer = Peer()
    peer.feed(REQUEST + client_frame(TEXT, b"{}") + client_frame(BINARY, b"cut")[:-1])
    assert peer.session.messages == [(b"{}", False)]


def test_a_head_may_be_as_long_as_the_limit_and_no_longer() -> None:
    exact = len(REQUEST)
    peer = Peer(WebSocketLimits(max_handshake_bytes=exact))
    peer.feed(REQUEST + client_frame(BINARY, b"x" * 500))
    assert status(peer) == 101
    peer = Peer(WebSocketLimits(max_handshake_bytes=exact - 1))
    peer.feed(REQUEST)
    assert status(peer) == 431


def test_a_slow_request_is_answered_408_however_busy_it_looks() -> None:
    peer = Peer(WebSocketLimits(handshake_timeout_s=5, close_timeout_s=2))
    for byte in REQUEST[:9]:
        peer.feed(bytes([byte]))
        peer.loop.sleep(0.5)
        assert not peer.ended
    peer.loop.sleep(1.1)
    assert status(peer) == 408
    assert peer.transport.sent_eof
    peer.loop.sleep(5)
    assert peer.is_lost()
    assert not peer.endpoint.connections()


def test_a_half_open_connection_too_many_ends_the_oldest() -> None:
    first = Peer(WebSocketLimits(max_handshakes=3))
    opened = Peer(endpoint=first.endpoint).open()
    others = [Peer(endpoint=first.endpoint) for _ in range(2)]
    assert not first.ended
    newest = Peer(endpoint=first.endpoint)
    assert first.transport.is_closing()
    assert status(first) == 503
    assert first.endpoint.counts.crowded_out == 1
    assert not opened.ended
    for peer in [*others, newest]:
        peer.open()


def test_nothing_of_the_librarys_protocol_outlives_the_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[ServerProtocol]] = []
    original = ServerProtocol.__init__

    def noting(self: ServerProtocol, **arguments: object) -> None:
        made.append(weakref.ref(self))
        original(self, **arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ServerProtocol, "__init__", noting)
    gc.disable()
    try:
        Peer().open()
        Peer().feed(request())
        assert [reference() for reference in made] == [None, None]
    finally:
        gc.enable()


# Sending.


def test_frames_of_a_turn_are_one_write() -> None:
    peer = Peer().open()
    for payload in (b"one", b"two"):
        peer.connection.send_frame(payload, True)
    peer.connection.send_frame(bytearray(b"three"), False)
    assert peer.transport.writes == []
    assert peer.connection.unsent_bytes == 6 + len("onetwothree")
    peer.loop.turn()
    assert peer.frames == [(BINARY, b"one"), (BINARY, b"two"), (TEXT, b"three")]
    assert len(peer.transport.writes) == 1
    assert peer.connection.unsent_bytes == 0


def test_write_frames_writes_at_once_behind_what_waits() -> None:
    peer = Peer().open()
    peer.connection.send_frame(b"queued", True)
    peer.connection.write_frames([b"a", b"b"], True)
    assert peer.frames == [(BINARY, b"queued"), (BINARY, b"a"), (BINARY, b"b")]
    peer.connection.send_frame(b"later", True)
    peer.loop.turn()
    assert len(peer.transport.writes) == 2
    assert peer.frames[3:] == [(BINARY, b"later")]


def test_all_connections_share_one_flush() -> None:
    first = Peer().open()
    second = Peer(endpoint=first.endpoint).open()
    for peer in (first, second, first):
        peer.connection.send_frame(b"x", True)
    first.loop.turn()
    assert [len(peer.transport.writes) for peer in (first, second)] == [1, 1]
    assert len(first.frames) == 2


@pytest.mark.parametrize("length", [0, 125, 126, 65535, 65536])
def test_every_length_has_its_header(length: int) -> None:
    peer = Peer().open()
    peer.connection.write_frames([bytes(length)], True)
    assert peer.frames == [(BINARY, bytes(length))]


# Control frames and closing.


def test_of_many_pings_in_a_read_the_last_is_answered() -> None:
    peer = Peer().open()
    peer.feed(b"".join(client_frame(PING, b"%d" % index) for index in range(1000)))
    assert peer.frames == [(PONG, b"999")]


def test_a_flood_of_pings_to_a_socket_that_takes_nothing_waits_as_one_pong() -> None:
    peer = Peer().open()
    peer.transport.take(0)
    for index in range(100):
        peer.connection.send_frame(b"x", True)
        peer.feed(client_frame(PING, b"%d" % index))
    # The first of them was on its way before the socket was seen to take nothing.
    assert peer.frames == [(BINARY, b"x"), (PONG, b"0"), *[(BINARY, b"x")] * 99]
    peer.transport.take(None)
    peer.loop.turn()
    assert peer.frames[101:] == [(PONG, b"99")]


@pytest.mark.parametrize("payload", [b"", b"\x03\xe8", b"\x0f\xa0bye"])
def test_a_close_frame_is_echoed_behind_what_waits_and_the_session_told(payload: bytes) -> None:
    peer = Peer().open()
    peer.feed(
        client_frame(PING, b"p") + client_frame(CLOSE, payload) + client_frame(BINARY, b"late"), turn=False
    )
    assert peer.frames == [(PONG, b"p"), (CLOSE, payload)]
    assert peer.session.codes == [int.from_bytes(payload[:2], "big") if payload else 1005]
    assert peer.session.messages == []
    peer.loop.turn()
    assert peer.is_lost()
    assert len(peer.session.codes) == 1


def test_closing_sends_what_waits_then_waits_for_the_peer() -> None:
    peer = Peer().open()
    peer.connection.send_frame(b"last words", True)
    peer.connection.close(4501, "restricted")
    assert peer.frames == [(BINARY, b"last words"), (CLOSE, (4501).to_bytes(2, "big") + b"restricted")]
    assert peer.session.codes == [], "not from within the call"
    peer.connection.close(1000)
    peer.connection.send_frame(b"too late", True)
    peer.connection.write_frames([b"too late"], True)
    peer.feed(client_frame(BINARY, b"unheard") + client_frame(PING, b""))
    assert peer.session.codes == [4501]
    assert not peer.ended
    peer.feed(close_frame(4501))
    assert peer.is_lost()
    assert len(peer.frames) == 2
    assert peer.session.codes == [4501]
    assert peer.session.messages == []


def test_a_peer_that_does_not_answer_a_close_is_aborted() -> None:
    peer = Peer(WebSocketLimits(close_timeout_s=3)).open()
    peer.connection.close(1012)
    peer.loop.sleep(2.9)
    assert not peer.is_lost()
    peer.loop.sleep(0.7)
    assert peer.transport.aborted
    assert peer.session.codes == [1012]


def test_a_faulty_peer_may_read_why_before_the_socket_goes() -> None:
    peer = Peer(WebSocketLimits(close_timeout_s=3)).open()
    peer.feed(client_frame(BINARY, b"x", mask=None))
    assert peer.frames[0][1][:2] == (1002).to_bytes(2, "big")
    assert peer.transport.sent_eof
    assert not peer.transport.is_closing()
    peer.feed(client_frame(BINARY, b"more"))
    assert peer.session.messages == []
    peer.loop.sleep(4)
    assert peer.is_lost()


def test_a_faulty_peer_over_tls_may_read_why_too() -> None:
    peer = Peer(WebSocketLimits(close_timeout_s=3), half_close=False).open()
    peer.feed(client_frame(BINARY, b"x", mask=None))
    assert not peer.ended
    peer.loop.sleep(1)
    assert peer.transport.is_closing()
    assert not peer.transport.aborted


def test_a_socket_that_does_not_even_take_the_end_is_aborted() -> None:
    peer = Peer(WebSocketLimits(close_timeout_s=3)).open()
    peer.transport.take(0)
    peer.feed(close_frame(1000))
    assert not peer.is_lost()
    peer.loop.sleep(4)
    assert peer.transport.aborted
    assert peer.is_lost()


def test_a_close_reason_is_cut_between_characters() -> None:
    peer = Peer().open()
    peer.connection.close(4503, "ä" * 100)
    assert server_frames(peer.transport.data)[0][1][2:].decode() == "ä" * 61


def test_the_end_of_the_peers_data_and_a_lost_socket_are_1006() -> None:
    peer = Peer().open()
    peer.connection.eof_received()
    assert peer.session.codes == [1006]
    peer = Peer().open()
    peer.transport.abort()
    peer.loop.turn()
    assert peer.session.codes == [1006]
    assert not peer.endpoint.connections()


def test_a_session_may_close_or_abort_in_the_middle_of_a_read() -> None:
    for end in (lambda peer: peer.connection.close(4503), lambda peer: peer.connection.abort()):
        peer = Peer().open()
        peer.session.on_message = lambda data, peer=peer, end=end: end(peer) if data == b"2" else None
        peer.feed(b"".join(client_frame(BINARY, b"%d" % index) for index in range(5)))
        assert [data for data, _ in peer.session.messages] == [b"0", b"1", b"2"]
        assert len(peer.session.codes) == 1


def test_a_factory_that_closes_at_once_has_its_session_told() -> None:
    sessions: list[RecordingSession] = []

    def factory(connection: Outlet, request: RequestInfo) -> RecordingSession:
        connection.close(1013, "full")
        sessions.append(RecordingSession(connection, request))
        return sessions[0]

    peer = Peer(factory=factory)
    peer.feed(REQUEST + client_frame(BINARY, b"x"))
    assert sessions[0].codes == [1013]
    assert sessions[0].messages == []


def test_a_session_that_raises_is_closed_1011(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_: bytes) -> None:
        raise RuntimeError("bug")

    peer = Peer().open()
    peer.session.on_message = fail
    peer.feed(client_frame(BINARY, b"x") * 3)
    assert len(peer.session.messages) == 1
    assert peer.session.codes == [1011]
    assert peer.frames[-1] == (CLOSE, (1011).to_bytes(2, "big") + b"internal error")
    assert "session failed" in capsys.readouterr().out


def test_a_connection_that_is_closed_before_its_handshake_is_answered_503() -> None:
    peer = Peer()
    peer.connection.close(1012)
    assert status(peer) == 503


# Limits of what is held.


def test_an_oversize_frame_is_refused_at_its_head() -> None:
    peer = Peer(LIMITS).open()
    peer.feed(client_frame(BINARY, bytes(1001))[:4])
    assert peer.frames[0][1][:2] == (1009).to_bytes(2, "big")
    assert peer.session.codes == [1009]


def test_a_message_in_fragments_has_the_same_limit() -> None:
    peer = Peer(LIMITS).open()
    peer.feed(client_frame(BINARY, bytes(600), fin=False) + client_frame(CONTINUATION, bytes(400)))
    assert len(peer.session.messages[0][0]) == 1000
    peer.feed(client_frame(BINARY, bytes(600), fin=False) + client_frame(CONTINUATION, bytes(401))[:4])
    assert peer.session.codes == [1009]


def test_limits_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="max_frame_bytes"):
        WebSocketLimits(max_frame_bytes=124)
    with pytest.raises(ValueError, match="idle_timeout_s"):
        WebSocketLimits(idle_timeout_s=0)


# Silence.


def test_a_silent_peer_is_pinged_at_half_time_and_closed_1011_at_the_end() -> None:
    peer = Peer(WebSocketLimits(idle_timeout_s=60)).open()
    peer.loop.sleep(29.9)
    assert peer.frames == []
    peer.loop.sleep(0.7)
    assert peer.frames == [(PING, b"")]
    peer.loop.sleep(29.3)
    assert peer.session.codes == []
    peer.loop.sleep(0.7)
    assert peer.session.codes == [1011]
    assert peer.frames[-1][1][:2] == (1011).to_bytes(2, "big")


@pytest.mark.parametrize("sign_of_life", [client_frame(PONG, b""), client_frame(BINARY, b"x"), b"\x82"])
def test_any_byte_keeps_a_connection(sign_of_life: bytes) -> None:
    peer = Peer(WebSocketLimits(idle_timeout_s=60)).open()
    for _ in range(5):
        peer.loop.sleep(55)
        peer.feed(sign_of_life)
    assert peer.session.codes == []
    assert peer.frames == [(PING, b"")] * 5


def test_a_blocked_loop_closes_nobody() -> None:
    peer = Peer(WebSocketLimits(idle_timeout_s=60)).open()
    peer.loop.now += 3600  # the process was stopped; its timers come late, all at once
    peer.loop.sleep(29)
    assert peer.session.codes == []
    peer.loop.sleep(32)
    assert peer.session.codes == [1011]


def test_the_timer_stops_with_the_last_connection() -> None:
    peer = Peer().open()
    assert peer.loop.timers == 1
    peer.feed(close_frame(1000))
    peer.loop.sleep(1)
    assert peer.loop.timers == 0


# Slow readers.


def test_the_session_is_told_above_the_high_water_mark_and_when_all_is_sent() -> None:
    peer = Peer(WebSocketLimits(write_high_water_bytes=1000)).open()
    peer.transport.take(0)
    peer.connection.write_frames([bytes(500)], True)
    assert peer.session.pressure == []
    peer.connection.write_frames([bytes(500)], True)
    assert peer.session.pressure == [False]
    assert peer.connection.unsent_bytes == 1008
    peer.connection.write_frames([bytes(500)], True)
    peer.transport.take(1200)
    assert peer.session.pressure == [False]
    peer.transport.take(None)
    assert peer.session.pressure == [False, True]
    assert peer.connection.unsent_bytes == 0


def test_a_socket_that_takes_nothing_is_closed_4001_however_much_its_peer_says() -> None:
    peer = Peer(WebSocketLimits(slow_reader_s=30)).open()
    peer.transport.take(0)
    peer.connection.write_frames([b"x"], True)
    for _ in range(29):
        peer.loop.sleep(1)
        peer.feed(client_frame(BINARY, b"ack"))
    assert peer.session.codes == []
    assert len(peer.session.messages) == 29, "the server goes on reading"
    peer.loop.sleep(10)
    assert peer.session.codes == [4001]
    peer.loop.sleep(6)
    assert peer.transport.aborted


def test_a_socket_that_takes_a_little_is_kept() -> None:
    peer = Peer(WebSocketLimits(slow_reader_s=30)).open()
    peer.transport.take(0)
    peer.connection.write_frames([bytes(1000)], True)
    for _ in range(10):
        peer.loop.sleep(20)
        peer.feed(client_frame(BINARY, b"ack"))
        peer.transport.take(1)
    assert peer.session.codes == []
    peer.loop.sleep(45)
    assert peer.session.codes == [4001]


def test_random_bytes_never_raise_and_always_end_with_a_code() -> None:
    chance = random.Random(4)
    for _ in range(300):
        peer = Peer(LIMITS)
        if chance.random() < 0.7:
            peer.open()
        for _ in range(chance.randrange(1, 6)):
            peer.feed(chance.randbytes(chance.randrange(1, 400)))
        peer.loop.sleep(100)
        assert peer.is_lost()
        assert all(len(session.codes) == 1 for session in peer.sessions)
        assert not peer.endpoint.connections()
        assert peer.loop.timers == 0
