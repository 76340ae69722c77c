"""The lease rows of a PostgreSQL store: compare-and-set, beside a writer that has the fence row locked."""

import threading
from collections.abc import Iterator

import pytest
from postgres_server import PostgresServer, need_server, running_server
from posthouse.store.interface import StoreUnavailable
from posthouse.store.lease_rows import LeaseRows
from posthouse.store.postgres import PostgresStore

SCHEMA_NAME = "leases"


@pytest.fixture
def store(postgres: PostgresServer) -> Iterator[PostgresStore]:
    """A store that was never opened."""
    with postgres.connect() as connection:
        connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA_NAME} CASCADE")
    yield PostgresStore(postgres.url(SCHEMA_NAME))


def test_rows_change_only_from_the_version_that_is_there(store: PostgresStore) -> None:
    rows: LeaseRows = store.open_lease_rows()
    others, another_lease = store.open_lease_rows(), store.open_lease_rows("another")
    assert rows.read() is None
    first = rows.compare_and_set(b"one", None)
    assert first is not None
    assert others.compare_and_set(b"two", None) is None
    second = others.compare_and_set(b"two", first)
    assert second not in (None, first)
    assert rows.compare_and_set(b"three", first) is None
    found = rows.read()
    assert found is not None
    assert (found.version, found.payload) == (second, b"two")
    assert another_lease.read() is None
    for each in (rows, others, another_lease):
        each.close()


def test_of_many_claims_one_wins(store: PostgresStore) -> None:
    won: list[str] = []

    def claim() -> None:
        rows = store.open_lease_rows()
        version = rows.compare_and_set(b"mine", None)
        if version is not None:
            won.append(version)
        rows.close()

    threads = [threading.Thread(target=claim) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    rows = store.open_lease_rows()
    found = rows.read()
    assert found is not None
    assert won == [found.version]
    rows.close()


def test_a_locked_fence_does_not_hold_up_a_lease(store: PostgresStore, postgres: PostgresServer) -> None:
    rows = store.open_lease_rows()
    with postgres.connect() as other, other.transaction():
        other.execute(f"SELECT * FROM {SCHEMA_NAME}.relay FOR UPDATE")
        assert rows.compare_and_set(b"one", None) is not None
    rows.close()


def test_a_lease_outlives_its_connection_and_the_engine() -> None:
    need_server()
    with running_server() as server:
        rows = PostgresStore(server.url(), commit_ms=1500).open_lease_rows()
        version = rows.compare_and_set(b"one", None)
        with server.stopped(), pytest.raises(StoreUnavailable):
            rows.read()
        server.stop()
        with pytest.raises(StoreUnavailable):
            rows.compare_and_set(b"two", version)
        server.start()
        assert rows.compare_and_set(b"two", version) is not None
        rows.close()
