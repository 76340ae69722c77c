"""The front when another instance becomes active: one session that fails keeps no other from going on."""

import asyncio
from typing import cast

import pytest
from posthouse.config import load
from posthouse.server import settings
from posthouse.server.cluster.upstream import Upstream
from posthouse.server.engine import Engine
from posthouse.server.front import Front
from posthouse.server.websocket.interface import Outlet, RequestInfo
from posthouse.session.settings import Conditions
from posthouse.wire.codes import CloseCode


class Turn:
    def at_end(self, call: object) -> None: ...


class FakeEngine:
    turn = Turn()
    now = 0.0


class Connection:
    """Of a connection, what is heard of its end."""

    remote = "somebody"

    def __init__(self) -> None:
        self.closed: list[int] = []

    def close(self, code: int, reason: str) -> None:
        self.closed.append(code)


async def test_a_session_that_fails_when_an_instance_is_active_is_closed_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = load(overrides={})
    front = Front(
        cast(Engine, FakeEngine()),
        settings.session_settings(config, "relay"),
        Conditions(),
        legacy_enabled=True,
        audience=str,
        limits=settings.front_limits(config),
        loop=asyncio.get_running_loop(),
    )
    front.upstream = cast(Upstream, None)
    connections = [Connection() for _ in range(3)]
    request = RequestInfo("/", "relay.example", ["posthouse.v2.json"], "posthouse.v2.json")
    clients = [front.session_factory(cast(Outlet, one), request) for one in connections]
    went_on = []

    def fail(now: float) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(clients[0].conversation, "activated", fail)
    for client in clients[1:]:
        monkeypatch.setattr(client.conversation, "activated", went_on.append)
    front.activated(3)
    front.stop()
    assert [one.closed for one in connections] == [[CloseCode.KEEP_ALIVE], [], []]
    assert len(went_on) == 2
