"""Backup of a store in use, and restore of a store that nobody uses.

A copy is made beside its final name, checked, synced and only then renamed, so that the name never stands for half
a store. What a restore puts in place is a new incarnation of the store with an epoch above both: a member that still
holds the old fence writes nothing to it. The file that was there before is kept under another name.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import apsw
from msgspec import Struct

from posthouse.store.interface import TOKEN_BYTES, StoreUnusable
from posthouse.store.locks import own_open
from posthouse.store.sqlite import files
from posthouse.store.sqlite.checks import Report, check
from posthouse.store.sqlite.connection import How, open_to_read, open_to_write, pragma, snapshot, unusable
from posthouse.store.sqlite.schema import SCHEMA, transaction

PAGES_A_STEP: Final = 2048
EPOCHS_OF_THE_UNREADABLE: Final = 1000
"""How far a restore goes beyond the copy's epoch when the file before cannot tell its own."""

Progress = Callable[[int, int], object]


def _quiet(done: int, of: int) -> None:
    pass


class Restored(Struct):
    """What a restore did."""

    report: Report
    epoch: int
    before: Path | None
    """Where the file that was there before is now."""


def back_up(source: Path, target: Path, replace: bool = False, progress: Progress = _quiet) -> Report:
    """Copy a store, which may be in use, as it is at this moment. Raises StoreUnusable.

    ``progress`` is told how many pages have been copied, of how many.
    """
    if target.exists() and not replace:
        raise StoreUnusable(f"cannot back up to {target}: it exists")
    if not target.parent.is_dir():
        raise StoreUnusable(f"cannot back up to {target}: there is no directory {target.parent}")
    working = files.beside(target, f"-{os.getpid()}-unfinished")
    try:
        _copy(source, working, progress)
        report = _checked(working)
        with unusable(target):
            files.sync_file(working)
            os.replace(working, target)
            files.sync_directory(target.parent)
    finally:
        _remove(working)
    return report


def restore(source: Path, target: Path, progress: Progress = _quiet) -> Restored:
    """Put a copy in a store's place. Nobody may have the store open. Raises StoreUnusable."""
    files.check_place(target)
    lock = own_open(target)
    if lock is None:
        raise StoreUnusable(f"cannot restore {target}: a relay has it open; stop every member first")
    working = files.beside(target, "-restoring")
    try:
        _remove(working)
        _copy(source, working, progress)
        report = _checked(working)
        epoch = _renew(working, target)
        with unusable(target):
            if target.exists():
                files.make_alike(working, target)
            files.sync_file(working)
            before = _set_aside(target)
            os.replace(working, target)
            files.sync_directory(target.parent)
    finally:
        _remove(working)
        lock.release()
    return Restored(report, epoch, before)


def _copy(source: Path, target: Path, progress: Progress) -> None:
    """A snapshot of the source, page by page: nobody waits for it, but the source's log grows meanwhile."""
    reading = open_to_read(source, How(SCHEMA))
    try:
        with unusable(target):
            files.make(target)
            writing = apsw.Connection(str(target))
            try:
                pragma(writing, "synchronous", "off")  # it is synced as a whole, when it is whole
                with snapshot(reading):
                    reading.execute("SELECT count(*) FROM relay").get  # noqa: B018  begins the snapshot
                    with writing.backup("main", reading, "main") as backup:
                        while not backup.done:
                            backup.step(PAGES_A_STEP)
                            progress(backup.page_count - backup.remaining, backup.page_count)
                pragma(writing, "journal_mode", "delete")  # so that the copy is one file
            finally:
                writing.close(force=True)
    finally:
        reading.close(force=True)


def _checked(copy: Path) -> Report:
    connection = open_to_read(copy, How(SCHEMA))
    try:
        with unusable(copy):
            report = check(connection)
    finally:
        connection.close(force=True)
    if report.problems:
        raise StoreUnusable(f"the copy is not sound ({len(report.problems)} problems): {report.problems[0]}")
    return report


def _renew(copy: Path, before: Path) -> int:
    """Make the copy a new incarnation, above all that the store before may have given out; returns its epoch."""
    connection = open_to_write(copy, How(SCHEMA))
    try:
        with unusable(copy), transaction(connection):
            epoch, next_seq = connection.execute("SELECT epoch, next_seq FROM relay").get
            epoch_before, seq_before = _heights(before)
            epoch = max(epoch, epoch + EPOCHS_OF_THE_UNREADABLE if epoch_before is None else epoch_before) + 1
            connection.execute(
                "UPDATE relay SET epoch = ?, token = x'', batch = 0, incarnation = ?, next_seq = ?",
                (epoch, secrets.token_bytes(TOKEN_BYTES), max(next_seq, seq_before)),
            )
        with unusable(copy):
            pragma(connection, "journal_mode", "delete")
    finally:
        connection.close(force=True)
    assert isinstance(epoch, int)
    return epoch


def _heights(path: Path) -> tuple[int | None, int]:
    """Epoch and next sequence number of a store; no epoch if it has one that cannot be read."""
    if not path.exists():
        return 0, 0
    try:
        connection = open_to_read(path, How(SCHEMA))
    except StoreUnusable:
        return None, 0
    try:
        row: tuple[int, int] = connection.execute("SELECT epoch, next_seq FROM relay").get
        return row
    except apsw.Error:
        return None, 0
    finally:
        connection.close(force=True)


def _set_aside(path: Path) -> Path | None:
    """Keep the file before, with its log, under another name; the name itself is never without a file."""
    if not path.exists():
        return None
    with suppress(StoreUnusable, apsw.Error):
        connection = open_to_write(path, How(SCHEMA))
        connection.close()  # the last one out copies the log into the file and removes it
    number = 1
    while (aside := files.beside(path, f"-before-{number}")).exists():
        number += 1
    log = files.beside(path, "-wal")
    if log.exists():  # the file is damaged: both may be needed to get at what is left
        os.rename(log, files.beside(aside, "-wal"))
    files.beside(path, "-shm").unlink(missing_ok=True)
    os.link(path, aside)
    return aside


def _remove(working: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        files.beside(working, suffix).unlink(missing_ok=True)
