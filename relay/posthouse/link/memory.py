"""What a front remembers of its sessions at a broker, so that they can go on at the next one without asking anybody.

It sits where commands and effects pass. What it gives the next broker is, in this order: what clients have
acknowledged; every session with what its client holds; their subscriptions and open requests; their publishes without
a result. Acks first, so that a publish made again that a reader has acknowledged is ``delivered`` at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, repeat
from typing import Final

from posthouse.broker.resuming import NOBODY
from posthouse.exchange import Attend, Close, Command, Commands, Credit, Effects, Held, Open, Resume
from posthouse.link.acknowledged import Acknowledged
from posthouse.link.remembered import Remembered
from posthouse.wire.messages import Ack, Nack, Publish, StatusRequest, Unsubscribe

ITEM_BYTES: Final = 256
"""More than anything takes in a batch beside ciphertexts and lists."""
_NONE = repeat(None)
_Item = tuple[int, list[Command], int, int]
"""Number of a session, commands, how many messages and bytes that is."""


class Memory:
    """All sessions of a front. It stays the same when the broker changes."""

    def __init__(self) -> None:
        self.acknowledged = Acknowledged()
        self._sessions: dict[int, Remembered] = {}
        self._batches = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def given(self, batch: Commands) -> None:
        """These commands go to the broker, as one batch."""
        self._batches += 1
        sessions = self._sessions
        acked: list[Held] = []
        for number, commands in batch:
            session = sessions.get(number)
            for command in commands:
                if session is None:
                    session = self._begin(number, command)
                elif type(command) is Publish:
                    if command.ref in session.publishes:
                        session.publish_more(command)
                    else:
                        session.publishes[command.ref] = command
                elif type(command) is Ack:
                    known = map(session.held.pop, command.ids, _NONE)
                    acked += [held for held in known if held is not None]
                elif type(command) is Credit:
                    session.credit += command.bytes
                elif type(command) is Close:
                    del sessions[number]
                    session = None
                else:
                    _seldom(session, command, acked)
        if acked:
            self.acknowledged.add(self._batches, acked)

    def taken(self, sessions: Effects, confirmed: int) -> None:
        """These effects came. ``confirmed``: so many batches have no ack that the loss of the broker would undo."""
        for number, effects in sessions:
            session = self._sessions.get(number)
            if session is not None:
                session.hears(effects)
        self.acknowledged.confirmed(confirmed)

    def awaits_results(self) -> bool:
        """Whether a publish has no result yet."""
        return any(session.publishes for session in self._sessions.values())

    def expire(self, now: float) -> None:
        """Time has passed: to be called about once a second. ``now``: seconds of a running clock."""
        self.acknowledged.expire(now)

    # --- the next broker

    def numbers(self) -> list[int]:
        """All sessions."""
        return list(self._sessions)

    @property
    def pressing(self) -> set[int]:
        """The sessions that hold, publish or ask something: they notice when the next broker makes them wait."""
        return {number for number, session in self._sessions.items() if session.pressing}

    def resume_batches(
        self, max_messages: int, max_bytes: int, numbers: Sequence[int] | None = None
    ) -> Iterator[Commands]:
        """All sessions, for the next broker: each batch is to be its next, and ``given`` is to be told of it.

        ``numbers``: only these sessions at first; the others follow by ``more_batches``. Commands of a session have to
        wait until the last of the batches with it was given; only ``Close`` need not. A batch has at most so many
        messages (held, acknowledged or published; everything else counts as one) and bytes, if a single command has
        no more. Should the next broker be lost before the last batch, begin anew.
        """
        self._batches = 0
        acks = self._acks_again(max_messages)
        sessions = self._again(list(self._sessions) if numbers is None else numbers)
        return self._in_batches(chain(acks, sessions), max_messages, max_bytes)

    def more_batches(self, max_messages: int, max_bytes: int, numbers: Sequence[int]) -> Iterator[Commands]:
        """Further sessions, for a broker that was given the first of them."""
        return self._in_batches(self._again(numbers), max_messages, max_bytes)

    def forget(self, numbers: Iterable[int]) -> None:
        """A broker of this process has these sessions now: it can say by itself how they stand."""
        for number in numbers:
            self._sessions.pop(number, None)

    def forget_acknowledged(self) -> None:
        """A broker of this process was told what was acknowledged; if it is fenced first, that comes once more."""
        self.acknowledged = Acknowledged()

    def _in_batches(self, items: Iterator[_Item], max_messages: int, max_bytes: int) -> Iterator[Commands]:
        batch: Commands = []
        messages = size = 0
        for number, commands, some, more in items:
            if batch and (messages + some > max_messages or size + more > max_bytes):
                yield batch
                batch, messages, size = [], 0, 0
                if number != NOBODY and number not in self._sessions:
                    continue  # it has ended meanwhile
            messages += some
            size += more
            if batch and batch[-1][0] == number != NOBODY:  # nothing can follow on its Close
                batch[-1][1].extend(commands)
            else:
                batch.append((number, commands))
        if batch:
            yield batch

    def _acks_again(self, max_messages: int) -> Iterator[_Item]:
        for acked in self.acknowledged.again(max_messages):
            tell = Resume(Open(None, False, 1, 0), [], acked, [], {})
            yield NOBODY, [tell, Close()], len(acked), len(acked) * ITEM_BYTES

    def _again(self, numbers: Sequence[int]) -> Iterator[_Item]:
        for number in numbers:
            session = self._sessions.get(number)  # it may have ended since the batch before
            if session is not None:
                size = 1 + len(session.held) + len(session.wanted)
                yield number, [session.resume()], size, size * ITEM_BYTES
        for number in numbers:
            session = self._sessions.get(number)
            for asked in session.reading.asked() if session is not None else ():
                yield number, [asked], 1, ITEM_BYTES * (1 + _places(asked))
        for number in numbers:
            session = self._sessions.get(number)
            for publish in session.unanswered() if session is not None else ():
                if number not in self._sessions:
                    break
                yield number, [publish], 1, ITEM_BYTES + len(publish.ciphertext)

    def _begin(self, number: int, command: Command) -> Remembered | None:
        """The first command of a session that is not open."""
        if isinstance(command, Open):
            self._sessions[number] = Remembered(command)
        elif isinstance(command, Resume):
            if number == NOBODY:
                self.acknowledged.given(command.acked, self._batches)
            else:
                self._sessions[number] = Remembered(command.opened)
                self._sessions[number].take_up(command)
        return self._sessions.get(number)


def _places(command: Command) -> int:
    if isinstance(command, Attend | Unsubscribe):
        return len(command.addresses or ()) + len(command.buckets or ())
    return 0


def _seldom(session: Remembered, command: Command, acked: list[Held]) -> None:
    match command:
        case Nack():
            acked += session.nack(command)
        case Attend():
            session.reading.attend(command)
        case Unsubscribe() | StatusRequest():
            session.reading.ask(command)
        case _:
            pass  # it is open already
