"""One line in the log for each session, when it ends; bounded, so that clients cannot fill a disk with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

from posthouse.server.engine import boot_s
from posthouse.server.front import Client

LINES_PER_S: Final = 50.0
BURST_LINES: Final = 200.0
_log = structlog.get_logger()


class SessionLog:
    """Writes the summaries. Those beyond the rate are left out, and counted in the next line that is written."""

    def __init__(self, now: Callable[[], float] = boot_s) -> None:
        self._now = now
        self._room = BURST_LINES
        self._since = now()
        self._left_out = 0

    def ended(self, client: Client, code: int) -> None:
        """A session has ended with this close code."""
        now = self._now()
        self._room = min(BURST_LINES, self._room + (now - self._since) * LINES_PER_S)
        self._since = now
        if self._room < 1:
            self._left_out += 1
            return
        self._room -= 1
        fields = {"lines_left_out": self._left_out} if self._left_out else {}
        self._left_out = 0
        _log.info(
            "session ended",
            dialect=client.dialect.value,
            seconds=round(now - client.since, 3),
            frames_in=client.received_count,
            frames_out=client.sent_count,
            code=int(code),
            refused=client.conversation.dropped,
            **fields,
        )
