"""A token bucket on the caller's clock."""

from __future__ import annotations


class Rate:
    """Lets ``per_s`` through each second, after a burst of one second's worth (at least one)."""

    __slots__ = ("_at", "_burst", "_per_s", "_tokens")

    def __init__(self, per_s: float, now: float) -> None:
        self._per_s = per_s
        self._burst = max(1.0, per_s)
        self._tokens = self._burst
        self._at = now

    def take(self, now: float) -> int:
        """Take one: 0 if it was there, else the milliseconds until one is (nothing taken)."""
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._per_s)
        self._at = now
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return 0
        return int((1.0 - self._tokens) / self._per_s * 1000) + 1
