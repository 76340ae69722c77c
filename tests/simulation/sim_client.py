"""A client in the simulation: reads its own address, publishes to all, and holds the relay to what it says.

It stays connected as long as the process of its front lives. Then it connects to another one, and publishes again
what had no answer. Being the reader, it alone knows what was acknowledged.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import TYPE_CHECKING

import base58
from posthouse.exchange import Attend, Close, Command, Effect, Open, Outcomes
from posthouse.identity import Address
from posthouse.wire.messages import Ack, CaughtUp, Message, Publish, Result, Subscribed
from sim_promises import Violation

if TYPE_CHECKING:
    from sim_front import SimFront
    from sim_world import World

WINDOW = 8
CREDIT = 2**20
"""More than all that a run sends."""
ATTEND_REF = 0
LEAVES = 0.05
"""Chance that it connects anew instead of publishing."""
FAR_APART_S = 2.5
"""The longest time between two publishes of a client."""
ADDRESSES = tuple(
    Address(base58.b58encode(b"\x12\x20" + number.to_bytes(1) * 32).decode()) for number in range(8)
)


class SimClient:
    """One user's device."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.name = f"client {number}"
        self.address = ADDRESSES[number]
        self._refs: dict[int, Publish] = {}
        """Published at this session, and without an answer."""
        self._front: SimFront | None = None
        self._session = 0
        self._next_ref = 1
        self._published = 0
        self._unanswered: list[Publish] = []
        """Of sessions that ended."""
        self._held: set[str] = set()
        world.clients.append(self)

    # --- its connection

    def connect(self) -> None:
        """To any member that is there; to one that is stopped too, which cannot be told from outside."""
        there = [member for member in self.world.members if member.alive]
        if not there:
            self._connect_later()
            return
        self._front = self.world.random.choice(there).front
        self._session = self._front.connect(self)
        self._send(
            Open(self.address, False, WINDOW, CREDIT), Attend(ATTEND_REF, [self.address], [], None, True)
        )
        again, self._unanswered = self._unanswered, []
        for publish in again:
            self._publish(publish.id, publish.ciphertext, str(publish.recipient))

    def disconnect(self) -> None:
        """It ends its connection, and begins another one soon."""
        if self._front is not None:
            self._send(Close())
            self._front.disconnect(self._session)
            self.disconnected()

    def disconnected(self) -> None:
        """Its connection has ended: the process of its front is gone, if it was not its own wish."""
        self._front = None
        self._held.clear()
        self._unanswered += self._refs.values()
        self._refs.clear()
        self._connect_later()

    def _connect_later(self) -> None:
        self.world.after((0.05 + self.world.random.random()) * self.world.scale, self.connect)

    def _send(self, *commands: Command) -> None:
        if self._front is not None:
            self._front.send(self._session, list(commands))

    @property
    def waits(self) -> int:
        """How many publishes have no answer."""
        return len(self._refs) + len(self._unanswered)

    # --- what it does

    def publisher(self, end: float) -> Callable[[], None]:
        """Begins to publish now and then, up to this time."""
        return lambda: self._publish_until(end)

    def _publish_until(self, end: float) -> None:
        world = self.world
        if world.random.random() < LEAVES:
            self.disconnect()
        elif self._front is not None:
            self._published += 1
            recipient = world.random.choice(world.clients).address
            text = f"message {self._published} of {self.name}".encode()
            message = sha256(text).hexdigest()
            world.promises.publish(message, self.name, recipient, self._published)
            self._publish(message, text, recipient)
        wait_s = world.random.random() * FAR_APART_S * world.scale
        if world.now + wait_s < end:
            world.after(wait_s, lambda: self._publish_until(end))

    def _publish(self, message: str, text: bytes, recipient: str) -> None:
        ref, self._next_ref = self._next_ref, self._next_ref + 1
        publish = Publish(ref, text, recipient, id=message)
        self._refs[ref] = publish
        self._send(publish)

    def _ack_later(self, message: str) -> None:
        random, session = self.world.random, self._session
        how = random.random()
        wait_s = random.random() * (0.006 if how < 0.6 else 0.3 if how < 0.9 else 3.0)

        def ack() -> None:
            if self._session == session and message in self._held and self._front is not None:
                self._held.discard(message)
                self.world.promises.ack(message)
                self._send(Ack([message]))

        self.world.after(wait_s, ack)

    # --- what it hears

    def hear(self, session: int, effects: list[Effect]) -> None:
        """Its front has something for it. Raises Violation."""
        if session != self._session:
            return
        for effect in effects:
            match effect:
                case Message():
                    self._message(effect)
                case Outcomes():
                    for ref, message in zip(effect.refs, effect.ids, strict=True):
                        self._answered(ref, message, effect.status)
                case Result():
                    state = effect.state if effect.status == "duplicate" else effect.status
                    self._answered(effect.ref, effect.id, str(state))
                case Subscribed() | CaughtUp():
                    pass
                case _:
                    raise Violation(f"{self.name} hears {effect}")

    def _answered(self, ref: int, message: str | None, state: str) -> None:
        publish = self._refs.pop(ref, None)
        if publish is None or publish.id != message:
            raise Violation(f"{self.name} has an answer to {ref} that it does not wait for")
        promises = self.world.promises
        if state in ("stored", "delivered"):
            promises.promise(publish.id, state)
            promises.check(self.world.store.messages())
        elif state in ("rejected", "undeliverable"):
            promises.refused.add(publish.id)
        else:
            raise Violation(f"{self.name} is told that its message is {state}")

    def _message(self, message: Message) -> None:
        promises = self.world.promises
        if promises.strict and message.id in self._held:
            raise Violation(f"{self.name} holds {message.id[:8]} and is sent it again")
        if message.recipient != self.address:
            raise Violation(f"{self.name} is sent what is for {message.recipient}")
        if len(self._held) >= WINDOW:
            raise Violation(f"{self.name} is sent more than its window")
        promises.come(message.id)
        self._held.add(message.id)
        self._ack_later(message.id)
