"""A reader that stops and goes on again gets the rest, however small its share of memory is."""

from typing import cast

import pytest
from posthouse.config import load
from posthouse.exchange import Credit
from posthouse.server import settings
from posthouse.server.cluster.upstream import Upstream
from posthouse.server.engine import Engine
from posthouse.server.front import Front
from posthouse.session.settings import Conditions
from posthouse.wire.codec import MSGPACK
from posthouse.wire.messages import Hello, Message
from websocket_fakes import BINARY, Peer, client_frame

KIB = 1024


class Broker:
    """Of an engine, what a front asks of it; of a broker, only the credit that it has got back."""

    def __init__(self, peer: Peer) -> None:
        self.turn = peer.endpoint.turn
        self.now = 0.0
        self.credit = 0

    def take(self) -> list[object]:
        return []

    def submit(self, batch: list[tuple[int, list[object]]]) -> list[object]:
        for _, commands in batch:
            self.credit += sum(command.bytes for command in commands if isinstance(command, Credit))
        return []


@pytest.mark.parametrize("unread", [1 * KIB, 50 * KIB, 60 * KIB, 64 * KIB])
@pytest.mark.parametrize("outbound", [64 * KIB, 80 * KIB, 128 * KIB])
def test_credit_comes_back_when_the_socket_goes_on(outbound: int, unread: int) -> None:
    config = load(overrides={"limits.max_frame_bytes": 16 * KIB, "limits.max_outbound_bytes": outbound})
    peer = Peer(settings.websocket_limits(config))
    broker = Broker(peer)
    front = Front(
        cast(Engine, broker),
        settings.session_settings(config, "relay"),
        Conditions(epoch=1),
        legacy_enabled=True,
        audience=str,
        limits=settings.front_limits(config),
        loop=peer.endpoint.loop,
    )
    front.upstream = cast(Upstream, broker)
    peer.endpoint.session_factory = front.session_factory
    peer.open()
    (hello,) = MSGPACK.encode([Hello(client="test")], 2**20)
    peer.feed(client_frame(BINARY, hello))
    (client,) = front.clients()

    # All credit is spent; of the last of it the socket leaves a part for later.
    peer.transport.take(outbound - unread)
    part = 4 * KIB
    messages = [Message(f"{n:064x}", n, b"x" * part, 0, 1, 1) for n in range(outbound // part)]
    for message in messages:
        client.deliver([message], 0.0)
    peer.transport.take(None)
    peer.loop.turn()
    assert broker.credit > 0
