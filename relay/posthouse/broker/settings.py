"""What the broker can be told, as plain values. Defaults are those of the configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from posthouse.store.interface import Tally

CAREFUL_MESSAGES: Final = 2**20
CAREFUL_BYTES: Final = 2**32
"""What waits to be committed is less than either."""


@dataclass(frozen=True, slots=True)
class Quotas:
    """How much may wait. 0 means no limit."""

    mailbox_messages: int = 200_000
    mailbox_bytes: int = 512 * 2**20
    guest_mailbox_messages: int = 10_000
    guest_mailbox_bytes: int = 32 * 2**20
    total_messages: int = 50_000_000
    total_bytes: int = 0

    def nearly_full(self, total: Tally) -> bool:
        """Whether the whole store is so near to a limit that what waits to be committed might matter."""
        return (self.total_messages > 0 and total.count + CAREFUL_MESSAGES >= self.total_messages) or (
            self.total_bytes > 0 and total.bytes + CAREFUL_BYTES >= self.total_bytes
        )


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """Limits and times of the broker."""

    quotas: Quotas = field(default_factory=Quotas)
    tick_s: float = 0.008
    """Length of a generation: a message out with an online reader is written after one to two of these."""
    live_timeout_s: float = 2.0
    default_ttl_s: int = 30 * 86400
    max_ttl_s: int = 30 * 86400
    dedupe_window_s: float = 600.0
    dedupe_entries: int = 500_000
    connections_per_key: int = 8
    readers_per_bucket: int = 1000
    max_inflight_bytes: int = 8 * 2**20
    """Ciphertext bytes of one session's publishes without a result."""
    receipts_per_connection: int = 10_000
    page_rows: int = 256
    page_bytes: int = 2**20
    batch_messages: int = 4096
    batch_bytes: int = 16 * 2**20
    cached_mailboxes: int = 100_000
    remembered_ids: int = 16_384
    """Deliveries that a session without a window is remembered to hold; acks of older ones are passed over."""
    remembered_attempts: int = 100_000
    expire_limit: int = 1000
    """Messages that one batch deletes at most because they expired or are purged."""
    seq_block: int = 2**24
    """Sequence numbers reserved at a time."""
    busy_retry_ms: int = 1000
    """Delay after a ``busy`` that names none."""
