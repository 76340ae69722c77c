"""A broker on a table: virtual time, a store whose every step the test takes, sessions by number.

In one go (``settle``) everything that is asked is answered and everything that presses is committed. Step by step,
reads and commits go on as an engine could have them: one commit at a time (``begin``, ``write``, ``finish``), reads
in order (``look`` takes the snapshot of the next one, ``answer`` hands the oldest over), in any interleaving.
"""

from __future__ import annotations

from collections import deque
from hashlib import sha256
from typing import Any, TypeVar

import base58
from posthouse.broker import Broker, BrokerSettings, Port
from posthouse.broker.directory import Read
from posthouse.exchange import Attend, Close, Command, Credit, Effect, Open, Outcomes
from posthouse.identity import Address, BucketKey, buckets_of_prefix
from posthouse.link.memory import Memory
from posthouse.store.interface import Batch, Committed, Fence, StoreUnavailable
from posthouse.store.memory import MemoryStore
from posthouse.wire.messages import Ack, Message, Nack, Publish, Result, StatusRequest, Unsubscribe

START_S = 1000.0
START_MS = 1_700_000_000_000
TICK_S = BrokerSettings().tick_s
T = TypeVar("T")


def address(prefix: int, n: int = 0) -> Address:
    """An address with this 16-bit prefix; nobody needs its key here."""
    digest = prefix.to_bytes(2, "big") + n.to_bytes(30, "big")
    return Address(base58.b58encode(b"\x12\x20" + digest).decode())


def wide(prefix: int) -> BucketKey:
    """The bucket of one 16-bit prefix."""
    return buckets_of_prefix(prefix)[0]


def narrow(prefix: int) -> BucketKey:
    """The bucket of the four 16-bit prefixes around this one."""
    return buckets_of_prefix(prefix)[1]


def id_of(ciphertext: bytes) -> str:
    """The id of a ciphertext."""
    return sha256(ciphertext).hexdigest()


ALICE = address(0xA11C)
BOB = address(0xB0B0)
NEAR_ALICE = address(0xA11D)
"""In Alice's narrow bucket, not in her wide one."""
BESIDE_ALICE = address(0xA11C, 1)
"""In both of Alice's buckets."""
NOBODYS = BucketKey(base58.b58encode(b"\x12\x20" + b"\xee" * 32).decode())
"""A bucket of no address."""
NAME = "name/sixteen-characters"


