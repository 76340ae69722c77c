"""The front of a simulated member: its sessions, and where their commands go.

That is the broker of this process, the one of another member over a link, or nobody for the moment. The product's
``Memory`` remembers what they did, so that they can go on at the next broker.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from posthouse.broker import Port
from posthouse.exchange import Command, Commands, Effects
from posthouse.link import frames
from sim_engine import SimEngine
from sim_link import Link

if TYPE_CHECKING:
    from sim_client import SimClient
    from sim_member import SimMember

MOST_MESSAGES = 6
MOST_BYTES = 2**20
"""In one batch of sessions that go on: few, so that there are several."""
DIAL_AGAIN_S = 0.3
"""After a dial that met nobody."""


class SimFront:
    """One process's front. What clients send waits in order, as in a socket, while the process is paused."""

    def __init__(self, owner: SimMember, start: int) -> None:
        self.sessions: dict[int, SimClient] = {}
        self._owner = owner
        self._memory = owner.memory_type()
        self._inbox: deque[tuple[int, list[Command]]] = deque()
        self._readable = owner.receiver(lambda member: self._read())
        self._numbers = 0
        self._local: tuple[SimEngine, Port] | None = None
        self._link: Link | None = None
        self._attached = 0
        """Epoch of the broker at the other end of the link; 0: none takes commands there."""
        self._latest = 0
        """The highest epoch that a broker here or elsewhere has shown. It rises on a store that fences; without one
        it follows the lease, which may have been deleted."""
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
            self._memory.expire(self._owner.clock())
            self._give(batch)

    def _give(self, batch: Commands) -> None:
        self._memory.given(batch)
        if self._local is not None:
            engine, port = self._local
            engine.submit(port, batch)
        elif self._link is not None and self._attached:
            self._link.dialer.send(frames.Commands(self._attached, batch))

    def _resume(self) -> None:
        self._owner.resumed += len(self._memory)
        for batch in self._memory.resume_batches(MOST_MESSAGES, MOST_BYTES):
            self._give(batch)

    def _hear(self, effects: Effects, confirmed: int) -> None:
        self._memory.taken(effects, confirmed)
        for number, heard in effects:
            client = self.sessions.get(number)
            if client is not None:
                client.hear(number, heard)

    # --- the broker of this process

    def serve(self, engine: SimEngine) -> None:
        """A broker has begun here: the sessions go on at it."""
        self._unlink()
        self._latest = engine.epoch
        self._local = engine, engine.open_port(self._hear)
        self._resume()

    def unserved(self) -> None:
        """The broker here has ended."""
        self._local = None

    # --- the broker of another member

    def follow(self, holder: str) -> None:
        """Have a link to this process, as the lease names it; empty: to none."""
        if holder == self._holder:
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
        self._link, self._attached = None, 0

    def _cut(self, link: Link) -> None:
        if link is self._link:
            self._link, self._attached = None, 0
            holder = self._holder
            self._owner.world.after(0.02, self._owner.receiver(lambda member: self._dial(holder)))

    def _received(self, link: Link, frame: frames.Frame) -> None:
        if link is not self._link:
            return
        if isinstance(frame, frames.Standing):
            self._attached = 0
            older = self._owner.world.fenced and frame.epoch < self._latest
            if frame.serving and not older and self._local is None:
                self._attached = self._latest = frame.epoch
                self._resume()
        elif isinstance(frame, frames.Effects) and frame.epoch == self._attached:
            self._hear(frame.batch, frame.confirmed)
