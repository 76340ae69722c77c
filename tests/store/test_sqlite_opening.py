"""A SQLite store that others use while it is opened or promoted: it waits, and a short lock does not end anything."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Timer

import apsw
import pytest
from posthouse.store.interface import StoreUnavailable, StoreUnusable, Writer
from posthouse.store.sqlite import SqliteStore, schema

SHORT_MS = 50


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    opened = SqliteStore(tmp_path / "relay.db", busy_timeout_ms=SHORT_MS).open_writer()
    yield opened
    opened.close()


def raised(writer: Writer) -> int:
    """The epoch after one more promotion."""
    seen = writer.fence()
    recovered = writer.promote(seen, seen.epoch + 1, os.urandom(16))
    assert recovered is not None
    return recovered.fence.epoch


@pytest.mark.parametrize("tries", [1, 2, 3])
def test_after_promotions_that_failed_for_a_lock_the_next_one_succeeds(
    writer: Writer, tmp_path: Path, tries: int
) -> None:
    epoch = raised(writer)
    other = apsw.Connection(str(tmp_path / "relay.db"))
    other.execute("BEGIN IMMEDIATE")
    for _ in range(tries):
        with pytest.raises(StoreUnavailable, match="another process is writing to it"):
            raised(writer)
    other.execute("ROLLBACK")
    other.close()
    assert raised(writer) == epoch + 1


def test_the_relays_id_can_be_read_after_a_failure(writer: Writer, tmp_path: Path) -> None:
    relay_id = writer.relay_id()
    other = apsw.Connection(str(tmp_path / "relay.db"))
    other.execute("BEGIN IMMEDIATE")
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            raised(writer)
    other.close()
    assert writer.relay_id() == relay_id


def written_to(path: Path) -> apsw.Connection:
    """A new file to which somebody else begins to write: for that SQLite does not wait with the change of the mode."""
    path.touch(mode=0o600)
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE")
    return other


def test_a_new_file_that_another_process_is_at_is_waited_for(tmp_path: Path) -> None:
    other = written_to(tmp_path / "relay.db")
    release = Timer(0.1, other.close)
    release.start()
    writer = SqliteStore(tmp_path / "relay.db", busy_timeout_ms=20_000).open_writer()
    release.join()
    assert raised(writer) == 1
    writer.close()


def test_it_is_not_waited_for_longer_than_the_busy_time(tmp_path: Path) -> None:
    other = written_to(tmp_path / "relay.db")
    with pytest.raises(StoreUnusable, match="another process is writing to it"):
        SqliteStore(tmp_path / "relay.db", busy_timeout_ms=SHORT_MS).open_writer()
    other.close()


def test_a_store_that_is_made_while_the_file_is_looked_at_is_no_foreign_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqliteStore(tmp_path / "relay.db", busy_timeout_ms=SHORT_MS)
    made: list[None] = []

    class Looked(int):
        """The mark of a store; when it has been looked for, another process makes the store."""

        def __eq__(self, other: object) -> bool:
            if not made:
                made.append(None)
                with suppress(StoreUnusable):  # it has to wait until the file has been looked at
                    store.open_writer().close()
            return int(self) == other

        __hash__ = int.__hash__

    monkeypatch.setattr(schema, "APPLICATION_ID", Looked(schema.APPLICATION_ID))
    writer = store.open_writer()
    assert made
    assert raised(writer) == 1
    writer.close()
