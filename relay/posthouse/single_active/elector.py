"""The election: a state machine over one lease, without a clock, an event loop or chance.

What it promises, if clocks differ in rate by at most one percent and ``holds`` is asked where effects leave:

* At most one elector ``holds`` at any instant, whatever is lost, late, stopped or partitioned. A holder counts its
  deadline from the moment it *sent* the last renewal that succeeded; a follower counts the whole, longer, duration
  from its first sight of a version; and a claim succeeds only if that version still stands.
* A holder that can reach the lease keeps it. A single lost request or answer costs nothing.
* A lease that nobody renews is claimed by a member that can reach it and follows, in bounded time.

What it does not promise:

* That nothing happens between ``holds`` and an effect: a process may be stopped right there. Only a store that checks
  its fence inside the commit closes that gap, and only with such a store is ``IN_DOUBT`` allowed (``fenced``).
* Anything after a wrong proof of death, or, with a store that fences, after a lease was deleted while a member
  starts: then two may hold until the fence of the store stops one of them.
* That the lease does not change hands needlessly when members cannot reach it for a different time each, or when it
  comes and goes: every request of the holder may be lost, and none of a follower's.

Rules behind this: clocks of two members are never compared. One request is under way at a time, and an answer counts
from when its request was sent. A conflict, or a claim without an answer, means: read, and compare (the write may
have been ours). A follower that could not reach the lease, or did not run itself, counts anew from its first good
read, so that an outage of the lease alone changes nothing. After a loss or a release it does not claim before the
caller says by ``follow`` that its work has stopped; what the watch sees meanwhile it still takes note of, for a member
that ends has clients to be served by the next one.

Source: docs/single-active.md.
"""

from __future__ import annotations

from math import inf
from typing import Final

from msgspec import Struct

from posthouse.single_active.leases.interface import Process, Record
from posthouse.single_active.outputs import Answer, Became, Observed, Output, Read, Refusal, State, Write
from posthouse.single_active.pending import Pending, Purpose
from posthouse.single_active.proofs import Proofs
from posthouse.single_active.sighting import Sighting
from posthouse.single_active.timing import Timing

UNANSWERED_WRITES: Final = 16
"""Send times kept of writes whose fate is unknown; one that is forgotten has to be renewed before it counts."""


class Candidate(Struct, frozen=True):
    """Who stands for election."""

    id: str
    """Different for each start of a process."""
    peer: str = ""
    process: Process | None = None


