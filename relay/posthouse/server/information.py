"""The relay information document: what ``GET /`` on the relay's own port answers (docs/protocol.md 1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

import posthouse
from posthouse.server.websocket.interface import RequestInfo
from posthouse.session.dialect import Dialect

Standing = Callable[[], tuple[str, int]]
"""Gives the role of this member and the epoch, as they are now."""


class InformationDocument:
    """Makes the document for each request: only role and epoch change."""

    def __init__(
        self,
        *,
        relay: str,
        name: str,
        legacy: bool,
        limits: Mapping[str, int],
        public_names: Sequence[str],
        standing: Standing,
    ) -> None:
        dialects = [dialect.value for dialect in Dialect if legacy or dialect is not Dialect.LEGACY]
        self._standing = standing
        self._fixed: dict[str, Any] = {
            "relay": relay,
            "name": name,
            "version": posthouse.__version__,
            "dialects": dialects,
            "limits": dict(limits),
            "public_names": list(public_names),
        }

    def __call__(self, request: RequestInfo, /) -> bytes:
        """The document as JSON; the same whatever the request says."""
        role, epoch = self._standing()
        return msgspec.json.encode({**self._fixed, "role": role, "epoch": epoch})
