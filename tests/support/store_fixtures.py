"""The engines that the conformance suite runs on, and what a test needs of each."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from postgres_server import PostgresServer, emptied, need_server, running_server
from posthouse.store.interface import Store
from posthouse.store.memory import MemoryStore
from posthouse.store.opening import open_store
from posthouse.store.sqlite import SqliteStore
from store_samples import Promoted

FreshStore = Callable[[], Store]


@pytest.fixture
def memory_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: for tests that sync thousands of times or imagine the disk's faults."""
    place = Path("/dev/shm")
    if not os.access(place, os.W_OK) or shutil.disk_usage(place).free < 1 << 30:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="posthouse-test-", dir=place) as name:
        yield Path(name)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server that tests share and do not harm."""
    need_server()
    with running_server() as server:
        yield server


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def fresh_store(request: pytest.FixtureRequest, memory_path: Path) -> FreshStore:
    """Makes empty stores of one engine, one at a time."""
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")

        def made_empty() -> Store:
            emptied(server, "conformance")
            return open_store(server.url("conformance"))

        return made_empty
    numbers = count()
    makers: dict[str, FreshStore] = {
        "memory": MemoryStore,
        "sqlite": lambda: SqliteStore(memory_path / f"{next(numbers)}.db"),
    }
    return makers[request.param]


@pytest.fixture
def store(fresh_store: FreshStore) -> Store:
    """An empty store."""
    return fresh_store()


@pytest.fixture
def active(store: Store) -> Iterator[Promoted]:
    """A promoted writer and a reader of an empty store."""
    promoted = Promoted(store)
    yield promoted
    promoted.close()