class Elector:
    """One member's part in the election. Inputs return what to do; see ``outputs.Machine`` for the time."""

    def __init__(self, candidate: Candidate, timing: Timing, *, fenced: bool, jitter: float) -> None:
        """``fenced``: the store checks every commit. ``jitter``: from 0 to 1, spreads the retries of members."""
        self.state = State.FOLLOWING
        self.transitions = 0
        """Of our last claim: no epoch of ours is below it."""
        self._me = candidate
        self._timing = timing
        self._fenced = fenced
        self._retry_s = timing.renew_interval_s * (0.25 + 0.25 * jitter)
        self._out: list[Output] = []
        self._pending: Pending | None = None
        self._requests = 0
        self._stamp = 0
        self._sent: dict[int, float] = {}
        """By stamp: when a claim or renewal was sent of which we do not know what became."""
        self._valid_until = -inf
        self._due = inf
        self._sight = Sighting()
        self._next_at = -inf
        """No request before this."""
        self._claim_from = -inf
        """No claim before this; infinite until ``follow`` says that our work has stopped."""
        self._conflicts = 0
        self._proofs = Proofs()
        self._give_up_at = inf
        self._successor = ""

    # --- questions

    @property
    def record(self) -> Record | None:
        """The lease as it was last seen."""
        return self._sight.record

    def holds(self, now: float) -> bool:
        """Whether the lease is ours at this moment: to be asked wherever an effect leaves."""
        return self.state is State.HOLDING and now < self._valid_until

    def authorised(self, now: float) -> bool:
        """Whether a broker may go on: while we hold, and in doubt if every commit is checked by the store."""
        return self.holds(now) or (self._fenced and self.state in (State.HOLDING, State.IN_DOUBT))

    def next_deadline(self) -> float:
        """When to call ``tick``."""
        return self._due

    # --- inputs

    def start(self, now: float) -> list[Output]:
        """Begin: the lease is read."""
        self._due = now
        return self._leave(now)

    def tick(self, now: float) -> list[Output]:
        """Time has passed."""
        self._enter(now)
        return self._leave(now)

    def answered(self, now: float, request: int, answer: Answer) -> list[Output]:
        """The answer to a request. One that comes when we have given up waiting for it is passed over."""
        self._enter(now)
        pending = self._pending
        if pending is not None and pending.id == request:
            self._pending = None
            if answer is Refusal.FAILED:
                self._no_answer(now, pending, now + self._retry_s)
            elif answer is Refusal.CONFLICT:
                self._conflict(now)
            else:
                assert not isinstance(answer, Refusal)
                self._see(now, answer)
                if pending.purpose is Purpose.READ:
                    self._was_read(now)
                else:
                    self._was_written(now, pending)
        return self._leave(now)

    def observed(self, now: float, record: Record | None) -> list[Output]:
        """The watch has seen a record. It may be late: it is never taken as proof that the lease is ours or lost."""
        self._enter(now)
        mine = record is not None and record.holder == self._me.id
        if self.state in (State.FOLLOWING, State.RELEASED) and not mine:
            self._see(now, record)
            self._next_at = min(self._next_at, now)
        elif self.state is State.FOLLOWING or not (mine or record == self.record):
            self._read_again(now)
        return self._leave(now)

    def unwatched(self, now: float) -> list[Output]:
        """The watch broke. Whether the lease itself is out of reach is told by the read that follows."""
        self._enter(now)
        self._read_again(now)
        return self._leave(now)

    def proved_dead(self, now: float, version: str) -> list[Output]:
        """The process that wrote this version of the lease is dead, for certain: claim at once.

        Passed over when the lease has another version by now, or after two such claims have won within ten minutes.
        When the claim finds a version that the dead process wrote last and that was not seen yet, ``Observed`` says
        so: prove it again for that one.
        """
        self._enter(now)
        record = self.record
        if self.state is State.FOLLOWING and record is not None and record.version == version:
            self._proofs.add(now, version)
        return self._leave(now)

    def release(self, now: float, successor: str = "") -> list[Output]:
        """Give the lease up. Only to be called when the work has stopped. ``RELEASED`` follows in any case."""
        self._enter(now)
        writing = self._pending is not None and self._pending.purpose is not Purpose.READ
        ours = self.state in (State.HOLDING, State.IN_DOUBT, State.RELEASING) or bool(self._sent) or writing
        self._successor = successor
        self._sent.clear()
        self._next_at = now
        if not ours:
            self._become(State.RELEASED, "nothing to release")
        elif self.state is not State.RELEASING:
            self._give_up_at = now + self._timing.deadline_s
            self._sight.stale = self._sight.stale or self.state is State.FOLLOWING
            self._become(State.RELEASING, "work has stopped")
        return self._leave(now)

    def follow(self, now: float, after_s: float = 0.0) -> list[Output]:
        """Stand for election (again), after so many seconds: our work has stopped. Only when not holding."""
        self._enter(now)
        if self.state in (State.RELEASED, State.FOLLOWING):
            self._claim_from = now + after_s
            self._read_again(now)
            if self.state is State.RELEASED:
                self._become(State.FOLLOWING, "standing for election")
        return self._leave(now)

    # --- what an answer means

    def _was_read(self, now: float) -> None:
        record = self.record
        mine = self._is_mine()
        if self.state in (State.HOLDING, State.IN_DOUBT):
            self._next_at = now
            if mine:
                assert record is not None
                self._extend(now, self._sent.get(record.stamp, -inf))
            elif record is not None:
                self._lose("another member holds the lease")
        elif self.state is State.RELEASING:
            self._next_at = now
            if not mine:
                self._become(State.RELEASED, "the lease is not ours any more")
        elif mine and now >= self._claim_from:
            assert record is not None
            self._take(now, self._sent.get(record.stamp, -inf))

    def _was_written(self, now: float, pending: Pending) -> None:
        self._sent.clear()
        self._conflicts = 0
        if pending.purpose is Purpose.RELEASE:
            if self.state is State.RELEASING:  # we may have given up waiting for it
                self._become(State.RELEASED, "released")
        elif self.state in (State.HOLDING, State.IN_DOUBT):
            self._extend(now, pending.sent)
            self._next_at = pending.sent + self._timing.renew_interval_s
        elif self.state is State.FOLLOWING and now >= self._claim_from:
            self._take(now, pending.sent)

    def _take(self, now: float, sent: float) -> None:
        """The lease is ours since this write; whether that still counts is decided by when it was sent."""
        until = sent + self._timing.deadline_s
        if now < until:
            assert self.record is not None
            self.transitions = self.record.transitions
            self._valid_until = until
            self._next_at = sent + self._timing.renew_interval_s
            self._proofs.won(now)
            self._become(State.HOLDING, "claimed")

    def _extend(self, now: float, sent: float) -> None:
        """A renewal that was sent then has succeeded."""
        self._valid_until = max(self._valid_until, sent + self._timing.deadline_s)
        if self.state is State.IN_DOUBT and now < self._valid_until:
            self._become(State.HOLDING, "renewed")

    def _conflict(self, now: float) -> None:
        """Somebody wrote first, perhaps we ourselves: read and compare, the second time in a row after a pause."""
        self._conflicts += 1
        self._read_again(now)
        if self._conflicts > 1:
            self._next_at = now + self._retry_s

    def _no_answer(self, now: float, pending: Pending, again_at: float) -> None:
        self._next_at = again_at
        self._sight.lose_contact()
        if pending.purpose in (Purpose.CLAIM, Purpose.READ):
            self._sight.stale = True

    # --- steps

    def _is_mine(self) -> bool:
        record = self.record
        return record is not None and record.holder == self._me.id and not record.released

    def _see(self, now: float, record: Record | None) -> None:
        if not self._sight.see(now, record):
            return
        self._conflicts = 0
        if record is None or record.holder != self._me.id:
            self._proofs.forget()
            self._out.append(Observed(record))

    def _read_again(self, now: float) -> None:
        self._sight.stale = True
        self._next_at = now

    def _become(self, state: State, reason: str) -> None:
        self.state = state
        self._out.append(Became(state, reason))

    def _lose(self, reason: str) -> None:
        """Our work has to stop: no claim before the caller says that it has."""
        self._claim_from = inf
        self._sent.clear()
        self._become(State.FOLLOWING, reason)

    def _enter(self, now: float) -> None:
        """What the time alone has changed."""
        if now - self._due > self._timing.renew_interval_s:
            self._sight.lose_contact()
        if self.state is State.HOLDING and now >= self._valid_until:
            if self._fenced:
                self._become(State.IN_DOUBT, "not renewed by the deadline")
            else:
                self._lose("not renewed by the deadline")
        elif self.state is State.RELEASING and now >= self._give_up_at:
            self._become(State.RELEASED, "the release was not confirmed: the lease will expire")

    def _leave(self, now: float) -> list[Output]:
        """Give up waiting, send the next request if it is time, and note when to be called again."""
        timeout_s = self._timing.request_timeout_s
        if self._pending is not None and now >= self._pending.sent + timeout_s:
            late, self._pending = self._pending, None
            self._no_answer(now, late, now)
        if self._pending is None:
            due, purpose = self._plan()
            if now >= due:
                self._send(now, purpose)
        if self._pending is not None:
            due = self._pending.sent + timeout_s
        if self.state is State.HOLDING:
            due = min(due, self._valid_until)
        elif self.state is State.RELEASING:
            due = min(due, self._give_up_at)
        self._due = due
        out, self._out = self._out, []
        return out

    def _plan(self) -> tuple[float, Purpose]:
        """The next request, and when to send it."""
        if self.state is State.RELEASED:
            return inf, Purpose.READ
        sight = self._sight
        if sight.stale:
            return self._next_at, Purpose.READ
        if self.state is State.RELEASING:
            return self._next_at, Purpose.RELEASE
        if self.state is not State.FOLLOWING:
            return self._next_at, Purpose.RENEW
        claimable_at = sight.claimable_at(self._me.id, self._timing, self._proofs, fenced=self._fenced)
        if sight.heard_at < claimable_at:
            # A holder of whom nothing is heard: whether the lease can be reached at all decides what that means.
            return max(self._next_at, min(claimable_at, sight.heard_at + self._timing.quiet_s)), Purpose.READ
        return max(claimable_at, self._next_at, self._claim_from), Purpose.CLAIM

    def _send(self, now: float, purpose: Purpose) -> None:
        self._requests += 1
        self._pending = Pending(self._requests, purpose, now)
        if purpose is Purpose.READ:
            self._out.append(Read(self._requests))
            return
        before = self.record
        self._stamp += 1
        if purpose is not Purpose.RELEASE:
            self._sent[self._stamp] = now
            if len(self._sent) > UNANSWERED_WRITES:
                del self._sent[next(iter(self._sent))]
        transitions = self.transitions
        if purpose is Purpose.CLAIM:
            transitions = max(transitions, before.transitions if before else 0) + 1
        record = Record(
            self._me.id,
            self._stamp,
            transitions,
            self._timing.duration_s,
            self._me.peer,
            self._me.process,
            released=purpose is Purpose.RELEASE,
            successor=self._successor if purpose is Purpose.RELEASE else "",
        )
        self._out.append(Write(self._requests, record, before.version if before else None))
