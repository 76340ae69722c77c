"""How often a proof of death is believed."""

from __future__ import annotations

from typing import Final

MOST: Final = 2
WITHIN_S: Final = 600.0
"""At most so many claims by proof in so many seconds: a proof that is wrong again and again must not pass the
lease round without end."""


class Proofs:
    """The proof at hand, and how often one has won a lease lately."""

    def __init__(self) -> None:
        self._version: str | None = None
        self._won: list[float] = []

    def add(self, now: float, version: str) -> None:
        """The holder that wrote this version is dead. Passed over when proofs have won too often."""
        self._won = [at for at in self._won if at > now - WITHIN_S]
        if len(self._won) < MOST:
            self._version = version

    def cover(self, version: str) -> bool:
        """Whether a claim against this version need not wait."""
        return version == self._version

    def forget(self) -> None:
        """Somebody else has written since: the proof is for nothing that stands."""
        self._version = None

    def won(self, now: float) -> None:
        """The lease is ours: by the proof, if there is one."""
        if self._version is not None:
            self._version = None
            self._won.append(now)
