"""Codes of results and errors, and the close code of each: the one table of both (docs/protocol.md 2.4)."""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Final


class Code(StrEnum):
    """Why a message or a request was refused; also the text of a close frame."""

    RATE_LIMITED = "rate-limited"
    QUOTA = "quota"
    TOO_LARGE = "too-large"
    INVALID = "invalid"
    AUTH_REQUIRED = "auth-required"
    NOT_OWNER = "not-owner"
    RESTRICTED = "restricted"
    NOT_ACTIVE = "not-active"
    DRAINING = "draining"
    STORE_UNAVAILABLE = "store-unavailable"
    NETWORK_UNAVAILABLE = "network-unavailable"
    INTERNAL = "internal"


RETRYABLE: Final = frozenset(
    {
        Code.RATE_LIMITED,
        Code.QUOTA,
        Code.NOT_ACTIVE,
        Code.DRAINING,
        Code.STORE_UNAVAILABLE,
        Code.NETWORK_UNAVAILABLE,
        Code.INTERNAL,
    }
)
"""Codes after which the same request may succeed later."""


class CloseCode(IntEnum):
    """WebSocket close codes that the relay uses (RFC 6455 7.4.1; 4000 and up are its own)."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    INVALID_TEXT = 1007
    TOO_BIG = 1009
    KEEP_ALIVE = 1011
    RESTART = 1012
    TRY_LATER = 1013
    TOO_SLOW = 4001
    BAD_AUTHENTICATION = 4501
    BANNED = 4502
    BAD_MESSAGE = 4503
    NO_HELLO = 4504
    SUPERSEDED = 4505


FINAL_CLOSE_CODES: Final = frozenset(
    {
        CloseCode.BAD_AUTHENTICATION,
        CloseCode.BANNED,
        CloseCode.BAD_MESSAGE,
        CloseCode.NO_HELLO,
        CloseCode.SUPERSEDED,
    }
)
"""Close codes after which a client does not reconnect as it is."""
