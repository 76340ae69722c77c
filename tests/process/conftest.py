"""Real relays for tests that speak to them over real sockets."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from relay_process import RelayProcess


@pytest.fixture
def make_relay(tmp_path: Path) -> Iterator[Callable[..., RelayProcess]]:
    """Makes relays that are not started yet: `make_relay(*serve_arguments, store=URL)`; all end with the test."""
    made: list[RelayProcess] = []

    def make(*arguments: str, store: str | None = None) -> RelayProcess:
        folder = tmp_path / f"relay-{len(made)}"
        folder.mkdir()
        made.append(RelayProcess(folder, *arguments, store=store))
        return made[-1]

    yield make
    for relay in made:
        relay.close()


@pytest.fixture
def relay(make_relay: Callable[..., RelayProcess]) -> RelayProcess:
    """A relay with a SQLite store of its own, ready."""
    relay = make_relay()
    relay.start()
    return relay
