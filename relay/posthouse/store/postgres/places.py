"""Which mailbox a message is in, for those that were written or read lately.

A delete names only a sequence number, and the messages are spread over partitions by mailbox: with the mailbox one
partition is looked into instead of all, which is half of what a delete costs. What is not known here is looked for
everywhere; what a promotion before knew is forgotten, as numbers may mean something else after a loss.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from threading import Lock
from typing import Final

PLACES: Final = 100_000
"""Kept at most; about 10 MB. As many as may be out with readers who will acknowledge them soon."""


class Places:
    """Shared by the writer and the readers of a store, each on its own thread."""

    def __init__(self, limit: int = PLACES) -> None:
        self._limit = limit
        self._lock = Lock()
        self._mailboxes: dict[int, int] = {}

    def learn(self, places: Iterable[tuple[int, int]]) -> None:
        """These sequence numbers are in these mailboxes; the oldest that are too many are forgotten."""
        with self._lock:
            known = self._mailboxes
            known.update(places)
            excess = len(known) - self._limit
            if excess > 0:
                for seq in list(islice(known, excess)):
                    del known[seq]

    def find(self, seqs: Iterable[int]) -> tuple[dict[int, int], list[int]]:
        """The mailboxes of those that are known, and those that are not."""
        found: dict[int, int] = {}
        others: list[int] = []
        with self._lock:
            for seq in seqs:
                mailbox = self._mailboxes.get(seq)
                if mailbox is None:
                    others.append(seq)
                else:
                    found[seq] = mailbox
        return found, others

    def forget(self) -> None:
        """Nothing is known any more."""
        with self._lock:
            self._mailboxes.clear()
