"""The client's state machine: what it says, what it says again, and what it tells its caller."""

from typing import Any

import pytest
from posthouse.client.core import ClientCore
from posthouse.client.errors import AudienceMismatch, NoResult, Refused, Rejected, Undeliverable
from posthouse.client.results import (
    Answered,
    Arrived,
    Event,
    Later,
    Leaving,
    Opened,
    OpeningRefused,
    Receipt,
    Resolved,
)
from posthouse.identity import DeviceKey, message_id, verify_hello
from posthouse.wire.messages import (
    Ack,
    CaughtUp,
    Challenge,
    ClientMessage,
    EpochChanged,
    Error,
    Goaway,
    Hello,
    Message,
    Pending,
    Ping,
    Pong,
    Publish,
    Result,
    Results,
    ServerMessage,
    Status,
    StatusRequest,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Welcome,
)
from posthouse.wire.messages import Receipt as WireReceipt

KEY = DeviceKey(bytes(range(32)))
NONCE = bytes(32)
ENOUGH = 10**6
Pending0 = Pending(0, 0)


class Talk:
    """A core, and the relay's side of the conversation with it."""

    def __init__(self, key: DeviceKey | None = KEY, max_inflight_bytes: int = ENOUGH) -> None:
        self.core = ClientCore("test", key, 256, max_inflight_bytes, 1000)

    def connect(self, audience: str | None = "relay", **limits: int) -> list[ClientMessage]:
        """Open a connection; what the client says after welcome."""
        self.core.connected(audience)
        self.core.receive(Challenge(NONCE, "relay", 0), 0.0)
        self.said()
        self.core.receive(Welcome("s", "r", 7, [], limits, []), 0.0)
        self.events()
        return self.said()

    def publish(self, data: bytes = b"x", now: float = 0.0, timeout_s: float = 10.0) -> int:
        return self.core.publish(data, "recipient", None, "store", None, None, now, timeout_s)

    def said(self) -> list[ClientMessage]:
        return self.core.take(ENOUGH)

    def hear(self, item: ServerMessage, now: float = 0.0) -> list[Event]:
        self.core.receive(item, now)
        return self.events()

    def events(self) -> list[Event]:
        return self.core.take_events()


def only(events: list[Event]) -> Any:
    assert len(events) == 1
    return events[0]


def test_hello_proves_the_key_to_the_relay_that_was_dialled() -> None:
    talk = Talk()
    talk.core.connected("relay")
    assert talk.said() == []
    talk.hear(Challenge(NONCE, "relay", 0))
    (hello,) = talk.said()
    assert isinstance(hello, Hello)
    assert (hello.client, hello.window, hello.compact_results) == ("test", 256, True)
    assert hello.key == KEY.public_key and hello.signature is not None
    assert verify_hello(hello.key, hello.signature, "relay", NONCE)


def test_nothing_is_signed_for_a_relay_that_calls_itself_otherwise() -> None:
    talk = Talk()
    talk.core.connected("relay")
    event = only(talk.hear(Challenge(NONCE, "evil", 0)))
    assert isinstance(event, OpeningRefused) and isinstance(event.error, AudienceMismatch)
    assert "evil" in str(event.error) and "relay" in str(event.error)
    assert talk.said() == []


def test_an_anonymous_client_says_hello_without_a_key() -> None:
    talk = Talk(key=None)
    talk.core.connected(None)
    talk.hear(Challenge(NONCE, "any", 0))
    (hello,) = talk.said()
    assert isinstance(hello, Hello) and hello.key is None and hello.signature is None


def test_nothing_but_hello_is_said_before_welcome() -> None:
    talk = Talk()
    talk.publish()
    talk.core.subscribe(None, None, None, True)
    talk.core.connected("relay")
    assert not talk.core.has_output()
    talk.hear(Challenge(NONCE, "relay", 0))
    assert [type(item) for item in talk.said()] == [Hello]
    assert not talk.core.has_output()
    assert talk.hear(Welcome("s", "r", 7, [], {}, [])) == [Opened()]
    assert [type(item) for item in talk.said()] == [Subscribe, Publish]
    assert talk.core.epoch == 7


@pytest.mark.parametrize("status", ["stored", "delivered"])
def test_a_plain_result_resolves_its_publish_with_the_promise(status: Any) -> None:
    talk = Talk()
    talk.connect()
    ref = talk.publish(b"hello", now=1.0)
    talk.said()
    assert talk.hear(Result(ref, status, False), now=1.5) == [
        Resolved(ref, Receipt(message_id(b"hello"), status, status, 500.0))
    ]


