"""One member: its elector and its role together, and the order of what a change of the active needs.

Sans-I/O like the elector, whose inputs it passes on. It asks its driver for three things besides requests to the
lease: ``Promote``, ``StopWork``, and to note ``RoleChanged``. The order that it keeps:

* claimed → ``Promote`` → ``promoted`` → active: only if the lease is still held when the promotion is done;
* ``StopWork`` → ``stopped`` → the lease is released → standby or stopped: never released before ``stopped``;
* lost or fenced → ``StopWork`` at once; the lease is not claimed again before ``stopped``.

``may_act`` is to be asked where effects leave, for every batch of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from msgspec import Struct

from posthouse.single_active.elector import Elector
from posthouse.single_active.leases.interface import Record
from posthouse.single_active.outputs import Answer, Became, Output, State
from posthouse.single_active.roles import AT_WORK, Event, Role, next_role


class Promote(Struct, frozen=True, gc=False):
    """Raise the store's epoch, to ``transitions`` at least, and start a broker, while ``holds`` is true before and
    after; then call ``promoted`` or ``promotion_failed``, unless ``StopWork`` comes first: then ``stopped``."""

    transitions: int


class StopWork(Struct, frozen=True, gc=False):
    """End the broker, or the promotion that is under way, then call ``stopped``.

    ``graceful``: it takes no commands any more but finishes its commit. Otherwise it answers nothing more; that may
    also be asked after a graceful one.
    """

    reason: str
    graceful: bool


class RoleChanged(Struct, frozen=True, gc=False):
    """For the log, the metrics and whoever waits for it."""

    before: Role
    role: Role
    event: Event
    reason: str


MemberOutput: TypeAlias = Output | Promote | StopWork | RoleChanged


class Member:
    """The one who holds an elector. Times are seconds of a clock that runs through suspend."""

    def __init__(self, elector: Elector, retry_s: float) -> None:
        """``retry_s``: how long not to claim after a promotion that failed."""
        self.role = Role.STARTING
        self.elector = elector
        self._retry_s = retry_s
        self._after_s = 0.0
        self._successor = ""
        self._leaving = False
        self._working = False
        """Promoting, or with a broker that has not ended."""
        self._asked: StopWork | None = None
        self._out: list[MemberOutput] = []

    # --- questions

    def may_act(self, now: float) -> bool:
        """Whether effects of this member's broker may leave at this moment."""
        return self.role in AT_WORK and self.elector.authorised(now)

    def holds(self, now: float) -> bool:
        """Whether the lease is surely ours at this moment: only then a promotion counts, and acks may be elided."""
        return self.elector.holds(now)

    def next_deadline(self) -> float:
        """When to call ``tick``."""
        return self.elector.next_deadline()

    # --- inputs of the driver

    def tick(self, now: float) -> Sequence[MemberOutput]:
        """Time has passed."""
        return self._take(now, self.elector.tick(now))

    def answered(self, now: float, request: int, answer: Answer) -> Sequence[MemberOutput]:
        """The answer to a request."""
        return self._take(now, self.elector.answered(now, request, answer))

    def observed(self, now: float, record: Record | None) -> Sequence[MemberOutput]:
        """The watch has seen a record."""
        return self._take(now, self.elector.observed(now, record))

    def unwatched(self, now: float) -> Sequence[MemberOutput]:
        """The watch broke."""
        return self._take(now, self.elector.unwatched(now))

    def proved_dead(self, now: float, version: str) -> Sequence[MemberOutput]:
        """The process that wrote this version of the lease is dead, for certain."""
        return self._take(now, self.elector.proved_dead(now, version))

    # --- inputs of the server

    def ready(self, now: float) -> Sequence[MemberOutput]:
        """The start is done: stand for election."""
        self._change(Event.READY, "ready")
        return self._take(now, self.elector.start(now))

    def promoted(self, now: float) -> Sequence[MemberOutput]:
        """The broker is ready. Without the lease in hand it does not count. Passed over after ``StopWork``."""
        if self.role is not Role.PROMOTING:
            return self._take(now, [])
        if not self.elector.holds(now):
            return self.promotion_failed(now, "the lease was not held to the end of the promotion")
        self._change(Event.PROMOTED, "promoted")
        return self._take(now, [])

    def promotion_failed(self, now: float, reason: str) -> Sequence[MemberOutput]:
        """Let another member try. Passed over after ``StopWork``."""
        if self.role is not Role.PROMOTING:
            return self._take(now, [])
        self._after_s = self._retry_s
        self._drain(Event.PROMOTION_FAILED, reason, graceful=False)
        return self._take(now, [])

    def fenced(self, now: float) -> Sequence[MemberOutput]:
        """The store refused a commit of this member's broker. Passed over when there is no broker any more."""
        if self.role in AT_WORK:
            self._after_s = (
                self._retry_s
            )  # whoever fenced us may do so again and again: by another lease, for one
            self._drain(Event.FENCED, "fenced by the store", graceful=False)
        return self._take(now, [])

    def hand_over(self, now: float, reason: str, successor: str = "") -> Sequence[MemberOutput]:
        """Let another member be active; go on as a standby. Passed over when this one is not active or about to be."""
        if self.role in (Role.PROMOTING, Role.ACTIVE, Role.IN_DOUBT):
            self._successor = successor
            self._after_s = self._retry_s
            self._drain(Event.HAND_OVER, reason, graceful=True)
        return self._take(now, [])

    def leave(
        self, now: float, reason: str, successor: str = "", *, graceful: bool = True
    ) -> Sequence[MemberOutput]:
        """End for good; hand over before that if need be. ``graceful``: as of ``StopWork``; may be said again."""
        self._leaving = True
        if self.role in (Role.STARTING, Role.STANDBY):
            return self._take(now, self.elector.release(now))
        self._successor = self._successor or successor
        if self.role is not Role.STOPPED:
            self._drain(Event.HAND_OVER, reason, graceful=graceful)
        return self._take(now, [])

    def stopped(self, now: float) -> Sequence[MemberOutput]:
        """What ``StopWork`` asked for is done: nothing leaves this member's broker any more."""
        if self.role is not Role.DRAINING or not self._working:
            return self._take(now, [])
        self._working = False
        return self._take(now, self.elector.release(now, self._successor))

    # --- steps

    def _take(self, now: float, outputs: Sequence[Output]) -> Sequence[MemberOutput]:
        """Pass outputs of the elector on, and act on what it has become."""
        for output in outputs:
            self._out.append(output)
            if isinstance(output, Became):
                self._became(now, output)
        out, self._out = self._out, []
        return out

    def _became(self, now: float, became: Became) -> None:
        if became.state is State.HOLDING:
            if self.role is Role.STANDBY:
                self._working = True
                self._change(Event.CLAIMED, became.reason)
                self._out.append(Promote(self.elector.transitions))
            else:
                self._change(Event.RENEWED, became.reason)
        elif became.state is State.IN_DOUBT:
            self._change(Event.DOUBT, became.reason)
        elif became.state is State.FOLLOWING and self._working:
            self._drain(Event.LOST, became.reason, graceful=False)
        elif became.state is State.RELEASED:
            self._released(now, became.reason)

    def _released(self, now: float, reason: str) -> None:
        self._asked = None
        self._successor = ""
        if self._leaving:
            self._change(Event.STOP, reason)
            return
        self._change(Event.DRAINED, reason)
        after_s, self._after_s = self._after_s, 0.0
        self._out.extend(self.elector.follow(now, after_s))

    def _drain(self, event: Event, reason: str, *, graceful: bool) -> None:
        self._change(event, reason)
        if self._working and (self._asked is None or (self._asked.graceful and not graceful)):
            self._asked = StopWork(reason, graceful)
            self._out.append(self._asked)

    def _change(self, event: Event, reason: str) -> None:
        before, self.role = self.role, next_role(self.role, event)
        if before is not self.role:
            self._out.append(RoleChanged(before, self.role, event, reason))
