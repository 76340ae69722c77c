"""A way to a PostgreSQL server that loses or holds back what goes over it, at a chosen round trip."""

import contextlib
import select
import socket
import threading
from collections.abc import Iterator
from typing import Literal

SYNC = b"S\x00\x00\x00\x04"
"""Ends a trip; the statements of these tests have nothing that looks like it."""

READY = b"Z\x00\x00\x00\x05"
"""Begins the server's last answer to a trip: it has done all of it."""

Fault = Literal["answers lost", "questions lost", "questions held"]


class Proxy:
    """Forwards connections. `break_trip` decides about one trip of those that are open; later connections are whole."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._fault: Fault | None = None
        self._trips_before = 0
        self.broken = threading.Event()
        """The fault has happened."""
        self._held: list[tuple[socket.socket, bytes]] = []
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def break_trip(self, fault: Fault, after: int = 0) -> None:
        """Let so many more trips pass, then have this happen to the next one and end its connection."""
        self._trips_before = after
        self.broken.clear()
        self._fault = fault

    def release(self) -> None:
        """Deliver late what was held."""
        for server, data in self._held:
            server.sendall(data)
            server.shutdown(socket.SHUT_WR)
            while server.recv(65536):  # until the server has done with it
                pass
        self._held.clear()

    def close(self) -> None:
        """End everything."""
        for each in [self._listener, *self._sockets]:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)  # a thread that waits for it would keep it open
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            self._sockets += [client, server]
            threading.Thread(target=self._forward, args=(client, server), daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):  # closed from outside
            while self._pass(client, server):
                pass
        for each in (client, server):
            if not any(each is held for held, _ in self._held):
                each.close()

    def _pass(self, client: socket.socket, server: socket.socket) -> bool:
        for ready in select.select([client, server], [], [])[0]:
            data = ready.recv(1 << 20)
            if not data:
                return False
            if ready is server:
                client.sendall(data)
            elif self._fault is not None and self._trips_before == 0:
                self._break(client, server, data)
                return False
            else:
                if self._fault is not None:
                    self._trips_before -= data.count(SYNC)
                server.sendall(data)
        return True

    def _break(self, client: socket.socket, server: socket.socket, data: bytes) -> None:
        fault, self._fault = self._fault, None
        while SYNC not in data[-64:]:
            data += client.recv(1 << 20)
        if fault == "answers lost":
            server.sendall(data)
            answers = b""
            while READY not in answers[-6:]:
                answers += server.recv(1 << 20)
        if fault == "questions held":
            self._held.append((server, data))
        self.broken.set()
        client.close()


@contextlib.contextmanager
def proxy_to(port: int) -> Iterator[Proxy]:
    """A proxy, ended afterwards."""
    proxy = Proxy(port)
    try:
        yield proxy
    finally:
        proxy.close()
