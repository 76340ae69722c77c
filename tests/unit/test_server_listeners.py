"""Sockets that clients connect to."""

import asyncio
import socket

from posthouse.server import listeners


async def test_an_accepted_connection_sends_without_waiting_for_the_peers_ack() -> None:
    accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    class Server(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            peer = transport.get_extra_info("socket")
            accepted.set_result(peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            transport.close()

    (listener,) = listeners.bind("127.0.0.1:0", backlog=1)
    server = await asyncio.get_running_loop().create_server(Server, sock=listener)
    async with server:
        _, writer = await asyncio.open_connection(*listener.getsockname())
        assert await accepted == 1
        writer.close()
        await writer.wait_closed()
