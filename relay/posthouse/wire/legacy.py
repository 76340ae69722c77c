"""The legacy dialect's frames, read as its first relay read them and written byte for byte (docs/protocol.md 3).

Keys match whatever their case, of duplicate keys the last wins, ``null`` leaves a text as if absent, and newlines
between and inside tokens do not count: clients in the field were accepted like that. Nothing here raises but
``LegacyError``, whose text is the frame to answer before closing.
"""

from __future__ import annotations

import json
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from typing import Any, Final, NamedTuple

from posthouse.identity import BucketKey, InvalidIdentity, MessageId, bucket_key
from posthouse.wire.codec import Data

SUBSCRIBED: Final = b'{"subscribe": true}'
INVALID_INCOMING: Final = b'{"error": "invalid incoming message"}'
INVALID_SUBSCRIBE: Final = b'{"error": "invalid subscribe message"}'
USER_ID_REQUIRED: Final = b'{"error": "userID required"}'
SUBSCRIPTION_KEY: Final = b'{"error": "subscription key"}'


class LegacyError(ValueError):
    """The first frame is no subscription; ``answer`` is what to send before closing."""

    def __init__(self, answer: bytes) -> None:
        super().__init__(answer.decode())
        self.answer = answer


class LegacySubscribe(NamedTuple):
    """The first frame: who reads, and which bucket."""

    user_id: str
    bucket: BucketKey


class LegacyPublish(NamedTuple):
    """A message for an address. ``recipient`` is not checked yet; ``ciphertext`` is None if it was not base64."""

    recipient: str
    ciphertext: bytes | None


class LegacyAck(NamedTuple):
    """The reader has processed this id."""

    message_id: str


def _fold(key: str) -> str:
    # Go's decoder folds two letters that lower() does not: the long s, and (with it) the Kelvin sign.
    return key.lower().replace("ſ", "s")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    folded: dict[str, Any] = {}
    for key, value in pairs:
        key = _fold(key)
        if value is not None or key == "data" or key not in folded:
            folded[key] = value
    return folded


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


# Numbers are never looked at, and turning a long one into an int is dear.
_decode: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_constant=_no_constant, parse_int=float, strict=False
).decode


def _parse(data: Data) -> dict[str, Any]:
    """The frame's object, keys folded. Raises ValueError or RecursionError."""
    text = str(data, "utf-8", "replace").replace("\n", "")
    value = _decode(text)
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def _text(value: object) -> str | None:
    """A text, empty where it is absent or null; None for anything else."""
    if value is None:
        return ""
    if not isinstance(value, str):
        return None
    if not value.isascii():
        # Halves of surrogate pairs can be written in JSON and nowhere else.
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value


def parse_first(data: Data) -> LegacySubscribe:
    """The first frame of a connection. Raises LegacyError with what rows 2 to 5 answer."""
    try:
        frame = _parse(data)
    except (ValueError, RecursionError):
        raise LegacyError(INVALID_INCOMING) from None
    if _text(frame.get("type")) is None:
        raise LegacyError(INVALID_INCOMING)
    if "data" in frame:
        body = frame["data"]
        if body is None:
            raise LegacyError(USER_ID_REQUIRED)
    elif "userid" in frame or "subscriptionkey" in frame:
        body = frame
    else:
        body = None
    if not isinstance(body, dict) or (user_id := _text(body.get("userid"))) is None:
        raise LegacyError(INVALID_SUBSCRIBE)
    if not user_id:
        raise LegacyError(USER_ID_REQUIRED)
    try:
        return LegacySubscribe(user_id, bucket_key(_text(body.get("subscriptionkey")) or ""))
    except InvalidIdentity:
        raise LegacyError(SUBSCRIPTION_KEY) from None


def parse_later(data: Data) -> LegacyPublish | LegacyAck | None:
    """A later frame; None for all that row 10 passes over."""
    try:
        frame = _parse(data)
    except (ValueError, RecursionError):
        return None
    body = frame.get("data")
    if not isinstance(body, dict):
        return None
    kind = frame.get("type")
    if kind == "EncryptedMessage":
        recipient, encoded = _text(body.get("recipient")), _text(body.get("encryptedmessage"))
        if recipient is None or encoded is None:
            return LegacyPublish("", None)
        return LegacyPublish(recipient, _base64(encoded))
    if kind == "AckMessage":
        identity = _text(body.get("messageid"))
        return LegacyAck(identity) if identity else None
    return None


def _base64(text: str) -> bytes | None:
    try:
        return a2b_base64(text.replace("\r", "").replace("\n", ""), strict_mode=True)
    except (Base64Error, ValueError):
        return None


def message_frame(identity: MessageId | str, ciphertext: bytes) -> bytes:
    """A message as a legacy reader gets it: these keys in this order, four spaces, the recipient empty (row 7)."""
    return b'{\n    "id": "%s",\n    "encryptedMessage": "%s",\n    "recipient": ""\n}' % (
        identity.encode("ascii"),
        b2a_base64(ciphertext, newline=False),
    )
