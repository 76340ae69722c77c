"""What a SQLite store says when the disk, the file or the release is wrong, and how it goes on."""

import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import apsw
import pytest
from machine import can_mount_tmpfs, mounted_tmpfs, need
from posthouse.store.interface import Append, Committed, StoreUnavailable, StoreUnusable
from posthouse.store.sqlite import SqliteStore, checks, connection, copies, files, writer
from posthouse.store.sqlite.connection import How, open_to_read, open_to_write
from posthouse.store.sqlite.schema import SCHEMA, Schema, Step, migrate
from store_samples import Promoted, mailbox, message, own

BOX = mailbox(1)


@contextmanager
def refused(path: Path, *words: str) -> Iterator[None]:
    """Opening fails with one line that names the file and says these words."""
    with pytest.raises(StoreUnusable) as caught:
        yield
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    for word in words:
        assert word in text


def filled(path: Path, count: int = 200) -> None:
    """A store with messages, closed, so that everything is in the one file."""
    active = Promoted(SqliteStore(path))
    active.write(*(message(seq, BOX, b"%05d" % seq * 100) for seq in range(1, count + 1)))
    active.close()
    assert not files.beside(path, "-wal").exists()


# --- a full disk ---------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    need("tmpfs", can_mount_tmpfs(), "no tmpfs can be mounted: full disks stay untested")
    with mounted_tmpfs(tmp_path, 6 << 20) as folder:
        yield folder


def test_on_a_full_disk_nothing_is_promised_and_it_goes_on_when_there_is_space(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "CHECKPOINT_PAGES", 100)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(2 << 20))
    active = Promoted(SqliteStore(small_disk / "store.db"))
    promised: list[int] = []
    failures: list[str] = []
    seq = 0

    def append() -> None:
        nonlocal seq
        new: list[Append] = [message(seq + at, BOX, b"%07d" % (seq + at) * 500) for at in range(1, 21)]
        seq += 20
        try:
            outcome = active.writer.commit(active.batch(*new), active.fence)
        except StoreUnavailable as error:
            failures.append(str(error))
        else:
            assert isinstance(outcome, Committed)
            promised.extend(m.seq for m in new)
            with suppress(StoreUnavailable):
                active.writer.tidy()

    while not failures:
        append()
    for _ in range(5):
        append()
    assert {failure.split(": ")[-1] for failure in failures} == {"the disk is full"}
    assert len(promised) > 40
    assert active.seqs(own(BOX)) == promised

    ballast.unlink()
    before = len(promised)
    for _ in range(3):
        append()
    assert len(promised) == before + 60
    assert active.seqs(own(BOX)) == promised
    active.close()
    reopened = open_to_read(small_disk / "store.db", How(SCHEMA))
    assert checks.check(reopened).problems == []
    reopened.close()


