"""What the elector and the member ask of their driver, and what answers it."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Protocol, TypeAlias

from msgspec import Struct

from posthouse.single_active.leases.interface import Record


class State(Enum):
    """What an elector is."""

    FOLLOWING = "following"
    """Another member holds the lease, or nobody does."""
    HOLDING = "holding"
    """We hold it, until the deadline."""
    IN_DOUBT = "in doubt"
    """Not renewed by the deadline, but nobody is known to have claimed it. The store's fence tells who may write."""
    RELEASING = "releasing"
    """Our work has stopped, and the lease is being told so."""
    RELEASED = "released"
    """The lease is free or not ours. We do not claim it before ``follow``."""


class Refusal(Enum):
    """An answer that is no record."""

    CONFLICT = "conflict"
    """The version was not the expected one."""
    FAILED = "failed"
    """No answer, or none that tells: a write may have been done."""


class Read(Struct, frozen=True, gc=False):
    """Read the lease."""

    id: int


class Write(Struct, frozen=True, gc=False):
    """Write the lease by compare-and-set."""

    id: int
    record: Record
    expected: str | None


class Became(Struct, frozen=True, gc=False):
    """The elector is something else now."""

    state: State
    reason: str


class Observed(Struct, frozen=True, gc=False):
    """The lease has a record that was not seen before: a proof of death counts for its version alone."""

    record: Record | None


Request: TypeAlias = Read | Write
Output: TypeAlias = Read | Write | Became | Observed
Answer: TypeAlias = Record | Refusal | None


class Machine(Protocol):
    """What the runner drives. Every input takes the time, in seconds of a clock that runs through suspend."""

    def tick(self, now: float) -> Sequence[Struct]:
        """Time has passed: call it at ``next_deadline``."""

    def answered(self, now: float, request: int, answer: Answer) -> Sequence[Struct]:
        """The answer to a request; at most one for each."""

    def observed(self, now: float, record: Record | None) -> Sequence[Struct]:
        """The watch has seen a record."""

    def unwatched(self, now: float) -> Sequence[Struct]:
        """The watch broke: records may have been missed."""

    def next_deadline(self) -> float:
        """When to call ``tick``; infinite if never."""
