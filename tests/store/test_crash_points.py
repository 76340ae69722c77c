"""The store ends at every step of its work, by a kill or by the power, or cannot sync: what was promised is there.

A check that cannot fail proves nothing: the same cuts with `synchronous` below FULL must lose promised messages.
"""

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest
import store_story
from posthouse.store.interface import FENCED, UNKNOWN, Committed, StoreUnavailable
from posthouse.store.sqlite import SqliteStore, connection, files, writer
from recording_vfs import Disk, recording
from store_samples import Promoted, mailbox, message, own

SUPPORT = Path(store_story.__file__).parent
BOX = mailbox(1)


@pytest.mark.timeout(300)
def test_killed_at_any_step_it_holds_what_was_promised_and_no_half_batch(memory_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, str(SUPPORT / "crash_child.py"), str(memory_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert run.returncode == 0, run.stderr
    kills = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(kills) > 100
    assert kills[-1]["promised"] == [-1, 1, 2, 3, 4, 5, 6, 7, 8]
    for kill in kills:
        assert store_story.verify(memory_path / f"{kill['step']}.db", kill["promised"]) is None, kill


def _losses(memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, list[str]]:
    """Live once; before every step imagine power cuts: how many, and what each of them would have lost."""
    cuts = 0
    losses: list[str] = []
    promised: list[int] = []
    rng = random.Random(7)

    def cut(step: str) -> None:
        nonlocal cuts
        for share in (None, 0.0, 0.5, 0.9):
            cuts += 1
            folder = memory_path / f"cut-{cuts}"
            folder.mkdir()
            disk.leave(folder, None if share is None else rng, share or 0.0)
            try:
                loss = store_story.verify(folder / "store.db", promised)
            except Exception as error:
                loss = repr(error)
            if loss is not None:
                losses.append(f"cut {cuts} before {step}: {loss}")
            shutil.rmtree(folder)

    disk = Disk(cut)
    sync_directory = files.sync_directory

    def recorded_sync_directory(directory: Path) -> None:
        if directory == memory_path:  # and not the copy that is being verified
            cut("directory sync")
            disk.directory_synced()
        sync_directory(directory)

    monkeypatch.setattr(files, "sync_directory", recorded_sync_directory)
    with recording(disk) as vfs:
        store_story.live(SqliteStore(memory_path / "store.db", vfs=vfs), promised.append)
    return cuts, losses


@pytest.mark.timeout(300)
def test_after_a_power_cut_at_any_step_it_holds_what_was_promised(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuts, losses = _losses(memory_path, monkeypatch)
    assert cuts > 400
    assert losses == []


@pytest.mark.timeout(300)
@pytest.mark.parametrize("weaker", [("off", 0), ("normal", 1)])
def test_a_weaker_sync_would_lose_promised_messages(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch, weaker: tuple[str, int]
) -> None:
    monkeypatch.setattr(connection, "SYNCHRONOUS", weaker)
    _, losses = _losses(memory_path, monkeypatch)
    assert any("was promised" in loss for loss in losses)


# --- syncs that fail -----------------------------------------------------------------------------------------


class Failing:
    """A promoted store on a recording disk, with one message promised."""

    def __init__(self, folder: Path, vfs: str, disk: Disk) -> None:
        self.folder = folder
        self.vfs = vfs
        self.disk = disk
        self.path = folder / "store.db"
        self.active = Promoted(SqliteStore(self.path, vfs=vfs))
        self.active.write(message(1, BOX))

    def after_power_cut(self) -> list[int]:
        """What a reader would find."""
        folder = self.folder / "cut"
        folder.mkdir(exist_ok=True)
        for file in folder.iterdir():
            file.unlink()
        self.disk.leave(folder, None, 0.0)
        left = Promoted(SqliteStore(folder / "store.db"))
        try:
            return left.seqs(own(BOX))
        finally:
            left.close()


@pytest.fixture
def failing(memory_path: Path) -> Iterator[Failing]:
    disk = Disk()
    with recording(disk) as vfs:
        failing = Failing(memory_path, vfs, disk)
        yield failing
        failing.active.close()


@pytest.mark.parametrize("log", ["in use", "new"])
def test_a_commit_whose_sync_fails_is_in_doubt_until_the_store_is_verified(
    failing: Failing, log: str
) -> None:
    active, disk = failing.active, failing.disk
    if log == "new":
        with apsw.Connection(str(failing.path), vfs=failing.vfs) as other:
            other.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    batch = active.batch(message(2, BOX))
    disk.failing_syncs.append("-wal")
    assert active.writer.commit(batch, active.fence) is UNKNOWN
    assert active.seqs(own(BOX)) == [1]

    with pytest.raises(StoreUnavailable, match="in doubt"):
        active.writer.commit(active.batch(message(3, BOX)), active.fence)
    disk.failing_syncs += [".db"]
    assert active.writer.resolve(batch, active.fence) is UNKNOWN
    with pytest.raises(StoreUnavailable, match="in doubt"):
        active.writer.commit(active.batch(message(4, BOX)), active.fence)
    assert failing.after_power_cut() == [1]

    outcome = active.writer.resolve(batch, active.fence)
    assert isinstance(outcome, Committed)
    assert (outcome.duplicates, outcome.total.count) == ({}, 2)
    assert disk.sync_failures == 2
    assert active.seqs(own(BOX)) == [1, 2]
    assert failing.after_power_cut() == [1, 2]
    active.write(message(5, BOX))
    assert failing.after_power_cut() == [1, 2, 5]


def test_a_commit_that_reports_an_error_although_it_is_there_is_recognised(
    failing: Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    active = failing.active

    def commit_and_complain(connection: apsw.Connection) -> None:
        connection.execute("COMMIT")
        raise apsw.IOError("lost the answer")

    repeat = message(3, BOX, message(1, BOX).ciphertext)
    batch = active.batch(message(2, BOX), repeat)
    with monkeypatch.context() as patch:
        patch.setattr(writer, "_commit", commit_and_complain)
        assert active.writer.commit(batch, active.fence) is UNKNOWN
    outcome = active.writer.resolve(batch, active.fence)
    assert isinstance(outcome, Committed)
    assert (outcome.duplicates, outcome.total.count) == ({3: 1}, 2)
    assert active.seqs(own(BOX)) == [1, 2]
    active.write(message(4, BOX))


def test_a_commit_in_doubt_is_fenced_when_another_promotion_came_between(failing: Failing) -> None:
    active = failing.active
    batch = active.batch(message(2, BOX))
    failing.disk.failing_syncs.append("-wal")
    assert active.writer.commit(batch, active.fence) is UNKNOWN
    other = Promoted(SqliteStore(failing.path))
    assert active.writer.resolve(batch, active.fence) is FENCED
    assert active.writer.commit(active.batch(message(3, BOX)), active.fence) is FENCED
    other.close()


def test_only_the_batch_in_doubt_can_be_resolved(failing: Failing) -> None:
    active = failing.active
    with pytest.raises(ValueError, match="not in doubt"):
        active.writer.resolve(active.batch(), active.fence)
    failing.disk.failing_syncs.append("-wal")
    batch = active.batch(message(2, BOX))
    assert active.writer.commit(batch, active.fence) is UNKNOWN
    with pytest.raises(ValueError, match="not in doubt"):
        active.writer.resolve(active.batch(), active.fence)
    assert isinstance(active.writer.resolve(batch, active.fence), Committed)


def test_a_checkpoint_whose_sync_fails_is_done_again_before_the_next_commit(
    failing: Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "CHECKPOINT_PAGES", 1)
    active, disk = failing.active, failing.disk
    active.writer._checkpoint_at = 1  # type: ignore[attr-defined]
    disk.failing_syncs.append(".db")
    with pytest.raises(StoreUnavailable, match="IOERR_FSYNC"):
        active.writer.tidy()
    assert failing.after_power_cut() == [1]
    disk.failing_syncs.append(".db")
    with pytest.raises(StoreUnavailable, match="IOERR_FSYNC"):
        active.writer.commit(active.batch(message(2, BOX)), active.fence)
    assert failing.after_power_cut() == [1]
    active.write(message(3, BOX))
    active.writer.tidy()
    assert failing.after_power_cut() == [1, 3]
    assert disk.sync_failures == 2


def test_a_promotion_whose_sync_fails_can_be_tried_again(failing: Failing) -> None:
    active = failing.active
    failing.disk.failing_syncs.append("-wal")
    seen = active.writer.fence()
    with pytest.raises(StoreUnavailable, match="IOERR_FSYNC"):
        active.writer.promote(seen, seen.epoch + 1, b"t" * 16)
    recovered = active.promote()
    assert recovered.total.count == 1
    active.write(message(2, BOX))
    assert failing.after_power_cut() == [1, 2]


def test_a_file_that_went_back_in_time_is_not_written(failing: Failing) -> None:
    active = failing.active
    active.write(message(2, BOX))
    with apsw.Connection(str(failing.path)) as other:
        other.execute("UPDATE relay SET batch = 1")
    assert active.writer.commit(active.batch(message(3, BOX)), active.fence) is FENCED
