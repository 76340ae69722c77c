"""What was delivered lately: a repeat of it within ``dedupe_window_s`` is answered ``duplicate``.

Bounded by time and by number; the oldest leave first. The store takes no part: across promotions this
memory is best effort (docs/protocol.md 2.4).
"""

from __future__ import annotations

from collections import deque
from typing import Final

MESSAGE_ID_CHARS: Final = 64
FORGET_AT_ONCE: Final = 4096
"""Entries forgotten in one call of ``expire``: a bound on how long the loop stands still."""


class Recent:
    """Pairs of (mailbox name, message id) in the order in which they were delivered."""

    __slots__ = ("_capacity", "_forgotten", "_marks", "_order", "_shared", "_window_s", "known")

    def __init__(self, window_s: float, capacity: int) -> None:
        self._window_s = window_s
        self._capacity = capacity
        self.known: dict[str, str] = {}
        """Message id → mailbox; for further mailboxes with the same message: id and mailbox joined → mailbox."""
        self._shared = 0
        """Number of joined keys."""
        self._order: deque[str] = deque()
        self._forgotten = 0
        # (time, number of entries ever taken by then): one pair a second dates every entry well enough.
        self._marks: deque[tuple[float, int]] = deque()

    def __len__(self) -> int:
        return len(self._order)

    def add(self, mailbox: str, message: str) -> None:
        """Remember a delivery."""
        known, order = self.known, self._order
        held = known.setdefault(message, mailbox)
        if len(known) == len(order):  # it was there
            if held == mailbox:
                return
            message += mailbox
            known[message] = mailbox
            if len(known) == len(order):
                return
            self._shared += 1
        order.append(message)
        if len(order) > self._capacity:
            self._forget()

    def has(self, mailbox: str, message: str) -> bool:
        """Whether this delivery is remembered; False at once where ``message`` is not in ``known``."""
        return self.known.get(message) == mailbox or (self._shared > 0 and message + mailbox in self.known)

    def _forget(self) -> None:
        key = self._order.popleft()
        del self.known[key]
        self._forgotten += 1
        if len(key) > MESSAGE_ID_CHARS:
            self._shared -= 1

    def expire(self, now: float) -> None:
        """Forget what is older than the window; call about once a second."""
        self._marks.append((now, self._forgotten + len(self._order)))
        gone_by = 0
        while self._marks and self._marks[0][0] <= now - self._window_s:
            gone_by = self._marks.popleft()[1]
        if not gone_by:
            return
        surplus = gone_by - self._forgotten
        for _ in range(min(surplus, FORGET_AT_ONCE)):
            self._forget()
        if surplus > FORGET_AT_ONCE:
            self._marks.appendleft((now - self._window_s, gone_by))
