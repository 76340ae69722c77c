"""Fronts of other members at the broker of this one: each has a link and, while the broker serves, a port.

A front that attaches begins with all its sessions. Commands for a broker that has ended are passed over: their front
gives them to the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from posthouse.broker import Port
from posthouse.exchange import Effects
from posthouse.link import frames
from posthouse.link.frames import Handover, MemberState
from posthouse.server.cluster.pieces import in_pieces
from posthouse.server.engine import Engine
from posthouse.server.peers import Link

CONFIRM_S: Final = 0.1
"""How soon a front to which nothing is sent hears that its acks are for good."""
MOST_UNSENT_BYTES: Final = 256 * 2**20
"""A front that leaves more than this unread is cut off: it comes back and goes on."""
_log = structlog.get_logger()


class HostedFront:
    """One link of another member."""

    def __init__(self, host: Host) -> None:
        self.report = frames.Report("standby", False)
        self._host = host
        self._engine = host.engine
        self._link: Link | None = None
        self._port: Port | None = None
        self._told = 0
        self._flush_soon = False

    # --- what the link says

    def established(self, link: Link) -> None:
        """It is there: say how things stand."""
        self._link = link
        self._host.joined(self)
        link.send(self._host.standing())

    def received(self, frame: frames.Frame) -> None:
        """A frame of the other member."""
        match frame:
            case frames.Commands():
                self._commands(frame)
            case frames.Report():
                self.report = frame
                self._host.announce()
            case frames.Ask():
                assert self._link is not None
                self._link.send(frames.Answer(frame.number, self._host.on_ask(frame.successor)))
            case _:
                pass  # of a later release

    def lost(self, why: str) -> None:
        """The link has ended: its sessions come back over another, or at another broker."""
        port, self._port = self._port, None
        self._host.left(self)
        self._link = None
        if port is not None:
            self._engine.close_port(port)

    # --- what the broker says

    @property
    def member(self) -> str:
        """Id of the other member."""
        return self._link.member if self._link is not None else ""

    @property
    def sessions(self) -> int:
        """How many are open here."""
        return len(self._port.sessions) if self._port is not None else 0

    def tell(self, frame: frames.Standing) -> None:
        """Send a standing."""
        if self._link is not None:
            self._link.send(frame)

    def end(self) -> None:
        """The broker ends: send what it still has."""
        port, self._port = self._port, None
        if port is not None:
            self._send(port, self._engine.farewell(port))
        self._told = 0

    def confirm(self) -> None:
        """Say what has become certain since the last frame."""
        if self._port is not None and self._engine.confirmed(self._port) > self._told:
            self._send(self._port, [])

    def cut(self, why: str) -> None:
        """End the link: the front goes on from what it has heard."""
        if self._link is not None:
            self._link.close(why)

    # --- steps

    def _commands(self, frame: frames.Commands) -> None:
        host, engine = self._host, self._engine
        if not host.taking or frame.epoch != engine.epoch:
            return
        if self._port is None:
            self._port = engine.open_port(self._wake)
        failures = engine.submit(self._port, frame.batch)
        if failures:
            for _, error in failures:
                _log.error("session failed", member=self.member, exc_info=error)
            self._send(self._port, [], [number for number, _ in failures])

    def _wake(self) -> None:
        if not self._flush_soon:
            self._flush_soon = True
            self._engine.turn.at_end(self._flush)

    def _flush(self) -> None:
        self._flush_soon = False
        if self._port is not None:
            effects = self._engine.take_effects(self._port)
            if effects:
                self._send(self._port, effects)

    def _send(self, port: Port, effects: Effects, failed: list[int] | None = None) -> None:
        """Send it, in pieces if it is too much for a frame. If that fails, the link has lost it, and must not go on."""
        link, epoch = self._link, self._engine.epoch
        if link is None:
            return
        try:
            told = self._told = self._engine.confirmed(port)
            try:
                link.send(frames.Effects(epoch, effects, told, failed or []))
            except frames.FrameTooLarge:
                for piece in in_pieces(effects):
                    if link.unsent_bytes > MOST_UNSENT_BYTES:
                        break
                    link.send(frames.Effects(epoch, piece, told))
            if link.unsent_bytes > MOST_UNSENT_BYTES:
                self.cut("too slow")
        except Exception as error:
            _log.error("effects cannot be sent", member=link.member, exc_info=error)
            self.cut("what was to be sent cannot be")


class Host:
    """All links that other members have made to this one."""

    def __init__(
        self,
        engine: Engine,
        *,
        me: Callable[[], MemberState],
        on_ask: Callable[[str], str | None],
    ) -> None:
        """``on_ask``: hand over to this member; gives why not, or None."""
        self.engine = engine
        self.on_ask = on_ask
        self.serving = False
        """Whether there is a broker, as others are told."""
        self.taking = False
        """Whether it takes commands."""
        self.last_handover: Handover | None = None
        self._me = me
        self._fronts: list[HostedFront] = []
        self._timer: asyncio.TimerHandle | None = None

    def new_front(self) -> HostedFront:
        """A handler for a link that is being made."""
        return HostedFront(self)

    def serve(self) -> None:
        """The broker takes commands."""
        self.serving = self.taking = True
        self.announce()
        self._confirm()

    def pause(self) -> None:
        """The broker takes no commands any more; what it has goes on, and nobody is told before it ends."""
        self.taking = False

    def cease(self, reason: str, successor: str) -> None:
        """The broker ends: tell its last words, why, and where the next one will be. Call it before the drop.

        Nothing that fails for one front keeps another from hearing.
        """
        self.stop()
        self.taking = False
        self._each(HostedFront.end)
        self.serving = False  # not before all have had their last words: a link that breaks now is announced
        # Told once: who comes later was not served here, and finds the next one by the lease.
        self._announce(reason, successor)

    def announce(self) -> None:
        """Tell all how things stand."""
        self._announce("", "")

    def standing(self, reason: str = "", successor: str = "") -> frames.Standing:
        """How things stand."""
        return frames.Standing(
            self.serving, self.engine.epoch, self.members(), self.last_handover, reason, successor
        )

    def members(self) -> list[MemberState]:
        """This member and those that are linked to it."""
        others = [MemberState(one.member, one.report.role, one.report.ready) for one in self._fronts]
        return [self._me(), *sorted(others, key=lambda one: one.name)]

    def ready(self) -> list[tuple[str, str]]:
        """Other members that could take over: ids and peer addresses."""
        return [(one.member, one.report.address) for one in self._fronts if one.report.ready]

    def reaching_store(self) -> list[tuple[str, str]]:
        """Those of them that the store answers, though perhaps not us."""
        return [
            (one.member, one.report.address)
            for one in self._fronts
            if one.report.ready and one.report.store_answers
        ]

    @property
    def sessions(self) -> int:
        """Sessions of other members' fronts that are open here."""
        return sum(front.sessions for front in self._fronts)

    def joined(self, front: HostedFront) -> None:
        """A link is established."""
        self._fronts.append(front)

    def left(self, front: HostedFront) -> None:
        """A link has ended."""
        self._fronts.remove(front)
        self.announce()

    def stop(self) -> None:
        """No timer fires after this."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _announce(self, reason: str, successor: str) -> None:
        standing = self.standing(reason, successor)
        self._each(lambda front: front.tell(standing))

    def _confirm(self) -> None:
        self._each(HostedFront.confirm)
        self._timer = asyncio.get_running_loop().call_later(CONFIRM_S, self._confirm)

    def _each(self, do: Callable[[HostedFront], None]) -> None:
        """Do it for every front, whatever becomes of another."""
        for front in list(self._fronts):
            try:
                do(front)
            except Exception as error:
                _log.error("a member could not be told", member=front.member, exc_info=error)
                front.cut("what was to be told cannot be")
