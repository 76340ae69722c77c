"""The engines that the conformance suite runs on, and what a test needs of each."""

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from posthouse.store.interface import Store
from posthouse.store.memory import MemoryStore
from posthouse.store.sqlite import SqliteStore
from store_samples import Promoted

FreshStore = Callable[[], Store]


@pytest.fixture(params=["memory", "sqlite"])
def fresh_store(request: pytest.FixtureRequest, tmp_path: Path) -> FreshStore:
    """Makes empty stores of one engine."""
    numbers = count()
    makers: dict[str, FreshStore] = {
        "memory": MemoryStore,
        "sqlite": lambda: SqliteStore(tmp_path / f"{next(numbers)}.db"),
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
