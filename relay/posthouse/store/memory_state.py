"""What the memory store holds, and how single messages enter and leave it.

Not thread-safe: whoever calls holds ``lock``. Every method leaves the tallies, the order of each mailbox, the marks
and the expiry heap in agreement with the messages.
"""

from __future__ import annotations

import secrets
from bisect import bisect_left, insort
from heapq import heappop, heappush
from threading import Lock

from posthouse.store.interface import TOKEN_BYTES, Append, Fence, Mailbox, MailboxNo, StoredMessage, Tally


class HeldMessage:
    """A message that is kept, and the readers that have marked it. Rows are handed out, so they never change."""

    __slots__ = ("guest", "marked_by", "row")

    def __init__(self, append: Append) -> None:
        self.row = row_of(append, append.expires_at)
        self.guest = append.guest
        self.marked_by: set[tuple[str, str]] = set()


def row_of(m: Append | StoredMessage, expires_at: int) -> StoredMessage:
    """A row of a page with this expiry, from an append or from another row."""
    no, shelf = (m.mailbox.no, m.mailbox.shelf) if isinstance(m, Append) else (m.mailbox, m.shelf)
    return StoredMessage(m.seq, m.id, no, shelf, m.ciphertext, m.received_at, expires_at)


class Box:
    """A mailbox that holds something: its tally and its sequence numbers in order."""

    __slots__ = ("mailbox", "seqs", "tally")

    def __init__(self, mailbox: Mailbox) -> None:
        self.mailbox = mailbox
        self.seqs: list[int] = []
        self.tally = Tally()


def count(tally: Tally, message: HeldMessage, sign: int) -> None:
    """Add a message to a tally (sign 1), or take it away (-1)."""
    size = sign * len(message.row.ciphertext)
    tally.count += sign
    tally.bytes += size
    if message.guest:
        tally.guest_count += sign
        tally.guest_bytes += size


class State:
    """Everything in the store. Not thread-safe: whoever calls holds ``lock``."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.fence = Fence(0, b"", secrets.token_bytes(TOKEN_BYTES))
        self.batch = 0
        self.relay_id = secrets.token_hex(8)
        self.clock_ms = 0
        self.next_seq = 1
        self.total = Tally()
        self.messages: dict[int, HeldMessage] = {}
        self.seq_of: dict[tuple[MailboxNo, str], int] = {}
        self.boxes: dict[MailboxNo, Box] = {}
        self.by_key: dict[bytes, Box] = {}
        self.shelves: dict[int, dict[MailboxNo, Box]] = {}
        self.marks: dict[str, dict[str, set[int]]] = {}
        """What each reader of a bucket has marked; the reader that marked longest ago comes first."""
        self.due: list[tuple[int, int]] = []
        """A heap of (expires_at, seq); what has left or was raised stays in it until it comes up."""

    def insert(self, append: Append) -> None:
        mailbox = append.mailbox
        box = self.boxes.get(mailbox.no)
        if box is None:
            box = self.boxes[mailbox.no] = self.by_key[mailbox.key] = Box(mailbox)
            self.shelves.setdefault(mailbox.shelf, {})[mailbox.no] = box
        message = self.messages[append.seq] = HeldMessage(append)
        self.seq_of[mailbox.no, append.id] = append.seq
        insort(box.seqs, append.seq)
        heappush(self.due, (append.expires_at, append.seq))
        count(box.tally, message, 1)
        count(self.total, message, 1)

    def raise_expiry(self, message: HeldMessage, expires_at: int) -> None:
        if expires_at > message.row.expires_at:
            message.row = row_of(message.row, expires_at)
            heappush(self.due, (expires_at, message.row.seq))

    def remove(self, seq: int) -> StoredMessage:
        message = self.messages.pop(seq)
        row = message.row
        box = self.boxes[row.mailbox]
        del self.seq_of[row.mailbox, row.id]
        del box.seqs[bisect_left(box.seqs, seq)]
        count(box.tally, message, -1)
        count(self.total, message, -1)
        for bucket, reader in message.marked_by:
            readers = self.marks[bucket]
            readers[reader].discard(seq)
            if not readers[reader]:
                del readers[reader]
            if not readers:
                del self.marks[bucket]
        if not box.seqs:
            self.remove_box(box.mailbox)
        return row

    def remove_box(self, mailbox: Mailbox) -> None:
        del self.boxes[mailbox.no], self.by_key[mailbox.key]
        shelf = self.shelves[mailbox.shelf]
        del shelf[mailbox.no]
        if not shelf:
            del self.shelves[mailbox.shelf]

    def first_due(self) -> tuple[int, int]:
        """The lowest (expires_at, seq) in the store; zeros when it is empty."""
        due = self.due
        while due:
            message = self.messages.get(due[0][1])
            if message is not None and message.row.expires_at == due[0][0]:
                return due[0]
            heappop(due)
        return 0, 0


def copy_of(tally: Tally) -> Tally:
    """A tally to give away: the state's own go on changing."""
    return Tally(tally.count, tally.bytes, tally.guest_count, tally.guest_bytes)
