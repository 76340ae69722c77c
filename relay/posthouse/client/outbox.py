"""The sender's side of a client: which publishes have no result yet, and what to send again. Sans-I/O.

Invariants: a publish waits in ``queue`` or is under way (in ``sent``), never both; it has an entry until it
is resolved, forgotten or out of time. Bytes under way never exceed ``max_bytes``, except for one message that
is larger by itself. What the caller no longer waits for still counts while the relay may hold it.

Source: docs/protocol.md 2.4 and 2.5.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from dataclasses import dataclass

from posthouse.wire.messages import Publish

OVERHEAD_BYTES = 320
"""Counted per publish besides its ciphertext: names, numbers, and what the relay keeps beside it."""


@dataclass(slots=True)
class Entry:
    """One publish that somebody waits for. Times are seconds of the caller's clock."""

    item: Publish
    size: int
    handed_in_at: float
    deadline: float


class Outbox:
    """Publishes without a result, in the order in which they were handed in."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.entries: dict[int, Entry] = {}
        self.queue: OrderedDict[int, None] = OrderedDict()
        self.sent: dict[int, int] = {}
        self.sent_bytes = 0
        self._entry_bytes = 0
        self.held_back = False
        """The relay is about to end this connection: new publishes wait for the next one."""
        self._deadlines: list[tuple[float, int]] = []

    def add(self, item: Publish, now: float, timeout_s: float) -> None:
        """Queue a publish; its ``ref`` is new."""
        entry = Entry(item, len(item.ciphertext) + OVERHEAD_BYTES, now, now + timeout_s)
        self.entries[item.ref] = entry
        self._entry_bytes += entry.size
        self.queue[item.ref] = None
        heapq.heappush(self._deadlines, (entry.deadline, item.ref))
        if len(self._deadlines) > 2 * len(self.entries) + 1024:
            self._deadlines = [(entry.deadline, ref) for ref, entry in self.entries.items()]
            heapq.heapify(self._deadlines)

    def take(self, budget_bytes: int, frame_is_empty: bool) -> list[Publish]:
        """What may go out now, about ``budget_bytes``; one larger message only into an empty frame."""
        taken: list[Publish] = []
        while self.queue and not self.held_back:
            ref = next(iter(self.queue))
            entry = self.entries[ref]
            if self.sent and self.sent_bytes + entry.size > self.max_bytes:
                break
            if entry.size > budget_bytes and (taken or not frame_is_empty):
                break
            self.queue.popitem(last=False)
            self.sent[ref] = entry.size
            self.sent_bytes += entry.size
            budget_bytes -= entry.size
            taken.append(entry.item)
        return taken

    def ready(self) -> bool:
        """Whether ``take`` would give something."""
        if not self.queue or self.held_back:
            return False
        if not self.sent:
            return True
        return self.sent_bytes + self.entries[next(iter(self.queue))].size <= self.max_bytes

    def resolve(self, ref: int) -> Entry | None:
        """The relay has answered: the entry, or None if nobody waits for it any more."""
        self._settled(ref)
        return self.forget(ref)

    def forget(self, ref: int) -> Entry | None:
        """Nobody waits any more. What is under way still counts until its result or the connection's end."""
        self.queue.pop(ref, None)
        entry = self.entries.pop(ref, None)
        if entry is not None:
            self._entry_bytes -= entry.size
        return entry

    def is_crowded(self) -> bool:
        """Whether twice as much waits for results as may be under way."""
        return self._entry_bytes > 2 * self.max_bytes

    def send_again(self, ref: int) -> None:
        """Back to the front of the queue, to go out on the next connection."""
        self._settled(ref)
        if ref in self.entries:
            self.queue[ref] = None
            self.queue.move_to_end(ref, last=False)

    def disconnected(self) -> None:
        """Everything without a result is queued again, in the order in which it was handed in."""
        again = [ref for ref in self.sent if ref in self.entries]
        self.sent.clear()
        self.sent_bytes = 0
        self._entry_bytes = 0
        self.held_back = False
        for ref in reversed(again):
            self.queue[ref] = None
            self.queue.move_to_end(ref, last=False)

    def expired(self, now: float) -> list[Entry]:
        """Those whose time is over, forgotten."""
        over: list[Entry] = []
        while self._deadlines and self._deadlines[0][0] <= now:
            _, ref = heapq.heappop(self._deadlines)
            entry = self.entries.get(ref)
            if entry is not None:
                self.forget(ref)
                over.append(entry)
        return over

    def next_deadline(self) -> float | None:
        """When to call ``expired`` again."""
        while self._deadlines and self._deadlines[0][1] not in self.entries:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def _settled(self, ref: int) -> None:
        size = self.sent.pop(ref, None)
        if size is not None:
            self.sent_bytes -= size
