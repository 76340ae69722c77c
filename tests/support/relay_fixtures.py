"""Real relays for tests that speak to them over real sockets."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from relay_process import RelayProcess


@pytest.fixture
def make_relay(tmp_path: Path) -> Iterator[Callable[..., RelayProcess]]:
    """Makes relays that are not started yet: `make_relay(*serve_arguments, …)`, as RelayProcess but for the folder,
    which is a new one unless `folder` names it. All end with the test."""
    made: list[RelayProcess] = []

    def make(*arguments: str, folder: Path | None = None, **options: Any) -> RelayProcess:
        folder = folder or tmp_path / f"relay-{len(made)}"
        folder.mkdir(exist_ok=True)
        made.append(RelayProcess(folder, *arguments, **options))
        return made[-1]

    yield make
    for relay in made:
        relay.clean_up()


@pytest.fixture
def relay(make_relay: Callable[..., RelayProcess]) -> RelayProcess:
    """A relay with a SQLite store of its own, ready."""
    return make_relay().start()
