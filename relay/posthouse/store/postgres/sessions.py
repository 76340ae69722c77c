"""Sessions of the engine as the store needs them: timeouts, plans that do not change, and a name that says whose it is.

The engine gives up a statement before we give up the connection, so that most failures are certain ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from posthouse.store.postgres.address import Address
from posthouse.store.postgres.arrays import texts
from posthouse.store.postgres.connection import Connection, ConnectionLost, Refused

CONNECT_S: Final = 10.0
_LOCK_SHARE: Final = 0.3
_STATEMENT_SHARE: Final = 0.4
_TRIP_SHARE: Final = 0.5
_CONNECT_SHARE: Final = 0.25

_SET: Final = """
    SELECT count(set_config(name, value, false)) FROM unnest($1::text[], $2::text[]) AS wanted (name, value)
    JOIN pg_settings USING (name)"""
"""Settings that the engine does not know are left out: there are several engines."""
_STEADY_PLANS: Final = {
    # Plans are made once, when the tables may still be empty: without these, such a plan reads whole tables later.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
    "work_mem": "64MB",
}


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for the engine. A commit ends within ``commit_ms`` or so, one way or the other."""

    lock_ms: int
    commit_ms: int

    @property
    def trip_s(self) -> float:
        """For one round trip."""
        return self.commit_ms * _TRIP_SHARE / 1000

    @property
    def connect_s(self) -> float:
        """For a new connection to one host."""
        return self.commit_ms * _CONNECT_SHARE / 1000

    def settings(self) -> dict[str, str]:
        """The engine's own timeouts, in milliseconds, and how it notices that we are gone."""
        statement_ms = max(1, round(self.commit_ms * _STATEMENT_SHARE))
        lock_ms = max(1, min(self.lock_ms, round(self.commit_ms * _LOCK_SHARE)))
        return {
            "lock_timeout": str(lock_ms),
            "statement_timeout": str(statement_ms),
            "idle_in_transaction_session_timeout": str(self.commit_ms),
            "client_connection_check_interval": "1000",
            "tcp_keepalives_idle": "5",
            "tcp_keepalives_interval": "2",
            "tcp_keepalives_count": "3",
            "tcp_user_timeout": str(self.commit_ms),
        }


def open_session(address: Address, name: str, patience: Patience, reading: bool = False) -> Connection:
    """A session for the store's own statements. Raises ConnectionLost and Refused."""
    read_only = {"default_transaction_read_only": "on"} if reading else {}
    return _open(address, name, patience, _STEADY_PLANS | read_only)


def open_to_look(address: Address, patience: Patience) -> Connection:
    """A session for questions about everything, which the engine plans as it likes. Raises as ``open_session``."""
    return _open(address, "posthouse check", patience, {"default_transaction_read_only": "on"})


def _open(address: Address, name: str, patience: Patience, settings: dict[str, str]) -> Connection:
    connection = Connection(address, name, min(CONNECT_S, patience.connect_s), patience.trip_s)
    wanted = patience.settings() | settings
    try:
        connection.one(
            "SELECT set_config('search_path', $1::text, false)", f"{address.schema}, pg_catalog".encode()
        )
        connection.one(_SET, texts(wanted), texts(wanted.values()))
    except (ConnectionLost, Refused):
        connection.close()
        raise
    return connection
