"""Sessions served by the broker of another member."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Protocol

from posthouse.exchange import Commands, Effects
from posthouse.link import frames
from posthouse.link.memory import Memory
from posthouse.server.cluster.made_again import MadeAgain
from posthouse.server.cluster.pieces import PIECE_BYTES, PIECE_ITEMS, in_pieces
from posthouse.server.cluster.upstream import Baggage, Failures, Idle, without_publishes
from posthouse.server.engine import boot_s

EXPIRY_S: Final = 1.0
"""How often a front forgets what it need not remember any longer."""
MOST_UNSENT_BYTES: Final = 32 * 2**20
"""A link that leaves more than this unread takes no publishes."""


class Link(Protocol):
    """What is needed of a link."""

    @property
    def unsent_bytes(self) -> int:
        """Bytes that the operating system has not taken yet."""

    def send(self, frame: frames.Frame) -> None:
        """Send at once. Does nothing when the link is lost. Raises FrameTooLarge, then nothing is sent."""


class Remote:
    """A broker over a link. ``epoch`` is that broker's."""

    def __init__(
        self, link: Link, epoch: int, wake: Callable[[], None], memory: Memory, kept: Commands
    ) -> None:
        """The sessions go on there."""
        self.link = link
        self.epoch = epoch
        self._wake = wake
        self._memory = memory
        self._next_expiry = 0.0
        self._effects: Effects = []
        self._failures: Failures = []
        self._again = MadeAgain()
        self._idle = Idle(memory, kept)
        self._give_again(memory.resume_batches(PIECE_ITEMS, PIECE_BYTES, self._idle.pressing))
        for batch in in_pieces(kept):
            self._give(batch)

    def submit(self, batch: Commands) -> Failures:
        """Send them."""
        if batch:
            if self._idle and (speaking := self._idle.among(batch)):
                self._more(speaking)
            if self.link.unsent_bytes > MOST_UNSENT_BYTES:
                batch = without_publishes(batch, self._effects)
                self._wake()
            if self._again:
                self._again.said(batch)
            if batch:
                self._give(batch)
        failures, self._failures = self._failures, []
        return failures

    def receive(self, frame: frames.Effects) -> None:
        """Effects came from there."""
        batch = frame.batch
        now = boot_s()
        if self._again:
            batch = self._again.pass_on(batch, now)
        self._memory.taken(batch, frame.confirmed)
        if now >= self._next_expiry:
            self._next_expiry = now + EXPIRY_S
            self._memory.expire(now)
        self._effects += batch
        self._wake()

    def take(self) -> Effects:
        """What has come."""
        effects, self._effects = self._effects, []
        return effects

    def go_on(self, count: int) -> bool:
        """Give the broker so many more sessions, and what is to be made once more."""
        if self._idle:
            self._more(self._idle.some(count))
        if self._again and (retry := self._again.retry(boot_s())):
            self._give(retry)
        if self._failures:
            self._wake()
        return bool(self._idle or self._again)

    def awaits_results(self) -> bool:
        """Whether the broker owes one."""
        return self._memory.awaits_results()

    def awaits_confirmation(self) -> bool:
        """Whether an ack could still be undone by the loss of the broker."""
        return self._memory.acknowledged.open > 0

    def retire(self) -> Baggage:
        """The link, or the broker behind it, has ended."""
        return Baggage(self.take(), self._memory, [])

    def _more(self, numbers: list[int]) -> None:
        try:
            self._give_again(self._memory.more_batches(PIECE_ITEMS, PIECE_BYTES, numbers))
        except Exception as error:
            self._failures += [(number, error) for number in numbers]

    def _give_again(self, batches: Iterable[Commands]) -> None:
        for batch in batches:
            self._again.given(batch)
            self._give(batch)

    def _give(self, batch: Commands) -> None:
        try:
            self.link.send(frames.Commands(self.epoch, batch))
        except frames.FrameTooLarge:
            for piece in in_pieces(batch):
                self.link.send(frames.Commands(self.epoch, piece))
                self._memory.given(piece)
        else:
            self._memory.given(batch)
