"""One view of a running relay, for metrics, /status, /readyz, the information document and the control socket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from posthouse.broker.counters import Counters
from posthouse.server.websocket.endpoint import Counts

Role = Literal["starting", "active", "draining", "stopped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What is so at this moment. Sizes are bytes of ciphertext unless they say otherwise."""

    role: Role
    epoch: int
    """0 before the promotion."""
    not_ready: str | None
    """Why this member should get no new clients; None if it should."""
    since_ms: int
    """Unix milliseconds at which the role began."""
    relay: str
    member: str
    store_url: str
    """Without passwords."""
    store_durable: bool
    store_healthy: bool
    store_messages: int
    store_bytes: int
    disk_free_bytes: int | None
    """Of the store's disk; None for a store without one."""
    lease_kind: str
    connections: int
    sessions: Mapping[str, int]
    half_open: int
    overloaded: bool
    memory_limit_bytes: int
    counts: Counts
    refused: Mapping[tuple[str, str], int]
    counters: Counters | None
    """None while there is no broker."""

    def status(self) -> dict[str, Any]:
        """The document of /status and of the control socket's ``status``."""
        active = self.role == "active"
        return {
            "role": self.role,
            "epoch": self.epoch,
            "active": self.member if active else None,
            "members": [{"name": self.member, "role": self.role, "ready": self.not_ready is None}],
            "ready": self.not_ready is None,
            "reason": self.not_ready,
            "relay": self.relay,
            "store": {
                "url": self.store_url,
                "durable": self.store_durable,
                "healthy": self.store_healthy,
                "messages": self.store_messages,
                "bytes": self.store_bytes,
            },
            "lease": {"kind": self.lease_kind, "held": self.role in ("active", "draining")},
            "connections": self.connections,
            "sessions": dict(self.sessions),
            "since": self.since_ms,
            "last_handover": None,
        }
