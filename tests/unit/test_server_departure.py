"""A stop that waits for the store, and one that is hurried."""

import asyncio
from typing import cast

import pytest
from posthouse.server import departure as departures
from posthouse.server.departure import Departure
from posthouse.server.engine import Engine
from posthouse.server.front import Front
from posthouse.server.websocket.endpoint import Endpoint


class HangingStore:
    """Of an engine, a drain that never ends."""

    store_healthy = True

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def drain(self) -> None:
        self.asked.set()
        await asyncio.Event().wait()


def departure(engine: object, patience_s: float) -> Departure:
    return Departure(
        cast(Engine, engine), cast(Front, None), cast(Endpoint, None), drain_s=0, patience_s=patience_s
    )


@pytest.mark.parametrize("before", [False, True])
async def test_hurry_ends_the_wait_for_a_store_that_hangs(
    monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    monkeypatch.setattr(departures, "HURRIED_S", 0.05)
    engine = HangingStore()
    leaving = departure(engine, 3600.0)
    if before:
        leaving.hurry()
    settled = asyncio.create_task(leaving.settle())
    async with asyncio.timeout(10):
        await engine.asked.wait()
        leaving.hurry()
        assert await settled is False
    leaving.hurry()


async def test_hurry_never_prolongs_it() -> None:
    engine = HangingStore()
    leaving = departure(engine, 0.05)
    settled = asyncio.create_task(leaving.settle())
    await engine.asked.wait()
    began = asyncio.get_running_loop().time()
    leaving.hurry()
    assert await settled is False
    assert asyncio.get_running_loop().time() - began < departures.HURRIED_S


async def test_it_lingers_for_its_time_and_no_longer() -> None:
    loop = asyncio.get_running_loop()
    leaving = departure(HangingStore(), 0.0)
    for seconds in (0.1, 0.0, -1.0):
        began = loop.time()
        async with asyncio.timeout(10):
            await leaving.linger(seconds)
        assert loop.time() - began >= seconds - 0.01


@pytest.mark.parametrize("before", [False, True])
async def test_hurry_ends_the_lingering(before: bool) -> None:
    leaving = departure(HangingStore(), 0.0)
    if before:
        leaving.hurry()
    lingering = asyncio.create_task(leaving.linger(3600.0))
    await asyncio.sleep(0)
    assert not lingering.done() or before
    leaving.hurry()
    async with asyncio.timeout(10):
        await lingering
