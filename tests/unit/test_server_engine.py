"""The engine: its timer outlives a failure, and a drain ends though readers go on acknowledging."""

import asyncio
from collections.abc import AsyncIterator, Callable
from hashlib import sha256
from pathlib import Path

import pytest
from broker_rig import ALICE
from posthouse.broker import BrokerSettings
from posthouse.exchange import Attend, Effect, Open, Outcomes
from posthouse.server import engine as engines
from posthouse.server.engine import Engine
from posthouse.store.interface import StoreUnavailable
from posthouse.store.sqlite import SqliteStore
from posthouse.store.threads import StoreThreads
from posthouse.wire.messages import Ack, Message, Publish

MESSAGES = 24


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    threads = StoreThreads(
        SqliteStore(tmp_path / "relay.db"), asyncio.get_running_loop().call_soon_threadsafe
    )
    engine = Engine(threads, BrokerSettings(), on_fenced=lambda: None)
    engine.authority = Authority()
    await engine.promote(0)
    yield engine
    await engine.close()


class Authority:
    """Says what the test says."""

    acts = sure = True

    def may_act(self, now: float) -> bool:
        return self.acts

    def holds(self, now: float) -> bool:
        return self.sure


class Sessions:
    """A port of an engine, and what has come out of it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.port = engine.open_port(lambda: None)

    async def effects(self, kind: type, count: int) -> list[Effect]:
        """Wait for so many effects of one kind."""
        found: list[Effect] = []
        async with asyncio.timeout(5):
            while len(found) < count:
                for _, effects in self.engine.take_effects(self.port):
                    found += [effect for effect in effects if isinstance(effect, kind)]
                await asyncio.sleep(0.001)
        return found


async def test_the_timer_goes_on_after_a_tick_that_failed(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "AFTER_A_FAILURE_S", 0.01)
    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    tick = engine.broker.tick
    ticked = asyncio.Event()

    def fail_once(now: float, wall_ms: int) -> None:
        if not failures:
            raise ZeroDivisionError
        tick(now, wall_ms)
        ticked.set()

    monkeypatch.setattr(engine.broker, "tick", fail_once)
    async with asyncio.timeout(5):
        await ticked.wait()
    assert len(failures) == 1


async def test_a_drain_ends_though_a_reader_goes_on_acknowledging(engine: Engine) -> None:
    sessions = Sessions(engine)
    port = sessions.port
    bodies = [b"message %d" % n for n in range(MESSAGES)]
    publishes = [Publish(n, body, ALICE, id=sha256(body).hexdigest()) for n, body in enumerate(bodies)]
    engine.submit(port, [(1, [Open(None, False, 8, 2**20), *publishes])])
    await sessions.effects(Outcomes, 1)
    engine.submit(port, [(2, [Open(ALICE, False, MESSAGES, 2**20), Attend(1, [ALICE], [], None, True)])])
    held = [
        message.id for message in await sessions.effects(Message, MESSAGES) if isinstance(message, Message)
    ]

    def acknowledge(_: float = 0.0) -> None:
        if held:
            engine.submit(port, [(2, [Ack([held.pop()])])])

    acknowledge()
    engine.on_commit = acknowledge
    async with asyncio.timeout(5):
        await engine.drain()
    assert held, "the drain went on for as long as there were acks"
    assert engine.broker.ledger.total.count < MESSAGES


async def test_a_purge_is_answered_when_its_broker_is_dropped(engine: Engine) -> None:
    purging = asyncio.create_task(engine.purge(ALICE))
    await asyncio.sleep(0)
    assert not purging.done()
    engine.drop()
    async with asyncio.timeout(5):
        with pytest.raises(StoreUnavailable, match="not active any more"):
            await purging


async def test_a_store_that_failed_a_broker_counts_no_more_when_it_is_dropped(engine: Engine) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine._threads._writer, "commit", _away)
        sessions = Sessions(engine)
        engine.submit(
            sessions.port, [(1, [Open(None, False, 8, 2**20), Publish(1, b"x", ALICE, id="1" * 64)])]
        )
        await _until(lambda: not engine.store_healthy)
    engine.drop()
    assert engine.store_healthy


async def test_an_idle_broker_finds_by_itself_that_its_store_takes_messages_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "CHECK_S", 0.05)
    engine._next_check = 0.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine._threads._writer, "commit", _away)
        sessions = Sessions(engine)
        engine.submit(
            sessions.port, [(1, [Open(None, False, 8, 2**20), Publish(1, b"x", ALICE, id="1" * 64)])]
        )
        await _until(lambda: not engine.store_healthy)
    # Nobody publishes any more.
    await _until(lambda: engine.store_healthy)


def _away(*_: object) -> None:
    raise StoreUnavailable("away")


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  the engine tells nobody
            await asyncio.sleep(0.001)
