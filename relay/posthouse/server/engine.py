"""Runs the broker of this process while there is one: brings it time, asks the store for it, and wakes its ports.

Whether this member may act is asked where effects leave, for every batch of them. While its lease is in doubt, effects
leave only behind a commit that the store has checked (`gate.py`).

All of the broker's work happens in turns of the event loop; the store's two threads answer through
``call_soon_threadsafe``. At most one batch is being committed; the next one starts at the end of the loop turn in
which it is needed, so that everything read in that turn goes into it.

A batch whose outcome is unknown is neither promised nor rejected: the engine asks the store to resolve it until
there is an answer. A batch that is fenced is the end of what the broker can do: ``on_fenced`` is called once, and
nothing more leaves it; whoever runs the member then drops it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol, TypeVar

import structlog

from posthouse.broker import Broker, BrokerSettings, Port
from posthouse.broker.clock import LEAD_WORTH_A_WARNING_MS
from posthouse.broker.directory import Read
from posthouse.exchange import Commands, Effects
from posthouse.server.gate import Gate
from posthouse.server.parting import answers_only, without_messages
from posthouse.server.promotion import first_commit, raise_epoch
from posthouse.server.turn import Turn
from posthouse.store.interface import (
    FENCED,
    Batch,
    Committed,
    Doubt,
    Fence,
    StoreUnavailable,
    Writer,
)
from posthouse.store.threads import StoreThreads

RESOLVE_FIRST_S: Final = 0.1
RESOLVE_LONGEST_S: Final = 2.0
CLOCK_WARNING_PAUSE_S: Final = 3600.0
AFTER_A_FAILURE_S: Final = 1.0
"""When the broker's timer fires again after a tick that failed."""
CHECK_S: Final = 1.0
"""How often an idle broker in doubt has the store check its fence."""
DRAINED_AFTER_BATCHES: Final = 3
"""So many batches without a message hold all acks and marks that waited when a drain began."""
T = TypeVar("T")
_log = structlog.get_logger()

