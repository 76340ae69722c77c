"""Connections to the file, the settings that must really hold, and errors in words.

``open_to_write`` makes the store if the file is new. Both kinds of connection check that the file is a store, of a
version that this release may use. Everything SQLite raises becomes one line that names the file and the cause.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import apsw

from posthouse.store.interface import StoreUnavailable, StoreUnusable
from posthouse.store.sqlite import files
from posthouse.store.sqlite.schema import Schema, check_version, create, is_new, roll_back

BUSY_MS: Final = 5000
"""How long to wait for another process: a promotion elsewhere, or the end of a check point."""
BUSY_PAUSE_S: Final = 0.01
"""Between two tries of what SQLite itself does not wait for."""
PAGE_BYTES: Final = 4096
SYNCHRONOUS: Final = ("full", 2)
"""The log is synced by every commit. Less than that loses commits with the power, and the tests show it."""
WRITER_CACHE_KIB: Final = 64 * 1024
READER_CACHE_KIB: Final = 16 * 1024
WAL_KEPT_BYTES: Final = 64 << 20
"""A log that grew beyond this (a long backup held it) is cut when it is used up; below, it is written over."""
STATEMENTS: Final = 256
"""Prepared statements kept: there are fewer than this."""

T = TypeVar("T")

_CAUSES: Final[tuple[tuple[type[apsw.Error], str], ...]] = (
    (apsw.FullError, "the disk is full"),
    (apsw.ReadOnlyError, "the file is read-only"),
    (apsw.CorruptError, "the file is corrupt"),
    (apsw.NotADBError, "the file is not an SQLite database"),
    (apsw.CantOpenError, "the file cannot be opened"),
    (apsw.PermissionsError, "access is denied"),
    (apsw.BusyError, "another process is writing to it"),
    (apsw.LockedError, "another connection is writing to it"),
    (apsw.NoMemError, "no memory is left"),
)


def cause(error: apsw.Error) -> str:
    """What an error of SQLite means, in words; for input and output the exact operation."""
    for kind, words in _CAUSES:
        if isinstance(error, kind):
            return words
    extended = getattr(error, "extendedresult", 0)
    name = apsw.mapping_extended_result_codes.get(extended) if extended else None
    if isinstance(error, apsw.IOError):
        return f"input or output failed ({name or error})"
    return f"{type(error).__name__}: {error}"


@contextmanager
def unavailable(path: Path) -> Iterator[None]:
    """Errors of SQLite and of the operating system become StoreUnavailable."""
    try:
        yield
    except apsw.Error as error:
        raise StoreUnavailable(f"store {path}: {cause(error)}") from error
    except OSError as error:
        raise StoreUnavailable(f"store {path}: {error.strerror}") from error


@contextmanager
def unusable(path: Path) -> Iterator[None]:
    """Errors while opening become StoreUnusable, with the file's name in front."""
    try:
        yield
    except StoreUnusable as error:
        text = str(error)
        raise error if str(path) in text else StoreUnusable(f"cannot use {path}: {text}") from error
    except apsw.Error as error:
        raise StoreUnusable(f"cannot use {path}: {cause(error)}") from error
    except OSError as error:
        raise StoreUnusable(f"cannot use {path}: {error.strerror}") from error


