"""Where the sessions of a front are served: by the broker of this process, by another member's, or by nobody just now.

Each takes the commands of a front and gives it effects. What ends one of them is ``retire``: it gives what the sessions
take with them to the one that follows.

Commands that nobody can take are kept, in a bound; beyond it, and after a while, publishes among them are rejected
``not-active``. One that a broker may have is never rejected: the next broker is given it once more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, Protocol

from posthouse.errors import PosthouseError
from posthouse.exchange import Command, Commands, Effect, Effects
from posthouse.link import frames
from posthouse.link.memory import Memory
from posthouse.server.engine import Engine, boot_s
from posthouse.wire.codes import Code
from posthouse.wire.messages import Publish, Result

COMMAND_BYTES: Final = 256
"""What a command counts beside its ciphertext: about what it takes in memory."""
RETRY_MS: Final = 1000
PIECE_MESSAGES: Final = 4096
PIECE_BYTES: Final = 8 * 2**20
"""A batch of commands that sessions go on with is given in pieces of about this size."""
EXPIRY_S: Final = 1.0
"""How often a front forgets what it need not remember any longer."""
MOST_UNSENT_BYTES: Final = 32 * 2**20
"""A link that leaves more than this unread takes no publishes."""
Failures = list[tuple[int, Exception]]


class HeldTooMuch(PosthouseError):
    """A session said more than can be kept while no instance is active."""

    def __str__(self) -> str:
        return "no instance is active, and this connection asks for too much meanwhile"


class Baggage(NamedTuple):
    """With what the sessions of a front go from one upstream to the next."""

    effects: Effects
    """What they still have to hear of the one that they leave."""
    memory: Memory
    """What the next broker has to know of them."""
    kept: Commands
    """What they have said that no broker has seen."""


class Upstream(Protocol):
    """One place in which sessions are served."""

    def submit(self, batch: Commands) -> Failures:
        """Take commands. Returns the sessions that have to end, and why."""

    def take(self) -> Effects:
        """Effects for sessions."""

    def awaits_results(self) -> bool:
        """Whether a publish has no result yet."""

    def retire(self) -> Baggage:
        """The sessions leave."""


class Local:
    """The broker of this process."""

    def __init__(self, engine: Engine, wake: Callable[[], None], memory: Memory, kept: Commands) -> None:
        """The sessions go on here."""
        self._engine = engine
        self._port = engine.open_port(wake)
        self._later: Commands | None = None
        for batch in memory.resume_batches(PIECE_MESSAGES, PIECE_BYTES):
            engine.submit(self._port, batch)
        engine.submit(self._port, kept)

    def close(self) -> None:
        """The broker takes no commands any more: keep them for the next one."""
        self._later = []

    def submit(self, batch: Commands) -> Failures:
        """Give them to the broker, unless it takes none any more."""
        if self._later is not None:
            self._later += batch
            return []
        return self._engine.submit(self._port, batch)

    def take(self) -> Effects:
        """What the broker has."""
        return self._engine.take_effects(self._port)

    def awaits_results(self) -> bool:
        """Whether the broker owes one."""
        return any(session.awaits_result for session in self._port.sessions.values())

    def retire(self) -> Baggage:
        """To be called before the broker is dropped."""
        effects, commands = self._engine.part(self._port)
        memory = Memory()
        memory.given(commands)
        return Baggage(effects, memory, self._later or [])


class Link(Protocol):
    """What is needed of a link."""

    @property
    def unsent_bytes(self) -> int:
        """Bytes that the operating system has not taken yet."""

    def send(self, frame: frames.Frame) -> None:
        """Send at once. Does nothing when the link is lost."""


class Remote:
    """The broker of another member, over a link. ``epoch`` is that broker's."""

    def __init__(
        self, link: Link, epoch: int, wake: Callable[[], None], memory: Memory, kept: Commands
    ) -> None:
        """The sessions go on there."""
        self.link = link
        self.epoch = epoch
        self._wake = wake
        self._memory = memory
        self._next_expiry = 0.0
        self._effects: Effects = []
        for batch in memory.resume_batches(PIECE_MESSAGES, PIECE_BYTES):
            self._give(batch)
        for batch in _in_pieces(kept):
            self._give(batch)

    def submit(self, batch: Commands) -> Failures:
        """Send them."""
        if batch:
            if self.link.unsent_bytes > MOST_UNSENT_BYTES:
                batch = _without_publishes(batch, self._effects)
                self._wake()
            self._give(batch)
        return []

    def _give(self, batch: Commands) -> None:
        self._memory.given(batch)
        self.link.send(frames.Commands(self.epoch, batch))

    def receive(self, frame: frames.Effects) -> None:
        """Effects came from there."""
        self._memory.taken(frame.batch, frame.confirmed)
        now = boot_s()
        if now >= self._next_expiry:
            self._next_expiry = now + EXPIRY_S
            self._memory.expire(now)
        self._effects += frame.batch
        self._wake()

    def take(self) -> Effects:
        """What has come."""
        effects, self._effects = self._effects, []
        return effects

    def awaits_results(self) -> bool:
        """Whether the broker owes one."""
        return self._memory.awaits_results()

    def awaits_confirmation(self) -> bool:
        """Whether an ack could still be undone by the loss of the broker."""
        return self._memory.acknowledged.open > 0

    def retire(self) -> Baggage:
        """The link, or the broker behind it, has ended."""
        return Baggage(self.take(), self._memory, [])


