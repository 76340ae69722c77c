"""The life of a broker in one process, over all its promotions: promoted as the server has to do it, run, ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from posthouse.broker import Broker, BrokerSettings
from posthouse.link.frames import Frame
from posthouse.single_active.member import Member
from posthouse.store.interface import TOKEN_BYTES, Batch, Committed, Doubt, Fence, Recovered
from sim_attachments import Attachments
from sim_engine import SimEngine
from sim_link import Link
from sim_store import SimStore

if TYPE_CHECKING:
    from sim_member import SimMember

Answered = Callable[["SimMember"], None]
PROMOTION_TIMEOUT_S = 1.5
SETTINGS = BrokerSettings(connections_per_key=64)
"""A client that loses its connection leaves a session behind until the front that had it is known to be lost."""


class SimBroker:
    """One process's broker, and the fronts that are attached to it."""

    def __init__(self, member: SimMember) -> None:
        self.serves = False
        """It has been promoted and has not ended."""
        self._owner = member
        world = member.world
        self._store = world.store if world.fenced else SimStore(world.promises)
        self._attachments: Attachments = member.attachments_type()
        self._life = 0
        """Rises with everything that makes answers of before worthless."""
        self._engine: SimEngine | None = None
        self._stopping = False
        self._ended = True

    # --- links of other members

    def received(self, link: Link, frame: Frame) -> None:
        """The front of another member says something."""
        self._attachments.received(link, frame)

    def cut(self, link: Link) -> None:
        """A link to it is lost."""
        self._attachments.cut(link)

    # --- promotion

    def promote(self, transitions: int) -> None:
        """Raise the epoch while the lease is held, reserve numbers, serve."""
        self._life += 1
        life, store = self._life, self._store
        self._stopping = self._ended = False

        def read_fence() -> Answered:
            seen = store.fence
            return lambda m: self._raise(life, seen, transitions)

        self._owner.ask(store, read_fence)
        self._owner.world.after(PROMOTION_TIMEOUT_S, self._owner.receiver(lambda m: self._too_slow(life)))

    def _raise(self, life: int, seen: Fence, transitions: int) -> None:
        if life != self._life or self._stopping:
            return
        if not self._owner.member.holds(self._owner.clock()):
            self._fail("the lease is gone")
            return
        store = self._store
        epoch = max(seen.epoch + 1, transitions)
        token = self._owner.world.random.getrandbits(8 * TOKEN_BYTES).to_bytes(TOKEN_BYTES)

        def arrive() -> Answered:
            recovered = store.promote(seen, epoch, token)
            return lambda m: self._raised(life, recovered)

        self._owner.ask(store, arrive)

    def _raised(self, life: int, recovered: Recovered | None) -> None:
        if life != self._life or self._stopping:
            return
        if recovered is None:
            self._fail("another promotion came between")
            return
        durable = self._owner.world.fenced
        broker = Broker(SETTINGS, recovered, durable, self._owner.clock(), self._owner.wall_ms())
        batch = broker.next_batch()
        assert batch is not None
        self._commit_first(life, broker, recovered.fence, batch)

    def _commit_first(self, life: int, broker: Broker, fence: Fence, batch: Batch) -> None:
        store = self._store

        def arrive() -> Answered:
            outcome = store.commit(fence, batch)
            return lambda m: self._promoted(life, broker, fence, outcome)

        self._owner.ask(store, arrive)

    def _promoted(self, life: int, broker: Broker, fence: Fence, outcome: Committed | Doubt) -> None:
        if life != self._life or self._stopping:
            return
        if not isinstance(outcome, Committed):
            self._fail("fenced by another promotion")
            return
        broker.committed(outcome, self._owner.clock(), self._owner.wall_ms())
        self._owner.tell(Member.promoted)
        if self._owner.member.role.value == "active":
            self._life += 1
            self.serves = True
            self._engine = self._owner.engine_type(self._owner, broker, fence, self._store)
            self._owner.front.serve(self._engine)
            self._attachments.serve(self._engine)

    def _too_slow(self, life: int) -> None:
        if life == self._life and not self._stopping and not self.serves:
            self._fail("the store does not answer")

    def _fail(self, reason: str) -> None:
        self._life += 1
        self._owner.tell(lambda member, now: member.promotion_failed(now, reason))

    # --- the end

    def stop(self, *, graceful: bool) -> None:
        """Finish what is under way, or drop it; then say so."""
        self._stopping = True
        if graceful and self._engine is not None:
            life = self._life
            self._owner.front.close_local()
            self._engine.drain(lambda: self._drained(life))
            return
        self._life += 1
        if self._engine is not None:
            self._engine.drop()
            self._engine = None
            self._owner.front.leave_local()
            self._attachments.serve(None)
        self._end_soon()

    def _drained(self, life: int) -> None:
        if life == self._life:
            self._engine = None
            self._owner.front.leave_local()
            self._attachments.serve(None)
            self._end_soon()

    def _end_soon(self) -> None:
        life = self._life
        delay_s = self._owner.world.random.random() * 0.05
        self._owner.world.after(delay_s, self._owner.receiver(lambda m: self._end(life)))

    def _end(self, life: int) -> None:
        if life != self._life or self._ended:
            return
        self._ended = True
        self._life += 1
        self.serves = False
        self._owner.tell(Member.stopped)