def test_compact_results_resolve_every_publish_they_name() -> None:
    talk = Talk()
    talk.connect()
    refs = [talk.publish(bytes([number])) for number in range(5)]
    talk.said()
    events = talk.hear(Results("delivered", refs))
    assert all(isinstance(event, Resolved) and isinstance(event.outcome, Receipt) for event in events)
    assert [event.ref for event in events if isinstance(event, Resolved)] == refs


def test_a_duplicate_tells_which_promise_holds() -> None:
    talk = Talk()
    talk.connect()
    ref = talk.publish()
    receipt = only(talk.hear(Result(ref, "duplicate", False, state="delivered"))).outcome
    assert (receipt.status, receipt.state, receipt.duplicate) == ("duplicate", "delivered", True)


def test_published_carries_its_name_on_the_network() -> None:
    talk = Talk()
    talk.connect()
    ref = talk.publish()
    receipt = only(talk.hear(Result(ref, "published", False, state="bafy"))).outcome
    assert (receipt.state, receipt.cid) == ("published", "bafy")


def test_undeliverable_and_rejected_are_errors_that_say_whether_to_fall_back() -> None:
    talk = Talk()
    talk.connect()
    first, second, third = talk.publish(), talk.publish(), talk.publish()
    talk.said()
    error = only(talk.hear(Result(first, "undeliverable", True))).outcome
    assert isinstance(error, Undeliverable) and error.fallback
    error = only(
        talk.hear(Result(second, "rejected", True, code="quota", detail="full", retry_after_ms=250))
    ).outcome
    assert isinstance(error, Rejected) and error.fallback
    assert (error.code, error.retry_after_ms) == ("quota", 250)
    assert str(error) == "rejected: quota, full, try again in 250 ms"
    error = only(talk.hear(Result(third, "rejected", False, code="invalid"))).outcome
    assert isinstance(error, Rejected) and not error.fallback


def test_a_result_that_nobody_waits_for_is_passed_over() -> None:
    talk = Talk()
    talk.connect()
    ref = talk.publish()
    talk.said()
    talk.core.forget(ref)
    assert talk.hear(Result(ref, "stored", False)) == []
    assert talk.hear(Result(99, "stored", False)) == []


def test_what_has_no_result_goes_out_again_with_the_same_number_and_bytes() -> None:
    talk = Talk()
    talk.connect()
    done, open_, queued = talk.publish(b"1"), talk.publish(b"2"), talk.publish(b"3")
    sent = talk.said()
    talk.hear(Result(done, "stored", False))
    talk.core.disconnected()
    assert talk.said() == []
    assert talk.connect() == [
        item for item in sent if isinstance(item, Publish) and item.ref in (open_, queued)
    ]


def test_no_result_in_time_is_an_error_and_the_message_is_not_sent_again() -> None:
    talk = Talk()
    talk.connect()
    ref = talk.publish(timeout_s=2.0)
    talk.said()
    assert talk.core.next_deadline() == 2.0
    talk.core.expire(1.9, None)
    assert talk.events() == []
    talk.core.expire(2.0, "not connected")
    event = only(talk.events())
    assert event.ref == ref and isinstance(event.outcome, NoResult) and event.outcome.fallback
    assert str(event.outcome) == "no result within 2 s, not connected"
    talk.core.disconnected()
    assert talk.connect() == []


def test_the_smaller_of_both_sides_limits_of_bytes_under_way_holds() -> None:
    talk = Talk(max_inflight_bytes=10_000)
    talk.connect(max_inflight_bytes=2000)
    for _ in range(5):
        talk.publish(bytes(800))
    assert len(talk.said()) == 1
    talk.core.disconnected()
    assert len(talk.connect(max_inflight_bytes=10**9)) == 5


def test_a_message_too_large_for_the_relay_is_rejected_here_instead_of_ending_the_connection() -> None:
    talk = Talk()
    early = talk.publish(bytes(2000))
    talk.core.connected("relay")
    talk.hear(Challenge(NONCE, "relay", 0))
    talk.said()
    events = talk.hear(Welcome("s", "r", 1, [], {"max_message_bytes": 1999}, []))
    late = talk.publish(bytes(2001))
    events += talk.events()
    rejected = {event.ref: event.outcome for event in events if isinstance(event, Resolved)}
    assert set(rejected) == {early, late}
    assert all(isinstance(error, Rejected) and error.code == "too-large" for error in rejected.values())
    assert talk.said() == []


