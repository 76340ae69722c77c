"""Where a front's sessions are served, and what they take with them from one place to the next."""

import asyncio
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path

import pytest
from broker_rig import ALICE, BOB
from posthouse.broker import BrokerSettings
from posthouse.exchange import (
    Attend,
    Close,
    Command,
    Commands,
    Credit,
    Effect,
    Effects,
    Open,
    Outcomes,
    Resume,
)
from posthouse.link import frames
from posthouse.link.memory import Memory
from posthouse.server.cluster import pieces
from posthouse.server.cluster import remote as remotes
from posthouse.server.cluster.local import Local
from posthouse.server.cluster.made_again import PAUSE_S
from posthouse.server.cluster.nobody import HeldTooMuch, Nobody
from posthouse.server.cluster.pieces import ITEM_BYTES
from posthouse.server.cluster.remote import Remote
from posthouse.server.cluster.upstream import AT_ONCE, Upstream
from posthouse.server.engine import Engine, boot_s
from posthouse.store.sqlite import SqliteStore
from posthouse.store.threads import StoreThreads
from posthouse.wire.messages import Ack, Message, Publish, Result

OPEN = Open(ALICE, False, 8, 2**20)
ATTEND = Attend(1, [ALICE], [], None, True)


def publish(ref: int, body: bytes, recipient: str = BOB) -> Publish:
    return Publish(ref, body, recipient, id=sha256(body).hexdigest())


class FakeLink:
    """The end of a link that a front has; what it was given."""

    def __init__(self) -> None:
        self.unsent_bytes = 0
        self.max_commands = 10_000
        """More of them in a frame are too many."""
        self.sent: list[frames.Commands] = []

    def send(self, frame: frames.Frame) -> None:
        assert isinstance(frame, frames.Commands)
        if sum(len(some) for _, some in frame.batch) > self.max_commands:
            raise frames.FrameTooLarge(1)
        self.sent.append(frame)

    def commands(self) -> Commands:
        """All that was sent since the last call."""
        found = [some for frame in self.sent for some in frame.batch]
        self.sent.clear()
        return found


