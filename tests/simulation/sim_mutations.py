"""The code, weakened: each of these has to be caught by an invariant, or the simulation proves nothing."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from posthouse.single_active.elector import Elector
from posthouse.single_active.member import Member, MemberOutput
from posthouse.single_active.outputs import Output
from posthouse.single_active.sighting import Sighting
from sim_member import SimMember
from sim_store import Fence, Outcome, SimStore


class CountsFromTheAnswer(Elector):
    """The deadline begins when the answer comes, not when the renewal was sent."""

    def _take(self, now: float, sent: float) -> None:
        super()._take(now, now)

    def _extend(self, now: float, sent: float) -> None:
        super()._extend(now, now)


class DoesNotReadAgain(Elector):
    """A conflict is taken for a request that failed: tried again with the same version."""

    def _conflict(self, now: float) -> None:
        self._next_at = now + self._retry_s


class KeepsCounting(Elector):
    """A follower that could not reach the lease counts on as if it had."""

    class _Sighting(Sighting):
        def lose_contact(self) -> None:
            pass

    def start(self, now: float) -> list[Output]:
        self._sight = self._Sighting()
        return super().start(now)


class TakesTheWatchForTheLease(Elector):
    """A follower whose watch breaks counts anew, though it can read the lease."""

    def unwatched(self, now: float) -> list[Output]:
        self._sight.lose_contact()
        return super().unwatched(now)


class ReleasesFirst(Member):
    """The lease is released when the hand-over begins; the broker ends after that, by the deadline it had."""

    _works_until = -inf

    def hand_over(self, now: float, reason: str, successor: str = "") -> Sequence[MemberOutput]:
        outputs = list(super().hand_over(now, reason, successor))
        if self._working and self.holds(now):
            self._works_until = self.elector._valid_until
            outputs += self._take(now, self.elector.release(now, successor))
        return outputs

    def may_act(self, now: float) -> bool:
        return super().may_act(now) or (self._working and now < self._works_until)

    def stopped(self, now: float) -> Sequence[MemberOutput]:
        outputs = super().stopped(now)
        self._working = False
        return outputs


class WallClockMember(SimMember):
    """Goes by a clock that somebody sets."""

    def clock(self) -> float:
        return super().clock() + self.wall_jump_s


class AnswerCountingMember(SimMember):
    elector_type = CountsFromTheAnswer


class NotReadingMember(SimMember):
    elector_type = DoesNotReadAgain


class CountingOnMember(SimMember):
    elector_type = KeepsCounting


class WatchTrustingMember(SimMember):
    elector_type = TakesTheWatchForTheLease


class EarlyReleasingMember(SimMember):
    member_type = ReleasesFirst


class UncheckedStore(SimStore):
    """Commits are not checked against the epoch."""

    def lets(self, fence: Fence) -> bool:
        return True


class BlindStore(SimStore):
    """The same, and the simulation does not look either: what was promised is written over."""

    def commit(self, fence: Fence, position: int, message: int) -> Outcome:
        self.log[position:] = [message]
        return Outcome.COMMITTED
