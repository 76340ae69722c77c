"""The changes of the active member that the demonstration makes, and what its clients notice of each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from posthouse.cli.demo_books import ProofFailed
from posthouse.cli.demo_clients import Reader, Sender
from posthouse.cli.demo_member import DemoMember
from posthouse.cli.demo_members import DemoMembers

_SETTLE_S = 0.4
"""How long a change is watched at least: a pause that comes late belongs to it too."""
_PATIENCE_S = 15.0
_LOOK_S = 0.02


class Kind(StrEnum):
    """What happens to the active member, and who tells of it."""

    HAND_OVER = "hand-over on request"
    KILL = "kill -9, client of another member"
    KILL_OWN = "kill -9, its own client"
    STOP_OWN = "SIGTERM, its own client"


class Whose(StrEnum):
    """Whose member it happens to."""

    NOBODY = "nobody"
    SENDER = "sender"
    READER = "reader"


PLAN: Sequence[tuple[Kind, Whose]] = (
    (Kind.KILL, Whose.NOBODY),
    (Kind.KILL, Whose.NOBODY),
    (Kind.KILL_OWN, Whose.SENDER),
    (Kind.KILL, Whose.NOBODY),
    (Kind.KILL_OWN, Whose.READER),
    (Kind.STOP_OWN, Whose.SENDER),
    (Kind.HAND_OVER, Whose.NOBODY),
)
"""What happens to the active member, one after another; each time the activity is first handed over to whose member it
should be, if it is not there."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change of the active, as the client that tells of it saw it."""

    kind: Kind
    was: DemoMember
    was_pid: int
    now: DemoMember
    epoch: int
    told_by: str
    """The sender, by its promises, or the reader, by its messages."""
    at: DemoMember
    """The client's member afterwards."""
    gap_s: float
    """The longest time without one."""
    moved_from: DemoMember | None
    """The client's member before, if the client had to go to another one."""
    reason: str
    """Then: why, in the client's words."""
    away_s: float
    """Then: how long it had no connection."""


class Changes:
    """Makes the changes of the plan. Any that does not go as promised raises."""

    def __init__(
        self,
        members: DemoMembers,
        sender: Sender,
        reader: Reader,
        on_change: Callable[[Change], None],
    ) -> None:
        self._members = members
        self._sender = sender
        self._reader = reader
        self._on_change = on_change

    async def run(self, plan: Sequence[tuple[Kind, Whose]] | None = None) -> None:
        """All of the plan. Raises ProofFailed, MembersFailed, or MemberEnded."""
        for kind, whose in PLAN if plan is None else plan:
            place = self._place(whose)
            if kind is Kind.HAND_OVER or self._active is not place:
                await self._hand_over(place)
            if kind is Kind.STOP_OWN:
                await self._stop()
            elif kind is not Kind.HAND_OVER:
                await self._kill(kind)

    # --- the kinds

    async def _hand_over(self, to: DemoMember) -> None:
        if to is self._active:
            to = next(member for member in self._members.all if member is not to)
        await self._change(Kind.HAND_OVER, lambda: self._members.hand_over(to))
        if self._active is not to:
            raise ProofFailed(f"the activity was handed over to {to.name}, and is elsewhere")

    async def _kill(self, kind: Kind) -> None:
        victim = self._active

        async def kill() -> None:
            victim.kill()

        await self._change(kind, kill)
        await self._start_again(victim)

    async def _stop(self) -> None:
        victim = self._active

        async def stop() -> None:
            await victim.stop()

        await self._change(Kind.STOP_OWN, stop)
        await self._start_again(victim)

    async def _start_again(self, member: DemoMember) -> None:
        member.start()
        await self._members.until(
            lambda: self._members.complete, f"member {member.name} had joined the others again"
        )

    # --- what is common

    async def _change(self, kind: Kind, do: Callable[[], Awaitable[None]]) -> None:
        members, sender, reader = self._members, self._sender, self._reader
        clients = (sender, reader)
        was, was_pid, epoch = self._active, self._active.pid, members.epoch
        before = {client.name: (self._at(client), client.whereabouts.connections) for client in clients}
        for client in clients:
            client.pulse.begin()
        await do()
        await members.until(lambda: members.epoch > epoch, "another member was active")
        await asyncio.sleep(_SETTLE_S)
        await self._until_flowing()
        for client in clients:
            place, connections = before[client.name]
            may_move = place is was and kind is not Kind.HAND_OVER
            if not may_move and client.whereabouts.connections != connections:
                raise ProofFailed(
                    f"{kind}: the {client.name}, at {place.name}, lost its connection: {client.whereabouts.reason}"
                )
        moved = [client for client in clients if client.whereabouts.connections != before[client.name][1]]
        client = moved[0] if moved else sender
        if kind is Kind.HAND_OVER:
            await members.until(lambda: members.complete, "all members were ready again")
        self._on_change(
            Change(
                kind,
                was,
                was_pid,
                self._active,
                members.epoch,
                client.name,
                self._at(client),
                client.pulse.longest_s,
                before[client.name][0] if moved else None,
                client.whereabouts.reason,
                client.whereabouts.away_s,
            )
        )

    async def _until_flowing(self) -> None:
        """Wait until both clients are connected, promises are made, and messages come."""
        clients = (self._sender, self._reader)
        for client in clients:
            client.pulse.beats = 0
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while not all(  # noqa: ASYNC110 - what is looked at has no events
                    client.whereabouts.connected and client.pulse.beats for client in clients
                ):
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError:
            raise ProofFailed(f"{_PATIENCE_S:g} s after a change messages did not flow again") from None

    @property
    def _active(self) -> DemoMember:
        active = self._members.active
        if active is None:
            raise ProofFailed("no member is active, without a cause")
        return active

    def _place(self, whose: Whose) -> DemoMember:
        if whose is Whose.SENDER:
            return self._at(self._sender)
        if whose is Whose.READER:
            return self._at(self._reader)
        taken = (self._at(self._sender), self._at(self._reader))
        return next(member for member in self._members.all if member not in taken)

    def _at(self, client: Sender | Reader) -> DemoMember:
        return self._members.at(client.whereabouts.url)