class Wakes:
    """Counts how often the front was woken."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


@pytest.fixture
def wake() -> Wakes:
    return Wakes()


@pytest.fixture
def link() -> FakeLink:
    return FakeLink()


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    threads = StoreThreads(
        SqliteStore(tmp_path / "relay.db"), asyncio.get_running_loop().call_soon_threadsafe
    )
    engine = Engine(threads, BrokerSettings(), on_fenced=lambda: None)
    engine.authority = Surely()
    await engine.promote(0)
    yield engine
    await engine.close()


class Surely:
    """The lease is ours."""

    def may_act(self, now: float) -> bool:
        return True

    def holds(self, now: float) -> bool:
        return True


async def effects_of(upstream: Upstream, kind: type[Effect], count: int = 1) -> list[Effect]:
    """Wait for so many effects of one kind."""
    found: list[Effect] = []
    async with asyncio.timeout(5):
        while len(found) < count:
            found += [one for _, some in upstream.take() for one in some if isinstance(one, kind)]
            await asyncio.sleep(0.001)
    return found


def rejected(effects: Effects) -> list[tuple[int, int]]:
    """Sessions and refs of publishes that were rejected as they should be."""
    found = []
    for number, some in effects:
        for one in some:
            assert isinstance(one, Result)
            assert (one.status, one.code, one.fallback) == ("rejected", "not-active", True)
            assert one.retry_after_ms and one.id
            found.append((number, one.ref))
    return found


def kinds(commands: Commands) -> list[tuple[int, list[type[Command]]]]:
    return [(number, [type(one) for one in some]) for number, some in commands]


# --- nobody


def test_what_nobody_can_take_goes_to_the_next_in_order(wake: Wakes) -> None:
    kept: Commands = [(1, [OPEN])]
    nobody = Nobody(10_000, wake, Memory(), kept)
    more: Commands = [(2, [OPEN, ATTEND]), (1, [publish(1, b"x")]), (2, [Close()])]
    assert nobody.submit(more) == []
    assert nobody.awaits_results()
    assert nobody.take() == [] and wake.count == 0
    assert nobody.retire().kept == kept + more


def test_publishes_beyond_the_bound_are_rejected_at_once_and_nothing_else(wake: Wakes) -> None:
    nobody = Nobody(4 * ITEM_BYTES + 1000, wake, Memory(), [])
    first: Commands = [(1, [publish(1, bytes(1000))])]
    assert nobody.submit(first) == []
    assert nobody.submit([(1, [publish(2, bytes(1000)), Ack(["a"])]), (2, [publish(3, b"small")])]) == []
    assert rejected(nobody.take()) == [(1, 2)]
    assert wake.count == 1
    assert nobody.retire().kept == [*first, (1, [Ack(["a"])]), (2, [publish(3, b"small")])]


def test_who_asks_for_too_much_of_anything_has_to_end(wake: Wakes) -> None:
    nobody = Nobody(10 * ITEM_BYTES, wake, Memory(), [])
    acks: list[Command] = [Ack([str(n)]) for n in range(10)]
    assert nobody.submit([(1, acks)]) == []
    failures = nobody.submit([(2, [*acks, Close()]), (3, [Ack(["x"])])])
    assert [number for number, _ in failures] == [2]
    assert isinstance(failures[0][1], HeldTooMuch)
    # Its end is kept, or the next broker would have it for ever.
    assert nobody.retire().kept == [(1, acks), (2, [Close()]), (3, [Ack(["x"])])]


def test_an_ack_of_many_counts_as_many(wake: Wakes) -> None:
    nobody = Nobody(10 * ITEM_BYTES, wake, Memory(), [])
    (failure,) = nobody.submit([(1, [Ack([str(n) for n in range(100)])])])
    assert failure[0] == 1


def test_after_a_while_what_no_broker_has_seen_is_rejected_and_what_comes_then(wake: Wakes) -> None:
    memory = Memory()
    memory.given([(1, [OPEN, publish(1, b"a broker may have it")])])
    nobody = Nobody(10_000, wake, memory, [(1, [publish(2, b"kept")])])
    nobody.submit([(1, [Ack(["a"]), publish(3, b"kept too")]), (2, [OPEN])])
    nobody.refuse()
    assert rejected(nobody.take()) == [(1, 2), (1, 3)]
    nobody.submit([(2, [ATTEND, publish(4, b"late")])])
    assert rejected(nobody.take()) == [(2, 4)]
    # The one that a broker may have has no answer yet.
    assert nobody.awaits_results()
    baggage = nobody.retire()
    assert baggage.kept == [(1, [Ack(["a"])]), (2, [OPEN]), (2, [ATTEND])]
    assert baggage.effects == []


def test_rejections_that_nobody_has_taken_go_along(wake: Wakes) -> None:
    nobody = Nobody(0, wake, Memory(), [])
    nobody.submit([(1, [publish(1, b"x")])])
    assert not nobody.awaits_results()
    assert rejected(nobody.retire().effects) == [(1, 1)]


# --- another member's


def test_commands_go_over_the_link_with_the_epoch_they_are_for(link: FakeLink, wake: Wakes) -> None:
    remote = Remote(link, 7, wake, Memory(), [(1, [OPEN])])
    assert remote.submit([(1, [publish(1, b"x")])]) == []
    assert remote.submit([]) == []
    assert [frame.epoch for frame in link.sent] == [7, 7]
    assert link.commands() == [(1, [OPEN]), (1, [publish(1, b"x")])]
    assert remote.awaits_results()
    remote.receive(frames.Effects(7, [(1, [Outcomes("stored", [1], ["i"])])], 0))
    assert wake.count == 1
    assert remote.take() == [(1, [Outcomes("stored", [1], ["i"])])]
    assert not remote.awaits_results()


def test_sessions_go_on_at_the_next_link(link: FakeLink, wake: Wakes) -> None:
    remote = Remote(link, 7, wake, Memory(), [(1, [OPEN, ATTEND]), (2, [OPEN, publish(1, b"x")])])
    held = Message("m", 3, b"12345", 0, 0, 1, recipient=ALICE)
    remote.receive(frames.Effects(7, [(1, [held])], 0))
    effects, memory, kept = remote.retire()
    assert (effects, kept) == ([(1, [held])], [])
    second = FakeLink()
    Remote(second, 8, wake, memory, [(2, [publish(2, b"kept")])])
    again = second.commands()
    resumes = {number: one for number, some in again for one in some if isinstance(one, Resume)}
    assert [one.id for one in resumes[1].held] == ["m"]
    assert resumes[1].opened.credit == OPEN.credit - 5
    assert [one.ref for _, some in again for one in some if isinstance(one, Publish)] == [1, 2]
    assert any(isinstance(one, Attend) for number, some in again if number == 1 for one in some)


def test_acks_await_their_confirmation(link: FakeLink, wake: Wakes) -> None:
    remote = Remote(link, 7, wake, Memory(), [(1, [OPEN, ATTEND])])
    remote.receive(frames.Effects(7, [(1, [Message("m", 3, b"x", 0, 0, 1, recipient=ALICE)])], 1))
    remote.submit([(1, [Ack(["m"])])])
    assert remote.awaits_confirmation()
    remote.receive(frames.Effects(7, [], 2))
    assert not remote.awaits_confirmation()


def test_a_link_that_takes_nothing_takes_no_publishes(
    link: FakeLink, wake: Wakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remotes, "MOST_UNSENT_BYTES", 100)
    remote = Remote(link, 7, wake, Memory(), [(1, [OPEN])])
    link.unsent_bytes = 101
    link.commands()
    assert remote.submit([(1, [publish(1, b"x"), Ack(["a"]), Credit(5)]), (2, [publish(2, b"y")])]) == []
    assert link.commands() == [(1, [Ack(["a"]), Credit(5)])]
    assert rejected(remote.take()) == [(1, 1), (2, 2)]
    assert wake.count == 1 and not remote.awaits_results()
    link.unsent_bytes = 100
    remote.submit([(1, [publish(1, b"x")])])
    assert kinds(link.commands()) == [(1, [Publish])]


def test_much_that_was_kept_goes_in_pieces(
    link: FakeLink, wake: Wakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "PIECE_ITEMS", 2)
    kept: Commands = [(n, [OPEN]) for n in range(1, 6)]
    Remote(link, 7, wake, Memory(), kept)
    assert [len(frame.batch) for frame in link.sent] == [2, 2, 1]
    assert link.commands() == kept
    monkeypatch.setattr(pieces, "PIECE_ITEMS", 100)
    monkeypatch.setattr(pieces, "PIECE_BYTES", 1000)
    large: list[Command] = [OPEN, publish(1, bytes(2000))]
    Remote(link, 7, wake, Memory(), [(1, large), (1, [publish(2, b"x")])])
    assert [frame.batch for frame in link.sent] == [
        [(1, large[:1])],
        [(1, large[1:])],
        [(1, [publish(2, b"x")])],
    ]


def idle_sessions(count: int) -> Memory:
    memory = Memory()
    memory.given([(n, [Open(ALICE, False, 8, 2**20)]) for n in range(1, count + 1)])
    return memory


def test_idle_sessions_go_on_a_few_at_a_time_or_when_they_speak(link: FakeLink, wake: Wakes) -> None:
    memory = idle_sessions(AT_ONCE + 20)
    memory.given([(AT_ONCE + 20, [publish(1, b"cannot wait")])])
    remote = Remote(link, 7, wake, memory, [(AT_ONCE + 19, [Credit(1)])])
    first = [number for number, _ in link.commands()]
    assert {AT_ONCE + 19, AT_ONCE + 20} < set(first) and len(set(first)) == AT_ONCE + 2
    remote.submit([(AT_ONCE + 5, [Credit(2)])])
    assert kinds(link.commands()) == [(AT_ONCE + 5, [Resume]), (AT_ONCE + 5, [Credit])]
    assert remote.go_on(10)
    ten = link.commands()
    assert [kind for _, some in kinds(ten) for kind in some] == [Resume] * 10
    remote.receive(frames.Effects(7, [(AT_ONCE + 20, [stored(1, b"cannot wait")])], 0))
    assert not remote.go_on(100)
    last = link.commands()
    told = first + [AT_ONCE + 5] + [number for number, _ in ten + last]
    assert set(told) == set(range(1, AT_ONCE + 21))


def test_those_that_had_not_gone_on_are_not_forgotten(link: FakeLink, wake: Wakes) -> None:
    remote = Remote(link, 7, wake, idle_sessions(AT_ONCE + 20), [])
    link.commands()
    Remote(link, 8, wake, remote.retire().memory, []).go_on(1000)
    assert {number for number, _ in link.commands()} == set(range(1, AT_ONCE + 21))


def stored(ref: int, body: bytes) -> Outcomes:
    return Outcomes("stored", [ref], [sha256(body).hexdigest()])


def refusal(ref: int, body: bytes) -> Result:
    return Result(ref, "rejected", True, sha256(body).hexdigest(), code="store-unavailable")


def test_a_publish_that_may_be_stored_is_not_rejected_but_made_again(
    link: FakeLink, wake: Wakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory()
    memory.given([(1, [OPEN, publish(1, b"doubtful")])])
    remote = Remote(link, 7, wake, memory, [(1, [publish(2, b"new")])])
    link.commands()
    remote.receive(frames.Effects(7, [(1, [refusal(1, b"doubtful"), refusal(2, b"new")])], 0))
    assert remote.take() == [(1, [refusal(2, b"new")])]
    assert remote.awaits_results() and remote.go_on(1) and not link.commands()
    monkeypatch.setattr(remotes, "boot_s", lambda: boot_s() + PAUSE_S)
    assert remote.go_on(1)
    assert link.commands() == [(1, [publish(1, b"doubtful")])]
    remote.receive(frames.Effects(7, [(1, [stored(1, b"doubtful")])], 0))
    assert not remote.go_on(1) and not remote.awaits_results()


def test_a_ref_that_is_used_twice_keeps_both_publishes(
    link: FakeLink, wake: Wakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory()
    memory.given([(1, [OPEN, publish(5, b"first")])])
    remote = Remote(link, 7, wake, memory, [])
    remote.receive(frames.Effects(7, [(1, [refusal(5, b"first")])], 0))
    remote.submit([(1, [publish(5, b"second")])])
    remote.receive(frames.Effects(7, [(1, [stored(5, b"second")])], 0))
    assert remote.take() == [(1, []), (1, [stored(5, b"second")])]
    link.commands()
    monkeypatch.setattr(remotes, "boot_s", lambda: boot_s() + PAUSE_S)
    assert remote.go_on(1)
    assert link.commands() == [(1, [publish(5, b"first")])]


def test_who_closes_waits_for_nothing_any_more(link: FakeLink, wake: Wakes) -> None:
    memory = Memory()
    memory.given([(1, [OPEN, publish(1, b"doubtful")])])
    remote = Remote(link, 7, wake, memory, [])
    remote.receive(frames.Effects(7, [(1, [refusal(1, b"doubtful")])], 0))
    assert remote.go_on(1)
    remote.submit([(1, [Close()])])
    assert not remote.go_on(1) and not remote.awaits_results()


def test_commands_too_large_for_a_frame_go_in_pieces(
    link: FakeLink, wake: Wakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = Remote(link, 7, wake, Memory(), [(1, [OPEN])])
    link.commands()
    link.max_commands = 3
    monkeypatch.setattr(pieces, "PIECE_ITEMS", 2)
    said: list[Command] = [publish(n, b"%d" % n) for n in range(5)]
    remote.submit([(1, said)])
    assert [one for _, some in link.commands() for one in some] == said
    remote.receive(frames.Effects(7, [(1, [Outcomes("stored", [*range(5)], [*"abcde"])])], 0))
    assert not remote.awaits_results()


# --- this process's


async def test_sessions_come_here_from_elsewhere_and_go_on(
    engine: Engine, link: FakeLink, wake: Wakes
) -> None:
    remote = Remote(link, 7, wake, Memory(), [(1, [OPEN, ATTEND]), (2, [Open(BOB, False, 8, 2**20)])])
    remote.submit([(2, [publish(1, b"to alice", ALICE)])])
    nobody = Nobody(10_000, wake, remote.retire().memory, [])
    nobody.submit([(2, [publish(2, b"kept", ALICE)])])
    _, memory, kept = nobody.retire()
    local = Local(engine, wake, memory, kept)
    messages = await effects_of(local, Message, 2)
    assert [one.ciphertext for one in messages if isinstance(one, Message)] == [b"to alice", b"kept"]
    local.submit([(1, [Ack([one.id for one in messages if isinstance(one, Message)])])])
    outcomes = await effects_of(local, Outcomes)
    assert [one.refs for one in outcomes if isinstance(one, Outcomes)] == [[1, 2]]
    assert wake.count and not local.awaits_results()


async def test_a_broker_that_closes_takes_nothing_and_gives_all_away(
    engine: Engine, link: FakeLink, wake: Wakes
) -> None:
    local = Local(engine, wake, Memory(), [(1, [OPEN, ATTEND])])
    local.submit([(1, [publish(0, b"has its mailbox loaded")])])
    await effects_of(local, Outcomes)
    local.submit([(1, [publish(1, b"before")])])
    assert local.awaits_results()
    local.close()
    local.submit([(1, [publish(2, b"after")])])
    await engine.drain()
    effects, memory, kept = local.retire()
    answered = [one for _, some in effects for one in some if isinstance(one, Outcomes)]
    assert [(one.status, one.refs) for one in answered] == [("stored", [1])]
    assert kept == [(1, [publish(2, b"after")])]
    engine.drop()
    Remote(link, 8, wake, memory, kept)
    assert [kind for _, some in kinds(link.commands()) for kind in some] == [Resume, Attend, Publish]


async def test_what_has_no_answer_when_the_broker_is_dropped_is_asked_of_the_next(
    engine: Engine, link: FakeLink, wake: Wakes
) -> None:
    local = Local(engine, wake, Memory(), [(1, [OPEN, publish(1, b"never committed")])])
    effects, memory, kept = local.retire()
    assert [one for _, some in effects for one in some] == [] and kept == []
    engine.drop()
    nobody = Nobody(0, wake, memory, kept)
    nobody.refuse()
    assert nobody.take() == [] and nobody.awaits_results()
    remote = Remote(link, 8, wake, nobody.retire().memory, [])
    assert [one.ref for _, some in link.commands() for one in some if isinstance(one, Publish)] == [1]
    assert remote.awaits_results()


async def test_sessions_that_had_not_gone_on_here_go_on_at_the_next(
    engine: Engine, link: FakeLink, wake: Wakes
) -> None:
    local = Local(engine, wake, idle_sessions(AT_ONCE + 20), [])
    local.submit([(AT_ONCE + 20, [publish(1, b"speaks")])])
    assert local.go_on(5)
    memory = local.retire().memory
    engine.drop()
    Remote(link, 8, wake, memory, []).go_on(1000)
    again = [one for _, some in link.commands() for one in some]
    assert sum(isinstance(one, Resume) for one in again) == AT_ONCE + 20
    assert [one.ref for one in again if isinstance(one, Publish)] == [1]
