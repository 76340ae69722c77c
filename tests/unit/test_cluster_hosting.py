"""Other members' fronts at this one's broker: what their links are given, above all when much goes at once or fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from broker_rig import ALICE, BOB, wide
from peer_rig import until
from posthouse.broker import BrokerSettings, Port
from posthouse.exchange import Attend, Effect, Effects, Open, Outcomes
from posthouse.link import frames
from posthouse.link.frames import MAX_FRAME_BYTES, Frame, MemberState, pack
from posthouse.server.cluster import hosting, pieces
from posthouse.server.cluster.hosting import Host, HostedFront
from posthouse.server.cluster.pieces import in_pieces
from posthouse.server.engine import Engine
from posthouse.server.peers import Link
from posthouse.store.sqlite import SqliteStore
from posthouse.store.threads import StoreThreads
from posthouse.wire.messages import Ack, CaughtUp, Message, Publish
from structlog.testing import capture_logs

BUCKET = wide(0xA11C)
READERS = 100
LARGE = bytes(700_000)
"""For all the readers together more than a frame may have."""


class Authority:
    """Whether the lease is ours, as the test says."""

    def __init__(self) -> None:
        self.sure = True

    def may_act(self, now: float) -> bool:
        return self.sure

    def holds(self, now: float) -> bool:
        return self.sure


class Wire:
    """What carries a link, without a socket: writes down the frames, in their true size."""

    def __init__(self, front: HostedFront) -> None:
        self.unsent_bytes = 0
        self.sent: list[Any] = []
        self.ended: str | None = None
        self.broken = False
        self._front = front

    def send(self, frame: Frame) -> None:
        if self.broken:
            raise OverflowError("of no use")
        assert len(pack(frame)) <= MAX_FRAME_BYTES
        if self.ended is None:
            self.sent.append(frame)

    def end(self, why: str) -> None:
        if self.ended is None:
            self.ended = why
            self._front.lost(why)

    @property
    def standings(self) -> list[frames.Standing]:
        return [frame for frame in self.sent if isinstance(frame, frames.Standing)]

    @property
    def effect_frames(self) -> list[frames.Effects]:
        return [frame for frame in self.sent if isinstance(frame, frames.Effects)]

    def effects(self, kind: type[Effect]) -> list[tuple[int, Effect]]:
        """All of one kind, with the session's number."""
        return [
            (number, one)
            for frame in self.effect_frames
            for number, some in frame.batch
            for one in some
            if isinstance(one, kind)
        ]


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
async def engine(tmp_path: Path, authority: Authority) -> AsyncIterator[Engine]:
    threads = StoreThreads(
        SqliteStore(tmp_path / "relay.db"), asyncio.get_running_loop().call_soon_threadsafe
    )
    engine = Engine(threads, BrokerSettings(), on_fenced=lambda: None)
    engine.authority = authority
    await engine.promote(0)
    yield engine
    await engine.close()


@pytest.fixture
async def host(engine: Engine) -> AsyncIterator[Host]:
    host = Host(
        engine,
        me=lambda: MemberState("here", "active", True),
        on_ask=lambda member: f"not {member}",
    )
    host.serve()
    yield host
    host.stop()


def joined(host: Host, member: str) -> tuple[HostedFront, Wire]:
    """The link of another member."""
    front = host.new_front()
    wire = Wire(front)
    front.established(Link(wire, member, 1, 1))
    return front, wire


def give(front: HostedFront, engine: Engine, *batch: tuple[int, list[Any]]) -> None:
    front.received(frames.Commands(engine.epoch, list(batch)))


def publish(ref: int, body: bytes, recipient: str | None = None, bucket: str | None = None) -> Publish:
    return Publish(ref, body, recipient, bucket, id=sha256(body).hexdigest())


async def many_readers(host: Host, engine: Engine) -> tuple[HostedFront, Wire]:
    """A front with many readers of one bucket; all have caught up."""
    front, wire = joined(host, "b")
    opened = Open(None, False, 8, 2**20)
    attend = Attend(1, [], [BUCKET], None, True)
    give(front, engine, *((n, [opened, attend]) for n in range(READERS)))
    await until(lambda: len(wire.effects(CaughtUp)) == READERS)
    return front, wire


