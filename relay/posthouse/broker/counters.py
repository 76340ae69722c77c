"""Counts of what the broker did, as plain integers; the server shows them as metrics."""

from __future__ import annotations

from collections import Counter


class Counters:
    """Each attribute only rises."""

    __slots__ = (
        "acked_late",
        "appended",
        "deleted",
        "delivered_late",
        "duplicates",
        "elided",
        "expired",
        "marked",
        "nacked",
        "published",
        "rejected",
        "sent",
        "store_failures",
        "stored",
        "undeliverable",
    )

    def __init__(self) -> None:
        self.published = 0
        """Publishes that reached the broker."""
        self.elided = 0
        """Messages acknowledged before they went to the store: the end of most, so that they are counted once."""
        self.delivered_late = 0
        """Results ``delivered`` of others: a copy was on its way to the store, or repeats shared the outcome."""
        self.stored = 0
        """Results ``stored``."""
        self.duplicates = 0
        self.undeliverable = 0
        self.rejected: Counter[str] = Counter()
        """Results ``rejected``, by code."""
        self.sent = 0
        """Messages sent to readers, repeats included."""
        self.acked_late = 0
        """Acks of owners that counted, of messages that were in the store or on their way to it."""
        self.marked = 0
        """Acks of bucket readers that counted."""
        self.nacked: Counter[str] = Counter()
        self.appended = 0
        """Messages written to the store."""
        self.deleted = 0
        """Deletions written to the store."""
        self.expired = 0
        self.store_failures = 0
        """Batches that the store did not take."""

    @property
    def delivered(self) -> int:
        """Results ``delivered``."""
        return self.elided + self.delivered_late

    @property
    def acked(self) -> int:
        """Acks of owners that counted."""
        return self.elided + self.acked_late
