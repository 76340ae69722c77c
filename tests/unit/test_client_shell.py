"""The asyncio shell of the client against a relay that does as it is told: connections, frames, cancellation."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from fake_relay import FakeRelay, message, running_relay
from posthouse import (
    AudienceMismatch,
    AuthenticationFailed,
    Banned,
    Client,
    ClientClosed,
    ConnectionFailed,
    DeviceKey,
    LaterReceipt,
    NoResult,
    ProtocolViolation,
    Receipt,
    Refused,
    Rejected,
    State,
    Superseded,
)
from posthouse.identity import message_id
from posthouse.wire.messages import Ack, Error, Goaway, Publish, Result, ServerMessage, Subscribe
from posthouse.wire.messages import Receipt as WireReceipt

KEY = DeviceKey(bytes(32))
TO = "QmaSAmPPynrWfz1R8XvRm1GX6ghzPze6XSZCov6fWWUzSg"


@pytest.fixture
async def relay() -> AsyncIterator[FakeRelay]:
    async with running_relay() as relay:
        yield relay


async def test_a_send_returns_what_the_relay_promises(relay: FakeRelay) -> None:
    async with Client(relay.url, KEY) as client:
        receipt = await client.send(TO, b"hello", mode="live", ttl_s=60, receipts=["delivered"])
    assert (receipt.id, receipt.status, receipt.state) == (message_id(b"hello"), "stored", "stored")
    assert receipt.took_ms > 0
    (item,) = relay.published()
    assert (item.recipient, item.ciphertext, item.mode, item.ttl_s) == (TO, b"hello", "live", 60)
    assert item.receipts == ["delivered"]


async def test_a_message_for_a_bucket_names_the_bucket_alone(relay: FakeRelay) -> None:
    async with Client(relay.url) as client:
        await client.send_to_bucket("bucket", b"x")
    (item,) = relay.published()
    assert (item.recipient, item.bucket) == (None, "bucket")


async def test_sends_at_the_same_time_share_a_frame(relay: FakeRelay) -> None:
    async with Client(relay.url, KEY) as client:
        await client.connected()
        before = len(relay.frames)
        await asyncio.gather(*(client.send(TO, b"%d" % number) for number in range(100)))
    assert len(relay.published()) == 100
    assert len(relay.frames) - before == 1


async def test_many_sends_give_their_outcomes_in_order_with_bounded_waiting(relay: FakeRelay) -> None:
    taken = 0

    def source() -> list[tuple[str, bytes]]:
        return [(TO, b"%d" % number) for number in range(500)]

    def counted() -> Iterator[tuple[str, bytes]]:
        nonlocal taken
        for pair in source():
            taken += 1
            yield pair

    def answer(item: Publish) -> ServerMessage:
        if item.ciphertext == b"7":
            return Result(item.ref, "rejected", True, code="quota")
        return Result(item.ref, "delivered", False)

    relay.answer = answer
    outcomes = []
    async with Client(relay.url, KEY) as client:
        async for outcome in client.send_many(counted(), max_waiting=10):
            outcomes.append(outcome)
            assert taken - len(outcomes) <= 10
    assert len(outcomes) == 500
    for number, outcome in enumerate(outcomes):
        if number == 7:
            assert isinstance(outcome, Rejected)
        else:
            assert isinstance(outcome, Receipt) and outcome.id == message_id(b"%d" % number)


async def test_many_sends_take_an_asynchronous_source_and_can_be_left_early(relay: FakeRelay) -> None:
    async def source() -> AsyncIterator[tuple[str, bytes]]:
        for number in range(100):
            yield TO, b"%d" % number

    relay.answer = lambda item: Result(item.ref, "stored", False) if item.ciphertext == b"0" else None
    async with Client(relay.url, KEY) as client:
        outcomes = client.send_many(source(), max_waiting=5)
        async for outcome in outcomes:
            assert isinstance(outcome, Receipt)
            break
        await outcomes.aclose()  # type: ignore[attr-defined]
        assert client._core.outbox.entries == {}


async def test_an_outcome_does_not_wait_for_the_next_message(relay: FakeRelay) -> None:
    more = asyncio.Event()

    async def source() -> AsyncIterator[tuple[str, bytes]]:
        yield TO, b"1"
        await more.wait()
        yield TO, b"2"

    async with Client(relay.url, KEY) as client:
        outcomes = client.send_many(source())
        first = await asyncio.wait_for(anext(outcomes), 10)
        more.set()
        rest = [outcome async for outcome in outcomes]
    assert isinstance(first, Receipt) and len(rest) == 1
    assert [item.ciphertext for item in relay.published()] == [b"1", b"2"]


async def test_an_error_of_the_source_reaches_the_caller_after_the_outcomes(relay: FakeRelay) -> None:
    def source() -> Iterator[tuple[str, bytes]]:
        yield TO, b"1"
        raise KeyError("mine")

    got = []
    async with Client(relay.url, KEY) as client:
        with pytest.raises(KeyError):
            async for outcome in client.send_many(source()):
                got.append(outcome)
    assert len(got) == 1


async def test_what_had_no_result_is_sent_again_on_the_next_connection(relay: FakeRelay) -> None:
    relay.silent = True
    async with Client(relay.url, KEY) as client:
        sending = asyncio.create_task(client.send(TO, b"x"))
        await relay.until(lambda: len(relay.published()) == 1)
        relay.silent = False
        relay.cut()
        receipt = await sending
    assert receipt.status == "stored"
    first, second = relay.published()
    assert first == second


async def test_a_send_waits_for_a_relay_that_comes_back(relay: FakeRelay) -> None:
    await relay.stop()
    async with Client(relay.url, KEY) as client:
        sending = asyncio.create_task(client.send(TO, b"x"))
        while client.state is not State.WAITING:
            await client._life.changed()
        await relay.start()
        assert (await sending).status == "stored"


async def test_no_result_says_why_and_the_message_is_forgotten(relay: FakeRelay) -> None:
    await relay.stop()
    async with Client(relay.url, KEY) as client:
        with pytest.raises(NoResult) as caught:
            await client.send(TO, b"x", timeout_s=0.2)
        assert caught.value.fallback
        assert "no result within 0.2 s" in str(caught.value)
        await relay.start()
        await client.connected()
        await client.send(TO, b"y")
    assert [item.ciphertext for item in relay.published()] == [b"y"]


async def test_a_cancelled_send_is_not_sent_again(relay: FakeRelay) -> None:
    relay.silent = True
    async with Client(relay.url, KEY) as client:
        sending = asyncio.create_task(client.send(TO, b"x"))
        await relay.until(lambda: len(relay.published()) == 1)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        relay.silent = False
        relay.cut()
        await client.send(TO, b"y")
    assert [item.ciphertext for item in relay.published()] == [b"x", b"y"]


async def test_the_next_address_is_tried_at_once(relay: FakeRelay) -> None:
    async with running_relay() as other:
        dead = other.url
        await other.stop()
        async with Client([dead, relay.url], KEY) as client:
            assert (await client.send(TO, b"x", timeout_s=5)).status == "stored"


async def test_states_are_told_with_their_reason(relay: FakeRelay) -> None:
    told: list[tuple[State, str]] = []
    async with Client(relay.url, KEY, on_state=lambda state, detail: told.append((state, detail))) as client:
        await client.connected()
        relay.cut()
        while client.state is State.CONNECTED:
            await client._life.changed()
        await client.connected()
        assert client.epoch == 3
    await asyncio.sleep(0)
    assert [state for state, _ in told] == [
        State.CONNECTING,
        State.CONNECTED,
        State.WAITING,
        State.CONNECTING,
        State.CONNECTED,
        State.CLOSED,
    ]
    assert told[2][1] == f"the connection to {relay.url} was lost"


async def test_an_error_in_a_callback_breaks_nothing(relay: FakeRelay) -> None:
    failures = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: failures.append(context))

    def broken(state: State, detail: str) -> None:
        raise ValueError("mine")

    async with Client(relay.url, KEY, on_state=broken) as client:
        assert (await client.send(TO, b"x")).status == "stored"
    await asyncio.sleep(0)
    assert len(failures) == 3


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (4501, AuthenticationFailed),
        (4502, Banned),
        (4503, ProtocolViolation),
        (4504, ProtocolViolation),
        (4505, Superseded),
    ],
)
async def test_a_final_close_code_ends_everything(
    relay: FakeRelay, code: int, error: type[ConnectionFailed]
) -> None:
    relay.close_at_hello = code
    relay.before_close = [Error("auth-required", "a key is needed", False)]
    async with Client(relay.url, KEY) as client:
        with pytest.raises(error) as caught:
            await client.send(TO, b"x")
        assert "a key is needed" in str(caught.value) and caught.value.code == "auth-required"
        assert client.state is State.FAILED
        with pytest.raises(error):
            await client.send(TO, b"x")
        with pytest.raises(error):
            await client.connected()
        with pytest.raises(error):
            await anext(client.messages())
    assert relay.openings == 1


async def test_another_audience_than_dialled_is_refused_unless_expected(relay: FakeRelay) -> None:
    relay.audience = "relay.example"
    async with Client(relay.url, KEY) as client:
        with pytest.raises(AudienceMismatch) as caught:
            await client.send(TO, b"x")
    assert (caught.value.audience, caught.value.expected) == ("relay.example", f"127.0.0.1:{relay.port}")
    assert relay.heard == []
    async with Client(relay.url, KEY, audience="relay.example") as client:
        await client.send(TO, b"x")
    async with Client(relay.url) as client:
        await client.send(TO, b"x")


async def test_an_address_with_another_audience_is_left_for_the_next_one(relay: FakeRelay) -> None:
    async with running_relay() as liar:
        liar.audience = "elsewhere"
        async with Client([liar.url, relay.url], KEY) as client:
            assert (await client.send(TO, b"x")).status == "stored"
        assert liar.openings == 1 and liar.heard == []


async def test_a_client_told_to_gives_up_when_it_finds_no_relay(relay: FakeRelay) -> None:
    await relay.stop()
    async with Client(relay.url, KEY, give_up_after_s=0.2) as client:
        with pytest.raises(ConnectionFailed) as caught:
            await client.send(TO, b"x")
    assert relay.url in str(caught.value)


async def test_goaway_moves_the_client_to_the_alternate_without_an_error(relay: FakeRelay) -> None:
    async with running_relay() as other, Client(relay.url, KEY) as client:
        await client.send(TO, b"1")
        await relay.say(Goaway("drain", (0, 10), [other.url]))
        await other.until(lambda: bool(other.connections))
        await client.send(TO, b"2")
        assert [item.ciphertext for item in other.published()] == [b"2"]


async def test_messages_are_given_acked_in_batches_and_given_once(relay: FakeRelay) -> None:
    relay.backlog = [message(number) for number in range(50)]
    async with Client(relay.url, KEY) as client:
        subscription = await client.subscribe()
        assert subscription.pending.count == 50
        got = []
        async for item in client.messages(until_caught_up=True):
            got.append(item.seq)
            assert item.ciphertext == b"text %d" % item.seq
            await item.ack()
        await subscription.caught_up()
    assert got == list(range(50))
    assert relay.acked() == [f"{number:064x}" for number in range(50)]
    assert len([item for item in relay.heard if isinstance(item, Ack)]) < 10


async def test_acks_given_just_before_the_end_reach_the_relay(relay: FakeRelay) -> None:
    relay.backlog = [message(1)]
    async with Client(relay.url, KEY) as client:
        await client.subscribe()
        item = await anext(client.messages())
        await item.ack()
    await relay.until(lambda: relay.backlog == [])


async def test_an_ack_behind_a_full_socket_reaches_the_relay_before_the_goodbye(relay: FakeRelay) -> None:
    relay.backlog = [message(1)]
    async with Client(relay.url, KEY, max_inflight_bytes=2**26) as client:
        await client.subscribe()
        item = await anext(client.messages())
        relay.silent = True
        relay.reads.clear()
        sending = [asyncio.create_task(client.send(TO, bytes(500_000))) for _ in range(80)]
        await asyncio.sleep(0.1)  # until nothing more goes into the socket
        await item.ack()
        closing = asyncio.create_task(client.aclose())
        await asyncio.sleep(0.05)
        relay.reads.set()
        await closing
        await asyncio.gather(*sending, return_exceptions=True)
    await relay.until(lambda: relay.backlog == [])


async def test_after_a_lost_connection_subscriptions_return_and_nothing_is_given_twice(
    relay: FakeRelay,
) -> None:
    relay.backlog = [message(1), message(2)]
    async with Client(relay.url, KEY) as client:
        await client.subscribe()
        messages = client.messages()
        held = await anext(messages)
        relay.cut()
        await relay.until(lambda: len(relay.connections) == 2)
        await relay.until(lambda: sum(isinstance(item, Subscribe) for item in relay.heard) == 2)
        second = await anext(messages)
        assert (held.seq, second.seq) == (1, 2)
        await held.ack()
        await second.ack()
        await relay.until(lambda: relay.backlog == [])


async def test_a_lost_ack_is_given_again_without_the_caller(relay: FakeRelay) -> None:
    relay.backlog = [message(1)]
    async with Client(relay.url, KEY) as client:
        await client.subscribe()
        item = await anext(client.messages())
        await item.ack()
        await relay.until(lambda: relay.backlog == [])
        relay.backlog = [message(1)]  # as if the relay had never heard it
        relay.cut()
        await relay.until(lambda: relay.backlog == [])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(client.messages()), 0.05)


async def test_waiting_for_a_message_can_be_cancelled_without_losing_any(relay: FakeRelay) -> None:
    async with Client(relay.url, KEY) as client:
        await client.subscribe()
        messages = client.messages()
        for number in range(20):
            waiting = asyncio.create_task(anext(messages))
            await asyncio.sleep(0)
            waiting.cancel()
            await relay.say(message(number))
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert (await anext(messages)).seq == number


async def test_batches_give_what_has_arrived(relay: FakeRelay) -> None:
    relay.backlog = [message(number) for number in range(10)]
    async with Client(relay.url, KEY) as client:
        await client.subscribe()
        sizes = []
        async for batch in client.batches(4, until_caught_up=True):
            sizes.append(len(batch))
    assert sizes == [4, 4, 2]


async def test_a_refused_subscription_raises_and_is_dropped(relay: FakeRelay) -> None:
    relay.refuse_subscriptions = True
    async with Client(relay.url, KEY) as client:
        with pytest.raises(Refused) as caught:
            await client.subscribe(addresses=["Qm-other"])
        assert caught.value.code == "not-owner" and not caught.value.fallback
        assert client._core.requests.subscriptions == {}


async def test_a_subscription_refused_on_a_later_connection_is_told_to_its_readers(relay: FakeRelay) -> None:
    async with Client(relay.url, KEY) as client:
        subscription = await client.subscribe()
        await subscription.caught_up()
        relay.refuse_subscriptions = True
        relay.cut()
        with pytest.raises(Refused):
            await asyncio.wait_for(anext(client.messages()), 10)
        with pytest.raises(Refused):
            await subscription.caught_up()


async def test_a_subscription_can_be_ended(relay: FakeRelay) -> None:
    async with Client(relay.url, KEY) as client:
        subscription = await client.subscribe(buckets=["b"])
        await subscription.end()
        await subscription.end()
        relay.cut()
        await relay.until(lambda: len(relay.connections) == 2)
        await client.ping()
    assert sum(isinstance(item, Subscribe) for item in relay.heard) == 1


async def test_questions_have_answers(relay: FakeRelay) -> None:
    async with Client(relay.url, KEY) as client:
        status = await client.status()
        assert (status.pending.count, status.epoch) == (1, 3)
        assert await client.ping() > 0


async def test_later_receipts_reach_the_callback(relay: FakeRelay) -> None:
    told: list[LaterReceipt] = []
    async with Client(relay.url, KEY, on_receipt=told.append) as client:
        await client.send(TO, b"x", receipts=["delivered"])
        await relay.say(WireReceipt("i", "delivered", 5, TO))
        await client.ping()
    assert told == [LaterReceipt("i", "delivered", 5, TO, None)]


async def test_closing_ends_waiting_sends_and_readers(relay: FakeRelay) -> None:
    relay.silent = True
    client = Client(relay.url, KEY)
    async with client:
        sending = asyncio.create_task(client.send(TO, b"x"))
        reading = asyncio.create_task(anext(client.messages(), None))
        await relay.until(lambda: len(relay.published()) == 1)
    with pytest.raises(ClientClosed):
        await sending
    assert await reading is None
    assert client.state is State.CLOSED
    with pytest.raises(ClientClosed):
        await client.send(TO, b"x")
    await relay.until(lambda: relay.connections[0].close_code == 1000)


async def test_abort_ends_the_client_at_once(relay: FakeRelay) -> None:
    async with Client(relay.url, KEY) as client:
        await client.connected()
        client.abort()
        with pytest.raises(ClientClosed):
            await client.send(TO, b"x")
    await relay.until(lambda: relay.connections[0].close_code == 1006)


async def test_leaving_while_connecting_leaves_nothing_behind(relay: FakeRelay) -> None:
    before = asyncio.all_tasks()
    async with Client("ws://127.0.0.1:9", KEY):
        pass
    async with Client(relay.url, KEY):
        await asyncio.sleep(0)
    assert {task for task in asyncio.all_tasks() - before if "client" in task.get_name()} == set()


async def test_nothing_runs_before_the_client_is_entered() -> None:
    client = Client("ws://127.0.0.1:9", KEY)
    with pytest.raises(RuntimeError, match="async with"):
        await client.send(TO, b"x")
