"""A member in the simulation: the product's ``Member``, and beside it a broker and a front.

``SimBroker`` takes the place of what the server does on ``Promote`` and ``StopWork``, ``SimFront`` that of its front.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf

from msgspec import Struct
from posthouse.link.memory import Memory
from posthouse.single_active.elector import Candidate, Elector
from posthouse.single_active.leases.interface import Record
from posthouse.single_active.member import Member, Promote, RoleChanged, StopWork
from posthouse.single_active.outputs import Answer, Read, Request, Write
from posthouse.single_active.roles import Role
from sim_attachments import Attachments
from sim_broker import SimBroker
from sim_engine import SimEngine
from sim_front import SimFront
from sim_store import SimStore
from sim_world import World

SPARED_S = 4.0
"""A member that lost a single request loses no other one so soon."""
START_MS = 1_700_000_000_000
OWN_STORE_S = 0.001
"""What a store in the own process takes to answer."""
Receiver = Callable[["SimMember"], None]


class SimMember:
    """One member, over all starts of its process."""

    member_type = Member
    elector_type = Elector
    memory_type = Memory
    engine_type = SimEngine
    attachments_type = Attachments

    def __init__(self, world: World, name: str) -> None:
        random = world.random
        self.world = world
        self.name = name
        self.alive = False
        self.paused = False
        self.rate = 1.0 + random.uniform(-0.01, 0.01) / 2
        self.wall_jump_s = 0.0
        self.deaf_requests = False
        """What it sends to the lease does not arrive."""
        self.deaf_answers = False
        """What the lease sends does not arrive."""
        self.blind = False
        """No watch of its works."""
        self.cut_from_store = False
        self.lose_request = False
        self.lose_answer = False
        self.activations = 0
        self.doubts = 0
        self.resumed = 0
        """Sessions that went on at another broker."""
        self.member: Member
        self.broker: SimBroker
        self.front: SimFront
        self.starts = 0
        self._offset = random.uniform(0.0, 1e6)
        self._spared_until = 0.0
        self._waiting: list[Receiver] = []
        self._tick = 0
        self._tick_due = inf
        world.members.append(self)

    # --- its life

    def start(self) -> None:
        """A new process, with an id of its own."""
        if self.alive:
            return
        self.starts += 1
        self.alive, self.paused = True, False
        self._waiting.clear()
        candidate = Candidate(f"{self.name}.{self.starts}")
        timing = self.world.timing
        jitter = self.world.random.random()
        elector = self.elector_type(candidate, timing, fenced=self.world.fenced, jitter=jitter)
        self.member = self.member_type(elector, retry_s=0.5)
        self.broker = SimBroker(self)
        self.front = SimFront(self, self.starts)
        self._do(lambda: self.member.ready(self.clock()))

    def crash(self) -> Record | None:
        """The process is gone. The lease's record if it is this process's: what a proof of death would be for."""
        if not self.alive:
            return None
        self.world.say(f"{self.name} crashes")
        self.alive = False
        self.world.reset_links(self.name)
        self.front.end()
        record = self.world.table.record
        return record if record and record.holder == f"{self.name}.{self.starts}" else None

    def pause(self) -> None:
        """Nothing is executed."""
        if self.alive:
            self.world.say(f"{self.name} is paused")
            self.paused = True

    def resume(self) -> None:
        """It goes on, with whatever came meanwhile; timers and answers in any order."""
        if not self.paused:
            return
        self.world.say(f"{self.name} goes on")
        self.paused = False
        self.world.unchecked = True
        waiting, self._waiting = self._waiting, []
        self.world.random.shuffle(waiting)
        for receive in waiting:
            if self.alive and not self.paused:
                receive(self)

    def clock(self) -> float:
        """The running clock of this member."""
        return self._offset + self.rate * self.world.now

    def wall_ms(self) -> int:
        """Its wall clock, in milliseconds of the Unix epoch."""
        return START_MS + int((self.world.now + self.wall_jump_s) * 1000)

    # --- what reaches it

    def receiver(self, receive: Receiver) -> Callable[[], None]:
        """A call for the world that reaches this start of the process, and no later one."""
        start = self.starts

        def reach() -> None:
            if self.alive and self.starts == start:
                if self.paused:
                    self._waiting.append(receive)
                else:
                    receive(self)

        return reach

    def receiver_of(self, request: Request, answer: Answer) -> Callable[[], None]:
        """The answer to a request of this process; one of an earlier start has another id in its record."""
        return self.receiver(lambda m: m.answer(request.id, answer))

    def answer(self, request: int, answer: Answer) -> None:
        """The lease has answered."""
        self._do(lambda: self.member.answered(self.clock(), request, answer))

    def observe(self, record: Record | None) -> None:
        """The watch has seen a record."""
        self._do(lambda: self.member.observed(self.clock(), record))

    def unwatch(self) -> None:
        """The watch broke."""
        self._do(lambda: self.member.unwatched(self.clock()))

    def hear_of_death(self, version: str) -> None:
        """Another member is dead for certain."""
        self._do(lambda: self.member.proved_dead(self.clock(), version))

    def hand_over(self, successor: str) -> None:
        """Somebody asks for another member."""
        self._do(lambda: self.member.hand_over(self.clock(), "asked", successor))

    def tell(self, call: Callable[[Member, float], Sequence[Struct]]) -> None:
        """The broker has something to say."""
        self._do(lambda: call(self.member, self.clock()))

    def loses_next_request(self) -> bool:
        """Whether a fault takes this request."""
        if not self.lose_request or self.world.now < self._spared_until:
            return False
        self.lose_request = False
        self._spared_until = self.world.now + SPARED_S * self.world.scale
        return True

    def loses_next_answer(self) -> bool:
        """Whether a fault takes this answer."""
        if not self.lose_answer or self.world.now < self._spared_until:
            return False
        self.lose_answer = False
        self._spared_until = self.world.now + SPARED_S * self.world.scale
        return True

    def ask(self, store: SimStore, ask: Callable[[], Receiver]) -> None:
        """Something happens at a store; its answer comes back, unless the store is away."""
        if store is self.world.store:
            self.world.ask_store(self, ask)
        else:

            def answer(member: SimMember) -> None:
                ask()(member)

            self.world.after(OWN_STORE_S, self.receiver(answer))

    # --- what it does

    def acts(self) -> bool:
        """Whether an effect of its broker could leave right now."""
        return self.alive and not self.paused and self.broker.serves and self.member.may_act(self.clock())

    def holds(self) -> bool:
        """Whether it is sure right now that the lease is its own."""
        return self.alive and not self.paused and self.member.holds(self.clock())

    def _do(self, call: Callable[[], Sequence[Struct]]) -> None:
        self.world.unchecked = True
        for output in call():
            if isinstance(output, Read | Write):
                self.world.request(self, output)
            elif isinstance(output, Promote):
                self.broker.promote(output.transitions)
            elif isinstance(output, StopWork):
                self.broker.stop(graceful=output.graceful)
            elif isinstance(output, RoleChanged):
                self._changed(output)
        record = self.member.elector.record
        if record is not None and not record.released:
            self.front.follow(record.holder)
        due = self.member.next_deadline()
        if due != self._tick_due:
            self._tick_due = due
            self._tick += 1
            if due < inf:
                late = 0.001 * self.world.random.random()
                delay = max(0.0, due - self.clock()) / self.rate + late
                tick = self._tick
                self.world.after(delay, self.receiver(lambda m: m._on_tick(tick)))

    def _on_tick(self, tick: int) -> None:
        if tick == self._tick:
            self._tick_due = inf
            self._do(lambda: self.member.tick(self.clock()))

    def _changed(self, change: RoleChanged) -> None:
        self.world.say(f"{self.name}.{self.starts} is {change.role.value}: {change.reason}")
        if change.role is Role.ACTIVE and change.before is Role.PROMOTING:
            self.activations += 1
        elif change.role is Role.IN_DOUBT:
            self.doubts += 1
