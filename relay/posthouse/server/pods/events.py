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
NOTE_BYTES: Final = 1024
"""As much as an Event takes."""
INSTANCE_CHARACTERS: Final = 128
"""The same, of the one who reports it."""
CONFLICT: Final = 409
REQUEST_S: Final = 2.0
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 30.0
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
        self._task: asyncio.Task[None] | None = None

    def tell(self, news: News) -> None:
        """Tell it soon."""
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

    async def _tell_all(self) -> None:
        pause_s = FIRST_PAUSE_S
        while self._waiting:
            event: Any = self._waiting[0]
            create = self._api.create_namespaced_event_without_preload_content
            try:
                await answer(create(self._namespace, event, _request_timeout=REQUEST_S), dict[str, Any])
            except Refused as refused:
                if refused.passing:
                    await asyncio.sleep(pause_s)
                    pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)
                    continue
                if refused.status != CONFLICT:  # then it was told, and the answer lost
                    _log.warning("event refused", kind=event["reason"], reason=str(refused))
            if self._waiting and self._waiting[0] is event:  # it may have been pushed out meanwhile
                self._waiting.popleft()

    def _event(self, news: News) -> dict[str, Any]:
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        return {
            "metadata": {"name": f"{self._pod}.{secrets.token_hex(8)}", "namespace": self._namespace},
            "eventTime": now,
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
