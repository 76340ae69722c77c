"""News of a member as Events of its pod: ``kubectl describe pod`` and ``kubectl get events`` show them.

An API server that is away is told when it is back, with the times at which things happened.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from datetime import UTC, datetime
from typing import Any, Final

import structlog
from kubernetes.aio import client

from posthouse.server.news import News
from posthouse.server.pods.api import Refused, answer

CONTROLLER: Final = "posthouse.dev/relay"
MOST_WAITING: Final = 32
"""Beyond it the oldest are given up."""
MOST_AT_ONCE: Final = 25
ONE_MORE_S: Final = 10.0
"""Beyond so many at once, and then one in so many seconds, they are left out: members that fight over a store, or a
lease that comes and goes, must not fill the API server's store. The log has them all."""
NOTE_BYTES: Final = 1024
"""As much as an Event takes."""
INSTANCE_CHARACTERS: Final = 128
"""The same, of the one who reports it."""
CONFLICT: Final = 409
REQUEST_S: Final = 2.0
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 30.0
TRIES_WITHOUT_RIGHTS: Final = 5
"""Then an event is given up: whoever may not tell events will not be allowed to in the next minutes."""
LAST_WORDS_S: Final = 1.0
"""How long the end of a process waits for what it has still to tell."""
_log = structlog.get_logger()


class Events:
    """Tells one after another, in the background."""

    def __init__(self, api: client.ApiClient, namespace: str, pod: str, uid: str) -> None:
        """Of which pod. ``api`` is closed by the one who made it."""
        self._api = client.EventsV1Api(api)
        self._namespace = namespace
        self._pod = pod
        self._uid = uid
        self._waiting: deque[dict[str, Any]] = deque(maxlen=MOST_WAITING)
        self._allowed = float(MOST_AT_ONCE)
        self._counted_at = 0.0
        self._leaving_out = False
        self._task: asyncio.Task[None] | None = None

    def tell(self, news: News) -> None:
        """Tell it soon, unless there were too many lately."""
        if not self._one_more(asyncio.get_running_loop().time()):
            return
        self._waiting.append(self._event(news))
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._tell_all())

    async def close(self) -> None:
        """Tell what is left, if that is done soon."""
        if self._task is None:
            return
        _, late = await asyncio.wait((self._task,), timeout=LAST_WORDS_S)
        if late:
            _log.warning("events were not told", count=len(self._waiting))
            self._task.cancel()

    def _one_more(self, now: float) -> bool:
        self._allowed = min(MOST_AT_ONCE, self._allowed + (now - self._counted_at) / ONE_MORE_S)
        self._counted_at = now
        before, self._leaving_out = self._leaving_out, self._allowed < 1
        if not self._leaving_out:
            self._allowed -= 1
        elif not before:
            _log.warning("too many events: some are left out")
        return not self._leaving_out

    async def _tell_all(self) -> None:
        while self._waiting:
            event = self._waiting[0]
            await self._tell_one(event)
            if self._waiting and self._waiting[0] is event:  # it may have been pushed out meanwhile
                self._waiting.popleft()

    async def _tell_one(self, event: Any) -> None:
        create = self._api.create_namespaced_event_without_preload_content
        pause_s = FIRST_PAUSE_S
        tries = 0
        while True:
            try:
                await answer(create(self._namespace, event, _request_timeout=REQUEST_S), dict[str, Any])
                return
            except Refused as refused:
                tries += refused.of_rights
                if not refused.passing and not (refused.of_rights and tries < TRIES_WITHOUT_RIGHTS):
                    if refused.status != CONFLICT:  # then it was told, and the answer lost
                        _log.warning("event refused", kind=event["reason"], reason=str(refused))
                    return
            await asyncio.sleep(pause_s)
            pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)

    def _event(self, news: News) -> dict[str, Any]:
        now = datetime.now(UTC)
        # The client library leaves out microseconds that are zero, and the API server takes no time without them.
        shown = now.replace(microsecond=max(1, now.microsecond)).isoformat().replace("+00:00", "Z")
        return {
            "metadata": {"name": f"{self._pod}.{secrets.token_hex(8)}", "namespace": self._namespace},
            "eventTime": shown,
            "type": "Warning" if news.warning else "Normal",
            "reason": news.kind,
            "action": news.kind,
            "note": news.text.encode()[:NOTE_BYTES].decode(errors="ignore"),
            "regarding": {
                "apiVersion": "v1",
                "kind": "Pod",
                "name": self._pod,
                "namespace": self._namespace,
                "uid": self._uid or None,
            },
            "reportingController": CONTROLLER,
            "reportingInstance": self._pod[:INSTANCE_CHARACTERS],
        }