# --- much at once


async def test_what_is_too_much_for_one_frame_arrives_in_several(host: Host, engine: Engine) -> None:
    front, wire = await many_readers(host, engine)
    before = len(wire.effect_frames)
    give(front, engine, (0, [publish(1, LARGE, bucket=BUCKET)]))
    await until(lambda: len(wire.effects(Message)) == READERS and wire.effects(Outcomes))
    assert sorted(number for number, _ in wire.effects(Message)) == list(range(READERS))
    assert len(wire.effect_frames) - before > READERS * len(LARGE) // pieces.PIECE_BYTES
    assert wire.ended is None and host.sessions == READERS


async def test_last_words_that_are_too_much_for_one_frame_arrive_too(
    host: Host, engine: Engine, authority: Authority
) -> None:
    front, wire = await many_readers(host, engine)
    authority.sure = False  # nothing leaves until the end
    give(front, engine, (0, [publish(1, LARGE, bucket=BUCKET)]))
    await engine.drain()
    assert wire.effects(Message) == []
    host.cease("promote", "unix:/next")
    engine.drop()
    assert len(wire.effects(Message)) == READERS
    last = wire.sent[-1]
    assert isinstance(last, frames.Standing)
    assert (last.serving, last.reason, last.successor) == (False, "promote", "unix:/next")


async def test_a_front_that_reads_too_little_is_cut_off_before_all_is_written(
    host: Host, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosting, "MOST_UNSENT_BYTES", 1000)
    front, wire = await many_readers(host, engine)
    wire.unsent_bytes = 1001
    give(front, engine, (0, [publish(1, LARGE, bucket=BUCKET)]))
    await until(lambda: wire.ended)
    assert wire.ended == "too slow" and host.sessions == 0
    assert len(wire.effects(Message)) < READERS


def test_pieces_have_the_same_effects_in_the_same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_BYTES", 5000)

    def message(seq: int, size: int) -> Message:
        return Message("i", seq, bytes(size), 0, 0, 1)

    few: Effects = [(1, [message(1, 100)]), (2, [CaughtUp(2)]), (1, [CaughtUp(1)])]
    assert list(in_pieces(few)) == [few]
    outcomes = Outcomes("stored", list(range(50)), ["i"] * 50)
    many: Effects = [
        (1, [message(1, 1000), message(2, 1000)]),
        (2, [message(3, 1000), message(4, 1000), message(5, 9000), message(6, 1)]),
        (3, [CaughtUp(1)]),
        (1, [outcomes, outcomes]),
    ]
    found = list(in_pieces(many))
    assert [[(number, len(some)) for number, some in piece] for piece in found] == [
        [(1, 2), (2, 1)],
        [(2, 1)],
        [(2, 1)],
        [(2, 1), (3, 1)],
        [(1, 1)],
        [(1, 1)],
    ]
    flat = [(number, one) for piece in found for number, some in piece for one in some]
    assert flat == [(number, one) for number, some in many for one in some]


# --- what fails for one front


async def two_fronts(host: Host, engine: Engine) -> list[tuple[HostedFront, Wire]]:
    """Alice reads at one front, Bob at the other."""
    fronts = [joined(host, "b"), joined(host, "c")]
    for (front, _), address in zip(fronts, (ALICE, BOB), strict=True):
        give(front, engine, (1, [Open(address, False, 8, 2**20), Attend(1, [address], [], None, True)]))
    await until(lambda: all(wire.effects(CaughtUp) for _, wire in fronts))
    return fronts


async def test_a_link_over_which_effects_cannot_be_sent_is_ended(host: Host, engine: Engine) -> None:
    (_, first), (front, second) = await two_fronts(host, engine)
    first.broken = True
    with capture_logs() as logs:
        give(
            front,
            engine,
            (1, [publish(1, b"to alice", recipient=ALICE), publish(2, b"to bob", recipient=BOB)]),
        )
        await until(lambda: first.ended and second.effects(Message))
    assert first.ended == "what was to be sent cannot be"
    assert [(one["event"], one["member"]) for one in logs] == [("effects cannot be sent", "b")]
    assert host.sessions == 1 and second.ended is None


