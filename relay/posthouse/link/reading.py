"""What a session reads, and what it asked: as far as its next broker has to know."""

from __future__ import annotations

from collections import deque

from posthouse.exchange import Attend, Command
from posthouse.wire.messages import StatusRequest, Unsubscribe

Request = Attend | Unsubscribe | StatusRequest


class Reading:
    """Subscriptions of one session, and its requests without an answer."""

    __slots__ = ("_highest", "_owed", "_places", "_requests")

    def __init__(self) -> None:
        self._places: dict[str, Attend] = {}
        """What it reads, by address or bucket: each as a request of its own."""
        self._owed: dict[int, set[str]] = {}
        """Requests that wait for their ``caught_up``, and the places that they named."""
        self._requests: deque[Request] = deque()
        """What it asked and has had no answer to, in order."""
        self._highest: dict[str, int] = {}
        """The highest ``seq`` that came by a bucket that is read without a name."""

    @property
    def asks(self) -> bool:
        """Whether a request waits for its answer."""
        return bool(self._requests or self._owed)

    # --- commands

    def take_up(self, catchups: dict[int, int]) -> None:
        """These requests were answered before, and wait for their ``caught_up``."""
        self._owed = {ref: set() for ref in catchups}

    def attend(self, attend: Attend) -> None:
        """It subscribes, or goes on with what an earlier broker has answered."""
        if attend.due is None:
            self.ask(attend)
            return
        self._reads(attend)
        for ref in attend.due:
            self._owed.setdefault(ref, set()).update(attend.addresses, attend.buckets)
        if attend.after:
            self._highest.update(dict.fromkeys(attend.buckets, attend.after))

    def ask(self, request: Request) -> None:
        """It asks something, or its front asks the next broker the same once more."""
        if not any(one is request for one in self._requests):
            self._requests.append(request)

    # --- effects

    def reader(self, bucket: str, seq: int) -> str | None:
        """Under which name it reads the bucket by which a message comes."""
        place = self._places.get(bucket)
        if place is None or place.reader is not None:
            return place.reader if place is not None else None
        self._highest[bucket] = max(seq, self._highest.get(bucket, 0))
        return None

    def answered(self, ref: int | None) -> None:
        """A request has its answer; answers come in the order of the requests."""
        request = next((one for one in self._requests if one.ref == ref), None)
        if request is None:
            return
        self._requests.remove(request)
        if isinstance(request, Attend):
            self._reads(request)
            self._owed[request.ref] = {*request.addresses, *request.buckets}
        elif isinstance(request, Unsubscribe):
            for name in [*(request.addresses or ()), *(request.buckets or ())] or list(self._places):
                self._leaves(name)

    def refused(self, ref: int | None) -> None:
        """A request was refused: nothing of it is."""
        request = next((one for one in self._requests if one.ref == ref), None)
        if request is not None:
            self._requests.remove(request)

    def caught_up(self, ref: int) -> None:
        """All backlog of a request has been sent; where it asked for nothing else, that is its end."""
        for name in self._owed.pop(ref, ()):
            place = self._places.get(name)
            if (
                place is not None
                and not place.live
                and not any(name in places for places in self._owed.values())
            ):
                self._reads_no_more(name)

    # --- going on elsewhere

    def catchups(self) -> dict[int, int]:
        """Requests that wait for their ``caught_up``, and for how many places."""
        return {ref: len(places) for ref, places in self._owed.items()}

    def asked(self) -> list[Command]:
        """Subscriptions and requests, for the next broker."""
        again: list[Command] = []
        for name, place in self._places.items():
            due = [ref for ref, places in self._owed.items() if name in places]
            after = self._highest.get(name, 0) if place.reader is None else 0
            again.append(
                Attend(0, place.addresses, place.buckets, place.reader, place.live, place.newest, due, after)
            )
        return [*again, *self._requests]

    # ---

    def _reads(self, attend: Attend) -> None:
        for address in attend.addresses:
            self._places[address] = Attend(0, [address], [], None, attend.live)
        for bucket in attend.buckets:
            known = self._places.get(bucket)
            if known is not None and known.reader != attend.reader:  # then it begins anew
                self._reads_no_more(bucket)
            self._places[bucket] = Attend(0, [], [bucket], attend.reader, attend.live, attend.newest)

    def _reads_no_more(self, name: str) -> None:
        self._places.pop(name, None)
        self._highest.pop(name, None)

    def _leaves(self, name: str) -> None:
        self._reads_no_more(name)
        for ref, places in list(self._owed.items()):
            places.discard(name)
            if not places:
                del self._owed[ref]
