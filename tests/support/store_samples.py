"""Mailboxes, messages and batches for tests of stores, and one object that writes them under the right fence."""

import secrets
from hashlib import sha256

from posthouse.store.interface import (
    SHELVES_OF_ADDRESSES,
    Append,
    Batch,
    Committed,
    Fence,
    Mailbox,
    MailboxNo,
    Page,
    Recovered,
    Source,
    Store,
)

FOREVER = 10**15
EVERYTHING = 2**53


def mailbox(no: int, shelf: int = 5) -> Mailbox:
    """A mailbox of an address on a shelf, or of a bucket with a shelf of its own."""
    kind = b"a" if shelf < SHELVES_OF_ADDRESSES else b"b"
    return Mailbox(MailboxNo(no), kind + sha256(b"%d" % no).digest(), shelf)


def message(
    seq: int, box: Mailbox, body: bytes | None = None, *, expires_at: int = FOREVER, guest: bool = False
) -> Append:
    """A message; without a body each has its own."""
    ciphertext = b"message %d" % seq if body is None else body
    return Append(seq, box, sha256(ciphertext).hexdigest(), ciphertext, 1000 + seq, expires_at, guest)


def promote(store: Store, epoch: int | None = None) -> "Promoted":
    """Open a writer and promote it."""
    return Promoted(store, epoch)


class Promoted:
    """A writer and a reader of a store; numbers the batches."""

    def __init__(self, store: Store, epoch: int | None = None) -> None:
        self.store = store
        self.writer = store.open_writer()
        self.reader = store.open_reader()
        self.number = 0
        self.recovered = self.promote(epoch)

    def promote(self, epoch: int | None = None) -> Recovered:
        """Raise the epoch; the fence before must still be there."""
        seen = self.writer.fence()
        recovered = self.writer.promote(
            seen, seen.epoch + 1 if epoch is None else epoch, secrets.token_bytes(16)
        )
        assert recovered is not None
        self.recovered = recovered
        self.number = 0
        return recovered

    @property
    def fence(self) -> Fence:
        """The fence of this promotion."""
        return self.recovered.fence

    def batch(self, *appends: Append, clock_ms: int = 1000, **fields: object) -> Batch:
        """The next batch."""
        self.number += 1
        return Batch(self.number, clock_ms, appends=list(appends), **fields)  # type: ignore[arg-type]

    def write(self, *appends: Append, clock_ms: int = 1000, **fields: object) -> Committed:
        """Commit the next batch; it must succeed."""
        outcome = self.writer.commit(self.batch(*appends, clock_ms=clock_ms, **fields), self.fence)
        assert isinstance(outcome, Committed)
        return outcome

    def page(
        self,
        source: Source,
        after: int = 0,
        upto: int = EVERYTHING,
        *,
        clock_ms: int = 1000,
        limit: int = 1000,
        max_bytes: int = 10**9,
    ) -> Page:
        """A page; by default all that is there."""
        return self.reader.page(source, after, upto, clock_ms, limit, max_bytes)

    def seqs(self, source: Source, after: int = 0, upto: int = EVERYTHING, **options: int) -> list[int]:
        """The sequence numbers of a page."""
        return [message.seq for message in self.page(source, after, upto, **options).messages]

    def close(self) -> None:
        """Close both."""
        self.reader.close()
        self.writer.close()


def own(box: Mailbox) -> Source:
    """What an owner reads."""
    return Source((box.shelf,), box.no)


def shelves(*numbers: int) -> Source:
    """What somebody reads who marks nothing."""
    return Source(numbers)


def marking(reader: str, *numbers: int, bucket: str = "bucket") -> Source:
    """What a reader of a bucket reads."""
    return Source(numbers, None, bucket, reader)
