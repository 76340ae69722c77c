"""The frame path against websockets' own ServerProtocol: the same bytes, the same messages, the same close codes.

The library is the oracle. It gets every stream byte by byte, so that its events come in order; the connection gets it
in pieces cut at random. Where the two differ on purpose, the oracle is led to the same point, never past a difference:

* Text is checked by neither protocol of the library but by its layer above, when a whole message is there. The
  connection checks at the same place, so the oracle is failed with 1007 there, as that layer does.
* A frame whose head shows a fault is refused by the connection at once; the library first waits for its payload.
  When the stream ends in between, the oracle gets the rest of that payload as zeros, and must then agree.
* The library counts a ping inside a fragmented message against the limit of that message. The connection does not,
  for a control frame is no part of a message (RFC 6455 5.4). The oracle here does not either (`Oracle`).
* The connection answers the latest ping of a read only (RFC 6455 5.5.3 allows it). Its pongs must be some of the
  oracle's, in order, with the last among them.
* After its own `close()` the connection drops messages and pings and waits for the peer's close frame; the library
  still delivers and answers them. What it does so after `close()` is not counted.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from posthouse.server.websocket.interface import WebSocketLimits
from websocket_fakes import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Peer,
    client_frame,
    cut,
    server_frames,
)
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol


class Oracle(ServerProtocol):
    """The library, but for the limit of control frames inside a message."""

    @property
    def max_message_size(self) -> int | None:
        is_control = bool(self.reader.buffer) and self.reader.buffer[0] & 0x08
        return self._limit + (self.current_size or 0) if is_control else self._limit

    @max_message_size.setter
    def max_message_size(self, value: int | None) -> None:
        assert value is not None
        self._limit = value


@dataclass
class Outcome:
    """What one of the two made of a stream."""

    messages: list[tuple[bytes, bool]] = field(default_factory=list)
    pongs: list[bytes] = field(default_factory=list)
    close: int | None = None
    """Code of the close frame that was sent; 1005 for one without."""
    ended: bool = False

    def take_frames(self, frames: list[tuple[int, bytes]]) -> None:
        for opcode, payload in frames:
            assert self.close is None, "a frame behind the close frame"
            if opcode == PONG:
                self.pongs.append(payload)
            else:
                assert opcode == CLOSE
                self.close = int.from_bytes(payload[:2], "big") if payload else 1005


class OracleRun:
    """Feeds the oracle and assembles its messages as the library's asyncio layer does."""

    def __init__(self, limit: int) -> None:
        self.protocol = Oracle(state=State.OPEN, max_size=limit)
        self.outcome = Outcome()
        self._parts: list[bytes] = []
        self._is_text = False
        self._closed_by_server = False
        self._sent = b""

    def feed(self, data: bytes) -> None:
        for byte in data:
            if self.protocol.eof_sent:
                break
            self.protocol.receive_data(bytes([byte]))
            for frame in self.protocol.events_received():
                assert isinstance(frame, Frame)
                self._take(frame)
        self._collect()

    def close(self, code: int) -> None:
        if self.protocol.state is State.OPEN:
            self._closed_by_server = True
            self.protocol.send_close(code)
            self._collect()

    def finish_frame(self, limit: int) -> None:
        """The rest of the frame that it waits for, as zeros."""
        for _ in range(limit + 14):
            if self.protocol.eof_sent:
                return
            self.feed(b"\0")
        raise AssertionError("the library sees no fault")

    def _take(self, frame: Frame) -> None:
        if frame.opcode in (Opcode.TEXT, Opcode.BINARY):
            self._is_text = frame.opcode is Opcode.TEXT
        elif frame.opcode is not Opcode.CONT:
            return
        self._parts.append(bytes(frame.data))
        if frame.fin:
            message, self._parts = b"".join(self._parts), []
            if self._closed_by_server:
                return
            if self._is_text:
                try:
                    message.decode()
                except UnicodeDecodeError:
                    self.protocol.fail(1007)
                    return
            self.outcome.messages.append((message, not self._is_text))

    def _collect(self) -> None:
        frames = server_frames(b"".join(self.protocol.data_to_send()))
        if self._closed_by_server and self.outcome.close is not None:
            frames = [frame for frame in frames if frame[0] != PONG]
        self.outcome.take_frames(frames)
        self.outcome.ended = self.protocol.eof_sent


def compare(stream: bytes, pieces: list[bytes], limit: int, close_before: int | None = None) -> Outcome:
    """Run both on a stream; `close_before` is the piece before which the server itself closes with 1000."""
    peer = Peer(WebSocketLimits(max_frame_bytes=limit)).open()
    oracle = OracleRun(limit)
    assert b"".join(pieces) == stream
    for index, piece in enumerate(pieces):
        if index == close_before and not peer.ended:
            peer.connection.close(1000)
            peer.loop.turn()
            oracle.close(1000)
        peer.feed(piece)
        oracle.feed(piece)
    ours = Outcome(messages=peer.session.messages, ended=peer.ended)
    ours.take_frames(peer.frames)
    expected = oracle.outcome
    if ours.ended and not expected.ended:
        assert ours.close == 1002 or close_before is not None
        oracle.finish_frame(limit)

    assert ours.messages == expected.messages
    assert ours.close == expected.close
    assert ours.ended == expected.ended
    assert_some_with_last(ours.pongs, expected.pongs)
    assert peer.session.codes == ([] if expected.close is None else [expected.close])
    return ours


