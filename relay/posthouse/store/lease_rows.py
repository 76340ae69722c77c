"""The narrow part of a store that a timed lease needs: one row a lease, changed by compare-and-set.

The store knows neither what the row says nor when it expires. What it promises:

* ``compare_and_set`` is one short transaction of its own; it never waits for a commit of messages longer than the
  store's own patience, and it may be called by any member, active or not: no fence is checked.
* A version that was replaced never comes back, also not after the row was deleted and made again.
* What ``read`` returns is committed.

Blocking and not thread-safe: one thread for each object.
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct


class LeaseRow(Struct, frozen=True, gc=False):
    """A lease as it is now."""

    version: str
    """Compared for nothing but equality."""
    payload: bytes


class LeaseRows(Protocol):
    """One connection to the row of one lease."""

    def read(self) -> LeaseRow | None:
        """The row; None if there is none. Raises StoreUnavailable."""

    def compare_and_set(self, payload: bytes, expected: str | None) -> str | None:
        """Replace the row of version ``expected`` (None: make it); the new version, or None if it has another one.

        Raises StoreUnavailable: then it may be done or not.
        """

    def close(self) -> None:
        """Close. The row stays."""
