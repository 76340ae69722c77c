"""A publish, from the command to its way: to online owners, to the store, or to a refusal.

Source: docs/protocol.md 2.2 and 2.4; docs/architecture.md, "Publish".
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from itertools import chain

from posthouse.broker.counters import Counters
from posthouse.broker.delivery import Delivery
from posthouse.broker.directory import Directory, Read
from posthouse.broker.ledger import Confirmation, Ledger
from posthouse.broker.recent import Recent
from posthouse.broker.records import (
    ENDED,
    PENDING,
    PUBLISH_OVERHEAD_BYTES,
    Entry,
    Mailbox,
    Repeat,
    Sender,
    Session,
)
from posthouse.broker.results import STORE_UNAVAILABLE_DETAIL, Results
from posthouse.broker.settings import CAREFUL_BYTES, BrokerSettings
from posthouse.store.interface import StoreUnavailable
from posthouse.wire.codes import Code
from posthouse.wire.messages import Publish

MORE_TTL_MS = 1000
"""A repeat that would live less longer than this does not ask for more."""
SETTLED_DEADLINES = 1024
"""Deadlines of messages that are done are looked for once there are more than this."""
NOBODY_THERE = "no owner of this address is online and this relay keeps no messages"
NOBODY_IN_TIME = "no owner of this address acknowledged it in time"
NO_OWNER_OF_A_BUCKET = "a bucket has no owner that could acknowledge it"


class Publishing:
    """All publishes."""

    def __init__(
        self,
        settings: BrokerSettings,
        directory: Directory,
        delivery: Delivery,
        ledger: Ledger,
        results: Results,
        recent: Recent,
        counters: Counters,
        durable: bool,
        first_seq: int,
        reads: list[Read],
    ) -> None:
        self.now_ms = 0
        self.now = 0.0
        self.seq = first_seq
        self._reads = reads
        self._settings = settings
        self._quotas = quotas = settings.quotas
        self._most_messages = _limit(quotas.mailbox_messages)
        self._most_bytes = _limit(quotas.mailbox_bytes)
        self._most_in_all = _limit(quotas.total_messages)
        self._most_bytes_in_all = _limit(quotas.total_bytes)
        self._default_ttl_s = settings.default_ttl_s
        self._max_ttl_s = settings.max_ttl_s
        self._max_inflight_bytes = settings.max_inflight_bytes
        self._addresses = directory.addresses
        self._directory = directory
        self._delivery = delivery
        self._ledger = ledger
        self._results = results
        self._recent = recent
        self._known = recent.known
        self._counters = counters
        self._durable = durable
        self._too_many_deadlines = SETTLED_DEADLINES
        self._deadlines: deque[tuple[float, Entry]] = deque()
        """Messages that are not storable, in the order in which their time ends."""
        self._again: list[tuple[Sender, Publish]] = []
        """Repeats that ask for more than the message that is just being written.

        Like any repeat of a stored message each gets a number until the store knows it: a bucket's reader whose mark
        names the first one may be sent it once more.
        """
        self._given_up: list[Entry] = []
        """Messages that nobody took, while the store is asked whether it holds them."""
        self._asking: dict[int, tuple[Sender, Publish]] = {}
        """Publishes for which the store has been asked something, by the identity of the command."""

    def publish(self, session: Session, publish: Publish) -> None:
        """Take one publish: it gets exactly one result, now or later."""
        sender = session.sender
        if sender is None:
            sender = session.sender = Sender(session)
        size = len(publish.ciphertext)
        inflight_bytes = sender.inflight_bytes
        if inflight_bytes + size > self._max_inflight_bytes and inflight_bytes:
            self._reject(sender, publish, Code.RATE_LIMITED, "too many publishes wait for their result", 50)
            return
        sender.inflight_bytes = inflight_bytes + size + PUBLISH_OVERHEAD_BYTES
        name = publish.recipient
        if name is not None:
            box = self._addresses.get(name)
        else:
            name = publish.bucket
            assert name is not None
            box = self._directory.homes.get(name)
        if box is not None:
            self._into(box, sender, publish, size)
        else:
            self._asking[id(publish)] = sender, publish
            self._directory.load(
                name, publish.recipient is None, lambda found: self._found(found, sender, publish, size)
            )

    def _found(self, found: Mailbox | StoreUnavailable, sender: Sender, publish: Publish, size: int) -> None:
        del self._asking[id(publish)]
        if isinstance(found, Mailbox):
            self._into(found, sender, publish, size)
        else:
            sender.inflight_bytes -= size + PUBLISH_OVERHEAD_BYTES
            self._reject(sender, publish, Code.STORE_UNAVAILABLE, STORE_UNAVAILABLE_DETAIL, 1000)

    def _into(
        self, box: Mailbox, sender: Sender, publish: Publish, size: int, stored_before: bool = False
    ) -> None:
        message = publish.id
        pending = box.pending
        if message in pending:
            self._repeat(pending[message], sender, publish, size)
            return
        if message in self._known and self._recent.has(box.name, message):
            self._ledger.confirmations.append(
                Confirmation(sender, publish.ref, message, "delivered", size, publish)
            )
            return
        ledger, stored, seq = self._ledger, box.stored, self.seq
        guest, receipts = sender.guest, publish.receipts
        # One test for all that is refused seldom; which it was is found out only then.
        if not stored_before and (
            guest
            or receipts
            or ledger.nearly_full
            or seq >= ledger.reserved
            or stored.count + len(pending) >= self._most_messages
            or stored.bytes + box.pending_bytes + size > self._most_bytes
        ):
            refusal = self._refusal(box, sender, publish, size)
            if refusal is not None:
                self._refuse(box, sender, publish, size, refusal)
                return
        ttl_s = publish.ttl_s
        if ttl_s is None:
            ttl_s = self._default_ttl_s
        elif ttl_s > self._max_ttl_s:
            ttl_s = self._max_ttl_s
        now_ms = self.now_ms
        self.seq = seq + 1
        self._delivery.last_seq = seq
        storable = self._durable and publish.mode != "live"
        entry = Entry(
            seq,
            box,
            message,
            publish.ciphertext,
            now_ms,
            now_ms + ttl_s * 1000,
            guest,
            box,
            size,
            storable,
            sender,
            publish.ref,
            receipts,  # type: ignore[arg-type]
        )
        pending[message] = entry
        box.pending_bytes += size
        if guest:
            box.pending_guest += 1
            box.pending_guest_bytes += size
        got = self._delivery.offer(entry)
        if not storable:
            self._not_storable(entry)
        elif got:
            ledger.hold(entry)
        else:
            ledger.hurry(entry)

    def _not_storable(self, entry: Entry) -> None:
        box = entry.box
        if not box.of_address:
            self._give_up(entry, NO_OWNER_OF_A_BUCKET)
        elif not self._durable and not _has_owner(box):
            self._give_up(entry, NOBODY_THERE)
        else:
            self._deadlines.append((self.now + self._settings.live_timeout_s, entry))
            if len(self._deadlines) > self._too_many_deadlines:
                self._deadlines = deque(due for due in self._deadlines if due[1].state is PENDING)
                self._too_many_deadlines = 2 * len(self._deadlines) + SETTLED_DEADLINES

    def _give_up(self, entry: Entry, detail: str) -> None:
        """Nobody took it: ``undeliverable``, unless the store holds it from an earlier publish."""
        box, message, now_ms = entry.box, entry.id, self.now_ms
        if not self._durable or not box.stored.count:
            self._results.leave(entry)
            self._results.undeliverable(entry, detail)
            return

        self._given_up.append(entry)

        def answered(held: object) -> None:
            self._given_up.remove(entry)
            if entry.state is not PENDING or entry.storable:
                return  # an owner took it meanwhile, or a repeat asked to store it
            self._results.leave(entry)
            if held is True:
                self._results.duplicate_of_held(entry)
            else:
                self._results.undeliverable(entry, detail)

        self._reads.append(Read(lambda reader: reader.holds(box.no, message, now_ms), answered))

    # --- repeats

    def _repeat(self, pending: Entry, sender: Sender, publish: Publish, size: int) -> None:
        """A repeat of a pending message shares its outcome; one that asks for more raises it first."""
        ttl_s = min(publish.ttl_s or self._default_ttl_s, self._max_ttl_s)
        expires_at = self.now_ms + ttl_s * 1000
        if pending.state is not PENDING and expires_at >= pending.expires_at + MORE_TTL_MS:
            self._again.append((sender, publish))
            return
        if self._durable and publish.mode != "live" and not pending.storable:
            if self._ledger.stalled or self.seq >= self._ledger.reserved:
                self._results.unconfirmed(sender, publish.ref, publish.id, size)
                return
            self._make_storable(pending)
        if pending.state is PENDING and expires_at > pending.expires_at:
            pending.expires_at = expires_at
        if pending.repeats is None:
            pending.repeats = []
        pending.repeats.append(Repeat(sender, publish.ref, size, publish.receipts))  # type: ignore[arg-type]

    def _make_storable(self, entry: Entry) -> None:
        """It takes a new place in the order: what was published after it may be committed already."""
        pending = entry.box.pending
        del pending[entry.id]
        entry.seq = self._delivery.last_seq = self.seq
        self.seq += 1
        pending[entry.id] = entry
        entry.storable = True
        self._delivery.renumber(entry)
        self._ledger.hurry(entry)

    def again(self) -> None:
        """A batch is done: repeats that waited for it are publishes of their own now."""
        if self._again:
            waiting, self._again = self._again, []
            for sender, publish in waiting:
                sender.inflight_bytes -= len(publish.ciphertext) + PUBLISH_OVERHEAD_BYTES
                self.publish(sender.session, publish)

    def unanswered(self, now_ms: int) -> Iterator[tuple[Sender, Publish]]:
        """Every publish that has no result, as it would have to be made again now."""
        live = (entry for _, entry in self._deadlines if not entry.storable)
        given: set[int] = set()
        for entry in chain(self._ledger.uncommitted(), live, self._given_up):
            if entry.seq in given or entry.box.pending.get(entry.id) is not entry:
                continue
            given.add(entry.seq)
            if entry.sender is not None:
                yield entry.sender, self._again_as(entry, entry.ref, entry.receipts, now_ms)
            for repeat in entry.repeats or ():
                yield repeat.sender, self._again_as(entry, repeat.ref, repeat.receipts, now_ms)
        for confirmation in self._ledger.unconfirmed():
            yield confirmation.sender, confirmation.publish
        yield from self._again
        yield from self._asking.values()

    def _again_as(self, entry: Entry, ref: int, receipts: list[str] | None, now_ms: int) -> Publish:
        box = entry.box
        return Publish(
            ref,
            entry.ciphertext,
            box.name if box.of_address else None,
            None if box.of_address else box.name,
            mode="live" if self._durable and not entry.storable else "store",
            ttl_s=max(1, -(-(entry.expires_at - now_ms) // 1000)),
            receipts=receipts,  # type: ignore[arg-type]
            id=entry.id,
        )

    # --- refusals

    def _refusal(
        self, box: Mailbox, sender: Sender, publish: Publish, size: int
    ) -> tuple[Code, str, int | None] | None:
        quotas, stored = self._quotas, box.stored
        if (
            stored.count + len(box.pending) >= self._most_messages
            or stored.bytes + box.pending_bytes + size > self._most_bytes
        ):
            return Code.QUOTA, "the mailbox is full", None
        if sender.guest and (
            stored.guest_count + box.pending_guest >= _limit(quotas.guest_mailbox_messages)
            or stored.guest_bytes + box.pending_guest_bytes + size > _limit(quotas.guest_mailbox_bytes)
        ):
            return Code.QUOTA, "the mailbox is full for senders without a key", None
        if self._relay_is_full(size):
            return Code.QUOTA, "the relay is full", None
        if publish.receipts and len(sender.receipts) >= self._settings.receipts_per_connection:
            return Code.RATE_LIMITED, "too many receipts are outstanding", 1000
        if self.seq >= self._ledger.reserved:
            return Code.STORE_UNAVAILABLE, STORE_UNAVAILABLE_DETAIL, 1000
        return None

    def _relay_is_full(self, size: int) -> bool:
        total, ledger = self._ledger.total, self._ledger
        most, most_bytes = self._most_in_all, self._most_bytes_in_all
        # Looks at what waits one by one only where the little that it can be might matter.
        if total.count + ledger.waiting < most and total.bytes + size + CAREFUL_BYTES <= most_bytes:
            return False
        sizes = [entry.size for entry in ledger.uncommitted()]
        return total.count + len(sizes) >= most or total.bytes + sum(sizes) + size > most_bytes

    def _refuse(
        self, box: Mailbox, sender: Sender, publish: Publish, size: int, refusal: tuple[Code, str, int | None]
    ) -> None:
        """Refuse, unless there is no room for a message only because it has its room already: ask the store."""
        if refusal[0] is not Code.QUOTA or not self._durable or not box.stored.count:
            sender.inflight_bytes -= size + PUBLISH_OVERHEAD_BYTES
            self._reject(sender, publish, *refusal)
            return
        no, message, now_ms = box.no, publish.id, self.now_ms

        self._asking[id(publish)] = sender, publish

        def found(mailbox: Mailbox | StoreUnavailable) -> None:
            del self._asking[id(publish)]
            if isinstance(mailbox, Mailbox) and self.seq < self._ledger.reserved:
                self._into(mailbox, sender, publish, size, stored_before=True)
            else:
                sender.inflight_bytes -= size + PUBLISH_OVERHEAD_BYTES
                self._reject(sender, publish, Code.STORE_UNAVAILABLE, STORE_UNAVAILABLE_DETAIL, 1000)

        def answered(held: object) -> None:
            if held is True:  # the mailbox may have been forgotten meanwhile
                self._directory.load(box.name, not box.of_address, found)
            else:
                del self._asking[id(publish)]
                sender.inflight_bytes -= size + PUBLISH_OVERHEAD_BYTES
                self._reject(sender, publish, *refusal)

        self._reads.append(Read(lambda reader: reader.holds(no, message, now_ms), answered))

    def _reject(
        self, sender: Sender, publish: Publish, code: Code, detail: str, retry_after_ms: int | None
    ) -> None:
        self._results.reject(sender, publish.ref, publish.id, code, detail, retry_after_ms)

    # --- time

    def tick(self, now: float) -> None:
        """Messages that nobody took within ``live_timeout_s`` are undeliverable."""
        deadlines = self._deadlines
        while deadlines and deadlines[0][0] <= now:
            entry = deadlines.popleft()[1]
            if entry.state is PENDING and not entry.storable:
                self._give_up(entry, NOBODY_IN_TIME)

    @property
    def next_deadline(self) -> float | None:
        """When ``tick`` has something to do."""
        return self._deadlines[0][0] if self._deadlines else None


def _limit(setting: int) -> int:
    return setting or sys.maxsize


def _has_owner(box: Mailbox) -> bool:
    return any(reader.mode is not ENDED for reader in box.readers)
