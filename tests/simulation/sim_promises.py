"""What was published, promised and acknowledged, and what must hold between them."""

from __future__ import annotations

from collections.abc import Container


class Violation(AssertionError):
    """Something happened that must never happen."""


class Promises:
    """Of all messages of a run, by id."""

    def __init__(self, *, strict: bool) -> None:
        self.strict = strict
        """No broker has refused what it had taken. One without a store does, and one whose store is away for long; a
        sender that was gone by then does not hear of it, and may publish it again as if it were new."""
        self.promised: dict[str, str] = {}
        """How each was promised, the first time."""
        self.acked: set[str] = set()
        """Its reader has told its front so; the front may lose that."""
        self.refused: set[str] = set()
        """Its sender was told that the relay keeps nothing of it."""
        self.owed: set[str] = set()
        """Promised, and not acknowledged."""
        self.repeated = 0
        """How often a message came to a reader that had acknowledged it."""
        self._published: dict[str, tuple[str, str, int]] = {}
        """Sender, recipient and number of each."""
        self._came: set[str] = set()
        self._last: dict[tuple[str, str], int] = {}
        """By sender and recipient: the number of the latest message that has come for the first time."""

    def publish(self, message: str, sender: str, recipient: str, number: int) -> None:
        """Somebody publishes it for the first time; numbers of a sender rise."""
        self._published[message] = sender, recipient, number

    def promise(self, message: str, state: str) -> None:
        """A sender was told that this has become of its message. Raises Violation."""
        if message not in self.acked:
            if state == "delivered":
                raise Violation(f"{message[:8]} was called delivered, and its reader has not acknowledged it")
            self.owed.add(message)
        self.promised.setdefault(message, state)

    def ack(self, message: str) -> None:
        """Its reader has processed it."""
        self.acked.add(message)
        self.owed.discard(message)

    def come(self, message: str) -> None:
        """Its reader is sent it. Raises Violation."""
        if message in self.acked:
            self.repeated += 1
        if message in self._came:
            return
        self._came.add(message)
        sender, recipient, number = self._published[message]
        if self.strict and number < self._last.get((sender, recipient), 0):
            raise Violation(f"{message[:8]} of {sender} comes behind a later one")
        self._last[sender, recipient] = number

    def deleted(self, message: str) -> None:
        """The store is asked to delete it. Raises Violation."""
        if message not in self.acked:
            raise Violation(f"{message[:8]} is deleted, and its reader has not acknowledged it")

    def check(self, stored: Container[str]) -> None:
        """What is owed is stored. Raises Violation."""
        for message in self.owed:
            if message not in stored:
                raise Violation(f"{message[:8]} was promised and is lost")

    def check_received(self) -> None:
        """At rest, with all readers there: each was sent all that was promised. Raises Violation."""
        for message in self.promised:
            if message not in self._came:
                raise Violation(f"{message[:8]} was promised and has not come to its reader")
