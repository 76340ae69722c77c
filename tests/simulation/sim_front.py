"""The front of a simulated member: its sessions, and where their commands go.

The upstreams are the product's: the broker of this process, the one of another member over a link, or nobody for the
moment. ``SimEngine`` is to them what they know of the server's engine, an end of a ``Link`` what they know of a link.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from posthouse.exchange import Command, Commands, Effects
from posthouse.link import frames
from posthouse.link.memory import Memory
from posthouse.server.cluster.local import Local
from posthouse.server.cluster.nobody import Nobody
from posthouse.server.cluster.remote import Remote
from posthouse.server.cluster.upstream import Upstream
from posthouse.server.engine import Engine
from sim_engine import SimEngine
from sim_link import Link

if TYPE_CHECKING:
    from sim_client import SimClient
    from sim_member import SimMember

MOST_BYTES = 2**20
"""Kept while nobody is active."""
HOLD_S = 4.0
"""After so long without an active member, publishes that no broker has seen are rejected."""
DIAL_AGAIN_S = 0.3
"""After a dial that met nobody."""


class SimFront:
    """One process's front. What clients send waits in order, as in a socket, while the process is paused."""

    def __init__(self, owner: SimMember, start: int) -> None:
        self.sessions: dict[int, SimClient] = {}
        self._owner = owner
        self._moving = False
        self._upstream: Upstream = Nobody(MOST_BYTES, self._flush, owner.memory_type(), [])
        self._inbox: deque[tuple[int, list[Command]]] = deque()
        self._readable = owner.receiver(lambda member: self._read())
        self._numbers = 0
        self._link: Link | None = None
        self._holder = ""
        self._dials = start * 10_000
        """Generations rise over the starts of a process."""

    # --- clients

    def connect(self, client: SimClient) -> int:
        """A session for a client: its number."""
        self._numbers += 1
        self.sessions[self._numbers] = client
        return self._numbers

    def send(self, number: int, commands: list[Command]) -> None:
        """A client has sent something."""
        self._inbox.append((number, commands))
        self._readable()

    def disconnect(self, number: int) -> None:
        """A client has ended its session; what is there for it is not heard any more."""
        self.sessions.pop(number, None)

    def end(self) -> None:
        """The process is gone, and so are the connections of its clients and its link."""
        sessions, self.sessions = self.sessions, {}
        for client in sessions.values():
            client.disconnected()

    def _read(self) -> None:
        if self._inbox:
            batch = list(self._inbox)
            self._inbox.clear()
            for _, error in self._upstream.submit(batch):
                raise error
            self._flush()

    def _flush(self) -> None:
        if not self._moving:
            self._hear(self._upstream.take())

    def _hear(self, effects: Effects) -> None:
        for number, heard in effects:
            client = self.sessions.get(number)
            if client is not None:
                client.hear(number, heard)

    # --- from one upstream to the next

    def _move(self, follow: Callable[[Memory, Commands], Upstream]) -> None:
        self._moving = True
        effects, memory, kept = self._upstream.retire()
        self._upstream = follow(memory, kept)
        self._moving = False
        self._hear(effects)
        self._flush()

    def _to_nobody(self) -> None:
        self._move(lambda memory, kept: Nobody(MOST_BYTES, self._flush, memory, kept))
        nobody = self._upstream

        def refuse() -> None:
            if self._upstream is nobody and isinstance(nobody, Nobody):
                nobody.refuse()
                self._flush()

        self._owner.world.after(HOLD_S, self._owner.receiver(lambda member: refuse()))

    # --- the broker of this process

    def serve(self, engine: SimEngine) -> None:
        """A broker has begun here: the sessions go on at it."""
        self._unlink()
        self._owner.resumed += len(self.sessions)
        self._move(lambda memory, kept: Local(cast(Engine, engine), self._flush, memory, kept))

    def close_local(self) -> None:
        """The broker here takes no commands any more."""
        if isinstance(self._upstream, Local):
            self._upstream.close()

    def leave_local(self) -> None:
        """The broker here ends."""
        if isinstance(self._upstream, Local):
            self._to_nobody()

    # --- the broker of another member

    def follow(self, holder: str) -> None:
        """Have a link to this process, as the lease names it; without clients nobody would need it."""
        if holder == self._holder or not self._owner.world.clients:
            return
        self._holder = holder
        self._unlink()
        self._dial(holder)

    def _dial(self, holder: str) -> None:
        name, _, start = holder.partition(".")
        if holder != self._holder or self._link is not None or not name or name == self._owner.name:
            return
        world = self._owner.world
        there = next(member for member in world.members if member.name == name)
        whole = {(name, self._owner.name), (self._owner.name, name)}.isdisjoint(world.cut_ways)
        if there.alive and there.starts == int(start) and whole:
            self._dials += 1
            broker = there.broker
            mine, theirs = (self._received, self._cut), (broker.received, broker.cut)
            self._link = Link(self._owner, there, self._dials, mine, theirs)
        else:
            again = DIAL_AGAIN_S * world.scale
            world.after(again, self._owner.receiver(lambda member: self._dial(holder)))

    def _unlink(self) -> None:
        if self._link is not None:
            self._link.dialer.close()
            self._cut(self._link)

    def _cut(self, link: Link) -> None:
        if link is self._link:
            self._link = None
            if isinstance(self._upstream, Remote):
                self._to_nobody()
            holder = self._holder
            self._owner.world.after(0.02, self._owner.receiver(lambda member: self._dial(holder)))

    def _received(self, link: Link, frame: frames.Frame) -> None:
        upstream = self._upstream
        if link is not self._link:
            return
        if isinstance(frame, frames.Standing):
            if frame.serving and not isinstance(upstream, Local):
                self._owner.resumed += len(self.sessions)
                self._move(lambda memory, kept: Remote(link.dialer, frame.epoch, self._flush, memory, kept))
            elif isinstance(upstream, Remote):
                self._to_nobody()
        elif (
            isinstance(frame, frames.Effects)
            and isinstance(upstream, Remote)
            and frame.epoch == upstream.epoch
        ):
            upstream.receive(frame)