if hasattr(time, "CLOCK_BOOTTIME"):

    def boot_s() -> float:
        """Seconds of a clock that runs through suspend."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

else:

    def boot_s() -> float:
        """Seconds of the nearest to a clock that runs through suspend that this system has."""
        return time.monotonic()


def wall_ms() -> int:
    """Milliseconds of the Unix epoch."""
    return int(time.time() * 1000)


class Authority(Protocol):
    """Says what this member may do. ``now``: seconds of the clock that runs through suspend."""

    def may_act(self, now: float) -> bool:
        """Whether effects may leave at this moment."""

    def holds(self, now: float) -> bool:
        """Whether the lease is surely ours at this moment."""


class Engine:
    """The store of this process, and its broker from a promotion to ``drop``."""

    def __init__(
        self,
        threads: StoreThreads,
        settings: BrokerSettings,
        *,
        loop: asyncio.AbstractEventLoop | None = None,
        commit_timeout_s: float = 10.0,
        on_fenced: Callable[[], None],
    ) -> None:
        """``threads`` deliver their answers by the loop's ``call_soon_threadsafe``; ``close`` ends them."""
        self.authority: Authority
        """To be set before the first promotion."""
        self.relay_id = ""
        """The id of the relay, the same on all its members; known after ``open``."""
        self.epoch = 0
        """Of the last promotion here; 0 before."""
        self.fenced = False
        """The broker was fenced: it is to be dropped."""
        self.times_fenced = 0
        """How often that happened to a broker of this process."""
        self.store_healthy = True
        """False from a commit or a read that failed to the next commit that succeeds, or to the end of its broker."""
        self.on_commit: Callable[[float], None] = lambda seconds: None
        """Told how long each commit took, in seconds."""
        self._settings = settings
        self._commit_timeout_s = commit_timeout_s
        self._loop = loop or asyncio.get_running_loop()
        self._on_fenced = on_fenced
        self.turn = Turn(self._loop)
        """Ends of turns: for the front and its sockets too, so that all of a turn comes to one end."""
        self._threads = threads
        self._broker: Broker | None = None
        self._gate = Gate()
        self._next_check = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._next_clock_warning = 0.0
        self.turn.last = self._end_turn
        self._in_turn = False
        self._now = 0.0
        self._wall_ms = 0
        self._started_s = 0.0
        self._resolve_s = RESOLVE_FIRST_S
        self._resolving: asyncio.TimerHandle | None = None
        self._fence: Fence
        self._decision: asyncio.Future[None] | None = None
        self._purges: set[Callable[[int | StoreUnavailable], None]] = set()

    # --- promotion

    @property
    def broker(self) -> Broker:
        """The active broker; only while there is one."""
        assert self._broker is not None, "not promoted"
        return self._broker

    @property
    def active(self) -> bool:
        """Whether a broker runs here."""
        return self._broker is not None

    async def open(self) -> None:
        """Learn what is the same for all members. Raises StoreUnavailable."""
        self.relay_id = await self._on_writer(lambda writer: writer.relay_id())

    async def store_answers(self) -> bool:
        """Whether the store answers, and is the one that was opened. Raises StoreUnavailable."""
        return await self._on_writer(lambda writer: writer.relay_id()) == self.relay_id

    async def promote(self, transitions: int) -> None:
        """Raise the epoch, to ``transitions`` at least, and start a broker that is ready for commands.

        Raises NotPromoted if the lease was not held to the end, StoreUnavailable if the store cannot write.
        """
        assert self._broker is None, "a broker runs already"
        ask = self._on_writer
        recovered = await raise_epoch(ask, lambda: self.authority.holds(boot_s()), transitions)
        fence = recovered.fence
        broker = Broker(self._settings, recovered, self._threads.durable, boot_s(), wall_ms())
        broker.committed(await first_commit(ask, broker, fence), boot_s(), wall_ms())
        self.epoch = fence.epoch
        self.store_healthy = True
        self.fenced = False
        self._fence = fence
        self._gate = Gate()
        self._broker = broker
        now = boot_s()
        self._set_timer(broker.next_deadline(now), now)

    async def _on_writer(self, work: Callable[[Writer], T]) -> T:
        done: asyncio.Future[T] = self._loop.create_future()

        def answered(answer: T | BaseException) -> None:
            if done.cancelled():
                return
            if isinstance(answer, BaseException):
                done.set_exception(answer)
            else:
                done.set_result(answer)

        self._threads.submit_write(work, answered)
        return await done

    # --- ports

    @staticmethod
    def open_port(wake: Callable[[], None]) -> Port:
        """A port for a group of sessions; ``wake`` is called when effects begin to wait at it."""
        return Port(wake)

    @property
    def now(self) -> float:
        """Seconds of the clock that runs through suspend, read once a loop turn."""
        if not self._in_turn:
            self._begin_turn()
        return self._now

    def submit(self, port: Port, batch: Commands) -> list[tuple[int, Exception]]:
        """Take the commands of sessions of a port; see ``Broker.handle``. Nothing becomes of them without a broker."""
        if not self._in_turn:
            self._begin_turn()
        if not batch or self._broker is None:
            return []
        return self._broker.handle(port, batch, self._now, self._wall_ms)

    def _begin_turn(self) -> None:
        self._in_turn = True
        self._now = boot_s()
        self._wall_ms = wall_ms()
        self.turn.come()

    def _end_turn(self) -> None:
        if self._in_turn:
            self._in_turn = False
            if self._broker is not None:
                self._see_to(self._broker, self._now)

    def take_effects(self, port: Port) -> Effects:
        """The effects of a port that may leave now."""
        broker = self._broker
        if broker is None:
            return []
        now = self.now
        if self.authority.holds(now) and not self._gate:
            return broker.take_effects(port)
        if not self.authority.may_act(now):
            return []
        effects = broker.take_effects(port)
        if self.authority.holds(now):
            return self._gate.release(port) + effects
        return self._gate.hold(port, effects) + self._gate.take(port)

    def sure_again(self) -> None:
        """The lease is ours without doubt: what was held back may leave."""
        for port in self._gate.ports():
            port.wake()

    def confirmed(self, port: Port) -> int:
        """See ``Broker.confirmed``."""
        return port.confirmed if self._broker is None else self._broker.confirmed(port)

    def close_port(self, port: Port) -> None:
        """A port is gone with all its sessions."""
        if self._broker is not None:
            self._broker.close_port(port)
            self._gate.release(port)
            self._see_to(self._broker, boot_s())

    def part(self, port: Port) -> tuple[Effects, Commands]:
        """What sessions of a port still have to hear of this broker, and all of them as commands for the next one.

        For a broker that is to be dropped, graceful or not. What has been committed or acknowledged is true
        whoever is active. Where no store fences, no message leaves a member that may not act.
        """
        made = self._gate.release(port) + self.broker.take_effects(port)
        effects = self._allowed(made)
        commands = self.broker.export(port)
        return effects, commands if effects is made else without_messages(made, commands)

    def farewell(self, port: Port) -> Effects:
        """As ``part``, for a port whose sessions are remembered at its other end."""
        return self._allowed(self._gate.release(port) + self.broker.take_effects(port))

    def _allowed(self, effects: Effects) -> Effects:
        return effects if self._threads.durable or self.authority.may_act(boot_s()) else answers_only(effects)

    async def purge(self, address: str) -> int:
        """Empty the mailbox of a canonical address: the number of messages deleted.

        Raises StoreUnavailable, also when the broker is dropped meanwhile: then some may be deleted.
        """
        done: asyncio.Future[int] = self._loop.create_future()

        def purged(answer: int | StoreUnavailable) -> None:
            if done.done():
                return
            if isinstance(answer, StoreUnavailable):
                done.set_exception(answer)
            else:
                done.set_result(answer)

        self._purges.add(purged)
        try:
            self.broker.purge(address, purged)
            self._see_to(self.broker, boot_s())
            return await done
        finally:
            self._purges.discard(purged)

    # --- the broker's wishes

    def _see_to(self, broker: Broker, now: float) -> None:
        """After a turn of the broker: ask what it wants to know, commit what presses, set the timer."""
        if broker.reads:
            reads, broker.reads[:] = broker.reads[:], []
            for read in reads:
                self._threads.submit_read(read.ask, partial(self._answered, broker, read))
        if broker.pressing or self._gate.wants_check:
            self._commit()
        # A timer that fires within a tick anyway needs no second look: that is the case under load.
        if self._due - now > self._settings.tick_s:
            due = broker.next_deadline(now)
            if due < self._due:
                self._set_timer(due, now)

    def _set_timer(self, due: float, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        self._timer = self._loop.call_later(max(0.0, due - now), self._tick)

    def _tick(self) -> None:
        self._timer = None
        broker = self._broker
        if broker is None:
            return
        now = boot_s()
        # Set before anything can fail: without a timer nothing that is out with a reader would ever be stored.
        self._set_timer(now + AFTER_A_FAILURE_S, now)
        broker.tick(now, wall_ms())
        ledger = broker.ledger
        if (
            ledger.committing is not None
            and not ledger.stalled
            and now - self._started_s > self._commit_timeout_s
        ):
            _log.error(
                "a commit takes too long: messages are refused until it ends", seconds=self._commit_timeout_s
            )
            self.store_healthy = False
            ledger.stall()
        self._watch_clock(broker, now)
        # Also for a store that failed: with nobody sent here meanwhile, no other commit would find it well again.
        if now >= self._next_check and not (self.store_healthy and self.authority.holds(now)):
            self._next_check = now + CHECK_S
            self._gate.ask()
        self._commit()
        self._due = now + self._settings.tick_s * 2
        self._see_to(broker, now)
        self._set_timer(broker.next_deadline(now), now)

    def _watch_clock(self, broker: Broker, now: float) -> None:
        """Say it, once an hour, when the store clock and the wall clock are far apart."""
        lead_ms = broker.clock.lead_ms
        if abs(lead_ms) > LEAD_WORTH_A_WARNING_MS and now >= self._next_clock_warning:
            self._next_clock_warning = now + CLOCK_WARNING_PAUSE_S
            _log.warning(
                "the wall clock has jumped: expiry follows it slowly", store_clock_lead_s=lead_ms // 1000
            )

    def _answered(self, broker: Broker, read: Read, answer: object) -> None:
        if broker is self._broker:
            if isinstance(answer, StoreUnavailable):
                if self.store_healthy:
                    _log.error("the store does not answer", reason=str(answer))
                self.store_healthy = False  # until a commit shows that it is well
            elif isinstance(answer, BaseException):
                _log.error("reading the store failed", error=repr(answer))
            now = boot_s()
            broker.answer(read, answer, now, wall_ms())
            self._see_to(broker, now)

    # --- commits

    def _commit(self) -> None:
        broker = self._broker
        if broker is None or self.fenced:
            return
        batch = broker.next_batch(self._gate.wants_check)
        if batch is not None:
            self._gate.begun()
            self._started_s = boot_s()
            fence = self._fence
            self._threads.submit_write(
                lambda writer: writer.commit(batch, fence), partial(self._decided, broker, batch)
            )

    def _decided(self, broker: Broker, batch: Batch, outcome: Committed | Doubt | BaseException) -> None:
        if broker is not self._broker:
            return
        now = boot_s()
        if isinstance(outcome, Committed):
            if not self.store_healthy:
                _log.warning("the store takes messages again")
            self.store_healthy = True
            self._resolve_s = RESOLVE_FIRST_S
            self.on_commit(now - self._started_s)
            broker.committed(outcome, now, wall_ms())
            for port in self._gate.passed():
                port.wake()
        elif isinstance(outcome, StoreUnavailable):
            if self.store_healthy:
                _log.error("the store does not take messages", reason=str(outcome))
            self.store_healthy = False
            broker.committed(None, now, wall_ms())
            self._gate.failed()
        elif outcome is FENCED:
            self._fenced()
            return
        else:
            self._doubt(broker, batch, outcome)
            return
        self._see_to(broker, now)
        self._wake_drain()

    def _doubt(self, broker: Broker, batch: Batch, outcome: object) -> None:
        """It is not known whether the batch is in the store: ask again until it is."""
        if self.store_healthy or isinstance(outcome, BaseException):
            _log.error("a commit is in doubt", batch=batch.number, reason=repr(outcome))
        self.store_healthy = False
        fence = self._fence
        self._resolving = self._loop.call_later(
            self._resolve_s,
            self._threads.submit_write,
            lambda writer: writer.resolve(batch, fence),
            partial(self._decided, broker, batch),
        )
        self._resolve_s = min(self._resolve_s * 2, RESOLVE_LONGEST_S)

    def _fenced(self) -> None:
        _log.error("fenced: another promotion owns the store", epoch=self.epoch)
        self.times_fenced += 1
        self.fenced = True
        self._stop_timers()
        self._wake_drain()
        self._on_fenced()

    def drop(self) -> None:
        """Have no broker any more. What it had for sessions is gone unless ``part`` was asked for it."""
        self._broker = None
        self.store_healthy = True
        self._gate = Gate()
        self._stop_timers()
        self._wake_drain()
        for purged in list(self._purges):
            purged(StoreUnavailable("this member is not active any more; purge again"))

    def _stop_timers(self) -> None:
        for timer in (self._timer, self._resolving):
            if timer is not None:
                timer.cancel()
        self._timer = self._resolving = None

    async def writer_is_idle(self, within_s: float) -> bool:
        """Whether the writer's thread has done all that it was given, within so many seconds."""
        try:
            async with asyncio.timeout(within_s):
                await self._on_writer(lambda writer: None)
        except TimeoutError:
            return False
        return True

    # --- the end

    async def drain(self) -> None:
        """Commit everything that waits, but not all the acks that readers go on sending.

        Returns early when the store does not take it, or after a fence.
        """
        batches = 0
        while self._broker is not None and not self.fenced:
            ledger = self._broker.ledger
            if ledger.committing is None:
                self._broker.hurry()
                if ledger.pressing:
                    batches = 0
                elif batches == DRAINED_AFTER_BATCHES:
                    return
                batches += 1
                self._commit()
                if ledger.committing is None:
                    return
            self._decision = self._loop.create_future()
            await self._decision
            if not self.store_healthy:
                return

    def _wake_drain(self) -> None:
        if self._decision is not None and not self._decision.done():
            self._decision.set_result(None)

    async def close(self) -> None:
        """Drop the broker and close the store. Nothing is answered any more."""
        self.drop()
        await self._loop.run_in_executor(None, self._threads.close)
