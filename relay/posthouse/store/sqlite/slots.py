"""Slots: the hash table that finds duplicates.

A message's slot is a number of 63 bits: the upper ones are its mailbox, the lower ones the beginning of its id. So
the slots of a mailbox lie together in the file, and are freed together when it is drained. Every message has exactly
one. Different messages may meet in a slot (some can be made to); then the next one is taken, and a repeat is found
as long as what lies before it is there. A repeat that is missed is stored, and its reader drops it by its id.
"""

from __future__ import annotations

from typing import Final

from posthouse.store.interface import MailboxNo

OCCUPANT: Final = """
    SELECT seq, mailbox, id, expires_at FROM slot CROSS JOIN message USING (seq) WHERE slot.no = ?"""
_ID_BITS: Final = 40
_ID_DIGITS: Final = _ID_BITS // 4
_ID_MASK: Final = (1 << _ID_BITS) - 1
_MAILBOX_MASK: Final = (1 << (63 - _ID_BITS)) - 1


def slot_of(no: MailboxNo, message_id: str) -> int:
    """The first slot to try for a message."""
    return (no & _MAILBOX_MASK) << _ID_BITS | int(message_id[:_ID_DIGITS], 16)


def next_slot(slot: int) -> int:
    """The slot to try next, of the same mailbox."""
    return (slot & ~_ID_MASK) | (slot + 1 & _ID_MASK)


def slots_of(no: MailboxNo) -> tuple[int, int]:
    """The first and the last slot of a mailbox (and of those whose numbers end in the same bits)."""
    first = slot_of(no, "0" * _ID_DIGITS)
    return first, first | _ID_MASK