def test_a_disk_that_fills_during_a_checkpoint_loses_nothing(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    active = Promoted(SqliteStore(small_disk / "store.db"))
    active.write(*(message(seq, BOX, b"%07d" % seq * 500) for seq in range(1, 301)))
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file, pytest.raises(OSError):
        while True:
            file.write(bytes(4096))
    active.writer._checkpoint_at = 1  # type: ignore[attr-defined]
    with pytest.raises(StoreUnavailable, match="the disk is full"):
        active.writer.tidy()
    with pytest.raises(StoreUnavailable, match="the disk is full"):
        active.write(message(301, BOX))
    ballast.unlink()
    active.write(message(302, BOX))
    assert active.seqs(own(BOX)) == [*range(1, 301), 302]
    active.close()


# --- a file that is not what it should be ----------------------------------------------------------------------


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "not" / "there.db"
    with refused(path, "there is no directory"):
        SqliteStore(path).open_writer()


def test_a_directory_in_the_files_place_is_refused(tmp_path: Path) -> None:
    with refused(tmp_path, "not a file"):
        SqliteStore(tmp_path).open_writer()


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_bytes(b"Dear reader, this is not a database. " * 100)
    with refused(path, "not an SQLite database"):
        SqliteStore(path).open_writer()
    assert path.read_bytes().startswith(b"Dear reader")


def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with apsw.Connection(str(path)) as other:
        other.execute("CREATE TABLE cats (name TEXT)")
    before = path.read_bytes()
    with refused(path, "not a store of Posthouse"):
        SqliteStore(path).open_writer()
    assert path.read_bytes() == before


def test_an_empty_file_becomes_a_store_but_not_beside_a_log_with_content(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.touch()
    active = Promoted(SqliteStore(path))
    active.write(message(1, BOX))
    copy = tmp_path / "copy.db"
    copy.touch()
    shutil.copy(files.beside(path, "-wal"), files.beside(copy, "-wal"))
    active.close()
    with refused(copy, "empty", "log"):
        SqliteStore(copy).open_writer()


def test_a_reader_does_not_make_a_store(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with refused(path, "no such file"):
        SqliteStore(path).open_reader()
    assert not path.exists()


def test_a_read_only_file_is_refused() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        path = folder / "store.db"
        filled(path, 3)
        path.chmod(0o444)
        for lock in folder.glob("*-open"):
            lock.chmod(0o666)
        with _without_privileges(), refused(path, "read-only"):
            SqliteStore(path).open_writer()


@contextmanager
def _without_privileges() -> Iterator[None]:
    """Root may write what is read-only."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_file_that_was_cut_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "store.db"
    filled(path)
    os.truncate(path, int(path.stat().st_size * share))
    with refused(path, "corrupt"):
        SqliteStore(path).open_writer()


def test_flipped_bytes_are_found_and_never_lead_to_anything_but_a_clear_error(tmp_path: Path) -> None:
    sound = tmp_path / "sound.db"
    filled(sound)
    size = sound.stat().st_size
    rng = random.Random(3)
    found = 0
    for nth, at in enumerate([0, 5, 20, 100, 130, *(rng.randrange(4096, size) for _ in range(40))]):
        path = tmp_path / f"{nth}.db"  # a new one each time: what lies beside a store is part of it
        shutil.copy(sound, path)
        with path.open("r+b") as file:
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 0x55]))
        found += _is_found(path)
    # 34 of 45: the others lie in free room of a page, or in times, which nothing contradicts.
    assert found >= 34


def _is_found(path: Path) -> bool:
    """Whether checking, opening, reading or writing the file says that it is damaged."""
    found = _is_found_by_check(path)  # first: what is deleted below takes its damage with it
    try:
        active = Promoted(SqliteStore(path))
    except (StoreUnusable, StoreUnavailable) as error:
        assert "\n" not in str(error)
        return True
    try:
        active.page(own(BOX))
        active.write(message(1000, BOX), deletes=list(range(1, 100)))
    except StoreUnavailable as error:
        assert "corrupt" in str(error) or "contradicts" in str(error)
        return True
    finally:
        active.close()
    return found


def _is_found_by_check(path: Path) -> bool:
    try:
        opened = open_to_read(path, How(SCHEMA))
    except (StoreUnusable, StoreUnavailable):
        return True
    try:
        return bool(checks.check(opened).problems)
    except apsw.CorruptError:
        return True
    finally:
        opened.close()


def test_the_settings_that_durability_needs_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "SYNCHRONOUS", ("off", 2))
    path = tmp_path / "store.db"
    with refused(path, "synchronous is 0, but must be 2"):
        SqliteStore(path).open_writer()


# --- releases --------------------------------------------------------------------------------------------------

EXPAND = Step(("ALTER TABLE mailbox ADD COLUMN colour TEXT",), readable_by=1, writable_by=1)
CONTRACT = Step(("ALTER TABLE mailbox DROP COLUMN colour",), readable_by=2, writable_by=3)
NEXT = Schema((*SCHEMA.steps, EXPAND), oldest=1)
AFTER_NEXT = Schema((*NEXT.steps, CONTRACT), oldest=2)


def _version(path: Path) -> int:
    with apsw.Connection(str(path)) as found:
        version: int = found.pragma("user_version")
    return version


def test_a_new_file_gets_the_version_of_its_release(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    Promoted(SqliteStore(path, AFTER_NEXT)).close()
    assert _version(path) == 3


def test_a_release_runs_on_the_version_before_and_migrates_only_when_told(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    filled(path, 3)
    newer = Promoted(SqliteStore(path, NEXT))
    newer.write(message(4, BOX))
    newer.close()
    assert _version(path) == 1
    told = open_to_write(path, How(NEXT))
    assert migrate(told, NEXT) == 1
    told.close()
    assert _version(path) == 2


def test_after_an_expansion_the_release_before_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    Promoted(SqliteStore(path, NEXT)).close()
    older = Promoted(SqliteStore(path))
    older.write(message(1, BOX))
    older.close()
    assert _version(path) == 2


def test_after_a_contraction_it_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    Promoted(SqliteStore(path, AFTER_NEXT)).close()
    with refused(path, "later release", "schema is 3", "this one has 1"):
        SqliteStore(path).open_writer()
    with refused(path, "later release"):
        SqliteStore(path).open_reader()
    with refused(path, "later release"):
        SqliteStore(path, NEXT).open_writer()
    SqliteStore(path, NEXT).open_reader().close()


def test_a_version_that_is_too_old_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    filled(path, 3)
    with refused(path, "too old", "in between"):
        SqliteStore(path, AFTER_NEXT).open_writer()


def test_a_migration_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    filled(path, 3)
    broken = Schema((*SCHEMA.steps, Step(("DROP TABLE mark", "DROP TABLE not_there"), 2, 2)), oldest=1)
    told = open_to_write(path, How(broken))
    with pytest.raises(apsw.SQLError):
        migrate(told, broken)
    told.close()
    assert _version(path) == 1
    Promoted(SqliteStore(path)).close()


# --- other users ---------------------------------------------------------------------------------------------


def test_nobody_but_its_owner_may_read_a_store_or_a_copy_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    before = os.umask(0)
    try:
        active = Promoted(SqliteStore(folder / "store.db"))
        active.write(message(1, BOX))
        copies.back_up(folder / "store.db", folder / "copy.db")
        modes = {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir()}
        active.close()
    finally:
        os.umask(before)
    assert {"store.db", "store.db-wal", "store.db-shm", "store.db-open", "copy.db"} <= set(modes)
    assert set(modes.values()) == {0o600}, modes


def test_a_store_whose_marks_cannot_be_read_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    filled(path)
    reading = open_to_read(path, How(SCHEMA))
    page = reading.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'mark'").get
    reading.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * connection.PAGE_BYTES)
        file.write(b"\xff" * connection.PAGE_BYTES)
    with refused(path, "corrupt"):
        SqliteStore(path).open_writer()
