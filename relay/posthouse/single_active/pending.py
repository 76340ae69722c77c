"""A request that is under way."""

from __future__ import annotations

from enum import Enum

from msgspec import Struct


class Purpose(Enum):
    """What a request is for."""

    READ = "read"
    CLAIM = "claim"
    RENEW = "renew"
    RELEASE = "release"


class Pending(Struct, frozen=True, gc=False):
    """The one request under way. ``sent`` in seconds of the member's running clock."""

    id: int
    purpose: Purpose
    sent: float
