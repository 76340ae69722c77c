"""What sessions are told: settings that stay, and conditions that the shell changes while they run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from posthouse.wire.codes import Code


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What one kind of connection may do."""

    enabled: bool = True
    """Whether such a connection is welcome at all; legacy ones are turned away in the handshake already."""
    publish: bool = True
    read_buckets: bool = True
    max_publish_per_s: float = 0.0
    """Publishes a second of one connection, after a burst of one second's worth; 0: any number."""
    buckets_per_connection: int = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSettings:
    """Settings that all sessions of a process share. Defaults are those of the configuration."""

    relay: str
    """The relay's id, the same on all its members."""
    limits: Mapping[str, int]
    """``welcome.limits``; ``buckets_per_connection`` is set to what the kind of connection may have."""
    features: tuple[str, ...] = ()
    network: bool = False
    """Whether mode ``network`` can be served."""
    max_frame_bytes: int = 2**20
    max_message_bytes: int = (2**20 - 4096) * 3 // 4
    max_window: int = 4096
    default_window: int = 256
    max_outbound_bytes: int = 4 * 2**20
    """Ciphertext that may be under way to one connection's socket."""
    max_held_bytes: int = 2**20
    """What one client may send behind its hello while no instance is active."""
    hello_timeout_s: float = 5.0
    legacy_hello_timeout_s: float = 30.0
    active_timeout_s: float = 10.0
    """How long a hello waits for an active instance (docs/protocol.md 2.1)."""
    legacy_backlog_limit: int = 1000
    authenticated: Policy = field(default_factory=Policy)
    anonymous: Policy = field(default_factory=lambda: Policy(buckets_per_connection=4))
    legacy: Policy = field(default_factory=Policy)

    @property
    def credit_bytes(self) -> int:
        """Credit goes back to the broker in lumps of at least so much."""
        return self.max_outbound_bytes >> 2


@dataclass(slots=True)
class Conditions:
    """What changes around all sessions of a process alike. The shell writes it; sessions read it and count."""

    epoch: int | None = None
    """The epoch of the active instance; None while there is none. After setting it, tell the sessions ``activated``."""
    refuse: Code | None = None
    """Why no publish is taken at the moment: ``draining``, or ``rate-limited`` where memory is short."""
    refuse_retry_ms: int | None = None
    """``retry_after_ms`` of those refusals."""
    wall_offset_ms: int = 0
    """What to add to ``now`` in milliseconds for the wall clock's Unix milliseconds."""
    refused: Counter[tuple[str, str]] = field(default_factory=Counter)
    """What sessions refused or dropped by themselves, by dialect and code."""

    def wall_ms(self, now: float) -> int:
        """Unix milliseconds at ``now``."""
        return int(now * 1000) + self.wall_offset_ms
