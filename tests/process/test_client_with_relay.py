"""The Python client against a real relay: what it promises its caller over restarts, kills and slow readers."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable

import pytest
from posthouse import (
    Client,
    DeviceKey,
    LaterReceipt,
    PosthouseClientError,
    Receipt,
    Refused,
    Rejected,
    State,
    Superseded,
    Undeliverable,
)
from posthouse.identity import BucketKey, buckets_of_address
from relay_process import RelayProcess


def new_key() -> DeviceKey:
    return DeviceKey(os.urandom(32))


def bucket_of(key: DeviceKey) -> BucketKey:
    return buckets_of_address(key.address).narrow


async def drained(relay: RelayProcess, key: DeviceKey) -> list[bytes]:
    """Everything that waits for a key, acknowledged."""
    async with Client(relay.url, key) as client:
        await client.subscribe()
        texts = []
        async for message in client.messages(until_caught_up=True):
            texts.append(message.ciphertext)
            await message.ack()
    return texts


async def test_both_forms_of_an_address_reach_the_same_reader(relay: RelayProcess) -> None:
    key = new_key()
    async with Client(relay.url, new_key()) as sender:
        for number, address in enumerate(key.addresses):
            receipt = await sender.send(address, b"%d" % number)
            assert receipt.status == "stored"
    assert await drained(relay, key) == [b"0", b"1"]
    assert await drained(relay, key) == []


async def test_a_backlog_many_times_the_window_is_read_to_its_end(relay: RelayProcess) -> None:
    key = new_key()
    texts = [b"%d" % number for number in range(3000)]
    async with Client(relay.url, new_key()) as sender:
        outcomes = [outcome async for outcome in sender.send_many((key.address, text) for text in texts)]
    assert all(isinstance(outcome, Receipt) for outcome in outcomes)
    async with Client(relay.url, key, window=16) as client:
        subscription = await client.subscribe()
        assert subscription.pending.count == 3000
        got = []
        async for batch in client.batches(until_caught_up=True):
            assert len(batch) <= 16
            for message in batch:
                got.append(message.ciphertext)
                await message.ack()
        async with asyncio.timeout(10):
            while (await client.status()).pending.count:  # acks are committed a little later
                pass
    assert got == texts


async def test_a_stream_over_kills_loses_nothing_and_gives_nothing_twice(relay: RelayProcess) -> None:
    key = new_key()
    received: list[str] = []
    promised: list[str] = []
    done = asyncio.Event()
    more = asyncio.Event()

    async def source() -> AsyncIterator[tuple[str, bytes]]:
        number = 0
        while not done.is_set():
            number += 1
            yield key.address, b"%d" % number
            await asyncio.sleep(0.0005)

    async def read(client: Client) -> None:
        async for message in client.messages():
            received.append(message.id)
            await message.ack()
            more.set()

    async def kill() -> None:
        for _ in range(3):
            await asyncio.sleep(0.7)
            await asyncio.to_thread(relay.kill)
            await asyncio.to_thread(relay.start)
        await asyncio.sleep(0.3)
        done.set()

    async with (
        Client(relay.url, key, timeout_s=60) as reader,
        Client(relay.url, new_key(), timeout_s=60) as sender,
    ):
        await reader.subscribe()
        reading = asyncio.create_task(read(reader))
        killing = asyncio.create_task(kill())
        async for outcome in sender.send_many(source()):
            assert isinstance(outcome, Receipt), outcome
            promised.append(outcome.id)
        await killing
        async with asyncio.timeout(30):
            while set(promised) - set(received):
                more.clear()
                await more.wait()
        reading.cancel()
    assert len(promised) > 500
    assert set(received) == set(promised)
    assert len(received) == len(set(received))


async def test_a_restart_is_a_pause_and_not_an_error(relay: RelayProcess) -> None:
    key = new_key()
    states: list[State] = []
    async with Client(
        relay.url, new_key(), timeout_s=30, on_state=lambda state, _: states.append(state)
    ) as sender:
        await sender.send(key.address, b"before")

        async def restart() -> None:
            assert await asyncio.to_thread(relay.stop) == 0
            await asyncio.to_thread(relay.start)

        restarting = asyncio.create_task(restart())
        number = 0
        while not restarting.done():
            number += 1
            receipt = await sender.send(key.address, b"%d" % number)
            assert receipt.state == "stored"
            await asyncio.sleep(0.002)
        await restarting
        await sender.send(key.address, b"after")
    assert State.FAILED not in states and states.count(State.CONNECTED) >= 2
    texts = await drained(relay, key)
    assert sorted(texts) == sorted([b"before", *(b"%d" % n for n in range(1, number + 1)), b"after"])


async def test_a_client_finds_the_relay_at_its_other_address(
    make_relay: Callable[..., RelayProcess], relay: RelayProcess
) -> None:
    dead = make_relay()
    dead.start()
    dead.kill()
    async with Client([dead.url, relay.url], new_key()) as client:
        receipt = await client.send(new_key().address, b"x", timeout_s=5)
    assert receipt.status == "stored"


async def test_live_messages_are_delivered_or_undeliverable(relay: RelayProcess) -> None:
    key = new_key()
    async with Client(relay.url, new_key()) as sender:
        with pytest.raises(Undeliverable) as caught:
            await sender.send(key.address, b"1", mode="live")
        assert caught.value.fallback
        async with Client(relay.url, key) as reader:
            await reader.subscribe()
            sending = asyncio.create_task(sender.send(key.address, b"2", mode="live"))
            message = await anext(reader.messages())
            await message.ack()
            assert (await sending).status == "delivered"
    assert await drained(relay, key) == []


async def test_a_message_not_acked_comes_again_on_the_next_connection(relay: RelayProcess) -> None:
    key = new_key()
    async with Client(relay.url, new_key()) as sender:
        await sender.send(key.address, b"x")
    async with Client(relay.url, key) as client:
        await client.subscribe()
        first = await anext(client.messages())
    async with Client(relay.url, key) as client:
        await client.subscribe()
        again = await anext(client.messages())
        await again.ack()
    assert (first.id, first.deliveries) == (again.id, 1) and again.deliveries == 2


async def test_busy_brings_a_message_back_and_undecryptable_ends_it(relay: RelayProcess) -> None:
    key = new_key()
    async with Client(relay.url, new_key()) as sender:
        await sender.send(key.address, b"x")
    async with Client(relay.url, key) as client:
        await client.subscribe()
        messages = client.messages()
        first = await anext(messages)
        await first.nack("busy", retry_after_ms=20)
        again = await asyncio.wait_for(anext(messages), 10)
        assert again.id == first.id
        await again.nack("undecryptable")
    assert await drained(relay, key) == []


async def test_a_bucket_reader_sees_what_the_owner_still_gets(relay: RelayProcess) -> None:
    key = new_key()
    async with Client(relay.url) as anybody:
        await anybody.send(key.address, b"to the address")
        await anybody.send_to_bucket(bucket_of(key), b"to the bucket")
        await anybody.subscribe(buckets=[bucket_of(key)], reader="chosen at random, 16 or more")
        seen = []
        async for message in anybody.messages(until_caught_up=True):
            seen.append(message.ciphertext)
            assert message.bucket == bucket_of(key) and message.recipient is None
            await message.ack()
    assert seen == [b"to the address", b"to the bucket"]
    assert await drained(relay, key) == [b"to the address"]


async def test_another_key_s_address_is_refused(relay: RelayProcess) -> None:
    async with Client(relay.url, new_key()) as client:
        with pytest.raises(Refused) as caught:
            await client.subscribe(addresses=[new_key().address])
        assert caught.value.code == "not-owner"


async def test_one_connection_too_many_ends_the_oldest_for_good(relay: RelayProcess) -> None:
    key = new_key()
    async with Client(relay.url, key) as oldest:
        await oldest.subscribe()
        others = [Client(relay.url, key) for _ in range(8)]
        try:
            for other in others:
                await other.__aenter__()
                await other.connected()
            with pytest.raises(Superseded):
                await asyncio.wait_for(anext(oldest.messages()), 10)
            assert oldest.state is State.FAILED
        finally:
            for other in others:
                await other.aclose()


async def test_a_later_receipt_tells_of_the_delivery(relay: RelayProcess) -> None:
    key = new_key()
    told: asyncio.Queue[LaterReceipt] = asyncio.Queue()
    async with Client(relay.url, new_key(), on_receipt=told.put_nowait) as sender:
        receipt = await sender.send(key.address, b"x", receipts=["delivered"])
        await drained(relay, key)
        later = await asyncio.wait_for(told.get(), 10)
    assert (later.id, later.status) == (receipt.id, "delivered")


async def test_what_is_too_large_is_rejected_and_the_connection_stays(relay: RelayProcess) -> None:
    states: list[State] = []
    async with Client(relay.url, new_key(), on_state=lambda state, _: states.append(state)) as client:
        assert (await client.send(new_key().address, bytes(700_000))).status == "stored"
        for size in (900_000, 2_000_000):
            with pytest.raises(Rejected) as caught:
                await client.send(new_key().address, bytes(size))
            assert caught.value.code == "too-large"
        await client.ping()
    assert states.count(State.CONNECTED) == 1


async def test_more_than_the_relay_holds_for_one_connection_waits_its_turn(relay: RelayProcess) -> None:
    key = new_key()
    async with Client(relay.url, new_key(), max_inflight_bytes=10**9, timeout_s=60) as client:
        texts = [number.to_bytes(4, "big") * 100_000 for number in range(60)]
        outcomes: list[Receipt | PosthouseClientError] = [
            outcome async for outcome in client.send_many((key.address, text) for text in texts)
        ]
    assert [type(outcome) for outcome in outcomes] == [Receipt] * 60
