"""What is looked at every second while the relay runs: wall clock, memory, free disk space, the certificate's files.

What it sees decides whether publishes are refused before they reach the broker; acks and deliveries always go on, and
they are what makes room again.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
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
DISK_RETRY_MS: Final = 30_000
_log = structlog.get_logger()


def set_clock(conditions: Conditions) -> None:
    """Tell the sessions how far the wall clock is from the clock that runs through suspend."""
    conditions.wall_offset_ms = wall_ms() - int(boot_s() * 1000)


class DiskFloor:
    """Says whether the store's disk has too little free space for new messages."""

    def __init__(self, folder: Path | None, min_free_bytes: int) -> None:
        """``folder``: None for a store without a disk."""
        self.reached = False
        self.free_bytes: int | None = None
        """At the last look; None where there is nothing to look at."""
        self._folder = folder
        self._min_free_bytes = min_free_bytes

    def look(self) -> bool:
        """Measure; True if ``reached`` has changed."""
        if self._folder is None:
            return False
        try:
            found = os.statvfs(self._folder)
        except OSError:
            return False  # the store itself will say what is wrong
        self.free_bytes = free = found.f_bavail * found.f_frsize
        before, self.reached = self.reached, free < self._min_free_bytes
        return self.reached != before


class Watch:
    """Looks, and turns what it sees into what front and sessions go by."""

    def __init__(
        self,
        front: Front,
        conditions: Conditions,
        watermark: MemoryWatermark,
        floor: DiskFloor,
        certificate: Certificate | None,
        tls_reload_s: float,
        also: Callable[[], None] = lambda: None,
    ) -> None:
        """``also`` is done with each look."""
        self._front = front
        self._conditions = conditions
        self._watermark = watermark
        self._floor = floor
        self._certificate = certificate
        self._tls_reload_s = tls_reload_s
        self._also = also

    async def run(self) -> None:
        """Look until cancelled."""
        certificate_due_s = boot_s() + self._tls_reload_s
        pause_s = min(LOOK_S, self._tls_reload_s) if self._certificate is not None else LOOK_S
        while True:
            await asyncio.sleep(pause_s)
            try:
                self.look()
                if self._certificate is not None and boot_s() >= certificate_due_s:
                    certificate_due_s = boot_s() + self._tls_reload_s
                    self._certificate.reload_if_changed()
            except Exception:
                _log.exception("looking after the process failed")

    def look(self) -> None:
        """Look at clock, memory and disk."""
        set_clock(self._conditions)
        if self._watermark.look():
            self._front.overloaded = self._watermark.exceeded
            self._tell_memory()
        if self._floor.look():
            self._tell_disk()
        self._decide()
        self._also()
        if self._watermark.exceeded:
            give_back()

    def _decide(self) -> None:
        conditions = self._conditions
        if conditions.refuse is Code.DRAINING:
            return
        if self._watermark.exceeded:
            conditions.refuse, conditions.refuse_retry_ms = Code.RATE_LIMITED, OVERLOAD_RETRY_MS
        elif self._floor.reached:
            conditions.refuse, conditions.refuse_retry_ms = Code.STORE_UNAVAILABLE, DISK_RETRY_MS
        else:
            conditions.refuse = conditions.refuse_retry_ms = None

    def _tell_memory(self) -> None:
        watermark = self._watermark
        if watermark.exceeded:
            _log.warning(
                "memory above the watermark: nothing new is taken",
                used_bytes=watermark.used_bytes,
                limit_bytes=watermark.limit_bytes,
                connections=self._front.count,
            )
        else:
            _log.info("memory below the watermark again", used_bytes=watermark.used_bytes)

    def _tell_disk(self) -> None:
        if self._floor.reached:
            _log.error(
                "the disk is nearly full: no new messages are taken", free_bytes=self._floor.free_bytes
            )
        else:
            _log.warning("the disk has room for messages again", free_bytes=self._floor.free_bytes)
