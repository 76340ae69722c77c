"""Counts of what the broker did, as plain integers; the server shows them as metrics."""

from __future__ import annotations

from collections import Counter


class Counters:
    """Each attribute only rises."""

    __slots__ = (
        "acked",
        "appended",
        "deleted",
        "delivered",
        "duplicates",
        "elided",
        "expired",
        "fenced",
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
        self.delivered = 0
        """Results ``delivered``."""
        self.stored = 0
        """Results ``stored``."""
        self.duplicates = 0
        self.undeliverable = 0
        self.rejected: Counter[str] = Counter()
        """Results ``rejected``, by code."""
        self.sent = 0
        """Messages sent to readers, repeats included."""
        self.acked = 0
        """Acks of owners that counted."""
        self.marked = 0
        """Acks of bucket readers that counted."""
        self.nacked: Counter[str] = Counter()
        self.elided = 0
        """Messages acknowledged before they went to the store."""
        self.appended = 0
        """Messages written to the store."""
        self.deleted = 0
        """Deletions written to the store."""
        self.expired = 0
        self.store_failures = 0
        """Batches that the store did not take."""
        self.fenced = 0
