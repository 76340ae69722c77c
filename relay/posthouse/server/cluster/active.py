"""What changes in this process when its member becomes active, and when it stops being it."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from posthouse.link.frames import Handover
from posthouse.server.cluster.hosting import Host
from posthouse.server.cluster.switch import Switch
from posthouse.server.control import ControlSocket
from posthouse.server.engine import Engine, boot_s, wall_ms
from posthouse.single_active.leases.interface import Record

EXPIRED: Final = "lease expired"
FREED: Final = "the process that held the lease ended"
_log = structlog.get_logger()


class ActiveWork:
    """Serves the own front and those of other members, and has the control socket; see ``membership.Work``."""

    def __init__(
        self,
        engine: Engine,
        switch: Switch,
        host: Host,
        *,
        member: str,
        control: ControlSocket | None,
    ) -> None:
        """``control``: the socket that belongs to the active member."""
        self.successor = ""
        """Peer address of the member that this term is handed over to; empty if nobody is named."""
        self._engine = engine
        self._switch = switch
        self._host = host
        self._member = member
        self._control = control
        self._socket: asyncio.Task[None] | None = None
        """Opens or closes the control socket."""

    async def control_opened(self) -> None:
        """Wait for the control socket, if it is being opened. Raises ControlSocketError."""
        if self._socket is not None:
            await self._socket

    def begin(self, before: Record | None) -> None:
        """The broker is promoted: serve."""
        if before is not None:
            self._host.last_handover = self._handover(before)
        self._switch.to_local()
        self._host.serve()
        if self._control is not None:
            self._socket = asyncio.create_task(self._control.open(in_place=True))
            self._socket.add_done_callback(_say_why_not)

    def close(self, reason: str) -> None:
        """Take no commands any more; what was taken is finished."""
        _log.info("handing over", reason=reason)
        self._host.pause()
        self._switch.close_local()

    def end(self, reason: str) -> None:
        """The broker is about to be dropped: part from it. What fails for others does not fail for our own front."""
        try:
            self._host.cease(reason, self.successor)
        except Exception:
            _log.exception("parting from other members' fronts failed")
        if self._control is not None:
            self._socket = asyncio.create_task(self._control.close())
        self._switch.leave_local(reason)

    def _handover(self, before: Record) -> Handover:
        left_at = self._switch.left_at
        reason = self._switch.why_left or (FREED if before.released else EXPIRED)
        gap_ms = None if left_at is None else round((boot_s() - left_at) * 1000)
        handover = Handover(reason, before.holder, self._member, self._engine.epoch, gap_ms, wall_ms())
        _log.info(
            "took over", reason=reason, before=before.holder, epoch=handover.epoch, gap_ms=handover.gap_ms
        )
        return handover


def _say_why_not(opening: asyncio.Task[None]) -> None:
    if not opening.cancelled() and (error := opening.exception()) is not None:
        _log.error("no control socket", reason=str(error))
