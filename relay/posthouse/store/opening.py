"""From the URL of a store to the store."""

from __future__ import annotations

from pathlib import Path
from typing import Final
from urllib.parse import unquote

from posthouse.store.interface import Store, StoreUnusable

BUSY_MS: Final = 5000
COMMIT_MS: Final = 10_000
POSTGRES_SCHEMES: Final = ("postgresql://", "postgres://")
"""How the URLs of PostgreSQL stores begin."""


def sqlite_path(url: str) -> Path | None:
    """The file that a ``sqlite:`` URL names; None for other URLs.

    Three slashes and a relative path, or four and an absolute one; ``%`` escapes are undone.
    """
    prefix = "sqlite:///"
    name = unquote(url.removeprefix(prefix))
    return Path(name) if url.startswith(prefix) and name else None


def open_store(url: str, busy_timeout_ms: int = BUSY_MS, commit_timeout_ms: int = COMMIT_MS) -> Store:
    """The store that a URL names; nothing is opened yet. Raises StoreUnusable for a URL that names none.

    ``busy_timeout_ms``: how long a statement waits for another process that has the file, or the row, locked.
    ``commit_timeout_ms``: by when a commit on an engine that does not answer has ended, one way or the other.
    """
    if url == "memory:":
        from posthouse.store.memory import MemoryStore

        return MemoryStore()
    path = sqlite_path(url)
    if path is not None:
        from posthouse.store.sqlite import SqliteStore

        return SqliteStore(path, busy_timeout_ms=busy_timeout_ms)
    if url.startswith(POSTGRES_SCHEMES):
        return _postgres(url, busy_timeout_ms, commit_timeout_ms)
    scheme = url.partition(":")[0]
    raise StoreUnusable(
        f"no store of the kind {scheme!r} in this release; there are memory:, sqlite:///relative/path, "
        "sqlite:////absolute/path and postgresql://"
    )


def _postgres(url: str, lock_ms: int, commit_ms: int) -> Store:
    try:
        from posthouse.store.postgres import PostgresStore
    except ModuleNotFoundError as error:
        if error.name != "psycopg":
            raise
        raise StoreUnusable(
            "a store at postgresql:// needs psycopg: install it with the extra, pip install 'posthouse[postgres]'"
        ) from None
    except ImportError as error:
        raise StoreUnusable(
            f"a store at postgresql:// needs psycopg, which cannot be loaded: {error}"
        ) from None
    return PostgresStore(url, lock_ms=lock_ms, commit_ms=commit_ms)
