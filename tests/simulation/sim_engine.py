"""Runs the product's broker in virtual time, from the end of a promotion to the end of its work.

It asks the store and commits one batch at a time, again and again until there is an answer; it lets effects leave
only if its member may act, and in doubt only behind a commit that the store has checked.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from operator import itemgetter
from typing import TYPE_CHECKING

from posthouse.broker import Broker, Port
from posthouse.exchange import Commands, Effects
from posthouse.server.gate import Gate
from posthouse.server.parting import answers_only, without_messages
from posthouse.single_active.member import Member
from posthouse.store.interface import FENCED, Batch, Committed, Doubt, Fence
from sim_promises import Violation
from sim_store import SimStore

if TYPE_CHECKING:
    from sim_member import SimMember

ASK_AGAIN_S = 0.6
"""A question to the store without an answer is asked once more."""
STALLED_S = 3.0
"""A commit that takes longer: what waits behind it is refused."""
CHECK_S = 1.0
"""In doubt an idle broker asks the store whether it is fenced."""


class SimEngine:
    """One broker, and where its effects go."""

    def __init__(self, owner: SimMember, broker: Broker, fence: Fence, store: SimStore) -> None:
        self.broker = broker
        self.epoch = fence.epoch
        self.gate = Gate()
        self._owner = owner
        self._fence = fence
        self._store = store
        self._ports: dict[Port, Callable[[], None]] = {}
        self._batch_since = 0.0
        self._asking = False
        self._due = inf
        self._timers = 0
        self._next_check = 0.0
        self._dropped = False
        self._drained: Callable[[], None] | None = None
        """To be called when all that waits is committed."""
        self._see_to()

    # --- ports: what a front and the hosts of links need

    def open_port(self, wake: Callable[[], None]) -> Port:
        """A group of sessions; ``wake`` is called when they may have effects to take."""
        port = Port(lambda: None)
        self._ports[port] = wake
        return port

    def close_port(self, port: Port) -> None:
        """Its sessions are gone from here."""
        if self._ports.pop(port, None) is not None and not self._dropped:
            self.broker.close_port(port)
            self.gate.release(port)
            self._see_to()

    @property
    def now(self) -> float:
        """Seconds of the member's clock."""
        return self._now()[0]

    def submit(self, port: Port, batch: Commands) -> list[tuple[int, Exception]]:
        """Commands of the sessions of a port. Once the work ends they are passed over."""
        if self._dropped or self._drained is not None or port not in self._ports:
            return []
        for _, error in self.broker.handle(port, batch, *self._now()):
            raise error
        self._see_to()
        return []

    def take_effects(self, port: Port) -> Effects:
        """The effects of a port that may leave now. Raises Violation."""
        may, sure = self.authority()
        if self._dropped or not may:
            return []
        effects = self._take(port)
        if sure:
            effects = self.gate.release(port) + effects
        else:
            effects = self.gate.hold(port, effects) + self.gate.take(port)
        if effects and not self._owner.member.may_act(self._owner.clock()):
            raise Violation(f"effects leave {self._owner.name}, which may not act")
        return effects

    def _take(self, port: Port) -> Effects:
        return sorted(Broker.take_effects(port), key=itemgetter(0))

    def farewell(self, port: Port) -> Effects:
        """What sessions of a port still have to hear when the broker is dropped: no messages where no store fences."""
        effects = self.gate.release(port) + self._take(port)
        may = self._owner.world.fenced or self._owner.member.may_act(self._owner.clock())
        return effects if may else answers_only(effects)

    def part(self, port: Port) -> tuple[Effects, Commands]:
        """The same, and all of them as commands for the next broker."""
        effects = self.gate.release(port) + self._take(port)
        commands = self.broker.export(port)
        if not (self._owner.world.fenced or self._owner.member.may_act(self._owner.clock())):
            commands = without_messages(effects, commands)
            effects = answers_only(effects)
        return effects, commands

    def _now(self) -> tuple[float, int]:
        return self._owner.clock(), self._owner.wall_ms()

    # --- what the broker wants

    def _see_to(self) -> None:
        if self._dropped:
            return
        broker = self.broker
        self._ask()
        self._wake()
        if broker.pressing or self.gate.wants_check or self._drained is not None:
            self._commit()
        if self._drained is not None and broker.ledger.committing is None:
            self._dropped = True
            self._drained()
            return
        now = self._owner.clock()
        due = broker.next_deadline(now)
        if due < self._due:
            self._due = due
            self._timers += 1
            timer = self._timers
            self._after((due - now) / self._owner.rate, lambda: self._tick(timer))

    def _after(self, delay_s: float, call: Callable[[], None]) -> None:
        def come() -> None:
            if not self._dropped:
                call()

        self._owner.world.after(delay_s, self._owner.receiver(lambda member: come()))

    def _tick(self, timer: int) -> None:
        if timer != self._timers:
            return
        self._due = inf
        now, wall_ms = self._now()
        ledger = self.broker.ledger
        self.broker.tick(now, wall_ms)
        if ledger.committing is not None and not ledger.stalled and now - self._batch_since > STALLED_S:
            ledger.stall()
            self._owner.world.promises.strict = False
        if not self._owner.member.holds(now) and now >= self._next_check:
            self._next_check = now + CHECK_S
            self.gate.ask()
        self._commit()
        self._see_to()

    def _ask(self) -> None:
        """The reading thread takes one question after the other."""
        if self._asking or not self.broker.reads:
            return
        self._asking = True
        read = self.broker.reads.pop(0)
        store = self._store
        answered = False

        def ask() -> None:
            if answered:
                return
            self._owner.ask(store, lambda: _then(read.ask(store.reader), answer))
            self._after(ASK_AGAIN_S, ask)

        def answer(found: object) -> None:
            nonlocal answered
            if not answered and not self._dropped:
                answered, self._asking = True, False
                self.broker.answer(read, found, *self._now())
                self._see_to()

        ask()

    # --- commits

    def _commit(self) -> None:
        batch = self.broker.next_batch(self.gate.wants_check)
        if batch is None:
            return
        self.gate.begun()
        self._batch_since = self._owner.clock()
        store, fence = self._store, self._fence

        def send() -> None:
            if self.broker.ledger.committing is not batch:
                return
            self._owner.ask(
                store,
                lambda: _then(store.commit(fence, batch), lambda outcome: self._decided(batch, outcome)),
            )
            self._after(ASK_AGAIN_S, send)

        send()

    def _decided(self, batch: Batch, outcome: Committed | Doubt) -> None:
        if self._dropped or self.broker.ledger.committing is not batch:
            return
        if outcome is FENCED:
            self._dropped = True
            self._owner.tell(Member.fenced)
            return
        assert isinstance(outcome, Committed)
        self.broker.committed(outcome, *self._now())
        self.gate.passed()
        self._see_to()

    # --- what leaves

    def authority(self) -> tuple[bool, bool]:
        """Whether effects may leave now, and whether they may without a check of the store."""
        now = self._owner.clock()
        return self._owner.member.may_act(now), self._owner.member.holds(now)

    def _wake(self) -> None:
        for port, wake in list(self._ports.items()):
            if port.awake or self.gate:
                wake()

    # --- the end

    def drain(self, drained: Callable[[], None]) -> None:
        """Take no commands any more, commit what waits, let its effects leave; then say so."""
        self.broker.hurry()
        self._drained = drained
        self._see_to()

    def drop(self) -> None:
        """Nothing leaves any more."""
        self._dropped = True


def _then(answer: object, take: Callable[..., None]) -> Callable[[SimMember], None]:
    return lambda member: take(answer)
