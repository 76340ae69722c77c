"""The session of the legacy dialect (docs/protocol.md 3).

One subscription, then messages out and publishes and acks in. It answers the first frame and nothing else, ever:
what is bad or not allowed is dropped and counted. Its Go clients crash on frames that they do not expect.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from posthouse.exchange import UNLIMITED_WINDOW, Attend, Effect, Open
from posthouse.identity import InvalidIdentity, canonical_address, message_id, parse_multihash
from posthouse.session.base import Phase, Session
from posthouse.session.rate import Rate
from posthouse.session.settings import Conditions, SessionSettings
from posthouse.wire.codec import Data
from posthouse.wire.codes import CloseCode, Code
from posthouse.wire.legacy import (
    SUBSCRIBED,
    LegacyAck,
    LegacyError,
    LegacyPublish,
    LegacySubscribe,
    message_frame,
    parse_first,
    parse_later,
)
from posthouse.wire.messages import Ack, Message, Mode, Publish, Result

MAX_USER_ID_CHARS: Final = 256
"""A longer userID is kept as its hash: it goes into every mark."""
_SHORTEST_PEER_ID_BYTES: Final = 34

_OPEN: Final = Phase.OPEN


class LegacySession(Session):
    """One connection of the legacy dialect."""

    __slots__ = ("_rate", "_ref", "_subscription", "outgoing")

    def __init__(self, settings: SessionSettings, conditions: Conditions, *, now: float) -> None:
        super().__init__(settings, conditions, now + settings.legacy_hello_timeout_s)
        self.outgoing: list[bytes] = []
        """Frames of the session's own, until the next ``flush``."""
        self._subscription: LegacySubscribe | None = None
        self._ref = 0
        limit = settings.legacy.max_publish_per_s
        self._rate = Rate(limit, now) if limit > 0 else None

    # --- opening

    def _first_frame(self, data: Data, now: float) -> None:
        try:
            self._subscription = parse_first(data)
        except LegacyError as error:
            self._drop(Code.INVALID)
            self.outgoing.append(error.answer)
            self._close(CloseCode.NORMAL, "")
            return
        self._admit(now)

    def _silent(self) -> None:
        self._close(CloseCode.NORMAL, "")

    def _open_command(self) -> Open:
        return Open(None, True, UNLIMITED_WINDOW, self._settings.max_outbound_bytes)

    def _greet(self, now: float) -> None:
        subscription = self._subscription
        assert subscription is not None
        self._subscription = None
        self.outgoing.append(SUBSCRIBED)
        if self._settings.legacy.read_buckets:
            self.commands.append(
                Attend(
                    ref=0,
                    addresses=[],
                    buckets=[subscription.bucket],
                    reader=_reader_name(subscription.user_id),
                    live=True,
                    newest=self._settings.legacy_backlog_limit,
                )
            )

    # --- requests

    def received(self, data: Data, now: float) -> None:
        """The client sent a WebSocket message. ``data`` may be a view of a buffer that is used again."""
        if self._phase is not _OPEN:
            self._not_open(data, now)
            return
        frame = parse_later(data)
        if isinstance(frame, LegacyPublish):
            self._publish(frame, now)
        elif isinstance(frame, LegacyAck):
            self.commands.append(Ack([frame.message_id]))
        else:
            self._drop(Code.INVALID)

    def _publish(self, frame: LegacyPublish, now: float) -> None:
        ciphertext = frame.ciphertext
        try:
            recipient = canonical_address(frame.recipient)
        except InvalidIdentity:
            ciphertext = None
        if not ciphertext:
            self._drop(Code.INVALID)
        elif len(ciphertext) > self._settings.max_message_bytes:
            self._drop(Code.TOO_LARGE)
        elif self._conditions.refuse is not None:
            self._drop(self._conditions.refuse)
        elif not self._settings.legacy.publish:
            self._drop(Code.RESTRICTED)
        elif self._rate is not None and self._rate.take(now):
            self._drop(Code.RATE_LIMITED)
        else:
            self._ref += 1
            mode: Mode = "network" if self._settings.network else "store"
            self.commands.append(
                Publish(self._ref, ciphertext, recipient, mode=mode, id=message_id(ciphertext))
            )

    # --- answers

    def flush(self, effects: list[Effect], now: float) -> list[bytes]:
        """Payloads for the socket: the answer to the first frame, then messages, each in a frame of its own."""
        frames, self.outgoing = self.outgoing, []
        if self._phase is not _OPEN:
            return frames
        for effect in effects:
            if isinstance(effect, Message):
                self.handed += len(effect.ciphertext)
                frames.append(message_frame(effect.id, effect.ciphertext))
            elif isinstance(effect, Result) and effect.code is not None:
                self._drop(effect.code)
        return frames

    def _drop(self, code: str) -> None:
        self.dropped += 1
        self._conditions.refused["legacy", code] += 1


def _reader_name(user_id: str) -> str | None:
    """Under which name a userID's acks are kept; None, for this connection only, if it is a PeerID.

    PeerIDs are public, and clients give theirs as their userID: kept under it, anybody could ack another's mail.
    """
    try:
        if len(parse_multihash(user_id)) >= _SHORTEST_PEER_ID_BYTES:
            return None
    except InvalidIdentity:
        pass
    if len(user_id) > MAX_USER_ID_CHARS:
        user_id = sha256(user_id.encode()).hexdigest()
    return f"legacy/{user_id}"
