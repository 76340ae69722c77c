"""A link between two members: frames arrive in the order in which they were sent, late, or not at all.

Frames are the product's, and go through its encoding, so that the ends share nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from posthouse.link.frames import (
    HEADER_BYTES,
    VERSIONS,
    Frame,
    Hello,
    Ping,
    decode_from_dialer,
    decode_from_listener,
    pack,
)

if TYPE_CHECKING:
    from sim_member import SimMember
    from sim_world import World

KEEP_ALIVE_S = 1.0
"""Between two pings; what is said besides them does not matter here."""
SILENT_S = 3.0
"""A link on which nothing was heard for so long is lost."""
LATE_S = 0.5
"""Who looks at a link later than this cannot tell whether it was silent."""


class Way:
    """One direction of a link: a stream of bytes, as far as its order goes. None at its end: it was closed or reset."""

    def __init__(self, world: World, sender: SimMember, receiver: SimMember, end: End) -> None:
        self._world = world
        self._pair = sender.name, receiver.name
        self._frames: deque[tuple[float, bytes | None]] = deque()
        self._last = 0.0
        self._end = end
        self._readable = receiver.receiver(lambda member: self._read())

    def send(self, frame: bytes | None) -> None:
        """A frame, or the end, sets out."""
        self._last = max(self._last, self._world.now + self._world.link_delay())
        self._frames.append((self._last, frame))
        self._world.after(self._last - self._world.now, self.arrive)

    def cut_off(self) -> None:
        """What has not arrived is lost, and the end comes next."""
        while self._frames and self._frames[-1][0] > self._world.now:
            self._frames.pop()
        self._last = self._world.now
        self.send(None)

    def hold_up(self, delay_s: float) -> None:
        """What is under way comes later."""
        self._last = self._world.now + delay_s
        self._frames = deque((max(at, self._last), frame) for at, frame in self._frames)
        self._world.after(delay_s, self.arrive)

    def arrive(self) -> None:
        """What is there can be read; nothing is there while the way is cut."""
        if self._frames and self._pair not in self._world.cut_ways:
            self._readable()

    def _read(self) -> None:
        now, cut = self._world.now, self._world.cut_ways
        while self._frames and self._frames[0][0] <= now and self._pair not in cut:
            self._end.take(self._frames.popleft()[1])


class End:
    """One end of a link, in one process."""

    def __init__(
        self, link: Link, owner: SimMember, decode: Callable[[bytes], Frame], received: Received, lost: Lost
    ) -> None:
        self.link = link
        self.way: Way
        """To the other end."""
        self.open = True
        self.unsent_bytes = 0
        """The way takes everything at once."""
        self._owner = owner
        self._decode = decode
        self._received = received
        self._lost = lost
        self._heard_at = self._looked_at = owner.clock()

    def begin(self, way: Way) -> None:
        """The connection is there."""
        self.way = way
        self._keep_alive()

    def send(self, frame: Frame) -> None:
        """One frame."""
        if self.open:
            self.way.send(pack(frame)[HEADER_BYTES:])

    def take(self, body: bytes | None) -> None:
        """A frame has come, or the end of all."""
        if not self.open:
            return
        if body is None:
            self._lose()
            return
        self._heard_at = self._owner.clock()
        frame = self._decode(body)
        if not isinstance(frame, Ping):
            self._received(self.link, frame)

    def close(self) -> None:
        """This end is done with it."""
        if self.open:
            self.open = False
            self.way.send(None)

    def _lose(self) -> None:
        self.open = False
        self._lost(self.link)

    def _keep_alive(self) -> None:
        if not self.open:
            return
        now = self._owner.clock()
        if now - self._looked_at > KEEP_ALIVE_S + LATE_S:
            self._heard_at = now
        self._looked_at = now
        if now - self._heard_at > SILENT_S:
            self.close()
            self._lost(self.link)
            return
        self.send(PING)
        self._owner.world.after(KEEP_ALIVE_S, self._owner.receiver(lambda member: self._keep_alive()))


class Link:
    """One connection; ``generation`` rises with each that a member begins."""

    def __init__(
        self,
        dialer: SimMember,
        listener: SimMember,
        generation: int,
        dialer_takes: tuple[Received, Lost],
        listener_takes: tuple[Received, Lost],
    ) -> None:
        self.member = dialer.name
        self.generation = generation
        self.ends = dialer.name, listener.name
        world = dialer.world
        self.dialer = End(self, dialer, decode_from_listener, *dialer_takes)
        self.listener = End(self, listener, decode_from_dialer, *listener_takes)
        self.dialer.begin(Way(world, dialer, listener, self.listener))
        self.listener.begin(Way(world, listener, dialer, self.dialer))
        self.dialer.send(Hello(VERSIONS, "relay", dialer.name, generation))
        world.links.append(self)

    @property
    def gone(self) -> bool:
        """Whether no end has it open."""
        return not (self.dialer.open or self.listener.open)

    def arrive(self) -> None:
        """A way that was cut may be whole again."""
        self.dialer.way.arrive()
        self.listener.way.arrive()

    def half_open(self, delay_s: float) -> None:
        """The dialer loses it at once; the listener does not hear of that, and what was under way to it comes later."""
        self.dialer.way.hold_up(delay_s)
        self.listener.way.cut_off()

    def reset(self, *, loses: bool) -> None:
        """The connection breaks; ``loses``: with what is under way."""
        for end in (self.dialer, self.listener):
            if loses:
                end.way.cut_off()
            else:
                end.way.send(None)


PING = Ping()
Received = Callable[[Link, Frame], None]
Lost = Callable[[Link], None]
