"""A client's state machine over any number of connections, one after the other. Sans-I/O.

Inputs: what the caller wants, what the relay sends, connections that come and go, ``now`` in seconds.
Outputs: ``take`` gives the messages to send, ``take_events`` what to tell the caller.
Invariants: every publish is resolved exactly once, or forgotten because nobody waits; what has no result when
a connection ends goes out again on the next one (ids make it harmless); subscriptions last until they are
ended and are made anew on every connection; nothing but ``hello`` is sent before ``welcome``.

Source: docs/protocol.md 2.
"""

from __future__ import annotations

from typing import Final

from posthouse.client.errors import (
    AudienceMismatch,
    NoResult,
    PosthouseClientError,
    Refused,
    Rejected,
    Undeliverable,
)
from posthouse.client.inbox import Inbox
from posthouse.client.outbox import OVERHEAD_BYTES, Entry, Outbox
from posthouse.client.requests import Question, Requests
from posthouse.client.results import (
    Answered,
    Arrived,
    Event,
    Later,
    LaterReceipt,
    Leaving,
    Opened,
    OpeningRefused,
    Receipt,
    Resolved,
)
from posthouse.identity import DeviceKey, message_id
from posthouse.wire.codes import Code
from posthouse.wire.messages import (
    CaughtUp,
    Challenge,
    ClientMessage,
    Error,
    Goaway,
    Hello,
    Message,
    Mode,
    NackCode,
    Ping,
    Pong,
    PromiseState,
    Publish,
    ReceiptKind,
    Result,
    Results,
    ResultStatus,
    ServerMessage,
    Status,
    StatusRequest,
    Subscribe,
    Subscribed,
    Welcome,
)
from posthouse.wire.messages import Receipt as WireReceipt

_DEFAULT_MAX_FRAME_BYTES: Final = 2**20
_STATES: Final[dict[str, PromiseState]] = {
    "stored": "stored",
    "delivered": "delivered",
    "published": "published",
}


