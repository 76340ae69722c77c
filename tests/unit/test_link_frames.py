"""The link's frames: every command and effect comes back as it was; bytes that are no frame give BadFrame alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import inspect
from posthouse.exchange import Open
from posthouse.link import frames
from posthouse.link.frames import (
    MAX_FRAME_BYTES,
    BadFrame,
    Commands,
    Effects,
    Frame,
    FrameTooLarge,
    FromDialer,
    FromListener,
    Handover,
    Hello,
    MemberState,
    Ping,
    Pong,
    Report,
    Splitter,
    Standing,
    Welcome,
    decode_from_dialer,
    decode_from_listener,
    pack,
)
from posthouse.wire.messages import Ack, Message, Publish


def values(kind: inspect.Type) -> st.SearchStrategy[Any]:
    """All values of a msgspec type, within the bounds that it names."""
    match kind:
        case inspect.NoneType():
            return st.none()
        case inspect.BoolType():
            return st.booleans()
        case inspect.IntType():
            low = kind.ge if kind.ge is not None else -(2**63)
            high = kind.le if kind.le is not None else (kind.lt - 1 if kind.lt is not None else 2**64 - 1)
            return st.integers(low, high)
        case inspect.FloatType():
            return st.floats(allow_nan=False)
        case inspect.StrType():
            return st.text(min_size=kind.min_length or 0, max_size=min(kind.max_length or 40, 40))
        case inspect.BytesType():
            return st.binary(max_size=600)
        case inspect.LiteralType():
            return st.sampled_from(kind.values)
        case inspect.ListType():
            return st.lists(values(kind.item_type), max_size=3)
        case inspect.TupleType():
            return st.tuples(*[values(item) for item in kind.item_types])
        case inspect.DictType():
            return st.dictionaries(values(kind.key_type), values(kind.value_type), max_size=3)
        case inspect.UnionType():
            return st.one_of([values(one) for one in kind.types])
        case inspect.StructType():
            fields = {field.name: values(field.type) for field in kind.fields}
            return st.builds(kind.cls, **fields)
    raise AssertionError(f"no strategy for {kind}")


def body(frame: Frame) -> memoryview:
    (only,) = Splitter().feed(pack(frame))
    return only


@settings(max_examples=300, deadline=None)
@given(values(inspect.type_info(FromDialer)))
def test_every_frame_of_a_dialer_comes_back_as_it_was(frame: FromDialer) -> None:
    assert decode_from_dialer(body(frame)) == frame


@settings(max_examples=300, deadline=None)
@given(values(inspect.type_info(FromListener)))
def test_every_frame_of_a_listener_comes_back_as_it_was(frame: FromListener) -> None:
    assert decode_from_listener(body(frame)) == frame


@pytest.mark.parametrize(
    ("union", "batch"), [(FromDialer, Commands), (FromListener, Effects)], ids=["commands", "effects"]
)
def test_each_kind_of_command_and_effect_comes_back(union: Any, batch: type[Commands | Effects]) -> None:
    """Each by itself, so that none is left to chance."""
    decode: Any = decode_from_dialer if union is FromDialer else decode_from_listener
    listed: Any = next(field for field in msgspec.structs.fields(batch) if field.name == "batch").type
    pair: Any = inspect.type_info(listed).item_type  # type: ignore[attr-defined]
    kinds = pair.item_types[1].item_type.types
    assert len(kinds) >= 10
    for kind in kinds:

        @settings(max_examples=40, deadline=None)
        @given(values(kind))
        def comes_back(item: Any) -> None:
            frame: Any = (
                Commands(1, [(7, [item])]) if batch is Commands else Effects(1, [(7, [item]), (8, [])], 0)
            )
            again = decode(body(frame))
            assert again == frame
            assert type(again.batch[0][1][0]) is type(item)

        comes_back()


def test_ciphertext_and_the_id_that_a_session_fills_in_travel_unchanged() -> None:
    ciphertext = random.Random(1).randbytes(70_000)
    publish = Publish(5, ciphertext, recipient="to", receipts=["delivered"], id="f" * 64)
    message = Message("f" * 64, 9, ciphertext, 1, 2, 1, bucket="b")
    assert decode_from_dialer(body(Commands(3, [(1, [publish])]))).batch == [(1, [publish])]  # type: ignore[union-attr]
    assert decode_from_listener(body(Effects(3, [(1, [message])], 4))).batch == [(1, [message])]  # type: ignore[union-attr]


def test_a_handover_names_where_it_came_from_as_the_status_does() -> None:
    told = msgspec.msgpack.decode(body(Standing(True, 4, [], Handover("promote", "a", "b", 4, None, 5))))
    assert told["last_handover"] == {
        "reason": "promote",
        "from": "a",
        "to": "b",
        "epoch": 4,
        "gap_ms": None,
        "at": 5,
    }


def test_what_a_later_release_adds_is_passed_over() -> None:
    later = {"type": "report", "role": "standby", "ready": True, "mood": ["new", {"deep": 1}]}
    assert decode_from_dialer(msgspec.msgpack.encode(later)) == Report("standby", True)
    inside = {
        "type": "standing",
        "serving": True,
        "epoch": 1,
        "members": [{"name": "a", "role": "active", "ready": True, "weight": 3}],
        "last_handover": None,
    }
    standing = decode_from_listener(msgspec.msgpack.encode(inside))
    assert standing == Standing(True, 1, [MemberState("a", "active", True)], None)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode({"type": "nonsense"}),
        msgspec.msgpack.encode({"type": "report", "role": 5, "ready": True}),
        msgspec.msgpack.encode(["ping"]),
        msgspec.msgpack.encode({"type": "commands", "epoch": 1, "batch": [[1, [{"type": "message"}]]]}),
        b"\x91" * 100_000,
        b"\x82\xa4type\xa6report\xa4role\xa2\xff\xfe",
    ],
)
def test_what_is_no_frame_is_a_bad_frame(data: bytes) -> None:
    for decode in (decode_from_dialer, decode_from_listener):
        with pytest.raises(BadFrame, match=r"^a frame ") as caught:
            decode(data)
        assert len(str(caught.value)) <= 200


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_garbage_is_never_anything_but_a_bad_frame(data: bytes) -> None:
    for decode in (decode_from_dialer, decode_from_listener):
        try:
            decode(data)
        except BadFrame:
            pass


def test_neither_end_takes_what_only_the_other_says() -> None:
    with pytest.raises(BadFrame):
        decode_from_dialer(body(Welcome(1, "a")))
    with pytest.raises(BadFrame):
        decode_from_listener(body(Hello((1, 1), "r", "a", 1)))


# --- cutting


def pieces_of(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    at = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in pairwise(at):
        yield data[start:end]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.binary(max_size=70), max_size=6),
    st.lists(st.integers(0, 10_000), max_size=20),
)
def test_frames_are_the_same_however_they_are_cut(bodies: list[bytes], cuts: list[int]) -> None:
    data = b"".join(len(one).to_bytes(4, "big") + one for one in bodies)
    splitter = Splitter()
    found = [bytes(one) for piece in pieces_of(data, cuts) for one in splitter.feed(piece)]
    assert found == bodies


def test_a_receive_buffer_may_be_used_again_for_the_next_bytes() -> None:
    buffer = bytearray(16)
    splitter = Splitter()
    found = []
    data = pack(Hello((1, 2), "relay", "member", 12)) * 3
    for at in range(0, len(data), 16):
        piece = data[at : at + 16]
        buffer[: len(piece)] = piece
        found += [bytes(one) for one in splitter.feed(memoryview(buffer)[: len(piece)])]
    assert [decode_from_dialer(one) for one in found] == [Hello((1, 2), "relay", "member", 12)] * 3


@pytest.mark.parametrize("cut", range(1, 8))
def test_a_frame_above_the_limit_is_refused_by_its_header(cut: int) -> None:
    splitter = Splitter(1000)
    data = (1001).to_bytes(4, "big") + b"abc"
    with pytest.raises(BadFrame, match="a frame of 1001 bytes is above 1000"):
        for piece in (data[:cut], data[cut:]):
            list(splitter.feed(piece))
    assert list(Splitter(1000).feed((1000).to_bytes(4, "big") + bytes(1000))) == [bytes(1000)]


def test_the_limit_can_change_between_two_frames() -> None:
    splitter = Splitter(10)
    both = pack(Ping())[:4] + bytes(6)
    two = (6).to_bytes(4, "big") + bytes(6) + (100).to_bytes(4, "big") + bytes(100)
    assert len(both) == 10
    found = []
    for one in splitter.feed(two):
        found.append(len(one))
        splitter.max_frame_bytes = 100
    assert found == [6, 100]


def test_what_is_too_large_to_be_sent_is_said_and_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_FRAME_BYTES == 64 * 1024 * 1024
    monkeypatch.setattr(frames, "MAX_FRAME_BYTES", 1000)
    with pytest.raises(FrameTooLarge, match="above 1000") as caught:
        pack(Commands(1, [(1, [Open(None, True, 1, 1), Ack(["x" * 1000])])]))
    assert caught.value.size > 1000
    assert decode_from_dialer(body(Ping())) == Ping() and decode_from_listener(body(Pong())) == Pong()
