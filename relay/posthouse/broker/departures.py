"""What is acknowledged but may still be seen in the store: it must not be sent to a reader again.

A deletion or mark is known here from the ack on. When its commit is confirmed it stays until every page
that was asked for before has been answered, because such a page may have been read before the commit.
Pages are answered in the order in which they were asked for (one reading thread).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from posthouse.store.interface import Mark


class Departures:
    """Sequence numbers and marks on their way out."""

    __slots__ = ("_after", "answered", "asked", "marks", "seqs")

    def __init__(self) -> None:
        self.seqs: set[int] = set()
        """Messages that their owner has acknowledged."""
        self.marks: set[Mark] = set()
        self.asked = 0
        self.answered = 0
        self._after: deque[tuple[int, list[int], list[Mark]]] = deque()

    def ask(self) -> int:
        """A page is being asked for: its number."""
        self.asked += 1
        return self.asked

    def answer(self, number: int) -> None:
        """Page ``number`` has been used."""
        self.answered = number
        while self._after and self._after[0][0] <= number:
            _, seqs, marks = self._after.popleft()
            self._forget(seqs, marks)

    def committed(self, seqs: list[int], marks: list[Mark]) -> None:
        """These are gone from the store."""
        if self.asked == self.answered:
            self._forget(seqs, marks)
        else:
            self._after.append((self.asked, seqs, marks))

    def _forget(self, seqs: Iterable[int], marks: Iterable[Mark]) -> None:
        self.seqs.difference_update(seqs)
        self.marks.difference_update(marks)
