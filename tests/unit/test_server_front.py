"""The front when another instance becomes active: one session that fails keeps no other from going on."""

import asyncio
from typing import cast

from posthouse.config import load
from posthouse.server import settings
from posthouse.server.engine import Engine
from posthouse.server.front import Conversation, Front
from posthouse.server.websocket.interface import Outlet, RequestInfo
from posthouse.session.base import Phase
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


class Waiting:
    """Of a conversation, that it waits for an active instance."""

    phase = Phase.WAITING
    outgoing: tuple[bytes, ...] = ()
    closing = None

    def __init__(self, *, fails: bool) -> None:
        self.fails = fails
        self.went_on = False

    def activated(self, now: float) -> None:
        if self.fails:
            raise ZeroDivisionError
        self.went_on = True


async def test_a_session_that_fails_when_an_instance_is_active_is_closed_alone() -> None:
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
    connections = [Connection() for _ in range(3)]
    conversations = [Waiting(fails=True), Waiting(fails=False), Waiting(fails=False)]
    request = RequestInfo("GET", "/", "relay.example", ("posthouse.v2.json",), "posthouse.v2.json")
    for connection, conversation in zip(connections, conversations, strict=True):
        client = front.session_factory(cast(Outlet, connection), request)
        client.conversation = cast(Conversation, conversation)
    front.activated(3)
    front.stop()
    assert [one.closed for one in connections] == [[CloseCode.KEEP_ALIVE], [], []]
    assert [one.went_on for one in conversations] == [False, True, True]
