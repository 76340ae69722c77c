"""What must be true of everything that a broker says, held against plain dictionaries.

Each ciphertext is published to one place only, so that it names the place too. The model sees what clients do and
hear, and may look into the store; it knows nothing of the broker's insides.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from broker_rig import Rig, id_of, is_address, narrow, wide
from posthouse.exchange import Attend, Effect
from posthouse.identity import address_prefix
from posthouse.wire.messages import CaughtUp, Error, Message, Nack, Receipt, Result, Subscribed


@dataclass
class Client:
    """One session, as its client knows it."""

    owner: str | None
    window: int
    refs: dict[int, tuple[bytes, int]] = field(default_factory=dict)
    """Publishes without a result, and until when each is to live at least."""
    repeats: set[int] = field(default_factory=set)
    """Those of them that were made while the relay had the message already."""
    wants: dict[bytes, set[str]] = field(default_factory=dict)
    asked: dict[int, dict[str, str | None]] = field(default_factory=dict)
    """Subscribes that have not been answered: places and reader names."""
    behind: set[int] = field(default_factory=set)
    """Subscribes without ``caught_up``."""
    endings: dict[int, str] = field(default_factory=dict)
    """Unsubscribes that have not been answered, and what they end."""
    live: set[str] = field(default_factory=set)
    """What it is subscribed to, with everything that comes."""
    wanted_live: dict[int, bool] = field(default_factory=dict)
    places: dict[str, str | None] = field(default_factory=dict)
    """Everything ever subscribed to, and the reader name."""
    outstanding: dict[bytes, int] = field(default_factory=dict)
    """Messages without an ack or nack, and the state of things when they came."""
    put_off: Counter[bytes] = field(default_factory=Counter)
    """How often it asked to be sent one again."""
    seen: set[bytes] = field(default_factory=set)
    by_address: set[bytes] = field(default_factory=set)
    came_by: dict[bytes, tuple[str, str | None]] = field(default_factory=dict)
    """By which bucket, and under which reader name, the last time."""
    unnumbered: set[bytes] = field(default_factory=set)
    """Outstanding from a broker after which they get another number: a mark names the one that this one had given."""
    last: dict[str, int] = field(default_factory=dict)
    """By place, the seq of the last first delivery."""

    @property
    def waits(self) -> bool:
        """Whether a request of it has not been answered to the end."""
        return bool(self.asked or self.behind or self.endings)

    def names(self, buckets: tuple[str, ...]) -> set[str]:
        """Under which names it reads, or asked to read, these buckets."""
        every = (places.get(bucket) for places in (self.places, *self.asked.values()) for bucket in buckets)
        return {name for name in every if name is not None}

    def reader(self, bucket: str) -> str | None:
        """Under which name it reads, or asked to read, a bucket."""
        for places in (self.places, *self.asked.values()):
            if bucket in places:
                return places[bucket]
        return None


class Model:
    """Clients, and what became of each ciphertext."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.clients: dict[int, Client] = {}
        self.place_of: dict[bytes, str] = {}
        self.text_of_seq: dict[int, bytes] = {}
        self.published: dict[bytes, int] = {}
        """When it was last published, in steps."""
        self.promised: set[bytes] = set()
        """Held by the relay until acknowledged or expired."""
        self.acked: dict[bytes, int] = {}
        """By its owner, at which step."""
        self.acked_by_old_number: set[bytes] = set()
        """Those that may be stored by a number that the ack did not name: only the broker that heard it knows."""
        self.ever_acked: set[bytes] = set()
        self.marked: dict[tuple[str, str, bytes], int] = {}
        """Bucket, reader and text, at which step: it must not come again."""
        self.maybe_marked: set[tuple[str, bytes]] = set()
        """Reader and text: it need not come again to any of its sessions."""
        self.declined: set[bytes] = set()
        """Refused with ``not-mine`` by an owner: it may come again."""
        self.passed_over: set[bytes] = set()
        """Somebody was done with it: others may have been sent what came after it, and it itself if that was lost."""
        self.void: dict[bytes, int] = {}
        """When a publish of it was last refused: whoever still holds it may be sent it again."""
        self.least: dict[bytes, int] = {}
        """Until when it was promised, in ms of the store clock."""
        self.latest: dict[bytes, int] = {}
        """The longest that any publish of it asked for."""
        self.earliest: dict[bytes, int] = {}
        self.repeats_left: set[bytes] = set()
        """Repeats of them may be under way whose senders have gone."""
        self.step = 0
        self.results = 0

    # --- what clients do

    def open(self, number: int, owner: str | None, window: int) -> None:
        self.clients[number] = Client(owner, window)

    def publish(
        self, number: int, ref: int, text: bytes, place: str, ttl_s: int, receipts: list[str], live: bool
    ) -> None:
        self.step += 1
        client = self.clients[number]
        now_ms = self.rig.broker.clock.now_ms
        until = now_ms + ttl_s * 1000
        # A live one asks nobody to keep it, though the relay may hold it from an earlier publish.
        open_or_stored = self._is_open(text) or text in self.stored_texts()
        if open_or_stored:
            client.repeats.add(ref)
        else:  # a message of its own: marks have ended with the one before
            self.maybe_marked = {key for key in self.maybe_marked if key[1] != text}
        client.refs[ref] = text, now_ms if live else until
        if receipts:
            client.wants.setdefault(text, set()).update(receipts)
        self.place_of[text] = place
        self.published[text] = self.step
        self.latest[text] = max(self.latest.get(text, 0), until)
        self.earliest[text] = min(self.earliest.get(text, until), until)

    def attend(self, number: int, request: Attend) -> None:
        asked: dict[str, str | None] = dict.fromkeys(request.addresses)
        asked.update(dict.fromkeys(request.buckets, request.reader))
        self.clients[number].asked[request.ref] = asked
        self.clients[number].wanted_live[request.ref] = request.live

    def ack(self, number: int, texts: list[bytes]) -> None:
        self.step += 1
        client = self.clients[number]
        for text in texts:
            if text not in client.outstanding:
                continue
            del client.outstanding[text]
            self.passed_over.add(text)
            client.put_off.pop(text, None)
            if self._is_owner(client, text):
                # If it came by bucket, the address may have been subscribed to since: then this deletes it.
                self.ever_acked.add(text)
                self._release(text)
                if text in client.by_address:
                    self.acked[text] = self.step
                    if text in client.unnumbered:
                        self.acked_by_old_number.add(text)
            self._mark(client, text)

    def nack(self, number: int, nack: Nack, texts: list[bytes]) -> None:
        self.step += 1
        client = self.clients[number]
        for text in texts:
            if text not in client.outstanding:
                continue
            if nack.code == "busy":
                client.put_off[text] += 1
                continue
            del client.outstanding[text]
            self.passed_over.add(text)
            client.put_off.pop(text, None)
            if self._is_owner(client, text):
                if nack.code == "undecryptable":
                    self._release(text)
                    self.void[text] = self.step
                else:
                    self.declined.add(text)
            self._mark(client, text)

    def _release(self, text: bytes) -> None:
        """Its promise is kept, or given back by its owner."""
        self.promised.discard(text)
        self.least.pop(text, None)

    def _is_owner(self, client: Client, text: bytes) -> bool:
        place = self.place_of[text]
        return place == client.owner and place in client.places

    def _mark(self, client: Client, text: bytes) -> None:
        bucket, reader = client.came_by.get(text, (None, None))
        names = client.names(covering(self.place_of[text]))
        self.maybe_marked.update((name, text) for name in (*names, reader) if name is not None)
        if text in client.unnumbered or self._is_repeated(text):
            return
        if bucket is not None and reader is not None:
            self.marked[bucket, reader, text] = self.step

    def _is_open(self, text: bytes) -> bool:
        """Whether a publish of it has no result."""
        return any(text == one for client in self.clients.values() for one, _ in client.refs.values())

    def _is_repeated(self, text: bytes) -> bool:
        """Whether a repeat of it is under way: one that asks for more gets a number of its own when it can."""
        return text in self.repeats_left or any(
            client.refs[ref][0] == text for client in self.clients.values() for ref in client.repeats
        )

    def close(self, number: int) -> None:
        client = self.clients.pop(number)
        self.repeats_left.update(client.refs[ref][0] for ref in client.repeats)

    def broker_dropped(self) -> None:
        """Sessions are gone, and acks that were not committed; what was promised stays promised."""
        self.step += 1
        self.clients.clear()
        self.repeats_left.clear()
        self.results = 0
        self._forget_uncommitted()

    def _forget_uncommitted(self) -> None:
        held = self.stored_texts()
        for text in [text for text in self.acked if text in held]:
            del self.acked[text]
        self.marked.clear()
        for text in self.published:
            self.void[text] = self.step

    def handed_over(self, clock_before_ms: int) -> None:
        """Another broker goes on with all sessions.

        What is not stored, or is published again because that had no result, gets another number there: marks of
        it are best effort.
        """
        self.results = 0
        self.repeats_left.clear()
        # Its clock begins with the last commit; a publish made again lives as long by that one.
        shift = self.rig.broker.clock.now_ms - clock_before_ms
        for client in self.clients.values():
            for ref, (text, until) in client.refs.items():
                client.refs[ref] = text, until + shift
                self.earliest[text] = min(self.earliest[text], self.earliest[text] + shift)
        stored = self.stored_texts()
        for text in self.acked_by_old_number & stored:
            self.acked.pop(text, None)
        self.acked_by_old_number.clear()
        stays = {text for text in stored if not self._is_open(text)}
        for key in [key for key in self.marked if key[2] not in stays]:
            del self.marked[key]
        for client in self.clients.values():
            client.unnumbered.update(text for text in client.outstanding if text not in stays)

    def fenced(self, clock_before_ms: int) -> None:
        """The same, but acks and marks that were not committed are lost."""
        self.handed_over(clock_before_ms)
        self.step += 1
        self._forget_uncommitted()

    # --- what they hear

    def hear(self) -> None:
        """Take and check all effects."""
        self.rig.listen()
        heard, self.rig.heard = self.rig.heard, {}
        for number, effects in heard.items():
            client = self.clients[number]
            for effect in effects:
                self._check(client, effect)
            assert len(client.outstanding) <= client.window

    def _check(self, client: Client, effect: Effect) -> None:
        self.step += 1
        match effect:
            case Result():
                self._result(client, effect)
            case Message():
                self._message(client, effect)
            case Subscribed(ref=ref) if ref in client.endings:
                client.live.discard(client.endings.pop(ref))
            case Subscribed(ref=ref):
                asked = client.asked.pop(ref)
                client.places.update(asked)
                client.live.difference_update(asked)
                if client.wanted_live.pop(ref):
                    client.live.update(asked)
                client.behind.add(ref)
            case CaughtUp(ref=ref):
                client.behind.remove(ref)
            case Error(ref=ref):
                assert effect.code == "store-unavailable" and ref is not None
                if ref in client.endings:
                    del client.endings[ref]
                else:
                    del client.asked[ref]
            case Receipt():
                self._receipt(client, effect)
            case _:
                raise AssertionError(effect)

    def _result(self, client: Client, result: Result) -> None:
        self.results += 1
        text, until = client.refs.pop(result.ref)
        client.repeats.discard(result.ref)
        assert result.id == id_of(text)
        assert result.fallback == (result.status in ("undeliverable", "rejected"))
        kept = result.state if result.status == "duplicate" else result.status
        if kept == "delivered":
            assert text in self.ever_acked
            client.wants.pop(text, None)
        elif kept == "stored":
            if text not in self.acked or self.acked[text] < self.published[text]:
                assert text in self.stored_texts() or self._may_be_gone(text)
                if self.step_of_ack(text) < self.published[text]:
                    self.promised.add(text)
                    self.least[text] = max(self.least.get(text, 0), until)
            self.acked_is_older(text)
        else:
            assert result.status in ("undeliverable", "rejected")
            self.void[text] = self.step

    def step_of_ack(self, text: bytes) -> int:
        return self.acked.get(text, 0)

    def acked_is_older(self, text: bytes) -> None:
        """A promise made after an ack is about a message published again."""
        if text in self.stored_texts() and self.step_of_ack(text) < self.published[text]:
            self.acked.pop(text, None)

    def _may_be_gone(self, text: bytes) -> bool:
        now_ms = self.rig.broker.clock.now_ms
        return text in self.void or text in self.declined or self.earliest[text] <= now_ms + 1000

    def _receipt(self, client: Client, receipt: Receipt) -> None:
        (text,) = (text for text in client.wants if id_of(text) == receipt.id)
        assert receipt.status in client.wants[text]
        assert receipt.status == "expired" or text in self.ever_acked

    def _message(self, client: Client, message: Message) -> None:
        text = message.ciphertext
        place = self.place_of[text]
        assert message.id == id_of(text)
        assert self.text_of_seq.setdefault(message.seq, text) == text, "a seq names one message"
        if message.recipient is not None:
            assert message.recipient == place == client.owner and place in client.places
            client.by_address.add(text)
            client.came_by.pop(text, None)
            if text in self.acked and text not in self.declined:
                newer = self.acked[text] < max(self.published[text], self.void.get(text, 0))
                assert newer or self._may_be_gone(text), "sent after its ack"
        else:
            assert message.bucket in client.places and message.bucket in covering(place)
            reader = client.places[message.bucket]
            client.came_by[text] = message.bucket, reader
            client.by_address.discard(text)
            if reader is not None and (message.bucket, reader, text) in self.marked:
                marked = self.marked[message.bucket, reader, text]
                newer = marked < max(self.published[text], self.void.get(text, 0))
                assert newer or self._may_be_gone(text), "sent after its mark"
        if text in client.outstanding:
            since = client.outstanding[text]
            again = client.put_off[text] > 0 or self.void.get(text, 0) > since
            assert again or self._may_be_gone(text), "sent while outstanding"
            client.put_off[text] -= 1
        client.outstanding[text] = self.step
        client.unnumbered.discard(text)
        if text not in client.seen:
            in_order = client.last.get(place, 0) < message.seq
            assert in_order or text in self.passed_over, "first deliveries in the order of seq"
            client.last[place] = max(message.seq, client.last.get(place, 0))
            client.seen.add(text)

    # --- the store

    def stored_texts(self) -> set[bytes]:
        return {message.row.ciphertext for message in self.rig.store._state.messages.values()}

    def expire(self) -> None:
        """What has lived its time is no promise any more."""
        now_ms = self.rig.broker.clock.now_ms
        self.promised = {text for text in self.promised if self.least[text] > now_ms}

    # --- at rest

    def check_nothing_was_missed(self) -> None:
        """Whoever reads a place live, and has acknowledged all that it was sent, has been sent everything."""
        for client in self.clients.values():
            for text in self.promised - self.declined:
                place = self.place_of[text]
                if place in client.live:
                    assert place != client.owner, "not sent to its owner"
                for bucket in client.live.intersection(covering(place)):
                    known = (client.places[bucket], text) in self.maybe_marked
                    assert known or text in client.seen, "not sent to a reader of its bucket"

    def check_at_rest(self) -> None:
        """When nothing moves: every publish has its one result, every count agrees with the store."""
        broker, state = self.rig.broker, self.rig.store._state
        assert not any(client.refs for client in self.clients.values())
        for box in broker.directory.numbered.values():
            kept = state.boxes.get(box.no)
            assert box.stored.count == (kept.tally.count if kept else 0)
            assert (
                not box.pending and not box.pending_bytes and not box.pending_guest and not box.leaving_count
            )
        assert broker.ledger.total.count == len(state.messages)
        counters = broker.counters
        results: Any = (
            counters.delivered,
            counters.stored,
            counters.duplicates,
            counters.undeliverable,
            sum(counters.rejected.values()),
        )
        assert sum(results) >= self.results
        for session in self.rig.port.sessions.values():
            assert session.sender is None or session.sender.inflight_bytes == 0


def covering(place: str) -> tuple[str, ...]:
    """The buckets under which a place can be read."""
    if not is_address(place):
        return (place,)
    prefix = address_prefix(place)  # type: ignore[arg-type]
    return wide(prefix), narrow(prefix)
