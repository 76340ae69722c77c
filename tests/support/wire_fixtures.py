"""Fixtures of the tests from outside: relays shared by configuration, relays of one test, clients that are closed.

A relay of `shared_relay` serves every test of the run that asks for the same configuration, so each test uses keys of
its own, by `key`. What ends a relay, or fills it, takes one of its own from `own_relay`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from relay_process import RelayProcess
from wire_client import WireClient
from wire_keys import Key, bucket_of_number, message_id, named_key
from wire_socket import WireSocket

RelayOf = Callable[..., RelayProcess]
"""relay(config: TOML text = "", store: URL = a SQLite file) -> a relay that runs."""


@pytest.fixture(scope="session")
def shared_relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayOf]:
    """One relay for each configuration, for all tests."""
    running: dict[tuple[str, str | None], RelayProcess] = {}

    def relay(config: str = "", store: str | None = None) -> RelayProcess:
        found = running.get((config, store))
        if found is None:
            folder: Path = tmp_path_factory.mktemp("relay")
            found = running[config, store] = RelayProcess(
                folder, store=store, config="server.drain_s = 0\n" + config
            )
            found.start()
        assert found.running, found.lines
        return found

    yield relay
    for one in running.values():
        one.clean_up()


@pytest.fixture
def own_relay(tmp_path: Path) -> Iterator[RelayOf]:
    """Relays for this test alone."""
    started: list[RelayProcess] = []

    def relay(config: str = "", store: str | None = None, drain_s: float = 0) -> RelayProcess:
        folder = tmp_path / f"own-{len(started)}"
        folder.mkdir()
        one = RelayProcess(folder, store=store, config=f"server.drain_s = {drain_s}\n{config}")
        started.append(one)
        return one.start()

    yield relay
    for one in started:
        one.clean_up()


class Dial:
    """Opens connections, and closes them when the test ends."""

    def __init__(self) -> None:
        self._sockets: list[WireSocket] = []

    def socket(self, relay: RelayProcess, **options: Any) -> WireSocket:
        """A WebSocket of whatever subprotocol."""
        opened = WireSocket(relay.port, **options)
        self._sockets.append(opened)
        return opened

    def unopened(self, relay: RelayProcess, encoding: str = "msgpack", **options: Any) -> WireClient:
        """A v2 connection that has its challenge."""
        opened = WireClient(relay.port, encoding, **options)
        self._sockets.append(opened)
        return opened

    def __call__(
        self, relay: RelayProcess, key: Key | None = None, encoding: str = "msgpack", **hello: Any
    ) -> WireClient:
        """A v2 connection that has its welcome."""
        return self.unopened(relay, encoding).open(key, **hello)

    def close_all(self) -> None:
        """Close every connection."""
        for one in self._sockets:
            one.close()


@pytest.fixture
def dial() -> Iterator[Dial]:
    """Opens connections to a relay."""
    made = Dial()
    yield made
    made.close_all()


@pytest.fixture
def key(request: pytest.FixtureRequest) -> Callable[[str], Key]:
    """key(name): a key that no other test uses."""
    return lambda name: named_key(f"{request.node.nodeid} {name}")


@pytest.fixture
def lone_bucket(request: pytest.FixtureRequest) -> str:
    """A bucket that no other test uses, and no address of any."""
    return bucket_of_number(1 << 40 | int(message_id(request.node.nodeid.encode())[:8], 16))