def test_draining_is_not_the_callers_business() -> None:
    talk = Talk()
    talk.connect()
    ref = talk.publish()
    talk.said()
    assert talk.hear(Result(ref, "rejected", True, code="draining")) == [Leaving((0, 0), [])]
    assert talk.said() == []
    talk.core.disconnected()
    (again,) = talk.connect()
    assert isinstance(again, Publish) and again.ref == ref


def test_subscriptions_are_made_anew_on_every_connection_and_questions_asked_again() -> None:
    talk = Talk()
    talk.connect()
    subscription = talk.core.subscribe(None, ["b"], None, True)
    assert talk.said() == [Subscribe(subscription, None, ["b"])]
    assert talk.hear(Subscribed(subscription, Pending(3, 30))) == [Answered(subscription, Pending(3, 30))]
    question = talk.core.request_status()
    talk.core.disconnected()
    assert talk.connect() == [Subscribe(subscription, None, ["b"]), StatusRequest(question)]
    status = Status(question, Pending0, {}, 1)
    assert talk.hear(status) == [Answered(question, status)]
    talk.core.disconnected()
    assert talk.connect() == [Subscribe(subscription, None, ["b"])]


def test_caught_up_holds_for_one_connection_and_needs_an_empty_inbox() -> None:
    talk = Talk()
    talk.connect()
    subscription = talk.core.subscribe(None, None, None, True)
    assert not talk.core.caught_up()
    talk.hear(Message("a", 1, b"x", 0, 0, 1))
    assert talk.hear(CaughtUp(subscription)) == [Arrived()]
    assert not talk.core.caught_up()
    talk.core.inbox.take()
    assert talk.core.caught_up()
    talk.core.disconnected()
    assert not talk.core.caught_up()


def test_a_refused_subscription_is_an_answer_and_is_not_made_again() -> None:
    talk = Talk()
    talk.connect()
    subscription = talk.core.subscribe(["other"], None, None, True)
    talk.said()
    answered, arrived = talk.hear(Error("not-owner", "no", False, subscription))
    assert isinstance(answered, Answered) and isinstance(answered.answer, Refused)
    assert answered.answer.code == "not-owner" and arrived == Arrived()
    assert talk.core.unsubscribe(subscription) is None
    talk.core.disconnected()
    assert talk.connect() == []


def test_ending_a_subscription_leaves_what_another_names_too() -> None:
    talk = Talk()
    talk.connect()
    own = talk.core.subscribe(None, None, None, True)
    both = talk.core.subscribe([KEY.addresses[1]], ["b", "c"], None, True)
    other = talk.core.subscribe(None, ["c"], None, True)
    talk.said()
    ref = talk.core.unsubscribe(both) or 0
    assert talk.said() == [Unsubscribe(ref, None, ["b"])]
    ref = talk.core.unsubscribe(own) or 0
    assert talk.said() == [Unsubscribe(ref, [KEY.address])]
    assert talk.core.unsubscribe(own) is None
    talk.core.disconnected()
    assert talk.connect() == [Subscribe(other, None, ["c"])]


def test_answers_to_messages_go_out_before_publishes() -> None:
    talk = Talk()
    talk.connect()
    talk.hear(Message("a", 1, b"x", 0, 0, 1))
    talk.core.inbox.take()
    ref = talk.publish()
    talk.core.answer("a", None, None)
    ack, publish = talk.said()
    assert ack == Ack(["a"]) and isinstance(publish, Publish) and publish.ref == ref


def test_ping_is_answered_by_its_own_pong() -> None:
    talk = Talk()
    talk.connect()
    ref = talk.core.ping()
    assert talk.said() == [Ping(ref)]
    assert talk.hear(Pong(ref + 5, 0)) == []
    assert talk.hear(Pong("x", 0)) == []
    assert talk.hear(Pong(ref, 0)) == [Answered(ref, None)]
    assert talk.hear(Pong(ref, 0)) == []


def test_the_relays_other_words_reach_the_caller() -> None:
    talk = Talk()
    talk.connect()
    assert talk.hear(Goaway("drain", (5, 10), ["ws://x"])) == [Leaving((5, 10), ["ws://x"])]
    assert talk.hear(Goaway("superseded", (0, 0), [])) == []
    assert talk.hear(EpochChanged(9)) == []
    assert talk.core.epoch == 9
    later = only(talk.hear(WireReceipt("i", "delivered", 123, "r")))
    assert isinstance(later, Later)
    assert (later.receipt.id, later.receipt.status, later.receipt.at_ms) == ("i", "delivered", 123)
    assert talk.hear(Error("auth-required", "say who you are", False)) == []
    assert talk.core.last_error is not None and talk.core.last_error.code == "auth-required"
