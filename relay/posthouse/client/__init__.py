"""The Python client of a relay (docs/client.md).

``core`` and what it uses is sans-I/O; ``client`` and ``connection`` are its asyncio shell.
"""

from posthouse.client.client import Client
from posthouse.client.errors import (
    AudienceMismatch,
    AuthenticationFailed,
    Banned,
    ClientClosed,
    ConnectionFailed,
    InvalidKeyFile,
    InvalidURL,
    NoResult,
    PosthouseClientError,
    ProtocolViolation,
    Refused,
    Rejected,
    Superseded,
    Undeliverable,
)
from posthouse.client.keyfile import create_key_file, load_key
from posthouse.client.life import State
from posthouse.client.reading import IncomingMessage, Subscription
from posthouse.client.results import LaterReceipt, Receipt

__all__ = [
    "AudienceMismatch",
    "AuthenticationFailed",
    "Banned",
    "Client",
    "ClientClosed",
    "ConnectionFailed",
    "IncomingMessage",
    "InvalidKeyFile",
    "InvalidURL",
    "LaterReceipt",
    "NoResult",
    "PosthouseClientError",
    "ProtocolViolation",
    "Receipt",
    "Refused",
    "Rejected",
    "State",
    "Subscription",
    "Superseded",
    "Undeliverable",
    "create_key_file",
    "load_key",
]
