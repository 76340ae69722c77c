"""This process as a member: carries out what the election asks for, in the order that it asks for it.

The election (`single_active`) decides; here the broker is promoted, ended and dropped, and the lease's driver hears of
it. A change of the active costs nobody a connection: the front's upstream is switched, never closed. Whatever fails or
hangs on the way, the election hears of it, and another member can take over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

import structlog
from msgspec import Struct

from posthouse.errors import PosthouseError
from posthouse.server.engine import Engine, boot_s
from posthouse.server.promotion import NotPromoted
from posthouse.single_active.elector import Candidate, Elector
from posthouse.single_active.leases.interface import Lease, Record
from posthouse.single_active.member import Member, Promote, RoleChanged, StopWork
from posthouse.single_active.outputs import Became, Observed
from posthouse.single_active.roles import Role
from posthouse.single_active.runner import Runner
from posthouse.single_active.timing import Timing

RETRY_S: Final = 0.5
"""How long not to claim after a promotion that failed, or after handing over."""
WRITER_PATIENCE_S: Final = 0.5
"""A writer that is at work for longer after its broker was dropped ends the process."""
_log = structlog.get_logger()


class Work(Protocol):
    """What a member does while it is active."""

    def begin(self, before: Record | None) -> None:
        """The broker is promoted: serve. ``before``: the lease as it was before our claim."""

    def close(self, reason: str) -> None:
        """Take no commands any more; what was taken is finished."""

    def end(self, reason: str) -> None:
        """The broker is about to be dropped: part from it."""


class Membership:
    """One member. ``start`` stands for election; ``leave`` gives it up for good."""

    def __init__(
        self,
        engine: Engine,
        work: Work,
        lease: Lease,
        candidate: Candidate,
        timing: Timing,
        *,
        fenced: bool,
        jitter: float,
        store_patience_s: float,
        on_role: Callable[[RoleChanged], None],
        on_record: Callable[[], None],
        on_stuck: Callable[[], None],
    ) -> None:
        """``fenced``: the store checks every commit. ``store_patience_s``: how long a promotion, or a hand-over, waits
        for the store.

        ``on_record``: the lease shows something new. ``on_stuck``: the store's writer hangs; end the process.
        """
        self.me = candidate
        self.left = asyncio.Event()
        """Set when ``leave`` is done: nothing of the lease is ours any more."""
        self.settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when this member is active or has seen another; an exception if its first promotion failed."""
        self._engine = engine
        self._work = work
        self._lease = lease
        self._store_patience_s = store_patience_s
        self._on_role = on_role
        self._on_record = on_record
        self._on_stuck = on_stuck
        member = Member(Elector(candidate, timing, fenced=fenced, jitter=jitter), RETRY_S)
        engine.authority = member
        self._runner = Runner(
            member,
            lease,
            clock=boot_s,
            request_timeout_s=timing.request_timeout_s,
            on_output=self._take,
        )
        self._seen: Record | None = None
        """The last record of another member since we were active ourselves."""
        self._dead = ""
        """Id of a member that is known to have ended."""
        self._task: asyncio.Task[None] | None = None
        self._dropped = False
        """There was a broker since the last promotion began, and it is no more."""

    # --- questions

    @property
    def role(self) -> Role:
        """What this member is."""
        return self._runner.machine.role

    @property
    def record(self) -> Record | None:
        """The lease as it was last seen."""
        return self._runner.machine.elector.record

    # --- inputs

    def start(self) -> None:
        """Stand for election."""
        self._runner.start(lambda member, now: member.ready(now))

    def hand_over(self, reason: str, successor: str = "") -> None:
        """Let another member be active. Passed over when this one is not."""
        self._runner.tell(lambda member, now: member.hand_over(now, reason, successor))

    def leave(self, reason: str, successor: str = "", *, graceful: bool = True) -> None:
        """Give it up for good; ``left`` says when that is done. Without ``graceful``, also said later, by no drain."""
        self._runner.tell(lambda member, now: member.leave(now, reason, successor, graceful=graceful))

    def fenced(self) -> None:
        """The store refused a commit."""
        self._runner.tell(lambda member, now: member.fenced(now))

    def look(self) -> None:
        """Something is known to have changed: read the lease now."""
        self._runner.tell(lambda member, now: member.unwatched(now))

    def is_dead(self, peer: str) -> None:
        """Nobody listens any more where the holder listened: its process has ended."""
        record = self.record
        if record is not None and record.peer == peer and not record.released and record.holder != self.me.id:
            _log.warning("the active member has ended", member=record.holder)
            self._dead = record.holder
            self._prove(record)

    async def close(self) -> None:
        """End everything; the lease is left as it is, but for what ends with its process."""
        await self._runner.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._lease.close()

    # --- what the election asks for

    def _take(self, output: Struct) -> None:
        match output:
            case Promote(transitions=transitions):
                self._replace(self._promote(transitions))
            case StopWork():
                self._stop_work(output)
            case RoleChanged():
                self._role_changed(output)
            case Observed(record=record):
                self._observed(record)
            case Became(state=state, reason=reason):
                _log.debug("election", state=state.value, reason=reason)
                self._on_record()
            case _:
                pass

    def _role_changed(self, changed: RoleChanged) -> None:
        _log.info("role", role=changed.role.value, before=changed.before.value, reason=changed.reason)
        if changed.role is Role.ACTIVE and changed.before is Role.IN_DOUBT:
            self._engine.sure_again()
        if changed.role is Role.STOPPED:
            self.left.set()
        self._on_role(changed)

    def _observed(self, record: Record | None) -> None:
        if record is not None and record.holder and record.holder != self.me.id:
            self._seen = record
            if not record.released:
                self._settle()
                if record.holder == self._dead:
                    self._prove(record)
        self._on_record()

    def _prove(self, record: Record) -> None:
        self._runner.tell(lambda member, now: member.proved_dead(now, record.version))

    # --- promotion

    async def _promote(self, transitions: int) -> None:
        self._dropped = False
        try:
            async with asyncio.timeout(self._store_patience_s):
                await self._engine.promote(transitions)
        except Exception as failure:
            self._not_promoted(failure)
            return
        self._runner.tell(lambda member, now: member.promoted(now))
        if self.role is not Role.ACTIVE:
            return
        _log.info("promoted", epoch=self._engine.epoch, relay=self._engine.relay_id)
        before, self._seen = self._seen, None
        try:
            self._work.begin(before)
        except Exception:
            _log.exception("the broker was promoted, but could not begin")
            self.hand_over("could not begin")
        self._settle()

    def _not_promoted(self, failure: Exception) -> None:
        error: PosthouseError
        if isinstance(failure, PosthouseError):
            error = failure
        elif isinstance(failure, TimeoutError):
            error = NotPromoted(f"the store did not answer within {self._store_patience_s:g} s")
        else:
            error = NotPromoted(f"the promotion failed: {failure!r}")
        _log.error("promotion failed", reason=str(error), exc_info=None if error is failure else failure)
        self._settle(error)
        self._runner.tell(lambda member, now: member.promotion_failed(now, str(error)))

    def _settle(self, error: Exception | None = None) -> None:
        if self.settled.done():
            return
        if error is None:
            self.settled.set_result(None)
        else:
            self.settled.set_exception(error)
            self.settled.exception()  # it has been logged, whether or not somebody waits for it

    # --- the end of a broker

    def _stop_work(self, asked: StopWork) -> None:
        if not self._engine.active:
            self._replace(self._see_writer_end() if self._dropped else self._give_promotion_up())
        elif asked.graceful and not self._engine.fenced:
            try:
                self._work.close(asked.reason)
            except Exception:
                _log.exception("closing the broker failed")
            self._replace(self._drain(asked.reason))
        else:
            self._drop(asked.reason)
            self._replace(self._see_writer_end())

    async def _give_promotion_up(self) -> None:
        """What the writer is still at, for a promotion that ends, promises nothing: the next one's fence is another."""
        if not await self._engine.writer_is_idle(WRITER_PATIENCE_S):
            _log.warning("the store has not answered yet: the lease is given up all the same")
        self._stopped()

    async def _drain(self, reason: str) -> None:
        drained = False
        try:
            async with asyncio.timeout(self._store_patience_s):
                await self._engine.drain()
                drained = self._engine.store_healthy
        except TimeoutError:
            _log.error("handing over without the store: it did not take what waited")
        except Exception:
            _log.exception("draining the broker failed")
        self._drop(reason)
        if drained:
            self._stopped()
        else:
            await self._see_writer_end()

    def _drop(self, reason: str) -> None:
        if not self._engine.active:
            return
        self._dropped = True
        try:
            self._work.end(reason)
        except Exception:
            _log.exception("the front cannot part from its broker: this process ends")
            self._on_stuck()
        finally:
            self._engine.drop()

    async def _see_writer_end(self) -> None:
        if not await self._engine.writer_is_idle(WRITER_PATIENCE_S):
            _log.error("the store's writer hangs: this process ends", seconds=WRITER_PATIENCE_S)
            self._on_stuck()
        self._stopped()

    def _stopped(self) -> None:
        self._runner.tell(lambda member, now: member.stopped(now))

    def _replace(self, work: Coroutine[Any, Any, None]) -> None:
        """Whatever was under way for the broker ends with this."""
        if self._task is not None:
            self._task.cancel()
        self._task = asyncio.create_task(work)
        self._task.add_done_callback(_say_why_it_failed)


def _say_why_it_failed(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("a change of the active failed", exc_info=error)
