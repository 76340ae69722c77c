"""What the engine's settings say about commits that it has confirmed: each weakness is one warning at the start.

The store cannot make an engine keep more than it is set up to keep. What a session may decide, that a commit waits
for the disk, it decides.
"""

from __future__ import annotations

from typing import Final

import structlog

from posthouse.store.postgres.connection import Connection

_log = structlog.get_logger()

_SETTINGS: Final = """
    SELECT name, setting FROM pg_settings
    WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit', 'synchronous_standby_names')"""
_FORCE: Final = """
    SELECT set_config('synchronous_commit', 'on', false) FROM pg_settings
    WHERE name = 'synchronous_commit' AND setting IN ('off', 'local')"""


def look(connection: Connection) -> list[str]:
    """The weaknesses, as phrases. Raises Refused and ConnectionLost."""
    settings: dict[str, str] = dict(connection.one(_SETTINGS))
    weak: list[str] = []
    if settings.get("fsync") == "off":
        weak.append("fsync is off: a crash of the engine's machine can lose or damage everything")
    if settings.get("full_page_writes") == "off":
        weak.append(
            "full_page_writes is off: a power cut can damage pages, unless the file system never tears one"
        )
    level = settings.get("synchronous_commit")
    if settings.get("synchronous_standby_names") == "":
        weak.append(
            "synchronous_standby_names is empty: a lost primary can lose commits, unless its storage outlives it"
        )
    elif level == "remote_write":
        weak.append(
            "synchronous_commit is remote_write: primary and standby crashing together can lose commits"
        )
    return weak


def warn(weak: list[str]) -> None:
    """Say each of them once."""
    for phrase in weak:
        _log.warning("the engine may lose commits", reason=phrase)


def force(connection: Connection) -> None:
    """Have this session's commits wait for the disk, and for the standbys if there are synchronous ones.

    Raises Refused and ConnectionLost.
    """
    connection.one(_FORCE)
