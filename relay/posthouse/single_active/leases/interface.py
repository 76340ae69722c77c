"""What every lease does: one small record, read, watched, and changed by compare-and-set.

The elector compares nothing but versions and its own clock. What a lease must promise:

* ``write`` is atomic and happens only if the record is still of the expected version.
* A version that was replaced never comes back, also not after the lease was deleted.
* ``read`` tells the latest record. ``watch`` may be late or leave records out; then the election is slower, not wrong.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from msgspec import Struct

from posthouse.errors import PosthouseError


class LeaseConflict(PosthouseError):
    """The lease is not of the expected version any more: nothing was written by this call.

    An earlier call whose answer was lost may be what changed it.
    """


class LeaseUnavailable(PosthouseError):
    """The lease could not be asked, or its answer was lost: what was to be written may be there or not."""


class Process(Struct, frozen=True, gc=False):
    """One process of one machine, told apart from a later one with the same number."""

    pid: int
    start_ticks: int
    """Start of the process in clock ticks since boot, as /proc/PID/stat has it."""
    namespace: int = 0
    """Inode of the PID namespace in which ``pid`` counts."""


class Container(Struct, frozen=True, gc=False):
    """One run of a container of one Kubernetes pod."""

    pod: str
    """Name of the pod."""
    uid: str
    """UID of the pod: a later one may have the same name."""
    id: str
    """As the container runtime has it, with its prefix (``containerd://…``): every restart has another."""


class Record(Struct, frozen=True, gc=False):
    """What stands in a lease."""

    holder: str
    """Id of the member that wrote it. Each start of a process has an id of its own."""
    stamp: int
    """Number of this write among the holder's: it recognises its own write by it when the answer was lost."""
    transitions: int
    """How often the lease was claimed: an epoch is never below it."""
    duration_s: float
    """Others wait this long, by their own clocks, from their first sight of a version before they claim."""
    peer: str = ""
    """Address of the holder's peer port."""
    process: Process | None = None
    """The holder's process, where all members are on one machine."""
    container: Container | None = None
    """The holder's container, where it runs in a pod and knows it."""
    released: bool = False
    """The holder has stopped its work: the lease may be claimed at once."""
    successor: str = ""
    """Id of the member that is to claim a released lease first; empty: any."""
    version: str = ""
    """Set by the lease with every write, and compared for nothing but equality."""


class Lease(Protocol):
    """One lease. Calls may be cancelled; what was to be written may be written all the same."""

    async def read(self) -> Record | None:
        """The record as it is now; None if there is none. Raises LeaseUnavailable."""

    async def write(self, record: Record, expected: str | None) -> Record:
        """Replace the record of version ``expected`` (None: there is none); return it with its new version.

        Raises LeaseConflict, LeaseUnavailable.
        """

    def watch(self) -> AsyncGenerator[Record | None, None]:
        """Records as they change, until it is closed. Raises LeaseUnavailable when it breaks."""

    async def close(self) -> None:
        """Give back what is held open. A lease of the operating system ends with it, if it is ours."""
