"""From the URL of a store to the store."""

from __future__ import annotations

from pathlib import Path
from typing import Final
from urllib.parse import unquote

from posthouse.store.interface import Store, StoreUnusable

BUSY_MS: Final = 5000


def sqlite_path(url: str) -> Path | None:
    """The file that a ``sqlite:`` URL names; None for other URLs.

    Three slashes and a relative path, or four and an absolute one; ``%`` escapes are undone.
    """
    prefix = "sqlite:///"
    name = unquote(url.removeprefix(prefix))
    return Path(name) if url.startswith(prefix) and name else None


def open_store(url: str, busy_timeout_ms: int = BUSY_MS) -> Store:
    """The store that a URL names; nothing is opened yet. Raises StoreUnusable for a URL that names none.

    ``busy_timeout_ms``: how long a statement waits for another process that has the file locked.
    """
    if url == "memory:":
        from posthouse.store.memory import MemoryStore

        return MemoryStore()
    path = sqlite_path(url)
    if path is not None:
        from posthouse.store.sqlite import SqliteStore

        return SqliteStore(path, busy_timeout_ms=busy_timeout_ms)
    scheme = url.partition(":")[0]
    raise StoreUnusable(
        f"no store of the kind {scheme!r} in this release; there are memory:, sqlite:///relative/path and "
        "sqlite:////absolute/path"
    )
