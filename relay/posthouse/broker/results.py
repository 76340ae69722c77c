"""What senders are told: exactly one result for each publish, and receipts later.

Every way out of ``Mailbox.pending`` ends here, so that a message, its repeats, its receipts and the counts
of its mailbox are always settled together.

Source: docs/protocol.md 2.3 and 2.4.
"""

from __future__ import annotations

from msgspec import Struct

from posthouse.broker.counters import Counters
from posthouse.broker.records import DONE, PUBLISH_OVERHEAD_BYTES, Entry, Sender
from posthouse.exchange import Wanted
from posthouse.wire.codes import Code
from posthouse.wire.messages import Receipt, Result

STORE_UNAVAILABLE_DETAIL = "the store does not take messages at the moment"


class Want(Struct, gc=False):
    """Somebody wants receipts for a stored message."""

    sender: Sender
    place: str
    """Name of its mailbox."""
    recipient: str | None
    kinds: list[str]


class Results:
    """Answers to senders."""

    def __init__(self, counters: Counters) -> None:
        self.now_ms = 0
        self._counters = counters
        self._wants: dict[str, list[Want]] = {}
        """By the id of the message."""

    # --- leaving a mailbox's pending

    @staticmethod
    def leave(entry: Entry) -> None:
        """Take a message out of its mailbox's pending ones."""
        box = entry.box
        del box.pending[entry.id]
        box.pending_bytes -= entry.size
        if entry.guest:
            box.pending_guest -= 1
            box.pending_guest_bytes -= entry.size

    def elide(self, entry: Entry) -> None:
        """An owner has acknowledged it before it went to the store."""
        sender = entry.sender
        if entry.repeats is not None or entry.guest or sender is None:
            self.leave(entry)
            self.delivered(entry)
            return
        # The same once more for the usual case: this is the end of most messages.
        entry.state = DONE
        box, message, size = entry.box, entry.id, entry.size
        del box.pending[message]
        box.pending_bytes -= size
        sender.inflight_bytes -= size + PUBLISH_OVERHEAD_BYTES
        sender.delivered_refs.append(entry.ref)
        sender.delivered_ids.append(message)
        if not sender.session.dirty:
            sender.session.touch()

    def delivered(self, entry: Entry) -> None:
        """An owner has acknowledged it: ``delivered``, whatever becomes of its commit."""
        entry.state = DONE
        sender = entry.sender
        if sender is not None:
            sender.inflight_bytes -= entry.size + PUBLISH_OVERHEAD_BYTES
            sender.delivered_refs.append(entry.ref)
            sender.delivered_ids.append(entry.id)
            if not sender.session.dirty:
                sender.session.touch()
        if entry.repeats is not None:
            self._repeats(entry, "delivered")

    def stored(self, entry: Entry) -> None:
        """Its commit is confirmed: ``stored``."""
        self._counters.stored += 1
        sender = entry.sender
        if sender is not None:
            sender.inflight_bytes -= entry.size + PUBLISH_OVERHEAD_BYTES
            sender.stored_refs.append(entry.ref)
            sender.stored_ids.append(entry.id)
            if not sender.session.dirty:
                sender.session.touch()
            if entry.receipts:
                self._want(sender, entry, entry.receipts)
        if entry.repeats is not None:
            self._repeats(entry, "stored")

    def duplicate_of_stored(self, entry: Entry) -> None:
        """The store had it already: ``duplicate``. ``entry.seq`` is that of the message in the store."""
        sender = entry.sender
        if sender is not None:
            sender.inflight_bytes -= entry.size + PUBLISH_OVERHEAD_BYTES
            self._duplicate(sender, entry.ref, entry.id, "stored")
            if entry.receipts:
                self._want(sender, entry, entry.receipts)
        if entry.repeats is not None:
            self._repeats(entry, "stored")

    def duplicate_of_held(self, entry: Entry) -> None:
        """The store holds it, under a ``seq`` that is not known here: nobody gets receipts by this one."""
        entry.receipts = None
        for repeat in entry.repeats or ():
            repeat.receipts = None
        entry.state = DONE
        self.duplicate_of_stored(entry)

    def duplicate_of_delivered(self, entry: Entry) -> None:
        """A repeat that was on its way to the store when an owner acknowledged the first one."""
        entry.state = DONE
        sender = entry.sender
        if sender is not None:
            sender.inflight_bytes -= entry.size + PUBLISH_OVERHEAD_BYTES
            self._duplicate(sender, entry.ref, entry.id, "delivered")
        if entry.repeats is not None:
            self._repeats(entry, "delivered")

    def undeliverable(self, entry: Entry, detail: str) -> None:
        """No owner took it and the relay keeps nothing."""
        entry.state = DONE
        for sender, ref, size in _senders(entry):
            sender.inflight_bytes -= size + PUBLISH_OVERHEAD_BYTES
            self._counters.undeliverable += 1
            sender.session.emit(Result(ref, "undeliverable", True, entry.id, None, None, detail))

    def store_unavailable(self, entry: Entry) -> None:
        """The store certainly did not take it."""
        entry.state = DONE
        for sender, ref, size in _senders(entry):
            sender.inflight_bytes -= size + PUBLISH_OVERHEAD_BYTES
            self.reject(sender, ref, entry.id, Code.STORE_UNAVAILABLE, STORE_UNAVAILABLE_DETAIL, 1000)

    # --- single answers

    def reject(
        self,
        sender: Sender,
        ref: int,
        message: str,
        code: Code,
        detail: str,
        retry_after_ms: int | None = None,
    ) -> None:
        """The relay keeps nothing of this publish."""
        self._counters.rejected[code.value] += 1
        sender.session.emit(Result(ref, "rejected", True, message, None, code.value, detail, retry_after_ms))

    def confirm(self, sender: Sender, ref: int, message: str, state: str, size: int) -> None:
        """A commit has been checked: the duplicate may be answered."""
        sender.inflight_bytes -= size + PUBLISH_OVERHEAD_BYTES
        self._duplicate(sender, ref, message, state)

    def unconfirmed(self, sender: Sender, ref: int, message: str, size: int) -> None:
        """The commit that should have checked failed."""
        sender.inflight_bytes -= size + PUBLISH_OVERHEAD_BYTES
        self.reject(sender, ref, message, Code.STORE_UNAVAILABLE, STORE_UNAVAILABLE_DETAIL, 1000)

    def _duplicate(self, sender: Sender, ref: int, message: str, state: str) -> None:
        self._counters.duplicates += 1
        sender.session.emit(Result(ref, "duplicate", False, message, state))

    def _repeats(self, entry: Entry, state: str) -> None:
        for repeat in entry.repeats or ():
            repeat.sender.inflight_bytes -= repeat.size + PUBLISH_OVERHEAD_BYTES
            self._duplicate(repeat.sender, repeat.ref, entry.id, state)
            if state == "stored" and repeat.receipts:
                self._want(repeat.sender, entry, repeat.receipts)

    # --- receipts

    def _want(self, sender: Sender, entry: Entry, kinds: list[str]) -> None:
        if sender.session.closed:
            return
        place = entry.box.name
        wants = self._wants.setdefault(entry.id, [])
        for want in wants:
            if want.sender is sender and want.place == place:
                want.kinds = [*want.kinds, *(kind for kind in kinds if kind not in want.kinds)]
                return
        wants.append(Want(sender, place, place if entry.box.of_address else None, kinds))
        sender.receipts.add((entry.id, place))

    def wanted(self, sender: Sender) -> list[Wanted]:
        """The receipts that a sender still waits for."""
        return [
            Wanted(message, place, want.recipient, want.kinds)
            for message, place in sender.receipts
            for want in self._wants.get(message, ())
            if want.sender is sender and want.place == place
        ]

    def want_again(self, sender: Sender, wanted: Wanted) -> None:
        """A sender waits for receipts that an earlier broker owed it."""
        want = Want(sender, wanted.place, wanted.recipient, wanted.kinds)
        self._wants.setdefault(wanted.id, []).append(want)
        sender.receipts.add((wanted.id, wanted.place))

    def was_delivered(self, place: str, message: str) -> None:
        """The owner of a mailbox has acknowledged a stored message."""
        if self._wants:
            self._receipt(place, message, "delivered")

    def is_gone(self, place: str | None, message: str) -> None:
        """A stored message has expired, was purged, or its owner could not decrypt it.

        ``place`` None: from a mailbox that is not in memory.
        """
        if self._wants:
            self._receipt(place, message, "expired")

    def _receipt(self, place: str | None, message: str, status: str) -> None:
        left: list[Want] = []
        for want in self._wants.pop(message, ()):
            if place is not None and want.place != place:
                left.append(want)
                continue
            sender = want.sender
            sender.receipts.discard((message, want.place))
            if status in want.kinds and not sender.session.closed:
                sender.session.emit(Receipt(message, status, self.now_ms, want.recipient))  # type: ignore[arg-type]
        if left:
            self._wants[message] = left

    def forget(self, sender: Sender) -> None:
        """The session has ended: its receipts are nobody's."""
        for message, _ in sender.receipts:
            left = [want for want in self._wants.pop(message, ()) if want.sender is not sender]
            if left:
                self._wants[message] = left
        sender.receipts.clear()


def _senders(entry: Entry) -> list[tuple[Sender, int, int]]:
    senders = [(repeat.sender, repeat.ref, repeat.size) for repeat in entry.repeats or ()]
    if entry.sender is not None:
        senders.insert(0, (entry.sender, entry.ref, entry.size))
    return senders
