"""The code, weakened: each of these has to be caught by an invariant, or the simulation proves nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf

from msgspec import structs
from posthouse.broker import Port
from posthouse.exchange import Attend, Command, Commands, Resume
from posthouse.link.acknowledged import Acknowledged
from posthouse.link.memory import Memory
from posthouse.single_active.elector import Elector
from posthouse.single_active.member import Member, MemberOutput
from posthouse.single_active.outputs import Output
from posthouse.single_active.sighting import Sighting
from posthouse.store.interface import Batch, Committed, Doubt, Fence
from posthouse.wire.messages import Publish
from sim_attachments import Attachments
from sim_engine import SimEngine
from sim_link import Link
from sim_member import SimMember
from sim_store import SimStore


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
    """The same, and the simulation does not look either: the end of the store is where the last writer says."""

    def commit(self, fence: Fence, batch: Batch) -> Committed | Doubt:
        if fence != self.fence:
            last = max((one.seq for one in batch.appends), default=0)
            for seq in [seq for seq in self._state.messages if last and seq > last]:
                self._state.remove(seq)
            self._state.batch = 0
        return self._write(self.fence, batch)


class ForgetsPublishes(Memory):
    """Of what a session goes on with, its publishes without a result are left out."""

    def resume_batches(
        self, max_messages: int, max_bytes: int, numbers: Sequence[int] | None = None
    ) -> Iterator[Commands]:
        for batch in super().resume_batches(max_messages, max_bytes, numbers):
            yield [
                (number, [one for one in commands if not isinstance(one, Publish)])
                for number, commands in batch
            ]


class ForgetsSubscriptions(Memory):
    """The same for what it reads."""

    def resume_batches(
        self, max_messages: int, max_bytes: int, numbers: Sequence[int] | None = None
    ) -> Iterator[Commands]:
        for batch in super().resume_batches(max_messages, max_bytes, numbers):
            yield [
                (number, [one for one in commands if not isinstance(one, Attend)])
                for number, commands in batch
            ]


class ForgetsWhatIsHeld(Memory):
    """The next broker is not told what clients hold."""

    def resume_batches(
        self, max_messages: int, max_bytes: int, numbers: Sequence[int] | None = None
    ) -> Iterator[Commands]:
        for batch in super().resume_batches(max_messages, max_bytes, numbers):
            yield [(number, [_without_held(one) for one in commands]) for number, commands in batch]


def _without_held(command: Command) -> Command:
    return structs.replace(command, held=[]) if isinstance(command, Resume) else command


class AcksWhatIsHeld(Memory):
    """What clients only hold is told to the next broker as acknowledged."""

    def resume_batches(
        self, max_messages: int, max_bytes: int, numbers: Sequence[int] | None = None
    ) -> Iterator[Commands]:
        for batch in super().resume_batches(max_messages, max_bytes, numbers):
            yield [(number, [_with_held_as_acked(one) for one in commands]) for number, commands in batch]


def _with_held_as_acked(command: Command) -> Command:
    return structs.replace(command, held=[], acked=command.held) if isinstance(command, Resume) else command


class ForgetsAcks(Memory):
    """Acks are not repeated. That loses nothing: messages come again."""

    def resume_batches(
        self, max_messages: int, max_bytes: int, numbers: Sequence[int] | None = None
    ) -> Iterator[Commands]:
        self.acknowledged = Acknowledged()
        return super().resume_batches(max_messages, max_bytes, numbers)


class TakesOldGenerations(Attachments):
    """Fronts are told apart by the member alone: commands of an older attachment go to the newer one's port."""

    def port_of(self, engine: SimEngine, link: Link) -> Port | None:
        attached = self._ports.get(link.member)
        if attached is not None and attached[0].generation > link.generation:
            return attached[1]
        return super().port_of(engine, link)


class DoesNotAsk(SimEngine):
    """Effects leave without a look at the lease."""

    def authority(self) -> tuple[bool, bool]:
        return True, True


class PublishForgettingMember(SimMember):
    memory_type = ForgetsPublishes


class SubscriptionForgettingMember(SimMember):
    memory_type = ForgetsSubscriptions


class HeldForgettingMember(SimMember):
    memory_type = ForgetsWhatIsHeld


class HeldAckingMember(SimMember):
    memory_type = AcksWhatIsHeld


class AckForgettingMember(SimMember):
    memory_type = ForgetsAcks


class OldGenerationMember(SimMember):
    attachments_type = TakesOldGenerations


class NotAskingMember(SimMember):
    engine_type = DoesNotAsk