def assert_some_with_last(some: list[bytes], every: list[bytes]) -> None:
    remaining = iter(every)
    assert all(any(one == other for other in remaining) for one in some), "a pong to no ping, or out of order"
    assert some[-1:] == every[-1:]


# Streams by a seeded generator.

LENGTHS = [0, 1, 2, 5, 60, 124, 125, 126, 127, 128, 200]
NOT_UTF8 = [b"\xff", b"abc\xc0\xaf", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"x" * 70 + b"\x80"]
CODES = [1000, 1000, 1001, 1003, 1004, 1005, 1006, 1007, 1014, 1015, 1016, 2999, 3000, 4999, 5000, 0]


class Generator:
    """Streams of frames, mostly good, with every fault now and then."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.limit = self.random.choice([125, 126, 200, 1000, 1000, 66_000])
        self.faults = self.random.choice([0.0, 0.03, 0.2])

    def stream(self) -> bytes:
        data = b"".join(self.message() for _ in range(self.random.randrange(1, 12)))
        for _ in range(self.random.choice([0, 0, 0, 1, 3])):
            data = self.mutate(data)
        return data[: self.random.randrange(len(data) + 1)] if self.random.random() < 0.2 else data

    def pieces(self, data: bytes) -> list[bytes]:
        match self.random.randrange(4):
            case 0:
                return cut(data, [])
            case 1 if len(data) < 3000:
                return cut(data, range(len(data)))
            case _:
                count = self.random.randrange(1, 10)
                return cut(data, [self.random.randrange(len(data) + 1) for _ in range(count)])

    def message(self) -> bytes:
        fault = self.random.random() < self.faults
        match self.random.randrange(10):
            case 0 | 1 | 2:
                return self.data_frame(fault)
            case 3 | 4:
                return self.fragments(fault)
            case 5 | 6:
                return self.frame(PING, self.random.randbytes(self.random.choice([0, 1, 20, 125])), fault)
            case 7:
                return self.frame(PONG, b"pong", fault)
            case 8 if self.random.random() < 0.4:
                return self.frame(CLOSE, self.close_payload(), fault)
            case _:
                return self.data_frame(fault)

    def data_frame(self, fault: bool) -> bytes:
        text = self.random.random() < 0.5
        return self.frame(TEXT if text else BINARY, self.payload(text), fault)

    def fragments(self, fault: bool) -> bytes:
        text = self.random.random() < 0.5
        payload = self.payload(text)
        pieces = cut(payload, [self.random.randrange(len(payload) + 1) for _ in range(3)]) or [b""]
        opcode, data = (TEXT if text else BINARY), b""
        last = len(pieces) - 1
        for index, piece in enumerate(pieces):
            fin = index == last and not (fault and self.random.random() < 0.5)
            data += self.frame(opcode, piece, fault and self.random.random() < 0.1, fin=fin)
            opcode = CONTINUATION if self.random.random() > self.faults / 4 else TEXT
            if self.random.random() < 0.3:
                data += self.frame(PING, self.random.randbytes(self.random.choice([0, 3, 125])), False)
        return data

    def payload(self, text: bool) -> bytes:
        lengths = [*LENGTHS, self.limit - 1, self.limit]
        if self.random.random() < self.faults:
            lengths = [self.limit + 1, self.limit + 500]
        length = self.random.choice(lengths)
        if not text:
            return self.random.randbytes(length)
        if self.random.random() < 0.3:
            return ("naïve ☂ 𝄞 " * (length // 8 + 1)).encode()[:length]  # cut where it happens to be
        if self.random.random() < self.faults:
            return self.random.choice(NOT_UTF8)
        return b'{"type":"ping","t":1}'.ljust(length)[:length]

    def close_payload(self) -> bytes:
        code = self.random.choice(CODES)
        reason = self.random.choice([b"", b"bye", "ärger".encode(), b"\xff", b"r" * 123])
        return self.random.choice([b"", b"\x03", code.to_bytes(2, "big") + reason])

    def frame(self, opcode: int, payload: bytes, fault: bool, fin: bool = True) -> bytes:
        mask = self.random.choice([b"\0\0\0\0", self.random.randbytes(4)])
        form = None
        if self.random.random() < 0.1:
            form = 127 if len(payload) > 65_535 or self.random.random() < 0.5 else 126
        if not fault:
            return client_frame(opcode, payload, fin=fin, mask=mask, length_form=form)
        match self.random.randrange(7):
            case 0:
                return client_frame(opcode, payload, fin=fin, mask=mask, reserved=self.random.randrange(1, 8))
            case 1:
                return client_frame(opcode, payload, fin=fin, mask=None)
            case 2:
                return client_frame(self.random.choice([3, 4, 7, 11, 15]), payload, fin=fin, mask=mask)
            case 3:
                return client_frame(opcode, payload, fin=not fin, mask=mask)
            case 4:
                huge = self.random.choice([2**63, 2**64 - 1, 2**32, self.limit + 1])
                return client_frame(opcode, payload, mask=mask, length_form=127, length=huge)
            case 5:
                return client_frame(opcode, payload.ljust(126, b"?")[: self.limit + 1], fin=fin, mask=mask)
            case _:
                return client_frame(CONTINUATION, payload, fin=fin, mask=mask)

    def mutate(self, data: bytes) -> bytes:
        if not data:
            return data
        # Most faults that matter are near a head, and the first one is.
        near = 14 if self.random.random() < 0.5 else len(data)
        place = self.random.randrange(min(near, len(data)))
        match self.random.randrange(3):
            case 0:
                return (
                    data[:place] + bytes([data[place] ^ (1 << self.random.randrange(8))]) + data[place + 1 :]
                )
            case 1:
                return data[:place] + self.random.randbytes(self.random.randrange(1, 5)) + data[place:]
            case _:
                return data[:place] + data[place + self.random.randrange(1, 5) :]


@pytest.mark.parametrize("block", range(20))
def test_generated_streams_mean_the_same_to_both(block: int) -> None:
    for seed in range(block * 150, block * 150 + 150):
        generator = Generator(seed)
        stream = generator.stream()
        pieces = generator.pieces(stream)
        close_before = generator.random.randrange(len(pieces)) if pieces and seed % 5 == 0 else None
        try:
            compare(stream, pieces, generator.limit, close_before)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}") from error


def test_the_generator_reaches_every_close_code_and_every_kind_of_message() -> None:
    closes: set[int | None] = set()
    kinds: set[bool] = set()
    for seed in range(600):
        generator = Generator(seed)
        stream = generator.stream()
        outcome = compare(stream, cut(stream, []), generator.limit)
        closes.add(outcome.close)
        kinds |= {binary for _, binary in outcome.messages}
    assert closes >= {None, 1000, 1002, 1005, 1007, 1009}
    assert kinds == {True, False}


# Streams by hypothesis, which shrinks what it finds.

opcodes = st.sampled_from([CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG, 3, 11])
payloads = st.one_of(
    st.binary(max_size=20),
    st.text(max_size=10).map(str.encode),
    st.sampled_from([125, 126, 127, 200, 201]).map(bytes),
    st.sampled_from([1000, 1005, 4000, 999]).map(lambda code: code.to_bytes(2, "big")),
)
good_frames = st.builds(
    client_frame,
    st.sampled_from([TEXT, BINARY, PING, PONG]),
    payloads,
    mask=st.binary(min_size=4, max_size=4),
    length_form=st.sampled_from([None, None, 127]),
)
any_frames = st.builds(
    client_frame,
    opcodes,
    payloads,
    fin=st.booleans(),
    reserved=st.sampled_from([0, 0, 0, 0, 1, 4]),
    mask=st.sampled_from([b"\0\0\0\0", b"mask", b"mask", None]),
    length_form=st.sampled_from([None, None, 127]),
    length=st.sampled_from([None, None, None, None, 0, 5, 300]),
)


def _streams() -> st.SearchStrategy[bytes]:
    one = st.one_of(good_frames, any_frames, st.binary(max_size=8))
    return st.lists(one, max_size=8).map(b"".join)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_streams(), st.lists(st.integers(0, 400), max_size=6))
@example(client_frame(TEXT, b"\xff"), [])
@example(client_frame(TEXT, "ä".encode()[:1], fin=False) + client_frame(CONTINUATION, "ä".encode()[1:]), [7])
@example(client_frame(BINARY, bytes(150), fin=False) + client_frame(PING, bytes(125)), [])
@example(client_frame(BINARY, bytes(150), fin=False) + client_frame(CONTINUATION, bytes(51)), [])
@example(client_frame(BINARY, b"half", fin=False) + client_frame(CLOSE, b"\x03\xe8"), [])
@example(client_frame(BINARY, bytes(100), reserved=4)[:3], [])
def test_any_streams_mean_the_same_to_both(stream: bytes, places: list[int]) -> None:
    compare(stream, cut(stream, places), limit=200)


@settings(max_examples=150, deadline=None)
@given(st.lists(good_frames, min_size=1, max_size=6).map(b"".join))
def test_a_good_stream_means_the_same_wherever_it_is_cut_once(stream: bytes) -> None:
    whole = compare(stream, [stream], limit=200)
    for place in range(1, min(len(stream), 40)):
        assert compare(stream, cut(stream, [place]), limit=200).messages == whole.messages


@pytest.mark.parametrize("length", [125, 126, 65_535, 65_536, 70_000])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_long_messages_mean_the_same_to_both(opcode: int, length: int) -> None:
    stream = client_frame(opcode, b"a" * length) + client_frame(BINARY, b"next")
    outcome = compare(stream, cut(stream, [3, 9, 1000, 65_000]), limit=70_000)
    assert [len(message) for message, _ in outcome.messages] == [length, 4]
