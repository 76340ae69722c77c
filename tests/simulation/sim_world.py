"""Virtual time, the lease, the store, and the ways between them and the members. All chance comes from one seed."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import TYPE_CHECKING

from fault_lease import LeaseTable
from posthouse.single_active.leases.interface import Record
from posthouse.single_active.outputs import Read, Refusal, Request
from posthouse.single_active.timing import QUICK, Timing
from sim_promises import Promises, Violation
from sim_store import SimStore

if TYPE_CHECKING:
    from sim_client import SimClient
    from sim_link import Link
    from sim_member import SimMember

LATEST_S = 2.0
"""No request is under way for longer."""
LATEST_ON_A_LINK_S = 0.5


class World:
    """What is outside of the members. ``now`` is the true time in seconds."""

    def __init__(self, random: Random, store_type: type[SimStore], timing: Timing, *, fenced: bool) -> None:
        self.now = 0.0
        self.random = random
        self.fenced = fenced
        self.timing = timing
        self.scale = timing.duration_s / QUICK.duration_s
        """All that lasts in a run lasts longer by this."""
        self.promises = Promises(strict=fenced)
        self.store = store_type(self.promises)
        """Shared by all, if it fences; otherwise nobody uses it."""
        self.table = LeaseTable()
        self.table.changed.append(self._changed)
        self.members: list[SimMember] = []
        self.clients: list[SimClient] = []
        self.links: list[Link] = []
        self.cut_ways: set[tuple[str, str]] = set()
        """From the first to the second member no frame of a link arrives."""
        self.link_slow = 0.0
        """Chance that a frame is late by up to LATEST_ON_A_LINK_S, and with it what follows."""
        self.unchecked = False
        """A member was told something since it was last looked who acts: time alone lets nobody begin to."""
        self.loss = 0.0
        """Chance that a message to or from the lease is lost."""
        self.slow = 0.0
        """Chance that one is late by up to LATEST_S."""
        self.deleted = False
        """The lease was, at some time."""
        self.spared_until = 0.0
        """No fault that is to come alone begins before."""
        self.down = False
        """Nobody reaches the lease."""
        self.history: list[str] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def after(self, delay_s: float, call: Callable[[], None]) -> None:
        """Let something happen later."""
        self._count += 1
        heappush(self._events, (self.now + delay_s, self._count, call))

    def run(self, until: float) -> None:
        """Let time pass. Raises Violation."""
        events = self._events
        while events and events[0][0] <= until:
            self.now, _, call = heappop(events)
            call()
            if self.unchecked:
                self.unchecked = False
                self._check_alone()
        self.now = until

    def say(self, text: str) -> None:
        """Note what happens, for the story of a run that fails."""
        self.history.append(f"{self.now:9.4f}  {text}")

    def delay(self) -> float:
        """How long a message is under way."""
        random = self.random.random
        if self.slow and random() < self.slow:
            return random() * LATEST_S
        return 0.001 + 0.009 * random()

    def lost(self) -> bool:
        """Whether a message is lost for no other reason than chance."""
        return self.loss > 0 and self.random.random() < self.loss

    # --- the lease

    def request(self, member: SimMember, request: Request) -> None:
        """A request of a member sets out."""
        if self.down and self.random.random() < 0.5:
            self.after(0.005, member.receiver(lambda m: m.answer(request.id, Refusal.FAILED)))
        elif not (self.down or member.deaf_requests or self.lost() or member.loses_next_request()):
            self.after(self.delay(), lambda: self._arrive(member, request))

    def _arrive(self, member: SimMember, request: Request) -> None:
        if self.down:
            return
        answer: Record | Refusal | None
        if isinstance(request, Read):
            answer = self.table.record
        else:
            answer = self.table.write(request.record, request.expected) or Refusal.CONFLICT
        receive = member.receiver_of(request, answer)
        if not (member.deaf_answers or self.lost() or member.loses_next_answer()):
            self.after(self.delay(), receive)

    def _changed(self, record: Record | None) -> None:
        for member in self.members:
            if member.alive and not (self.down or member.blind or member.deaf_answers or self.lost()):
                self.after(self.delay(), member.receiver(lambda m: m.observe(record)))

    # --- the store

    def ask_store(self, member: SimMember, ask: Callable[[], Callable[[SimMember], None] | None]) -> None:
        """Something happens at the store, and its answer comes back to the member, unless it is cut off."""

        def arrive() -> None:
            answer = ask()
            if answer is not None and not member.cut_from_store:
                self.after(self.delay(), member.receiver(answer))

        if not member.cut_from_store:
            self.after(self.delay(), arrive)

    # --- links

    def link_delay(self) -> float:
        """How long a frame is under way, if those before it are not later."""
        random = self.random.random
        if self.link_slow and random() < self.link_slow:
            return random() * LATEST_ON_A_LINK_S
        return 0.0005 + 0.002 * random()

    def reset_links(self, member: str) -> None:
        """All links of a member break, with or without what is under way."""
        self.say(f"links of {member} break")
        self.links = [link for link in self.links if not link.gone]
        for link in self.links:
            if member in link.ends:
                link.reset(loses=self.random.random() < 0.5)

    def join_links(self) -> None:
        """All ways of links are whole again."""
        self.cut_ways.clear()
        for link in self.links:
            link.arrive()

    # --- what must hold

    def _check_alone(self) -> None:
        """At most one acts; on a store that fences, where doubt is allowed, at most one is sure that it may.

        On such a store a member that starts after a lease was deleted claims at once: there the fence decides.
        """
        if self.fenced and self.deleted:
            return
        if self.fenced:
            sure = [member.name for member in self.members if member.holds()]
        else:
            sure = [member.name for member in self.members if member.acts()]
        if len(sure) > 1:
            raise Violation(f"{' and '.join(sure)} act as holders at {self.now:.4f}")