class ClientCore:
    """One client of one relay."""

    def __init__(
        self, name: str, key: DeviceKey | None, window: int, max_inflight_bytes: int, max_remembered: int
    ) -> None:
        self._name = name
        self._key = key
        self._window = window
        self._max_inflight_bytes = max_inflight_bytes
        self.outbox = Outbox(max_inflight_bytes)
        self.inbox = Inbox(max_remembered)
        self.requests = Requests(key.address if key is not None else None)
        self.welcome: Welcome | None = None
        self.epoch: int | None = None
        self.last_error: Error | None = None
        """The relay's last ``error`` on this connection that answers no request."""
        self._out: list[ClientMessage] = []
        self._events: list[Event] = []
        self._audience: str | None = None
        self.max_frame_bytes = _DEFAULT_MAX_FRAME_BYTES
        """The largest frame that the relay takes."""
        self._max_message_bytes: int | None = None
        """The largest ciphertext that the relay takes, once it has said so."""
        self._next_ref = 0

    # --- what the caller wants --------------------------------------------------------------------------

    def publish(
        self,
        ciphertext: bytes,
        recipient: str | None,
        bucket: str | None,
        mode: Mode,
        ttl_s: int | None,
        receipts: list[ReceiptKind] | None,
        now: float,
        timeout_s: float,
    ) -> int:
        """Hand over a message; a ``Resolved`` with the returned number follows."""
        item = Publish(self._new_ref(), ciphertext, recipient, bucket, mode, ttl_s, receipts)
        self.outbox.add(item, now, timeout_s)
        self._refuse_if_too_large(self.outbox.entries[item.ref])
        return item.ref

    def forget(self, ref: int) -> None:
        """Nobody waits for this publish or request any more."""
        self.outbox.forget(ref)
        self.requests.answered(ref)

    def subscribe(
        self, addresses: list[str] | None, buckets: list[str] | None, reader: str | None, live: bool
    ) -> int:
        """Read addresses and buckets, now and on every later connection; an ``Answered`` follows."""
        item = Subscribe(self._new_ref(), addresses, buckets, reader, live)
        self.requests.subscribe(item)
        if self.welcome is not None:
            self._out.append(item)
        return item.ref

    def unsubscribe(self, subscription_ref: int) -> int | None:
        """End a subscription; an ``Answered`` with the returned number follows, or none if nothing is sent."""
        ref = self._new_ref()
        item = self.requests.end(subscription_ref, ref)
        if item is None or self.welcome is None:
            return None
        self._ask(item)
        return ref

    def request_status(self) -> int:
        """Ask what waits for this key; an ``Answered`` follows."""
        ref = self._new_ref()
        self._ask(StatusRequest(ref))
        return ref

    def ping(self) -> int:
        """Ask for a sign of life; an ``Answered`` follows."""
        ref = self._new_ref()
        self._ask(Ping(ref))
        return ref

    def answer(self, id: str, code: NackCode | None, retry_after_ms: int | None) -> None:
        """Acknowledge (``code`` None) or refuse a message that the caller holds."""
        self.inbox.answer(id, code, retry_after_ms)

    # --- connections ------------------------------------------------------------------------------------

    def connected(self, audience: str | None) -> None:
        """A connection is open; the relay on it must call itself ``audience`` (None: whatever it says)."""
        self._audience = audience
        self.last_error = None

    def disconnected(self) -> None:
        """The connection is gone; what it left open waits for the next one."""
        self.welcome = None
        self._out.clear()
        self.outbox.disconnected()
        self.inbox.disconnected()
        self.requests.disconnected()

    def has_output(self) -> bool:
        """Whether ``take`` would give something."""
        if self._out:
            return True
        return self.welcome is not None and (self.inbox.has_answers() or self.outbox.ready())

    def take(self, budget_bytes: int) -> list[ClientMessage]:
        """What goes into the next frame, about ``budget_bytes`` long; empty if there is nothing to send."""
        items: list[ClientMessage] = []
        if self.welcome is not None:
            items += self.inbox.take_answers()
        items += self._out
        self._out = []
        if self.welcome is not None:
            items += self.outbox.take(min(budget_bytes, self.max_frame_bytes // 2), not items)
        return items

    def caught_up(self) -> bool:
        """Whether all backlog of all subscriptions has been sent, and taken by the caller."""
        return not self.inbox and self.requests.caught_up()

    def take_events(self) -> list[Event]:
        """What happened since the last call."""
        events, self._events = self._events, []
        return events

    # --- time -------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When to call ``expire`` again."""
        return self.outbox.next_deadline()

    def expire(self, now: float, why: str | None) -> None:
        """Resolve with NoResult what has waited for too long; ``why`` is what the caller should read."""
        for entry in self.outbox.expired(now):
            self._events.append(
                Resolved(entry.item.ref, NoResult(round(entry.deadline - entry.handed_in_at, 3), why))
            )

    # --- what the relay sends ---------------------------------------------------------------------------

    def receive(self, item: ServerMessage, now: float) -> None:
        """Take in one item of the relay."""
        match item:
            case Message():
                if self.inbox.arrived(item):
                    self._events.append(Arrived())
            case Results():
                for ref in item.refs:
                    self._resolve(ref, item.status, item.status, now)
            case Result():
                self._on_result(item, now)
            case WireReceipt():
                receipt = LaterReceipt(item.id, item.status, item.at, item.recipient, item.cid)
                self._events.append(Later(receipt))
            case Subscribed():
                self.requests.answered(item.ref)
                self._events.append(Answered(item.ref, item.pending))
            case CaughtUp():
                self._on_caught_up(item.ref)
            case Status():
                self._answer(item.ref, item)
            case Pong():
                if isinstance(item.t, int):
                    self._answer(item.t, None)
            case Error():
                self._on_error(item)
            case Challenge():
                self._on_challenge(item)
            case Welcome():
                self._on_welcome(item)
            case Goaway():
                if item.reason != "superseded":  # its close code says the rest
                    self._events.append(Leaving(item.reconnect_after_ms, item.alternates))
            case _:
                self.epoch = item.epoch

    def _on_challenge(self, challenge: Challenge) -> None:
        if self.welcome is not None:
            return
        if self._audience is not None and challenge.audience != self._audience:
            self._events.append(OpeningRefused(AudienceMismatch(challenge.audience, self._audience)))
            return
        hello = Hello(self._name, window=self._window, compact_results=True)
        if self._key is not None:
            hello.key = self._key.public_key
            hello.signature = self._key.sign_hello(challenge.audience, challenge.nonce)
        self._out.append(hello)

    def _on_welcome(self, welcome: Welcome) -> None:
        self.welcome = welcome
        self.epoch = welcome.epoch
        limits = welcome.limits
        self.max_frame_bytes = limits.get("max_frame_bytes", _DEFAULT_MAX_FRAME_BYTES)
        largest = self.max_frame_bytes - OVERHEAD_BYTES
        self._max_message_bytes = min(largest, limits.get("max_message_bytes", largest))
        relay_inflight_bytes = limits.get("max_inflight_bytes", self._max_inflight_bytes)
        self.outbox.max_bytes = min(self._max_inflight_bytes, relay_inflight_bytes)
        for entry in list(self.outbox.entries.values()):
            self._refuse_if_too_large(entry)
        self._out += self.requests.to_repeat()
        self._events.append(Opened())

    def _on_result(self, result: Result, now: float) -> None:
        status = result.status
        if status in ("stored", "delivered", "published"):
            cid = result.state if status == "published" else None
            self._resolve(result.ref, status, status, now, cid)
        elif status == "duplicate":
            self._resolve(result.ref, status, _STATES.get(result.state or "", "stored"), now)
        elif result.code == Code.DRAINING:
            # Not the caller's business: this connection is ending, the next one will take it.
            self.outbox.held_back = True
            self.outbox.send_again(result.ref)
            self._events.append(Leaving((0, 0), []))
        else:
            entry = self.outbox.resolve(result.ref)
            if entry is not None:
                self._events.append(Resolved(result.ref, _failure(entry, result)))

    def _resolve(
        self, ref: int, status: ResultStatus, state: PromiseState, now: float, cid: str | None = None
    ) -> None:
        entry = self.outbox.resolve(ref)
        if entry is not None:
            took_ms = (now - entry.handed_in_at) * 1000
            self._events.append(
                Resolved(ref, Receipt(message_id(entry.item.ciphertext), status, state, took_ms, cid))
            )

    def _on_caught_up(self, ref: int) -> None:
        state = self.requests.subscriptions.get(ref)
        if state is not None:
            state.caught_up = True
            self._events.append(Arrived())

    def _on_error(self, error: Error) -> None:
        if error.ref is None:
            self.last_error = error
            return
        refusal = Refused(error.code, error.detail)
        entry = self.outbox.resolve(error.ref)
        if entry is not None:
            outcome = Rejected(message_id(entry.item.ciphertext), error.code, error.detail)
            self._events.append(Resolved(error.ref, outcome))
        elif error.ref in self.requests.subscriptions:
            self.requests.subscriptions[error.ref].failure = refusal
            self._events += [Answered(error.ref, refusal), Arrived()]
        else:
            self._answer(error.ref, refusal)

    # --- helpers ----------------------------------------------------------------------------------------

    def _new_ref(self) -> int:
        self._next_ref += 1
        return self._next_ref

    def _ask(self, question: Question) -> None:
        self.requests.ask(question)
        if self.welcome is not None:
            self._out.append(question)

    def _answer(self, ref: int, answer: Status | Refused | None) -> None:
        if self.requests.answered(ref):
            self._events.append(Answered(ref, answer))

    def _refuse_if_too_large(self, entry: Entry) -> None:
        """A larger frame would end the connection with 1009, and be sent again and again."""
        if self._max_message_bytes is not None and len(entry.item.ciphertext) > self._max_message_bytes:
            self.outbox.forget(entry.item.ref)
            failure = Rejected(
                message_id(entry.item.ciphertext),
                Code.TOO_LARGE,
                f"the relay takes at most {self._max_message_bytes} bytes",
            )
            self._events.append(Resolved(entry.item.ref, failure))


def _failure(entry: Entry, result: Result) -> PosthouseClientError:
    id = message_id(entry.item.ciphertext)
    if result.status == "undeliverable":
        return Undeliverable(id, result.detail)
    code = result.code or Code.INTERNAL
    return Rejected(id, code, result.detail, result.retry_after_ms, result.fallback)
