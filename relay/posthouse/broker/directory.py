"""Which mailboxes and buckets are in use: found in memory, or loaded from the store before they are used.

Loads of one turn are put together into one question to the store. Names of mailboxes are canonical
addresses and bucket keys; the two never look alike to each other because each is used for one purpose:
an address is never a bucket of the broker and the reverse, so keys carry the kind (``a`` or ``b``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from posthouse.broker.records import Bucket, Entry, Mailbox, Session
from posthouse.identity import (
    Address,
    BucketKey,
    address_digest,
    address_prefix,
    bucket_prefixes,
    buckets_of_prefix,
    parse_multihash,
)
from posthouse.store.interface import SHELVES_OF_ADDRESSES, MailboxNo, Reader, StoreUnavailable, Tally

Found = Callable[["Mailbox | StoreUnavailable"], None]
Known = dict[bytes, tuple[MailboxNo, Tally]]
LOAD_AT_ONCE = 500
FORGET_AT_ONCE = 1000


class Read:
    """A question to the store: ``ask`` runs on a reading connection, ``then`` takes its answer in the broker's turn."""

    __slots__ = ("ask", "then")

    def __init__(self, ask: Callable[[Reader], object], then: Callable[[object], None]) -> None:
        self.ask = ask
        self.then = then


class Directory:
    """Mailboxes by name, buckets by key."""

    def __init__(
        self, reads: list[Read], next_mailbox: MailboxNo, cached: int, last_seq: Callable[[], int]
    ) -> None:
        self.addresses: dict[str, Mailbox] = {}
        self.homes: dict[str, Mailbox] = {}
        """Mailboxes of buckets: what was published to the bucket itself."""
        self.buckets: dict[str, Bucket] = {}
        self.numbered: dict[MailboxNo, Mailbox] = {}
        self.sessions: dict[str, list[Session]] = {}
        """Sessions with a key, by address, the oldest first."""
        self._reads = reads
        self._next_mailbox = next_mailbox
        self._cached = cached
        self._last_seq = last_seq
        self._wanted: dict[tuple[bool, str], list[Found]] = {}
        self.unasked: list[tuple[bool, str]] = []
        """Loads that came up since the last ``ask``."""
        self._late_tallies: dict[MailboxNo, Tally] = {}

    def load(self, name: str, is_bucket: bool, found: Found) -> None:
        """Call ``found`` with the mailbox: at once if it is in memory, else when the store has answered."""
        known = (self.homes if is_bucket else self.addresses).get(name)
        if known is not None:
            found(known)
            return
        wanted = self._wanted.get((is_bucket, name))
        if wanted is not None:
            wanted.append(found)
            return
        self._wanted[(is_bucket, name)] = [found]
        self.unasked.append((is_bucket, name))

    def ask(self) -> None:
        """Put the loads that came up since the last call to the store."""
        while self.unasked:
            names, self.unasked = self.unasked[:LOAD_AT_ONCE], self.unasked[LOAD_AT_ONCE:]
            keys = {_key(is_bucket, name): (is_bucket, name) for is_bucket, name in names}
            self._reads.append(
                Read(
                    lambda reader, keys=list(keys): reader.mailboxes(keys),  # type: ignore[misc]
                    lambda answer, keys=keys: self._loaded(keys, answer),  # type: ignore[misc]
                )
            )

    def _loaded(self, keys: dict[bytes, tuple[bool, str]], answer: object) -> None:
        if not isinstance(answer, dict):
            failure = answer if isinstance(answer, StoreUnavailable) else StoreUnavailable(str(answer))
            for wanted in keys.values():
                for found in self._wanted.pop(wanted):
                    found(failure)
            return
        known: Known = answer
        for key, (is_bucket, name) in keys.items():
            no, tally = known.get(key, (None, Tally()))
            if no is not None:
                tally = self._late_tallies.get(no, tally)
            mailbox = self._admit(key, is_bucket, name, no, tally)
            for found in self._wanted.pop((is_bucket, name)):
                found(mailbox)
        if not self._wanted:
            self._late_tallies.clear()

    def _admit(self, key: bytes, is_bucket: bool, name: str, no: MailboxNo | None, stored: Tally) -> Mailbox:
        if no is None:
            no = self._next_mailbox
            self._next_mailbox = MailboxNo(no + 1)
        # What the store holds of it was committed before now: nothing of it can be pending yet.
        committed = self._last_seq() if stored.count else 0
        if is_bucket:
            mailbox = Mailbox(no, key, SHELVES_OF_ADDRESSES + no, name, stored, committed)
            self.homes[name] = mailbox
        else:
            mailbox = Mailbox(no, key, address_prefix(Address(name)), name, stored, committed)
            self.addresses[name] = mailbox
        self.numbered[no] = mailbox
        return mailbox

    def counted(self, tallies: dict[MailboxNo, Tally]) -> None:
        """A commit has left these tallies."""
        for no, tally in tallies.items():
            box = self.numbered.get(no)
            if box is not None:
                box.stored = tally
            elif self._wanted:
                # It may be one that is being loaded, by a question that was answered before this commit.
                self._late_tallies[no] = tally

    def hold(self, home: Mailbox) -> Bucket:
        """The bucket whose own mailbox is ``home``; it stays, and so does ``home``, until ``release``."""
        bucket = self._bucket(home)
        bucket.holds += 1
        return bucket

    def release(self, bucket: Bucket) -> None:
        """Undo a ``hold``."""
        bucket.holds -= 1
        self.left(bucket)

    def _bucket(self, home: Mailbox) -> Bucket:
        bucket = self.buckets.get(home.name)
        if bucket is None:
            key = BucketKey(home.name)
            bucket = Bucket(key, bucket_prefixes(key), home, self._last_seq())
            self.buckets[key] = bucket
        return bucket

    def pending(self, mailbox: MailboxNo, message: str) -> Entry | None:
        """The message of this id that is on its way to a mailbox."""
        box = self.numbered.get(mailbox)
        return box.pending.get(message) if box is not None else None

    def watchers(self, mailbox: Mailbox) -> list[Bucket]:
        """The buckets in use that cover a mailbox."""
        found = []
        names: Collection[str] = (mailbox.name,)
        if mailbox.of_address:
            names = set(buckets_of_prefix(mailbox.shelf))
        for name in names:
            bucket = self.buckets.get(name)
            if bucket is not None:
                found.append(bucket)
        return found

    def left(self, bucket: Bucket) -> None:
        """A reader has left a bucket: forget the bucket after its last one."""
        if not bucket.readers and not bucket.holds:
            self.buckets.pop(bucket.key, None)

    def trim(self) -> None:
        """Forget idle mailboxes beyond the limit, a bounded number at a time."""
        surplus = len(self.addresses) + len(self.homes) - self._cached
        if surplus <= 0:
            return
        for shelf in (self.addresses, self.homes):
            idle = []
            for name, mailbox in shelf.items():
                if mailbox.idle and name not in self.buckets and name not in self.sessions:
                    idle.append(name)
                    if len(idle) >= min(surplus, FORGET_AT_ONCE):
                        break
            for name in idle:
                del self.numbered[shelf.pop(name).no]
            surplus -= len(idle)


def _key(is_bucket: bool, name: str) -> bytes:
    return b"b" + parse_multihash(name) if is_bucket else b"a" + address_digest(Address(name))