@contextmanager
def snapshot(connection: apsw.Connection) -> Iterator[None]:
    """All statements inside see the same state of the store."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        roll_back(connection)


def pragma(connection: apsw.Connection, name: str, value: int | str | None = None) -> Any:
    """Set a pragma if a value is given, and return what it is now."""
    if value is not None:
        answer = connection.execute(f"PRAGMA {name} = {value}").get
        if answer is not None:
            return answer
    return connection.execute(f"PRAGMA {name}").get


@contextmanager
def patience(connection: apsw.Connection, busy_ms: int) -> Iterator[None]:
    """Inside, statements wait this long for others instead of as long as they usually do."""
    before = pragma(connection, "busy_timeout")
    pragma(connection, "busy_timeout", busy_ms)
    try:
        yield
    finally:
        pragma(connection, "busy_timeout", before)


def _must_hold(connection: apsw.Connection, name: str, value: int | str, wanted: int | str) -> None:
    found = pragma(connection, name, value)
    if found != wanted:
        raise StoreUnusable(f"PRAGMA {name} is {found}, but must be {wanted}")


@dataclass(frozen=True, slots=True)
class How:
    """How to open a file: for which release, how patiently, through which VFS of SQLite."""

    schema: Schema
    busy_ms: int = BUSY_MS
    vfs: str | None = None


def _connect(path: Path, flags: int, how: How) -> apsw.Connection:
    if "ENABLE_CARRAY" not in apsw.compile_options:
        raise StoreUnusable("the apsw module was built without carray; install it from PyPI")
    connection = apsw.Connection(str(path), flags=flags, vfs=how.vfs, statementcachesize=STATEMENTS)
    connection.set_busy_timeout(how.busy_ms)
    for name, value in (("trusted_schema", 0), ("temp_store", "memory")):
        pragma(connection, name, value)
    return connection


def open_to_write(path: Path, how: How) -> apsw.Connection:
    """The writing connection, durable for sure; makes the store if there is none. Raises StoreUnusable."""
    with unusable(path):
        if path.exists() and not path.stat().st_size and _size(files.beside(path, "-wal")):
            raise StoreUnusable(
                "the file is empty, but its write-ahead log is not: the file was cut or replaced"
            )
        if not path.exists():
            files.make(path)
        connection = _connect(path, apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE, how)
        try:
            _prepare_to_write(connection, path, how)
        except BaseException:
            _drop(connection)
            raise
        return connection


def _drop(connection: apsw.Connection) -> None:
    """Close without copying the log into a file that cannot be used: both may be needed to save something."""
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    connection.close(force=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _patiently(how: How, work: Callable[[], T]) -> T:
    """Do it again for as long as the store is busy: while another process makes it, SQLite itself does not wait."""
    deadline = time.monotonic() + how.busy_ms / 1000
    while True:
        try:
            return work()
        except apsw.BusyError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(BUSY_PAUSE_S)


def _is_new(connection: apsw.Connection) -> bool:
    with snapshot(connection):  # another process may be making the store
        return is_new(connection)


def _prepare_to_write(connection: apsw.Connection, path: Path, how: How) -> None:
    new = _patiently(how, lambda: _is_new(connection))
    if new:
        pragma(connection, "page_size", PAGE_BYTES)
    if connection.readonly("main"):
        raise StoreUnusable("the file is read-only")
    _patiently(how, lambda: _must_hold(connection, "journal_mode", "wal", "wal"))
    _must_hold(connection, "synchronous", *SYNCHRONOUS)
    _must_hold(connection, "locking_mode", "normal", "normal")
    pragma(connection, "fullfsync", 1)  # for macOS, where a plain sync stops at the drive's cache
    pragma(connection, "checkpoint_fullfsync", 1)
    pragma(connection, "cache_size", -WRITER_CACHE_KIB)
    pragma(connection, "journal_size_limit", WAL_KEPT_BYTES)
    pragma(connection, "wal_autocheckpoint", 0)  # the writer does it, when nobody waits
    if new:
        _patiently(how, lambda: create(connection, how.schema))
        _patiently(how, lambda: connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE))
        files.sync_directory(path.parent)
    check_version(connection, how.schema, writing=True)


def open_to_read(path: Path, how: How) -> apsw.Connection:
    """A reading connection. Raises StoreUnusable."""
    with unusable(path):
        if not path.exists():
            raise StoreUnusable("there is no such file")
        connection = _connect(path, apsw.SQLITE_OPEN_READONLY, how)
        try:
            if _is_new(connection):
                raise StoreUnusable("the file is empty")
            pragma(connection, "cache_size", -READER_CACHE_KIB)
            check_version(connection, how.schema, writing=False)
        except BaseException:
            _drop(connection)
            raise
        return connection
