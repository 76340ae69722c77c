"""How often a message was sent to a reader that did not acknowledge it: ``deliveries`` on the next try.

Kept in memory only and bounded, the oldest leave first: it is what the relay knows, not a promise
(docs/protocol.md 2.3).
"""

from __future__ import annotations


class Attempts:
    """Counts by (reader or mailbox name, seq)."""

    __slots__ = ("_capacity", "_counts")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._counts: dict[tuple[str, int], int] = {}

    def of(self, reader: str, seq: int) -> int:
        """How often this reader was sent this message in sessions that have ended."""
        return self._counts.get((reader, seq), 0) if self._counts else 0

    def note(self, reader: str, seq: int, deliveries: int) -> None:
        """A session ended without an ack of this message."""
        counts = self._counts
        counts.pop((reader, seq), None)
        if len(counts) >= self._capacity:
            del counts[next(iter(counts))]
        counts[(reader, seq)] = deliveries

    def forget(self, reader: str, seq: int) -> None:
        """The reader acknowledged it."""
        if self._counts:
            self._counts.pop((reader, seq), None)
