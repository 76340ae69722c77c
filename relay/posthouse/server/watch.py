"""What is looked at every second while the relay runs: the wall clock, memory, and the certificate's files."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from posthouse.server.engine import boot_s, wall_ms
from posthouse.server.front import Front
from posthouse.server.memory import MemoryWatermark, give_back
from posthouse.server.tls import Certificate
from posthouse.session.settings import Conditions
from posthouse.wire.codes import Code

LOOK_S: Final = 1.0
OVERLOAD_RETRY_MS: Final = 2000
_log = structlog.get_logger()


def set_clock(conditions: Conditions) -> None:
    """Tell the sessions how far the wall clock is from the clock that runs through suspend."""
    conditions.wall_offset_ms = wall_ms() - int(boot_s() * 1000)


class Watch:
    """Looks, and turns what it sees into what front and sessions go by."""

    def __init__(
        self,
        front: Front,
        conditions: Conditions,
        watermark: MemoryWatermark,
        certificate: Certificate | None,
        tls_reload_s: float,
    ) -> None:
        self._front = front
        self._conditions = conditions
        self._watermark = watermark
        self._certificate = certificate
        self._tls_reload_s = tls_reload_s

    async def run(self) -> None:
        """Look until cancelled."""
        certificate_due_s = boot_s() + self._tls_reload_s
        pause_s = min(LOOK_S, self._tls_reload_s) if self._certificate is not None else LOOK_S
        while True:
            try:
                self.look()
                if self._certificate is not None and boot_s() >= certificate_due_s:
                    certificate_due_s = boot_s() + self._tls_reload_s
                    self._certificate.reload_if_changed()
            except Exception:
                _log.exception("looking after the process failed")
            await asyncio.sleep(pause_s)

    def look(self) -> None:
        """Look at clock and memory."""
        set_clock(self._conditions)
        watermark = self._watermark
        if watermark.look():
            self._tell()
        if watermark.exceeded:
            give_back()

    def _tell(self) -> None:
        watermark, conditions = self._watermark, self._conditions
        self._front.overloaded = watermark.exceeded
        if watermark.exceeded:
            # A relay that is stopping has said its reason already.
            if conditions.refuse is None:
                conditions.refuse = Code.RATE_LIMITED
                conditions.refuse_retry_ms = OVERLOAD_RETRY_MS
            _log.warning(
                "memory above the watermark: nothing new is taken",
                used_bytes=watermark.used_bytes,
                limit_bytes=watermark.limit_bytes,
                connections=self._front.count,
            )
        else:
            if conditions.refuse is Code.RATE_LIMITED:
                conditions.refuse = conditions.refuse_retry_ms = None
            _log.info("memory below the watermark again", used_bytes=watermark.used_bytes)