class Rig:
    """One broker over a memory store that may pretend to be durable."""

    def __init__(self, *, durable: bool = True, **settings: Any) -> None:
        self.store = MemoryStore()
        self.store.durable = durable
        self.settings = BrokerSettings(**settings)
        self.writer = self.store.open_writer()
        self.reader = self.store.open_reader()
        self.now = START_S
        self.wall_ms = START_MS
        self.failing = False
        """Commits are refused."""
        self.blind = False
        """Reads end with an error."""
        self.promote()

    def promote(self) -> None:
        """Drop the broker as it is and start another on the same store. All sessions are gone."""
        seen = self.writer.fence()
        recovered = self.writer.promote(seen, seen.epoch + 1, b"t" * 16)
        assert recovered is not None
        self.fence: Fence = recovered.fence
        self.broker = Broker(self.settings, recovered, self.store.durable, self.now, self.wall_ms)
        self.port = Port(lambda: None)
        self.memory = Memory()
        self.asked: deque[tuple[Read, list[object]]] = deque()
        self.batch: Batch | None = None
        self.outcome: Committed | None = None
        self.written = False
        self.batches: list[Batch] = []
        self.heard: dict[int, list[Effect]] = {}
        self.commit()

    def finish_all(self) -> None:
        """The writing thread does what it has to."""
        while self.batch is not None or self.begin():
            self.finish()

    def hand_over(self) -> None:
        """Another broker takes over all sessions, of which everything has been heard. Reads under way are lost."""
        self.listen()
        sessions = self.broker.export(self.port)
        self._again()
        self._handle(sessions)

    def lose(self, most_messages: int = 4, most_bytes: int = 1024) -> None:
        """The broker is lost, with effects that nobody has taken; a front that remembers its sessions goes on.

        It does so in batches of at most so many messages and bytes.
        """
        memory = self.memory
        self._again()
        self.memory = memory
        for batch in memory.resume_batches(most_messages, most_bytes):
            self._handle(batch)

    def _again(self) -> None:
        """Another broker; what was heard is not forgotten."""
        heard = self.heard
        self.promote()
        self.heard = heard

    # --- sessions

    def handle(self, number: int, *commands: Command) -> None:
        """Commands of one session; nothing else moves."""
        self._handle([(number, list(commands))])

    def _handle(self, batch: list[tuple[int, list[Command]]]) -> None:
        self.memory.given(batch)
        for _, error in self.broker.handle(self.port, batch, self.now, self.wall_ms):
            raise error

    def send(self, number: int, *commands: Command) -> list[Effect]:
        """Commands of one session, then settle: what it hears."""
        self.handle(number, *commands)
        self.settle()
        return self.hear(number)

    def open(
        self,
        number: int,
        owner: Address | None = None,
        *,
        window: int = 256,
        guest: bool = False,
        credit: int = 2**20,
    ) -> None:
        """A session begins."""
        self.handle(number, Open(owner, guest, window, credit))

    def attend(
        self,
        number: int,
        *places: str,
        ref: int = 0,
        reader: str | None = NAME,
        live: bool = True,
        newest: int | None = None,
    ) -> list[Effect]:
        """Subscribe to the session's own address and to buckets."""
        owner = self.port.sessions[number].address
        own = [Address(place) for place in places if place == owner]
        buckets = [BucketKey(place) for place in places if place != owner]
        return self.send(number, Attend(ref, own, buckets, reader if buckets else None, live, newest))

    def owner(self, number: int, owner: Address = ALICE, **opened: Any) -> list[Effect]:
        """A session that reads its own address."""
        self.open(number, owner, **opened)
        return self.attend(number, owner)

    def bucket_reader(
        self, number: int, bucket: str, reader: str | None = NAME, **opened: Any
    ) -> list[Effect]:
        """A session without a key that reads a bucket."""
        self.open(number, **opened)
        return self.attend(number, bucket, reader=reader)

    def publish(self, number: int, to: str, *ciphertexts: bytes, ref: int = 0, **fields: Any) -> list[Effect]:
        """Publish, one ref after the other, from a session that is opened if it is not; what it hears."""
        if number not in self.port.sessions:
            self.open(number)
        commands = [publish(to, text, ref + n, **fields) for n, text in enumerate(ciphertexts)]
        return self.send(number, *commands)

    def ack(self, number: int, *ciphertexts: bytes) -> list[Effect]:
        """Acknowledge; what the session hears."""
        return self.send(number, Ack([id_of(text) for text in ciphertexts]))

    def nack(
        self, number: int, code: Any, *ciphertexts: bytes, retry_after_ms: int | None = None
    ) -> list[Effect]:
        """Refuse; what the session hears."""
        return self.send(number, Nack([id_of(text) for text in ciphertexts], code, retry_after_ms))

    def unsubscribe(self, number: int, *places: str, ref: int = 0) -> list[Effect]:
        """End subscriptions; what the session hears."""
        owner = self.port.sessions[number].address
        own = [place for place in places if place == owner] or None
        return self.send(number, Unsubscribe(ref, own, [place for place in places if place != owner] or None))

    def status(self, number: int, ref: int = 0) -> list[Effect]:
        """Ask what waits."""
        return self.send(number, StatusRequest(ref))

    def credit(self, number: int, size: int) -> list[Effect]:
        """The session's socket has taken this many bytes."""
        return self.send(number, Credit(size))

    def close(self, number: int) -> None:
        """The session ends."""
        self.handle(number, Close())
        self.settle()
        self.heard.pop(number, None)

    def listen(self) -> None:
        """Take all effects; results as they come one by one."""
        taken = self.broker.take_effects(self.port)
        self.memory.taken(taken, self.broker.confirmed(self.port))
        for number, effects in taken:
            self.heard.setdefault(number, []).extend(one for effect in effects for one in _plain(effect))

    def hear(self, number: int) -> list[Effect]:
        """All that one session has heard since it was asked last."""
        self.listen()
        return self.heard.pop(number, [])

    # --- the store, in one go

    def settle(self) -> None:
        """Answer everything and commit what presses, until nothing is left. Ticks do not pass."""
        while True:
            self.ask()
            if self.asked:
                self.answer()
            elif self.batch is not None:
                self.finish()
            elif not self.broker.pressing or not self.begin():
                return

    def commit(self) -> None:
        """Settle, and commit also what waits for a tick (deletions and marks)."""
        self.settle()
        if self.begin():
            self.finish()
        self.settle()

    def advance(self, seconds: float, wall_ms: int | None = None) -> None:
        """Let time pass, as the engine does: tick when due, then commit. ``wall_ms``: the wall clock's own way."""
        end = self.now + seconds
        start, start_ms = self.now, self.wall_ms
        length_ms = seconds * 1000 if wall_ms is None else wall_ms
        while self.now < end:
            due = self.broker.next_deadline(self.now)
            assert due > self.now, "a deadline that is never reached would be a busy loop"
            self.now = min(end, due)
            self.wall_ms = start_ms + int(length_ms * (self.now - start) / seconds)
            self.tick()
            self.settle()

    def tick(self) -> None:
        """What the engine does at a deadline."""
        self.broker.tick(self.now, self.wall_ms)
        self.memory.expire(self.now)
        self.begin()

    def ticks(self, number: int = 2) -> None:
        """Let some ticks pass: two are enough for a message that waits for an ack to be written."""
        self.advance((number + 0.5) * TICK_S)

    # --- the store, step by step

    def ask(self) -> None:
        """The engine takes the questions."""
        self.asked.extend((read, []) for read in self.broker.reads)
        self.broker.reads.clear()

    def look(self) -> bool:
        """The reading thread takes the next snapshot."""
        self.ask()
        for read, answers in self.asked:
            if not answers:
                answers.append(self._read(read))
                return True
        return False

    def _read(self, read: Read) -> object:
        return StoreUnavailable("blind") if self.blind else read.ask(self.reader)

    def answer(self) -> bool:
        """The oldest answer is handed over."""
        self.ask()
        if not self.asked:
            return False
        read, answers = self.asked.popleft()
        self.broker.answer(read, answers[0] if answers else self._read(read), self.now, self.wall_ms)
        return True

    def begin(self) -> bool:
        """The next batch goes to the writing thread."""
        if self.batch is None:
            self.batch = self.broker.next_batch()
            if self.batch is not None:
                self.batches.append(self.batch)
                self.written = False
                return True
        return False

    def write(self) -> None:
        """The writing thread commits; nobody has been told yet."""
        assert self.batch is not None and not self.written
        self.written = True
        self.outcome = None
        if not self.failing:
            outcome = self.writer.commit(self.batch, self.fence)
            assert isinstance(outcome, Committed)
            self.outcome = outcome

    def finish(self) -> None:
        """The outcome is handed over."""
        if not self.written:
            self.write()
        self.batch = None
        self.broker.committed(self.outcome, self.now, self.wall_ms)

    # --- looking inside

    def stored(self) -> list[int]:
        """Sequence numbers of all that is in the store."""
        return sorted(self.store._state.messages)

    def footprint(self) -> dict[str, int]:
        """Sizes of all containers in the broker that are not empty, by path; caches left out."""
        found: dict[str, int] = {}
        _measure(self.broker, "", found, set())
        return found