class Nobody:
    """No broker for the moment."""

    def __init__(self, max_bytes: int, wake: Callable[[], None], memory: Memory, kept: Commands) -> None:
        """``max_bytes``: of commands that are kept."""
        self._max_bytes = max_bytes
        self._wake = wake
        self._memory = memory
        self._kept: Commands = []
        self._bytes = 0
        self._effects: Effects = []
        self._refusing = False
        self._keep(kept, bounded=False)

    def submit(self, batch: Commands) -> Failures:
        """Keep them, or reject what cannot be kept."""
        return self._keep(batch, bounded=True)

    def _keep(self, batch: Commands, *, bounded: bool) -> Failures:
        failures: Failures = []
        for number, commands in batch:
            size = sum(map(_size, commands))
            if self._refusing or self._bytes + size > self._max_bytes:
                commands = self._refuse(number, commands)
                size = sum(map(_size, commands))
            if bounded and self._bytes + size > 2 * self._max_bytes:
                failures.append((number, HeldTooMuch()))
            elif commands:
                self._bytes += size
                self._kept.append((number, commands))
        return failures

    def refuse(self) -> None:
        """It has taken too long: reject the publishes that no broker has seen, those that come too."""
        self._refusing = True
        kept, self._kept, self._bytes = self._kept, [], 0
        self._keep(kept, bounded=False)

    def _refuse(self, number: int, commands: list[Command]) -> list[Command]:
        rejected: list[Effect] = [_rejected(one) for one in commands if isinstance(one, Publish)]
        if rejected:
            self._effects.append((number, rejected))
            self._wake()
        return [one for one in commands if not isinstance(one, Publish)]

    def take(self) -> Effects:
        """The rejections."""
        effects, self._effects = self._effects, []
        return effects

    def awaits_results(self) -> bool:
        """Whether a publish is kept, or waits for its result since a broker has gone."""
        kept = any(isinstance(one, Publish) for _, some in self._kept for one in some)
        return kept or self._memory.awaits_results()

    def retire(self) -> Baggage:
        """Somebody is there again."""
        return Baggage(self.take(), self._memory, self._kept)


def _rejected(publish: Publish) -> Result:
    return Result(
        publish.ref,
        "rejected",
        True,
        publish.id,
        code=Code.NOT_ACTIVE,
        detail="no instance of the relay is active",
        retry_after_ms=RETRY_MS,
    )


def _without_publishes(batch: Commands, effects: Effects) -> Commands:
    """The other commands; a rejection of each publish is appended to the effects."""
    left: Commands = []
    for number, commands in batch:
        rejected = [_rejected(one) for one in commands if isinstance(one, Publish)]
        if rejected:
            effects.append((number, list(rejected)))
            commands = [one for one in commands if not isinstance(one, Publish)]
        if commands:
            left.append((number, commands))
    return left


def _in_pieces(commands: Commands) -> Iterator[Commands]:
    piece: Commands = []
    count = size = 0
    for number, some in commands:
        piece.append((number, some))
        count += len(some)
        size += sum(_size(one) for one in some)
        if count >= PIECE_MESSAGES or size >= PIECE_BYTES:
            yield piece
            piece, count, size = [], 0, 0
    if piece:
        yield piece


def _size(command: Command) -> int:
    if isinstance(command, Publish):
        return len(command.ciphertext) + COMMAND_BYTES
    return COMMAND_BYTES