async def test_a_front_that_cannot_hear_the_end_keeps_no_other_from_it(
    host: Host, engine: Engine, authority: Authority
) -> None:
    (_, first), (front, second) = await two_fronts(host, engine)
    authority.sure = False
    give(front, engine, (1, [publish(1, b"to bob", recipient=BOB)]))
    await engine.drain()
    first.broken = True
    host.cease("promote", "unix:/next")
    engine.drop()
    assert first.ended is not None
    assert len(second.effects(Message)) == 1
    assert (second.standings[-1].reason, second.standings[-1].successor) == ("promote", "unix:/next")
    assert not second.standings[-1].serving
    assert [one.name for one in host.members()] == ["here", "c"]


@pytest.mark.parametrize("step", ["farewell", "confirmed"])
async def test_a_port_that_fails_at_the_end_keeps_nobody_from_it(
    host: Host, engine: Engine, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    (_, first), (_, second) = await two_fronts(host, engine)
    healthy = getattr(engine, step)
    failed: list[Port] = []

    def failing(port: Port) -> Any:
        if not failed or port is failed[0]:
            failed.append(port)
            raise ValueError("of no use")
        return healthy(port)

    monkeypatch.setattr(engine, step, failing)
    host.cease("promote", "unix:/next")
    engine.drop()
    assert failed and first.ended is not None
    assert second.standings[-1].successor == "unix:/next" and second.ended is None


async def test_acks_go_on_being_confirmed_though_one_front_fails(
    host: Host, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    (_, first), (front, second) = await two_fronts(host, engine)
    give(front, engine, (1, [publish(1, b"to bob", recipient=BOB)]))
    await until(lambda: second.effects(Message) and second.effects(Outcomes))
    healthy = engine.confirmed
    failed: list[Port] = []

    def failing(port: Port) -> int:
        if not failed or port is failed[0]:
            failed.append(port)
            raise ValueError("of no use")
        return healthy(port)

    monkeypatch.setattr(engine, "confirmed", failing)
    await until(lambda: first.ended)
    (_, message) = second.effects(Message)[0]
    assert isinstance(message, Message)
    give(front, engine, (1, [Ack([message.id])]))
    await until(lambda: second.effect_frames[-1].confirmed == 3)


# --- what fronts are told


async def test_where_the_next_one_is_is_told_once(host: Host, engine: Engine) -> None:
    _, served = joined(host, "b")
    host.cease("promote", "unix:/next")
    host.announce()
    _, late = joined(host, "c")
    assert [(one.serving, one.successor) for one in served.standings] == [
        (True, ""),
        (False, "unix:/next"),
        (False, ""),
    ]
    assert [(one.serving, one.reason, one.successor) for one in late.standings] == [(False, "", "")]


async def test_nobody_leaves_a_broker_that_only_finishes(host: Host, engine: Engine) -> None:
    front, wire = joined(host, "b")
    give(front, engine, (1, [Open(ALICE, False, 8, 2**20)]))
    host.pause()
    joined(host, "c")
    front.received(frames.Report("standby", True, "unix:/b"))
    assert len(wire.standings) == 2 and all(one.serving for one in wire.standings)
    give(front, engine, (2, [Open(BOB, False, 8, 2**20)]))
    assert host.sessions == 1  # what is said now is for the next one
    assert host.ready() == [("b", "unix:/b")]
    host.cease("promote", "unix:/b")
    assert not wire.standings[-1].serving
    host.serve()
    give(front, engine, (3, [Open(BOB, False, 8, 2**20)]))
    assert host.sessions == 1 and wire.standings[-1].serving


async def test_a_broker_that_has_gone_takes_nothing(host: Host, engine: Engine) -> None:
    front, wire = joined(host, "b")
    front.received(frames.Commands(engine.epoch - 1, [(1, [Open(ALICE, False, 8, 2**20)])]))
    assert host.sessions == 0
    front.received(frames.Ask(7, "c"))
    assert wire.sent[-1] == frames.Answer(7, "not c")
    front.lost("gone")
    assert host.members() == [MemberState("here", "active", True)]
