"""What a front knows of one of its sessions that is open at a broker elsewhere, in case that broker is lost.

Everything is learned from the commands and effects that pass by; nobody is asked.
"""

from __future__ import annotations

from collections import deque

from msgspec import structs

from posthouse.exchange import UNLIMITED_WINDOW, Attend, Command, Held, Open, Outcomes, Resume, Wanted
from posthouse.wire.messages import Message, Nack, Publish, Receipt, Result, StatusRequest, Unsubscribe

MOST_HELD_WITHOUT_A_WINDOW = 16_384
Request = Attend | Unsubscribe | StatusRequest


class Remembered:
    """One session."""

    __slots__ = (
        "acked",
        "credit",
        "held",
        "highest",
        "opened",
        "owed",
        "places",
        "publishes",
        "requests",
        "wanted",
    )

    def __init__(self, opened: Open) -> None:
        self.opened = opened
        self.credit = opened.credit
        self.places: dict[str, Attend] = {}
        """What it reads, by address or bucket: each as a request of its own."""
        self.owed: dict[int, set[str]] = {}
        """Requests that wait for their ``caught_up``, and the places that they named."""
        self.requests: deque[Request] = deque()
        """What it asked and has had no answer to, in order."""
        self.held: dict[str, Held] = {}
        self.acked: deque[tuple[int, Held]] = deque()
        """Acks that may be undone by the loss of the broker, with the number of the batch in which they went."""
        self.publishes: dict[int, list[Publish]] = {}
        """Without a result, by ref; nothing keeps a client from using one twice."""
        self.wanted: dict[tuple[str, str | None], Wanted] = {}
        self.highest: dict[str, int] = {}
        """The highest ``seq`` that came by a bucket that is read without a name."""

    # --- commands

    def take_up(self, resume: Resume, batch: int) -> None:
        """It was open at another broker before; ``batch``: the number of the batch in which it goes on."""
        self.acked = deque((batch, held) for held in resume.acked)
        self.held = {held.id: held for held in resume.held}
        self.wanted = {(wanted.id, wanted.recipient): wanted for wanted in resume.wanted}
        self.owed = {ref: set() for ref in resume.catchups}

    def attend(self, attend: Attend) -> None:
        """It subscribes, or goes on with what an earlier broker has answered."""
        if attend.due is None:
            self.requests.append(attend)
            return
        self._reads(attend)
        for ref in attend.due:
            self.owed[ref].update(attend.addresses, attend.buckets)
        if attend.after:
            self.highest.update(dict.fromkeys(attend.buckets, attend.after))

    def ack(self, ids: list[str], batch: int) -> None:
        """Its client has acknowledged these."""
        for message in ids:
            held = self.held.pop(message, None)
            if held is not None:
                self.acked.append((batch, held))

    def nack(self, nack: Nack, batch: int) -> None:
        """Its client does not keep these: should the nack be lost, its own are offered once more."""
        for message in nack.ids:
            held = self.held.pop(message, None)
            if held is None:
                continue
            if nack.code == "busy":
                self.held[message] = structs.replace(held, again=True)
            elif held.bucket is not None:  # that is a mark, as an ack is
                self.acked.append((batch, held))

    def publish(self, publish: Publish) -> None:
        """It publishes."""
        self.publishes.setdefault(publish.ref, []).append(publish)

    # --- effects

    def message(self, message: Message) -> None:
        """Its client is sent a message."""
        bucket, reader = message.bucket, None
        self.credit -= len(message.ciphertext)
        if bucket is not None:
            place = self.places.get(bucket)
            reader = place.reader if place is not None else None
            if reader is None:
                self.highest[bucket] = max(message.seq, self.highest.get(bucket, 0))
        self.held[message.id] = Held(message.id, message.seq, bucket, reader, message.deliveries)  # type: ignore[arg-type]
        if self.opened.window == UNLIMITED_WINDOW and len(self.held) > MOST_HELD_WITHOUT_A_WINDOW:
            del self.held[next(iter(self.held))]

    def outcomes(self, outcomes: Outcomes) -> None:
        """Plain results."""
        for ref in outcomes.refs:
            publish = self._answered(ref)
            if outcomes.status == "stored" and publish is not None and publish.receipts:
                self._wants(publish)

    def result(self, result: Result) -> None:
        """Any other result."""
        publish = self._answered(result.ref)
        if publish is not None and publish.receipts and "stored" in (result.status, result.state):
            self._wants(publish)

    def receipt(self, receipt: Receipt) -> None:
        """A receipt never comes twice."""
        self.wanted.pop((receipt.id, receipt.recipient), None)

    def answered(self, ref: int | None) -> None:
        """A request has its answer; answers come in the order of the requests."""
        request = next((one for one in self.requests if one.ref == ref), None)
        if request is None:
            return
        self.requests.remove(request)
        if isinstance(request, Attend):
            self._reads(request)
            self.owed[request.ref] = {*request.addresses, *request.buckets}
        elif isinstance(request, Unsubscribe):
            for name in [*(request.addresses or ()), *(request.buckets or ())] or list(self.places):
                self._leaves(name)

    def refused(self, ref: int | None) -> None:
        """A request was refused: nothing of it is."""
        request = next((one for one in self.requests if one.ref == ref), None)
        if request is not None:
            self.requests.remove(request)

    def caught_up(self, ref: int) -> None:
        """All backlog of a request has been sent; where it asked for nothing else, that is its end."""
        for name in self.owed.pop(ref, ()):
            place = self.places.get(name)
            if (
                place is not None
                and not place.live
                and not any(name in places for places in self.owed.values())
            ):
                del self.places[name]

    def confirmed(self, batch: int) -> None:
        """Acks that went in batches up to this one are for good."""
        while self.acked and self.acked[0][0] <= batch:
            self.acked.popleft()

    # --- going on elsewhere

    def resume(self) -> Resume:
        """The session for its next broker."""
        opened = Open(self.opened.address, self.opened.guest, self.opened.window, self.credit)
        return Resume(
            opened,
            list(self.held.values()),
            [held for _, held in self.acked],
            list(self.wanted.values()),
            {ref: len(places) for ref, places in self.owed.items()},
        )

    def asked(self) -> list[Command]:
        """Its subscriptions and requests for its next broker."""
        again: list[Command] = []
        for name, place in self.places.items():
            due = [ref for ref, places in self.owed.items() if name in places]
            after = self.highest.get(name, 0) if place.reader is None else 0
            again.append(
                Attend(0, place.addresses, place.buckets, place.reader, place.live, place.newest, due, after)
            )
        return [*again, *self.requests]

    def unanswered(self) -> list[Command]:
        """Its publishes without a result."""
        return [publish for publishes in self.publishes.values() for publish in publishes]

    # ---

    def _reads(self, attend: Attend) -> None:
        for address in attend.addresses:
            self.places[address] = Attend(0, [address], [], None, attend.live)
        for bucket in attend.buckets:
            self.places[bucket] = Attend(0, [], [bucket], attend.reader, attend.live, attend.newest)

    def _leaves(self, name: str) -> None:
        self.places.pop(name, None)
        for ref, places in list(self.owed.items()):
            places.discard(name)
            if not places:
                del self.owed[ref]

    def _answered(self, ref: int) -> Publish | None:
        publishes = self.publishes.get(ref)
        if not publishes:
            return None
        publish = publishes.pop(0)
        if not publishes:
            del self.publishes[ref]
        return publish

    def _wants(self, publish: Publish) -> None:
        place = publish.recipient or publish.bucket
        assert place is not None
        wanted = Wanted(publish.id, place, publish.recipient, list(publish.receipts or ()))
        self.wanted[publish.id, publish.recipient] = wanted
