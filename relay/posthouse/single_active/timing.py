"""The times of an election, and what has to hold between them."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from posthouse.errors import PosthouseError

CLOCK_RATES: Final = 0.01
"""By how much two clocks may differ in rate."""


class UnsafeTiming(PosthouseError, ValueError):
    """Times with which a holder could work when another member may claim."""


class Timing(Struct, frozen=True, gc=False):
    """Seconds of each member's running clock. Raises UnsafeTiming."""

    duration_s: float = 5.0
    """A version that nobody replaces for so long may be claimed."""
    deadline_s: float = 3.0
    """The holder stops so long after it sent the last renewal that succeeded."""
    renew_interval_s: float = 1.0
    """From the sending of one renewal to the next."""
    request_timeout_s: float = 1.0
    """A request without an answer for so long has failed."""
    successor_grace_s: float = 1.0
    """For so long nobody but the named successor claims a released lease."""

    def __post_init__(self) -> None:
        if not 0 < self.renew_interval_s + self.request_timeout_s < self.deadline_s:
            raise UnsafeTiming(
                f"a deadline of {self.deadline_s} s leaves no time to try a renewal again: it must be above "
                f"interval and request timeout, {self.renew_interval_s} s and {self.request_timeout_s} s"
            )
        if self.deadline_s * (1 + CLOCK_RATES) >= self.duration_s * (1 - CLOCK_RATES):
            raise UnsafeTiming(
                f"a deadline of {self.deadline_s} s is too close to the lease duration of {self.duration_s} s"
            )

    @property
    def quiet_s(self) -> float:
        """A holder that is well is heard of more often than this."""
        return self.renew_interval_s + self.request_timeout_s


QUICK: Final = Timing()
"""The default."""
PATIENT: Final = Timing(
    duration_s=15.0, deadline_s=10.0, renew_interval_s=2.0, request_timeout_s=5.0, successor_grace_s=2.0
)
"""For a lease that answers slowly."""
