"""What a front knows of one of its sessions that is open at a broker elsewhere, in case that broker is lost.

Everything is learned from the commands and effects that pass by; nobody is asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from msgspec import structs

from posthouse.exchange import Effect, Held, Open, Outcomes, Resume, Wanted
from posthouse.identity import BucketKey
from posthouse.link.reading import Reading
from posthouse.wire.messages import (
    CaughtUp,
    Error,
    Message,
    Nack,
    Publish,
    Receipt,
    Result,
    Status,
    Subscribed,
)

MOST_HELD_WITHOUT_A_WINDOW: Final = 16_384
"""Of messages that a session without a window holds, the oldest are forgotten beyond this, as its broker does."""
MOST_WANTED: Final = 4096
"""Receipts that one session may wait for at its next broker; of more the oldest are forgotten.

Nothing tells that a receipt will never come, because the message ended otherwise than was asked about. Less than
half of what a broker allows (``receipts_per_connection``), so that those do not keep a sender from asking for more.
"""


class Remembered:
    """One session."""

    __slots__ = (
        "credit",
        "held",
        "most_held",
        "opened",
        "owner",
        "publishes",
        "reading",
        "wanted",
    )

    def __init__(self, opened: Open) -> None:
        self.opened = opened
        self.owner = opened.address
        self.most_held = opened.window or MOST_HELD_WITHOUT_A_WINDOW
        self.credit = opened.credit
        self.reading = Reading()
        self.held: dict[str, Held] = {}
        """What its client has, by id."""
        self.publishes: dict[int, Publish | list[Publish]] = {}
        """Without a result, by ref; nothing keeps a client from using one twice: then a list, in order."""
        self.wanted: dict[tuple[str, str | None], Wanted] = {}

    @property
    def pressing(self) -> bool:
        """Whether it holds, publishes, asks or waits for a receipt: its client would notice that it waits."""
        return bool(self.publishes or self.held or self.wanted or self.reading.asks)

    # --- commands

    def take_up(self, resume: Resume) -> None:
        """It was open at another broker before, and its front did not have to remember it."""
        self.held = {held.id: held for held in resume.held}
        self.wanted = {(wanted.id, wanted.recipient): wanted for wanted in resume.wanted}
        self.reading.take_up(resume.catchups)

    def nack(self, nack: Nack) -> list[Held]:
        """Its client does not keep these: should the nack be lost, its own are offered once more.

        Returns those for which it counts as an ack.
        """
        marked = []
        for message in nack.ids:
            held = self.held.pop(message, None)
            if held is None:
                continue
            if nack.code == "busy":
                self.held[message] = structs.replace(held, again=True)
            elif held.bucket is not None:
                marked.append(held)
        return marked

    def publish_more(self, publish: Publish) -> None:
        """It uses a ref once more that has no result, or its front publishes the same at the next broker."""
        known = self.publishes[publish.ref]
        if isinstance(known, list):
            if not any(one is publish for one in known):
                known.append(publish)
        elif known is not publish:
            self.publishes[publish.ref] = [known, publish]

    # --- effects

    def hears(self, effects: list[Effect]) -> None:
        """These go to its client."""
        held, owner, most_held, reading = self.held, self.owner, self.most_held, self.reading
        for effect in effects:
            if type(effect) is Message:
                message, seq = effect.id, effect.seq
                self.credit -= len(effect.ciphertext)
                if effect.bucket is None:
                    held[message] = Held(message, seq, None, owner, effect.deliveries)
                else:
                    bucket = BucketKey(effect.bucket)
                    name = reading.reader(bucket, seq)
                    known = held.get(message)
                    if name is None and known is not None and known.bucket == bucket:
                        name = known.reader  # it comes once more, and that bucket may not be read any more
                    held[message] = Held(message, seq, bucket, name, effect.deliveries)
                if len(held) > most_held:
                    del held[next(iter(held))]
            elif type(effect) is Outcomes:
                self.outcomes(effect)
            else:
                self._hears(effect)

    def _hears(self, effect: Effect) -> None:
        match effect:
            case Result():
                self.result(effect)
            case Receipt():
                self.receipt(effect)
            case Subscribed(ref=ref) | Status(ref=ref):
                self.reading.answered(ref)
            case CaughtUp(ref=ref):
                self.reading.caught_up(ref)
            case Error(ref=ref):
                self.reading.refused(ref)
            case _:
                pass  # it ends the session, or changes nothing that has to be known

    def outcomes(self, outcomes: Outcomes) -> None:
        """Plain results."""
        publishes = self.publishes
        stored = outcomes.status == "stored"
        for ref in outcomes.refs:
            publish = publishes.pop(ref, None)
            if isinstance(publish, list):
                publish = self._first_of(ref, publish)
            if stored and publish is not None and publish.receipts:
                self._wants(publish)

    def result(self, result: Result) -> None:
        """Any other result."""
        publish = self.publishes.pop(result.ref, None)
        if isinstance(publish, list):
            publish = self._first_of(result.ref, publish)
        if publish is not None and publish.receipts and "stored" in (result.status, result.state):
            self._wants(publish)

    def receipt(self, receipt: Receipt) -> None:
        """A receipt never comes twice."""
        self.wanted.pop((receipt.id, receipt.recipient), None)

    # --- going on elsewhere

    def resume(self) -> Resume:
        """The session for its next broker."""
        opened = Open(self.opened.address, self.opened.guest, self.opened.window, self.credit)
        return Resume(
            opened,
            list(self.held.values()),
            [],
            list(self.wanted.values()),
            self.reading.catchups(),
        )

    def unanswered(self) -> Iterator[Publish]:
        """Its publishes without a result."""
        for publish in list(self.publishes.values()):
            if isinstance(publish, list):
                yield from list(publish)
            else:
                yield publish

    # ---

    def _first_of(self, ref: int, publishes: list[Publish]) -> Publish:
        """Results come in the order in which one ref was used."""
        first, *more = publishes
        self.publishes[ref] = more if len(more) > 1 else more[0]
        return first

    def _wants(self, publish: Publish) -> None:
        place = publish.recipient or publish.bucket
        assert place is not None
        wanted = Wanted(publish.id, place, publish.recipient, list(publish.receipts or ()))
        self.wanted[publish.id, publish.recipient] = wanted
        if len(self.wanted) > MOST_WANTED:
            del self.wanted[next(iter(self.wanted))]
