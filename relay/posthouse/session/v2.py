"""The session of dialect v2: hello, checks of every request, answers (docs/protocol.md 2).

Each item is answered alone: a wrong one never disturbs the others. A publish gets exactly one result: from here if
it is refused, else from the broker. The structs that a client sent are the broker's commands; the session fills
in or corrects their fields and passes them on.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from posthouse.exchange import Effect, Open
from posthouse.identity import (
    Address,
    BucketKey,
    InvalidIdentity,
    address_of_key,
    bucket_key,
    canonical_address,
    identity_address_of_key,
    verify_hello,
)
from posthouse.session.base import Phase, Session
from posthouse.session.outbound import translate
from posthouse.session.rate import Rate
from posthouse.session.settings import Conditions, Policy, SessionSettings
from posthouse.session.subscribing import Refused, checked_subscribe, checked_unsubscribe
from posthouse.wire.codec import Codec, Data, FrameError, Invalid
from posthouse.wire.codes import RETRYABLE, CloseCode, Code
from posthouse.wire.messages import (
    Ack,
    Challenge,
    ClientMessage,
    Error,
    Goaway,
    GoawayReason,
    Hello,
    Message,
    Nack,
    Ping,
    Pong,
    Publish,
    Result,
    ServerMessage,
    StatusRequest,
    Subscribe,
    Unsubscribe,
    Welcome,
)

_OPEN: Final = Phase.OPEN


class V2Session(Session):
    """One connection of dialect v2."""

    __slots__ = (
        "_address",
        "_buckets",
        "_challenge",
        "_codec",
        "_compact",
        "_key",
        "_policy",
        "_rate",
        "_rest",
        "_session_id",
        "_window",
        "binary",
        "outgoing",
    )

    def __init__(
        self,
        codec: Codec,
        settings: SessionSettings,
        conditions: Conditions,
        *,
        session_id: str,
        nonce: bytes,
        audience: str,
        now: float,
    ) -> None:
        """``nonce``: 32 bytes from a secure source, for this connection only; ``session_id``: for logs."""
        super().__init__(settings, conditions, now + settings.hello_timeout_s)
        self.binary = codec.binary
        self._codec = codec
        self._session_id = session_id
        self._challenge: Challenge | None = Challenge(nonce, audience, conditions.wall_ms(now))
        self.outgoing: list[ServerMessage] = [self._challenge]
        """The session's own words, until the next ``flush``."""
        self._key: bytes | None = None
        self._address: Address | None = None
        self._policy: Policy = settings.anonymous
        self._window = settings.default_window
        self._compact = False
        self._buckets: frozenset[BucketKey] | None = None
        self._rate: Rate | None = None
        self._rest: list[ClientMessage | Invalid] | None = None

    @property
    def address(self) -> Address | None:
        """The address that the client has proved."""
        return self._address

    # --- opening

    def _first_frame(self, data: Data, now: float) -> None:
        try:
            items = self._codec.decode(data)
        except FrameError as error:
            self._garbage(error)
            return
        if not items:
            return
        hello = items[0]
        if isinstance(hello, Hello):
            self._rest = items[1:]
            self._hello(hello, now)
            return
        detail = hello.detail if isinstance(hello, Invalid) else "the first message has to be hello"
        ref = getattr(hello, "ref", None)
        self._error(Code.INVALID, detail, ref)
        self._close(CloseCode.BAD_MESSAGE, Code.INVALID)

    def _hello(self, hello: Hello, now: float) -> None:
        challenge = self._challenge
        assert challenge is not None
        if hello.key is None and hello.signature is None:
            if not self._settings.anonymous.enabled:
                self._unwelcome(Code.AUTH_REQUIRED, "a key has to be proved here")
                return
        elif hello.key is None or hello.signature is None:
            self._unwelcome(Code.AUTH_REQUIRED, "key and signature go together")
            return
        elif not verify_hello(hello.key, hello.signature, challenge.audience, challenge.nonce):
            self._unwelcome(Code.AUTH_REQUIRED, "the signature is not the key's over this challenge")
            return
        else:
            self._key = hello.key
            self._address = address_of_key(hello.key)
            self._policy = self._settings.authenticated
        self._challenge = None
        self._window = min(hello.window or self._settings.default_window, self._settings.max_window)
        self._compact = hello.compact_results
        if self._policy.max_publish_per_s > 0:
            self._rate = Rate(self._policy.max_publish_per_s, now)
        self._admit(now)

    def _unwelcome(self, code: Code, detail: str) -> None:
        self._error(code, detail, None)
        self._close(CloseCode.BAD_AUTHENTICATION, code)

    def _silent(self) -> None:
        self._close(CloseCode.NO_HELLO, Code.AUTH_REQUIRED)

    def _open_command(self) -> Open:
        return Open(self._address, self._address is None, self._window, self._settings.max_outbound_bytes)

    def _greet(self, now: float) -> None:
        epoch = self._conditions.epoch
        assert epoch is not None
        addresses: list[str] = []
        if self._key is not None and self._address is not None:
            addresses = [self._address, identity_address_of_key(self._key)]
            self._key = None
        settings = self._settings
        limits = {**settings.limits, "buckets_per_connection": self._policy.buckets_per_connection}
        self.outgoing.append(
            Welcome(self._session_id, settings.relay, epoch, addresses, limits, list(settings.features))
        )
        rest, self._rest = self._rest, None
        if rest:
            self._handle(rest, now)

    # --- requests

    def received(self, data: Data, now: float) -> None:
        """The client sent a WebSocket message. ``data`` may be a view of a buffer that is used again."""
        if self._phase is not _OPEN:
            self._not_open(data, now)
            return
        try:
            items = self._codec.decode(data)
        except FrameError as error:
            self._garbage(error)
            return
        self._handle(items, now)

    def _garbage(self, error: FrameError) -> None:
        self._error(Code.INVALID, str(error), None)
        self._close(CloseCode.BAD_MESSAGE, Code.INVALID)

    def _handle(self, items: list[ClientMessage | Invalid], now: float) -> None:
        commands = self.commands
        for item in items:
            if isinstance(item, Publish):
                self._publish(item, now)
            elif isinstance(item, Ack):
                commands.append(item)
            else:
                self._other(item, now)

    def _other(self, item: ClientMessage | Invalid, now: float) -> None:
        if isinstance(item, Subscribe):
            self._subscribe(item)
        elif isinstance(item, Unsubscribe):
            self._unsubscribe(item)
        elif isinstance(item, Nack | StatusRequest):
            self.commands.append(item)
        elif isinstance(item, Ping):
            self.outgoing.append(Pong(item.t, self._conditions.wall_ms(now)))
        elif isinstance(item, Invalid):
            self._invalid(item)
        else:
            self._error(Code.INVALID, "hello has been said", None)

    def _publish(self, item: Publish, now: float) -> None:
        ciphertext = item.ciphertext
        if not ciphertext:
            self._reject(item.ref, None, Code.INVALID, "the ciphertext is empty")
            return
        # The client's own word for the id is never looked at.
        item.id = identity = sha256(ciphertext).hexdigest()
        recipient, bucket = item.recipient, item.bucket
        try:
            if recipient is not None:
                item.recipient = canonical_address(recipient)
            elif bucket is not None:
                item.bucket = bucket_key(bucket)
        except InvalidIdentity as error:
            self._reject(item.ref, identity, Code.INVALID, error.what)
            return
        settings = self._settings
        if (recipient is None) is (bucket is None):
            self._reject(item.ref, identity, Code.INVALID, "either recipient or bucket has to be given")
        elif len(ciphertext) > settings.max_message_bytes:
            self._reject(
                item.ref, identity, Code.TOO_LARGE, f"the limit is {settings.max_message_bytes} bytes"
            )
        elif self._conditions.refuse is not None:
            self._reject(item.ref, identity, self._conditions.refuse, None, self._conditions.refuse_retry_ms)
        elif not self._policy.publish:
            self._reject(item.ref, identity, Code.RESTRICTED, "this kind of connection may not publish")
        elif item.mode == "network" and not settings.network:
            self._reject(item.ref, identity, Code.NETWORK_UNAVAILABLE, "no network is configured")
        elif self._rate is not None and (wait_ms := self._rate.take(now)):
            self._reject(item.ref, identity, Code.RATE_LIMITED, None, wait_ms)
        else:
            self.commands.append(item)

    def _subscribe(self, item: Subscribe) -> None:
        reading = self._buckets or frozenset()
        try:
            command = checked_subscribe(item, self._address, self._policy, reading)
        except Refused as refused:
            self._error(refused.code, refused.detail, item.ref)
            return
        if command.buckets:
            self._buckets = reading | frozenset(command.buckets)
        self.commands.append(command)

    def _unsubscribe(self, item: Unsubscribe) -> None:
        try:
            command = checked_unsubscribe(item, self._policy)
        except Refused as refused:
            self._error(refused.code, refused.detail, item.ref)
            return
        if self._buckets is not None:
            if command.buckets is not None:
                self._buckets = self._buckets.difference(map(BucketKey, command.buckets))
            elif command.addresses is None:
                self._buckets = None
        self.commands.append(command)

    # --- answers

    def flush(self, effects: list[Effect], now: float) -> list[bytes]:
        """Payloads for the socket: the session's own answers, then the broker's effects."""
        if not effects or self._phase is not _OPEN:
            pass
        elif len(effects) == 1 and isinstance(effect := effects[0], Message):
            self.handed += len(effect.ciphertext)
            if not self.outgoing:  # the usual case under light load
                return [self._codec.encode_one(effect)]
            self.outgoing.append(effect)
        else:
            ciphertext_bytes, superseded = translate(effects, self._compact, self.outgoing)
            self.handed += ciphertext_bytes
            if superseded:
                self._close(CloseCode.SUPERSEDED, "superseded")
        outgoing = self.outgoing
        if not outgoing:
            return []
        frames = self._codec.encode(outgoing, self._settings.max_frame_bytes)
        outgoing.clear()
        return frames

    def goaway(
        self, reason: GoawayReason, reconnect_after_ms: tuple[int, int], alternates: list[str]
    ) -> None:
        """Tell the client that the relay is about to end this connection."""
        if self._phase is not Phase.CLOSED:
            self.outgoing.append(Goaway(reason, reconnect_after_ms, alternates))

    def _invalid(self, item: Invalid) -> None:
        if item.type == "publish" and item.ref is not None:
            self._reject(item.ref, None, Code.INVALID, item.detail)
        else:
            self._error(Code.INVALID, item.detail, item.ref)

    def _reject(
        self,
        ref: int,
        identity: str | None,
        code: Code,
        detail: str | None,
        retry_after_ms: int | None = None,
    ) -> None:
        self._count(code)
        self.outgoing.append(
            Result(
                ref,
                "rejected",
                code is not Code.INVALID,
                id=identity,
                code=code,
                detail=detail,
                retry_after_ms=retry_after_ms,
            )
        )

    def _error(self, code: Code, detail: str, ref: int | None) -> None:
        self._count(code)
        self.outgoing.append(Error(code, detail, code in RETRYABLE, ref))

    def _count(self, code: Code) -> None:
        self.dropped += 1
        self._conditions.refused["v2", code] += 1