def publish(to: str, ciphertext: bytes, ref: int = 0, **fields: Any) -> Publish:
    """A checked publish, to an address or a bucket."""
    place: dict[str, Any] = {"recipient": to} if is_address(to) else {"bucket": to}
    return Publish(ref, ciphertext, id=id_of(ciphertext), **place, **fields)


def is_address(place: str) -> bool:
    """Whether this is one of the addresses that ``address`` makes."""
    digest = base58.b58decode(place)[2:]
    return digest[2:31] == bytes(29)


def messages(effects: list[Effect]) -> list[Message]:
    """The messages among what a session heard."""
    return [effect for effect in effects if isinstance(effect, Message)]


def texts(effects: list[Effect]) -> list[bytes]:
    """The ciphertexts of the messages among what a session heard."""
    return [message.ciphertext for message in messages(effects)]


def results(effects: list[Effect]) -> list[tuple[int, str, str | None]]:
    """Ref, status and state or code of each result among what a session heard."""
    return [
        (effect.ref, effect.status, effect.state or effect.code)
        for effect in effects
        if isinstance(effect, Result)
    ]


def only(kind: type[T], effects: list[Effect]) -> T:
    """The one effect of this kind."""
    (found,) = (effect for effect in effects if isinstance(effect, kind))
    return found


def _plain(effect: Effect) -> list[Effect]:
    if not isinstance(effect, Outcomes):
        return [effect]
    pairs = zip(effect.refs, effect.ids, strict=True)
    return [Result(ref, effect.status, False, message) for ref, message in pairs]


_CACHES = (
    ".directory.addresses",
    ".directory.homes",
    ".directory.numbered",
    "._recent",
    "._publishing._known",  # a part of it
    "._ports",  # they stay attached without sessions
    "._delivery.attempts",
    ".counters",
)


def _measure(thing: object, path: str, found: dict[str, int], seen: set[int]) -> None:
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if path.endswith(_CACHES):
        return
    if isinstance(thing, list | dict | set | deque):
        if thing:
            found[path] = len(thing)
        return
    if not type(thing).__module__.startswith("posthouse.broker"):
        return
    names = [*getattr(thing, "__dict__", ()), *getattr(type(thing), "__slots__", ())]
    for name in names:
        _measure(getattr(thing, name), f"{path}.{name}", found, seen)
