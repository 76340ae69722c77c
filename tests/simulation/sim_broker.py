"""The model of a broker: promoted as the server has to do it, then commits messages and promises what is committed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from posthouse.single_active.member import Member
from sim_store import Fence, Outcome

if TYPE_CHECKING:
    from sim_member import SimMember

Answered = Callable[["SimMember"], None]
PROMOTION_TIMEOUT_S = 1.5
COMMIT_TIMEOUT_S = 0.6
PAUSE_S = 0.4
"""Between two messages."""


class SimBroker:
    """One process's broker, over all its promotions."""

    def __init__(self, member: SimMember) -> None:
        self.serves = False
        """It has been promoted and has not ended."""
        self._owner = member
        self._life = 0
        """Rises with everything that makes answers of before worthless."""
        self._fence = Fence(0, 0)
        self._next = 0
        self._in_flight = False
        self._stopping = False
        self._ended = True

    # --- promotion

    def promote(self, transitions: int) -> None:
        """Raise the epoch while the lease is held, read, serve."""
        self._life += 1
        life = self._life
        self._stopping = self._ended = False
        world = self._owner.world
        if not world.fenced:
            world.after(0.005, self._owner.receiver(lambda m: m.broker._promoted(life)))
            return
        store = world.store

        def read_fence() -> Answered:
            seen = store.fence
            return lambda m: m.broker._raise(life, seen, transitions)

        world.ask_store(self._owner, read_fence)
        world.after(PROMOTION_TIMEOUT_S, self._owner.receiver(lambda m: m.broker._too_slow(life)))

    def _raise(self, life: int, seen: Fence, transitions: int) -> None:
        if life != self._life or self._stopping:
            return
        if not self._owner.member.holds(self._owner.clock()):
            self._fail("the lease is gone")
            return
        store = self._owner.world.store
        epoch = max(seen.epoch, transitions) + 1
        fence = Fence(epoch, self._owner.world.random.getrandbits(64))

        def arrive() -> Answered:
            done = store.promote(seen, epoch, fence.token)
            length = len(store.log)
            return lambda m: m.broker._raised(life, fence if done else None, length)

        self._owner.world.ask_store(self._owner, arrive)

    def _raised(self, life: int, fence: Fence | None, length: int) -> None:
        if life != self._life or self._stopping:
            return
        if fence is None:
            self._fail("another promotion came between")
            return
        self._fence, self._next = fence, length
        self._promoted(life)

    def _promoted(self, life: int) -> None:
        if life != self._life or self._stopping:
            return
        self._owner.tell(Member.promoted)
        if self._owner.member.role.value == "active":
            self._life += 1
            self.serves = True
            if self._owner.world.fenced:
                self._work(self._life)

    def _too_slow(self, life: int) -> None:
        if life == self._life and not self._stopping and not self.serves:
            self._fail("the store does not answer")

    def _fail(self, reason: str) -> None:
        self._life += 1
        self._owner.tell(lambda member, now: member.promotion_failed(now, reason))

    # --- work

    def _work(self, life: int) -> None:
        """Commit the next message."""
        if life == self._life and self.serves and not self._stopping:
            self._in_flight = True
            self._commit(life, self._next, self._owner.world.random.getrandbits(64))

    def _commit(self, life: int, position: int, message: int) -> None:
        """Send a commit, and send it again until there is an answer."""
        if life != self._life or position != self._next:
            return
        world, fence = self._owner.world, self._fence
        store = world.store

        def arrive() -> Answered:
            outcome = store.commit(fence, position, message)
            return lambda m: m.broker._committed(life, position, message, outcome)

        world.ask_store(self._owner, arrive)
        world.after(
            COMMIT_TIMEOUT_S, self._owner.receiver(lambda m: m.broker._commit(life, position, message))
        )

    def _committed(self, life: int, position: int, message: int, outcome: Outcome) -> None:
        if life != self._life or position != self._next:
            return
        if outcome is Outcome.FENCED:
            self._owner.tell(Member.fenced)
            return
        self._next += 1
        self._in_flight = False
        self._owner.world.store.promise(position, message)
        if self._stopping:
            self._end(self._life)
        else:
            self._owner.world.after(PAUSE_S, self._owner.receiver(lambda m: m.broker._work(life)))

    # --- the end

    def stop(self, *, graceful: bool) -> None:
        """Finish the commit that is under way, or drop it; then say so."""
        self._stopping = True
        if not graceful:
            self._life += 1
        life = self._life
        delay = self._owner.world.random.random() * 0.05
        if not graceful or not self._in_flight:
            self._owner.world.after(delay, self._owner.receiver(lambda m: m.broker._end(life)))

    def _end(self, life: int) -> None:
        if life != self._life or self._ended:
            return
        self._ended = True
        self._life += 1
        self.serves = self._in_flight = False
        self._owner.tell(Member.stopped)
