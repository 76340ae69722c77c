"""What a front remembers of its sessions at a broker, so that they can go on at the next one without asking anybody.

It sits where commands and effects pass. What it gives the next broker is, in this order: every session with the acks
that may be lost and with what its client holds; their subscriptions and open requests; their publishes without a
result. Acks first, so that a publish made again that a reader has acknowledged is ``delivered`` at once.
"""

from __future__ import annotations

from posthouse.exchange import Attend, Close, Command, Credit, Effect, Open, Outcomes, Resume
from posthouse.link.remembered import Remembered
from posthouse.wire.messages import (
    Ack,
    CaughtUp,
    Error,
    Message,
    Nack,
    Publish,
    Receipt,
    Result,
    Status,
    StatusRequest,
    Subscribed,
    Unsubscribe,
)

Commands = list[tuple[int, list[Command]]]
Effects = list[tuple[int, list[Effect]]]


class Memory:
    """All sessions of a front."""

    def __init__(self) -> None:
        self._sessions: dict[int, Remembered] = {}
        self._batches = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def given(self, batch: Commands) -> None:
        """These commands go to the broker, as one batch."""
        self._batches += 1
        for number, commands in batch:
            for command in commands:
                self._command(number, command)

    def taken(self, sessions: Effects, confirmed: int) -> None:
        """These effects came. ``confirmed``: so many batches have no ack that the loss of the broker would undo."""
        for number, effects in sessions:
            session = self._sessions.get(number)
            if session is not None:
                for effect in effects:
                    _effect(session, effect)
        for session in self._sessions.values():
            if session.acked:
                session.confirmed(confirmed)

    def resume(self) -> Commands:
        """All sessions, for the next broker. It is to be its first batch, and ``given`` is to be told of it."""
        self._batches = 0
        batch: Commands = [(number, [session.resume()]) for number, session in self._sessions.items()]
        batch += [(number, asked) for number, one in self._sessions.items() if (asked := one.asked())]
        batch += [(number, again) for number, one in self._sessions.items() if (again := one.unanswered())]
        return batch

    def _command(self, number: int, command: Command) -> None:
        if isinstance(command, Open):
            self._sessions[number] = Remembered(command)
            return
        if isinstance(command, Resume):
            session = self._sessions[number] = Remembered(command.opened)
            session.take_up(command, self._batches)
            return
        known = self._sessions.get(number)
        if known is None:
            return
        match command:
            case Publish():
                known.publish(command)
            case Ack(ids=ids):
                known.ack(ids, self._batches)
            case Nack():
                known.nack(command, self._batches)
            case Credit(bytes=size):
                known.credit += size
            case Attend():
                known.attend(command)
            case Unsubscribe() | StatusRequest():
                known.requests.append(command)
            case Close():
                del self._sessions[number]


def _effect(session: Remembered, effect: Effect) -> None:
    match effect:
        case Message():
            session.message(effect)
        case Outcomes():
            session.outcomes(effect)
        case Result():
            session.result(effect)
        case Receipt():
            session.receipt(effect)
        case Subscribed(ref=ref) | Status(ref=ref):
            session.answered(ref)
        case CaughtUp(ref=ref):
            session.caught_up(ref)
        case Error(ref=ref):
            session.refused(ref)
        case _:
            pass  # it ends the session, or changes nothing that has to be known
