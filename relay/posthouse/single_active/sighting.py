"""What a member knows of the lease, since when, and when that allows a claim."""

from __future__ import annotations

from math import inf

from posthouse.single_active.leases.interface import Record
from posthouse.single_active.proofs import Proofs
from posthouse.single_active.timing import Timing


class Sighting:
    """The latest record seen. Times are seconds of the member's running clock."""

    def __init__(self) -> None:
        self.record: Record | None = None
        self.known = False
        """Whether anything was read yet: no record is knowledge too."""
        self.stale = True
        """It has to be read again before anything else."""
        self.heard_at = -inf
        """When we last knew what stands in the lease."""
        self._seen_at = -inf
        """When the count of the duration began."""
        self._in_contact = False
        self._had_record = False

    def see(self, now: float, record: Record | None) -> bool:
        """Take note of a record; whether it is another than before."""
        changed = not self.known or record != self.record
        if changed or not self._in_contact:
            self._seen_at = now
        self.record = record
        self.known = self._in_contact = True
        self._had_record = self._had_record or record is not None
        self.stale = False
        self.heard_at = now
        return changed

    def lose_contact(self) -> None:
        """The lease could not be reached, or we did not run: the holder may have been cut off as well. Count anew."""
        self._in_contact = False

    def claimable_at(self, me: str, timing: Timing, proofs: Proofs, *, fenced: bool) -> float:
        """When the lease, if nobody changes it, may be claimed by ``me``; only if something is known.

        Without a record, a holder whose lease was deleted may still be at work. Only a member that never saw
        one, on a store that fences, need not wait for it.
        """
        record = self.record
        if record is None:
            at_once = fenced and not self._had_record
            return self._seen_at + (0.0 if at_once else timing.duration_s)
        if record.released:
            first = record.successor in ("", me)
            return self._seen_at + (0.0 if first else timing.successor_grace_s)
        if record.holder == me or proofs.cover(record.version):
            return -inf
        return self._seen_at + record.duration_s
