"""One ``subscribe`` under way: loads its mailboxes and asks what waits in its buckets."""

from __future__ import annotations

from collections.abc import Callable

from posthouse.broker.directory import Directory, Read
from posthouse.broker.records import Bucket, Mailbox
from posthouse.exchange import Attend
from posthouse.store.interface import Reader, Source, Waiting
from posthouse.wire.messages import Pending


class Found:
    """All that a ``subscribe`` needs to know. ``waiting`` is what waits in the bucket of each of ``homes``."""

    __slots__ = ("boxes", "homes", "waiting")

    def __init__(self) -> None:
        self.boxes: list[Mailbox] = []
        self.homes: list[Mailbox] = []
        self.waiting: list[Waiting] = []


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
        names: list[tuple[str, bool]] = [
            (address, False) for address in dict.fromkeys(self._request.addresses)
        ]
        names += [(bucket, True) for bucket in dict.fromkeys(self._request.buckets)]
        self._missing = len(names)
        for name, is_bucket in names:
            into = self._found.homes if is_bucket else self._found.boxes
            self._directory.load(name, is_bucket, lambda found, into=into: self._loaded(found, into))  # type: ignore[misc]

    def _loaded(self, found: object, into: list[Mailbox]) -> None:
        if isinstance(found, Mailbox):
            into.append(found)
        else:
            self._failed = True
        self._missing -= 1
        if self._missing:
            return
        if self._failed:
            self._done(None)
        elif self._found.homes:
            self._ask_buckets()
        else:
            self._done(self._found)

    def _ask_buckets(self) -> None:
        # Held until the answer: otherwise their mailboxes, whose numbers the question names, could be forgotten.
        buckets = [self._directory.bucket(home) for home in self._found.homes]
        sources = disjoint([(bucket, self._request.reader) for bucket in buckets])
        newest = self._request.newest or 0

        def ask(reader: Reader) -> list[Waiting]:
            return [reader.waiting(source, newest) for source in sources]

        def answered(answer: object) -> None:
            if isinstance(answer, list):
                self._found.waiting = answer
                self._done(self._found)
            else:
                self._done(None)
            for bucket in buckets:
                self._directory.left(bucket)

        self._reads.append(Read(ask, answered))


def disjoint(places: list[tuple[Bucket, str | None]]) -> list[Source]:
    """What to ask for so that a message which several of these buckets cover is counted once."""
    counted: set[int] = set()
    sources = []
    for bucket, reader in places:
        shelves = tuple(shelf for shelf in bucket.shelves if shelf not in counted)
        counted.update(shelves)
        sources.append(Source(shelves, None, bucket.key, reader))
    return sources


def total(boxes: list[Mailbox], buckets: list[Bucket], waiting: list[Waiting]) -> Pending:
    """What waits in some mailboxes and buckets together; a mailbox that a bucket covers is counted with it."""
    covered = {shelf for bucket in buckets for shelf in bucket.shelves}
    parts: list[Pending | Waiting] = list(waiting)
    for box in boxes:
        own = box.waiting
        if box.shelf in covered:
            own = Pending(own.count - box.stored.count, own.bytes - box.stored.bytes)
        parts.append(own)
    return Pending(max(0, sum(part.count for part in parts)), max(0, sum(part.bytes for part in parts)))


def source_of(place: Mailbox | Bucket, reader: str | None) -> Source:
    """What the store is asked for on behalf of a reader."""
    if isinstance(place, Bucket):
        return Source(place.shelves, None, place.key, reader)
    return Source((place.shelf,), place.no)
