"""The lease in the store, its rows in SQLite, and the lease that is none."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import apsw
import pytest
from msgspec.structs import replace
from posthouse.single_active.leases.interface import LeaseConflict, LeaseUnavailable, Record
from posthouse.single_active.leases.none import NoneLease
from posthouse.single_active.leases.store import StoreLease
from posthouse.store.interface import Batch, Committed, StoreUnavailable
from posthouse.store.locks import own_open
from posthouse.store.sqlite import SqliteStore
from posthouse.store.sqlite.lease_rows import SqliteLeaseRows

WAIT_S = 20.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def record(holder: str = "me") -> Record:
    return Record(holder, 1, 1, 5.0, f"{holder}:8081")


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[StoreLease]:
    lease = StoreLease(lambda: SqliteLeaseRows(path), poll_s=0.005)
    try:
        yield lease
    finally:
        await lease.close()


def test_rows_change_only_from_the_version_that_is_there(path: Path) -> None:
    rows, others = SqliteLeaseRows(path), SqliteLeaseRows(path)
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
    rows.close()
    others.close()


def test_a_version_does_not_come_back_when_the_row_is_deleted(path: Path) -> None:
    rows = SqliteLeaseRows(path)
    first = rows.compare_and_set(b"one", None)
    with apsw.Connection(str(path)) as connection:
        connection.execute("DELETE FROM lease")
    assert rows.read() is None
    assert rows.compare_and_set(b"one", first) is None
    assert rows.compare_and_set(b"one", None) != first
    rows.close()


def test_leases_of_different_names_do_not_meet(path: Path) -> None:
    one, two = SqliteLeaseRows(path, "one"), SqliteLeaseRows(path, "two")
    one.compare_and_set(b"1", None)
    assert two.read() is None
    assert two.compare_and_set(b"2", None) is not None
    found = one.read()
    assert found is not None
    assert found.payload == b"1"
    one.close()
    two.close()


def test_rows_and_commits_of_a_store_do_not_disturb_each_other(path: Path) -> None:
    store = SqliteStore(path)
    writer = store.open_writer()
    seen = writer.fence()
    promoted = writer.promote(seen, seen.epoch + 1, bytes(16))
    assert promoted is not None
    rows = SqliteLeaseRows(path)
    version = rows.compare_and_set(b"one", None)
    for number in range(1, 20):
        assert isinstance(writer.commit(Batch(number, 1), promoted.fence), Committed)
        version = rows.compare_and_set(b"again", version)
        assert version is not None
    rows.close()
    assert isinstance(writer.commit(Batch(20, 1), promoted.fence), Committed)
    writer.close()
    assert SqliteStore(path).open_writer().fence() == promoted.fence


def test_a_row_that_cannot_be_written_in_time_is_unavailable(path: Path) -> None:
    rows = SqliteLeaseRows(path)
    version = rows.compare_and_set(b"one", None)
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="another process is writing"):
        rows.compare_and_set(b"two", version)
    found = rows.read()
    assert found is not None
    assert found.version == version
    other.execute("ROLLBACK")
    assert rows.compare_and_set(b"two", version) is not None
    other.close()
    rows.close()


def test_a_restore_is_kept_away_while_rows_are_open(path: Path) -> None:
    rows = SqliteLeaseRows(path)
    assert own_open(path) is None
    rows.close()
    lock = own_open(path)
    assert lock is not None
    lock.release()


async def test_a_record_comes_back_as_it_was_written(path: Path) -> None:
    async with opened(path) as lease, opened(path) as other:
        assert await lease.read() is None
        written = await lease.write(record(), None)
        assert written == replace(record(), version=written.version)
        assert await other.read() == written
        with pytest.raises(LeaseConflict):
            await other.write(record("other"), None)
        taken = await other.write(record("other"), written.version)
        with pytest.raises(LeaseConflict):
            await lease.write(written, written.version)
        assert await lease.read() == taken


async def test_the_watch_tells_what_others_write(path: Path) -> None:
    async with (
        opened(path) as lease,
        opened(path) as other,
        aclosing(lease.watch()) as records,
        asyncio.timeout(WAIT_S),
    ):
        assert await anext(records) is None
        written = await other.write(record(), None)
        assert await anext(records) == written
        released = await other.write(replace(written, released=True), written.version)
        assert await anext(records) == released


@pytest.fixture
def no_store(path: Path) -> Path:
    path.write_bytes(b"this is no database at all, but it is long enough to be looked at" * 20)
    return path


async def test_a_store_that_cannot_be_opened_is_unavailable_until_it_can(no_store: Path) -> None:
    async with opened(no_store) as lease:
        with pytest.raises(LeaseUnavailable, match="not an SQLite database"):
            await lease.read()
        await asyncio.to_thread(no_store.unlink)
        assert await lease.read() is None


async def test_a_row_of_another_kind_is_unavailable_not_free(path: Path) -> None:
    rows = SqliteLeaseRows(path)
    rows.compare_and_set(b"nonsense", None)
    rows.close()
    async with opened(path) as lease:
        with pytest.raises(LeaseUnavailable, match="cannot be read"):
            await lease.read()


def killed_holder(path: Path) -> str:
    """Somebody has written the lease and was killed; the version."""
    program = (
        "import sys, time; from pathlib import Path; from posthouse.store.sqlite.lease_rows import SqliteLeaseRows\n"
        "print(SqliteLeaseRows(Path(sys.argv[1])).compare_and_set(sys.argv[2].encode(), None), flush=True)\n"
        "time.sleep(60)"
    )
    payload = '{"holder":"child","stamp":1,"transitions":1,"duration_s":5.0}'
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path), payload], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        version = process.stdout.readline().strip()
        process.send_signal(signal.SIGKILL)
    return version


async def test_the_lease_outlives_a_holder_that_is_killed_so_others_have_to_wait(path: Path) -> None:
    version = killed_holder(path)
    async with opened(path) as lease:
        found = await lease.read()
        assert found is not None
        assert (found.holder, found.released, found.version) == ("child", False, version)


async def test_no_lease_is_free_at_once_and_compares_all_the_same() -> None:
    lease = NoneLease()
    free = await lease.read()
    assert free is not None
    assert free.released
    ours = await lease.write(record(), free.version)
    assert await lease.read() == ours
    with pytest.raises(LeaseConflict):
        await lease.write(record("other"), free.version)
    await lease.close()
