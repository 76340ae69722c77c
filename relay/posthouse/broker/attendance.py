"""What a session asks the store about its places: the mailboxes of a ``subscribe`` under way, and what waits."""

from __future__ import annotations

from collections.abc import Callable

from posthouse.broker.directory import Directory, Read
from posthouse.broker.records import Bucket, Mailbox
from posthouse.exchange import Attend
from posthouse.store.interface import Reader, Source, Waiting
from posthouse.wire.messages import Pending

Place = tuple[Bucket, str | None]
"""A bucket and under which reader name it is read."""


class Found:
    """All that a ``subscribe`` needs to know; the buckets are held until it is done."""

    __slots__ = ("boxes", "buckets", "pending", "waiting")

    def __init__(self) -> None:
        self.boxes: list[Mailbox] = []
        self.buckets: list[Bucket] = []
        self.waiting: list[Waiting] = []
        """What waits in each bucket."""
        self.pending = Pending(0, 0)


class Attendance:
    """Calls ``done`` once: with what was found, or with None when the store does not answer."""

    def __init__(
        self, directory: Directory, reads: list[Read], request: Attend, done: Callable[[Found | None], None]
    ) -> None:
        self._directory = directory
        self._reads = reads
        self._request = request
        self._done = done
        self._found = Found()
        self._failed = False
        self._missing = 0

    def begin(self) -> None:
        """Load every mailbox that is not in memory."""
        addresses = list(dict.fromkeys(self._request.addresses))
        buckets = list(dict.fromkeys(self._request.buckets))
        self._missing = len(addresses) + len(buckets)
        for address in addresses:
            self._directory.load(address, False, self._mailbox)
        for bucket in buckets:
            self._directory.load(bucket, True, self._home)

    def _mailbox(self, found: object) -> None:
        # It stays in memory without a hold: the session of its owner is open.
        if isinstance(found, Mailbox):
            self._found.boxes.append(found)
        self._loaded(found)

    def _home(self, found: object) -> None:
        if isinstance(found, Mailbox):
            self._found.buckets.append(self._directory.hold(found))
        self._loaded(found)

    def _loaded(self, found: object) -> None:
        if not isinstance(found, Mailbox):
            self._failed = True
        self._missing -= 1
        if self._missing:
            return
        if self._failed:
            self._end(None)
            return
        found_all = self._found
        reader = self._request.reader
        places = [(bucket, reader) for bucket in found_all.buckets]
        own = found_all.boxes[0] if found_all.boxes else None
        count_waiting(self._reads, places, own, self._request.newest or 0, self._counted)

    def _counted(self, pending: Pending | None, waiting: list[Waiting]) -> None:
        self._found.waiting = waiting
        if pending is not None:
            self._found.pending = pending
        self._end(self._found if pending is not None else None)

    def _end(self, found: Found | None) -> None:
        self._done(found)
        for bucket in self._found.buckets:
            self._directory.release(bucket)


def count_waiting(
    reads: list[Read],
    places: list[Place],
    own: Mailbox | None,
    newest: int,
    tell: Callable[[Pending | None, list[Waiting]], None],
) -> None:
    """Tell what waits in a mailbox and some buckets, each message counted once, and what waits in each bucket.

    None if the store does not answer. Where two buckets overlap, what the second has marked of it and the
    first has not is counted: the numbers are for people and progress bars.
    """
    if not places:
        tell(_total(own, [], []), [])
        return
    sources = [source_of(bucket, reader) for bucket, reader in places]
    overlaps: list[Source] = []
    seen: set[int] = set()
    for bucket, _ in places:
        twice = seen.intersection(bucket.shelves)
        if twice:
            overlaps.append(Source(tuple(sorted(twice))))
        seen.update(bucket.shelves)

    def ask(reader: Reader) -> tuple[list[Waiting], list[Waiting]]:
        return (
            [reader.waiting(source, newest) for source in sources],
            [reader.waiting(source, 0) for source in overlaps],
        )

    def answered(answer: object) -> None:
        if not isinstance(answer, tuple):
            tell(None, [])
            return
        waiting, twice = answer
        if own is not None and own.shelf in seen:
            stored = own.stored  # what it has acknowledged is not gone there yet
            twice.append(Waiting(stored.count, stored.bytes, 0))
        tell(_total(own, waiting, twice), waiting)

    reads.append(Read(ask, answered))


def _total(own: Mailbox | None, waiting: list[Waiting], twice: list[Waiting]) -> Pending:
    mine = own.waiting if own is not None else Pending(0, 0)
    count = sum(held.count for held in waiting) - sum(held.count for held in twice)
    size = sum(held.bytes for held in waiting) - sum(held.bytes for held in twice)
    return Pending(
        max(0, count) + mine.count,
        max(0, size) + mine.bytes,
    )


def source_of(place: Mailbox | Bucket, reader: str | None) -> Source:
    """What the store is asked for on behalf of a reader."""
    if isinstance(place, Bucket):
        return Source(place.shelves, None, place.key, reader)
    return Source((place.shelf,), place.no)
