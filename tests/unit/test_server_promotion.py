"""A promotion at the store, and what an engine counts of those that ended its own."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import pytest
from broker_rig import ALICE
from posthouse.broker import BrokerSettings
from posthouse.exchange import Open
from posthouse.server.engine import Engine
from posthouse.server.promotion import TRIES, NotPromoted, raise_epoch
from posthouse.store.interface import Writer
from posthouse.store.sqlite import SqliteStore
from posthouse.store.threads import StoreThreads
from posthouse.wire.messages import Publish

T = TypeVar("T")


class Authority:
    def may_act(self, now: float) -> bool:
        return True

    def holds(self, now: float) -> bool:
        return True


class Asked:
    """Asks a real writer at once; before each question something may happen to the store."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.before: Callable[[int], None] = lambda count: None
        self.count = 0

    async def __call__(self, work: Callable[[Writer], T]) -> T:
        self.count += 1
        self.before(self.count)
        return work(self.writer)


def foreign_promotion(path: Path) -> None:
    other = SqliteStore(path).open_writer()
    seen = other.fence()
    assert other.promote(seen, seen.epoch + 1, os.urandom(16)) is not None
    other.close()


@pytest.fixture
async def asked(tmp_path: Path) -> AsyncIterator[Asked]:
    writer = SqliteStore(tmp_path / "relay.db").open_writer()
    yield Asked(writer)
    writer.close()


@pytest.mark.parametrize(("transitions", "epoch"), [(0, 1), (7, 7)])
async def test_the_epoch_rises_to_the_transitions_of_the_lease_at_least(
    asked: Asked, transitions: int, epoch: int
) -> None:
    assert (await raise_epoch(asked, lambda: True, transitions)).fence.epoch == epoch
    assert (await raise_epoch(asked, lambda: True, transitions)).fence.epoch == epoch + 1


async def test_without_the_lease_nothing_is_raised(asked: Asked) -> None:
    with pytest.raises(NotPromoted):
        await raise_epoch(asked, lambda: False, 3)
    assert asked.writer.fence().epoch == 0


async def test_who_was_overtaken_begins_again_but_not_for_ever(asked: Asked, tmp_path: Path) -> None:
    asked.before = lambda count: foreign_promotion(tmp_path / "relay.db") if count == 2 else None
    assert (await raise_epoch(asked, lambda: True, 0)).fence.epoch == 2
    asked.before = lambda count: foreign_promotion(tmp_path / "relay.db") if count % 2 == 0 else None
    asked.count = 0
    with pytest.raises(NotPromoted, match="again and again"):
        await raise_epoch(asked, lambda: True, 0)
    assert asked.writer.fence().epoch == 2 + TRIES


async def test_an_engine_counts_the_brokers_that_others_ended(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    fenced = asyncio.Event()
    engine = Engine(
        StoreThreads(SqliteStore(tmp_path / "relay.db"), loop.call_soon_threadsafe),
        BrokerSettings(),
        on_fenced=fenced.set,
    )
    engine.authority = Authority()
    for times in (1, 2):
        await engine.promote(0)
        foreign_promotion(tmp_path / "relay.db")
        port = engine.open_port(lambda: None)
        message = Publish(1, b"%d" % times, ALICE, id=f"{times:064x}")
        engine.submit(port, [(1, [Open(None, False, 8, 2**20), message])])
        async with asyncio.timeout(10):
            await fenced.wait()
        fenced.clear()
        engine.drop()
        assert engine.times_fenced == times
    await engine.close()
