"""One view of a running relay, for metrics, /status, /readyz, the information document and the control socket."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from posthouse.broker.counters import Counters
from posthouse.link.frames import Handover, MemberState
from posthouse.server.websocket.endpoint import Counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What is so at this moment. Sizes are bytes of ciphertext unless they say otherwise."""

    role: str
    """As the table of roles has it."""
    epoch: int
    """Of the active member's broker; 0 while none is known."""
    active: str | None
    """Id of the active member; None while none is known."""
    members: Sequence[MemberState]
    """Those that are known: all, to the active one and who is linked to it."""
    last_handover: Handover | None
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
    times_fenced: int
    """How often another promotion ended a broker of this process."""
    store_messages: int
    store_bytes: int
    disk_free_bytes: int | None
    """Of the store's disk; None for a store without one."""
    lease_kind: str
    lease_held: bool
    connections: int
    sessions: Mapping[str, int]
    hosted_sessions: int
    """Of other members' fronts, at the broker of this one."""
    half_open: int
    overloaded: bool
    memory_limit_bytes: int
    counts: Counts
    refused: Mapping[tuple[str, str], int]
    counters: Counters | None
    """None while there is no broker."""

    def status(self) -> dict[str, Any]:
        """The document of /status and of the control socket's ``status``."""
        return {
            "role": self.role,
            "epoch": self.epoch,
            "active": self.active,
            "member": self.member,
            "members": [msgspec.to_builtins(member) for member in self.members],
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
            "lease": {"kind": self.lease_kind, "held": self.lease_held},
            "connections": self.connections,
            "sessions": dict(self.sessions),
            "hosted_sessions": self.hosted_sessions,
            "since": self.since_ms,
            "last_handover": msgspec.to_builtins(self.last_handover),
        }
