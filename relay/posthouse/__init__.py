"""Posthouse: a relay that keeps messages for devices that are offline and hands them over at once to the others.

What a program needs to use a relay is here by name (docs/client.md); each name is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from posthouse.client import (
        AudienceMismatch,
        AuthenticationFailed,
        Banned,
        Client,
        ClientClosed,
        ConnectionFailed,
        IncomingMessage,
        InvalidKeyFile,
        InvalidURL,
        LaterReceipt,
        NoResult,
        PosthouseClientError,
        ProtocolViolation,
        Receipt,
        Refused,
        Rejected,
        State,
        Subscription,
        Superseded,
        Undeliverable,
        create_key_file,
        load_key,
    )
    from posthouse.errors import PosthouseError
    from posthouse.identity import DeviceKey

__version__ = "0.1.0"

__all__ = [
    "AudienceMismatch",
    "AuthenticationFailed",
    "Banned",
    "Client",
    "ClientClosed",
    "ConnectionFailed",
    "DeviceKey",
    "IncomingMessage",
    "InvalidKeyFile",
    "InvalidURL",
    "LaterReceipt",
    "NoResult",
    "PosthouseClientError",
    "PosthouseError",
    "ProtocolViolation",
    "Receipt",
    "Refused",
    "Rejected",
    "State",
    "Subscription",
    "Superseded",
    "Undeliverable",
    "__version__",
    "create_key_file",
    "load_key",
]

_HOMES = {"DeviceKey": "posthouse.identity", "PosthouseError": "posthouse.errors"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES.get(name, "posthouse.client")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
