"""A relay that is told to stop answers everything, sends its clients away and loses nothing."""

import contextlib
import signal
import sqlite3
import threading
from collections.abc import Callable
from typing import Any

import pytest
from posthouse.store.opening import open_store
from relay_process import RelayProcess
from wire_client import WireClient
from wire_fixtures import Dial
from wire_keys import named_key
from wire_socket import Closed

MakeRelay = Callable[..., RelayProcess]
ALICE, BOB = named_key("alice"), named_key("bob")
AT_ONCE = "server.drain_s = 0\n"
NEVER_BY_ITSELF = "server.drain_s = 3600\n"


def farewell(client: WireClient) -> tuple[list[dict[str, Any]], Closed]:
    """Everything that a client still hears, and how its connection ends."""
    items = []
    while True:
        try:
            items.append(client.next_item())
        except Closed as closed:
            return items, closed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_clients_hear_goaway_and_a_close_of_1012(
    make_relay: MakeRelay, number: signal.Signals, dial: Dial
) -> None:
    relay = make_relay(config=AT_ONCE).start()
    clients = [
        dial(relay, ALICE),
        dial(relay, encoding="json"),
        dial.unopened(relay),
    ]
    legacy = dial.socket(relay)
    legacy.send_text(f'{{"userID":"u","subscriptionKey":"{ALICE.bucket_14}"}}')
    assert legacy.read_text() == '{"subscribe": true}'
    relay.signal(number)
    for client in clients:
        (goaway,), closed = farewell(client)
        assert (goaway["type"], goaway["reason"], goaway["alternates"]) == ("goaway", "drain", [])
        low, high = goaway["reconnect_after_ms"]
        assert 0 <= low < high
        assert (closed.code, closed.reason) == (1012, "draining")
    assert legacy.wait_closed().code == 1012
    assert relay.wait() == 0
    assert relay.events()[-1] == "stopped"


def test_while_it_drains_it_is_not_ready_and_takes_nothing_new(make_relay: MakeRelay, dial: Dial) -> None:
    relay = make_relay(config=NEVER_BY_ITSELF).start()
    first, second = (dial(relay) for _ in range(2))
    assert second.post(b"before", recipient=ALICE.address)["status"] == "stored"
    relay.signal(signal.SIGTERM)
    # The first is sent away at once, the second's turn is half an hour later.
    assert farewell(first)[1].code == 1012
    assert relay.get("/readyz") == (503, b"draining\n")
    assert relay.get("/healthz")[0] == 200
    assert relay.status()["role"] == "draining"
    result = second.post(b"after", recipient=ALICE.address)
    assert (result["status"], result["code"], result["fallback"]) == ("rejected", "draining", True)
    with pytest.raises(OSError):
        dial.unopened(relay)
    relay.signal(signal.SIGTERM)
    assert farewell(second)[1].code == 1012
    assert relay.wait() == 0


def test_one_that_is_alone_does_not_linger(make_relay: MakeRelay, dial: Dial) -> None:
    relay = make_relay(config=AT_ONCE + "server.linger_s = 3600\n").start()
    client = dial(relay)
    relay.signal(signal.SIGTERM)
    assert farewell(client)[1].code == 1012
    assert relay.wait() == 0


def test_a_message_that_waits_for_its_reader_has_its_result_before_the_end(
    make_relay: MakeRelay, dial: Dial
) -> None:
    relay = make_relay(config=AT_ONCE + "limits.live_timeout_ms = 1000\n").start()
    reader = dial(relay, ALICE)
    reader.subscribe()
    sender = dial(relay)
    sender.settle()
    live = sender.publish(b"now or never", recipient=ALICE.address, mode="live")
    sender.settle()
    relay.signal(signal.SIGTERM)
    items, closed = farewell(sender)
    assert [item["type"] for item in items] == ["result", "goaway"]
    assert (items[0]["ref"], items[0]["status"]) == (live, "undeliverable")
    assert closed.code == 1012
    assert relay.wait() == 0


def test_an_ack_that_waits_for_its_commit_is_committed_before_the_end(
    make_relay: MakeRelay, dial: Dial
) -> None:
    relay = make_relay(config=AT_ONCE + "commit.tick_ms = 1000\n").start()
    reader, sender = dial(relay, ALICE), dial(relay)
    sender.post(b"once", recipient=ALICE.address)
    (message,) = reader.subscribe()[1]
    reader.ack(message["id"])
    reader.settle()
    reader.close()
    sender.close()
    assert relay.stop() == 0
    assert dial(relay.start(), ALICE).subscribe()[1] == []


class Stream:
    """A sender that publishes until it is sent away, in a thread of its own."""

    def __init__(self, dial: Dial, relay: RelayProcess, name: str, recipients: list[str]) -> None:
        self.client = dial(relay)
        self.name = name
        self.recipients = recipients
        self.sent: dict[int, bytes] = {}
        self.results: dict[int, dict[str, Any]] = {}
        self.closed: Closed | None = None
        self.under_way = threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            while True:
                for _ in range(32 - len(self.sent) + len(self.results)):
                    number = len(self.sent)
                    text = f"{self.name} {number}".encode()
                    recipient = self.recipients[number % len(self.recipients)]
                    self.sent[self.client.publish(text, recipient=recipient)] = text
                result = self.client.wait_for("result")
                self.results[result["ref"]] = result
                if len(self.results) > 500:
                    self.under_way.set()
        except Closed as closed:
            self.closed = closed
            for item in self.client.inbox:
                if item["type"] == "result":
                    self.results[item["ref"]] = item


class Listener:
    """An owner who acknowledges everything until sent away."""

    def __init__(self, dial: Dial, relay: RelayProcess) -> None:
        self.client = dial(relay, BOB)
        self.client.subscribe()
        self.heard: set[bytes] = set()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        with contextlib.suppress(Closed):
            while True:
                message = self.client.message()
                self.heard.add(message["ciphertext"])
                self.client.ack(message["id"])


def test_stopping_under_load_loses_nothing_that_was_promised(make_relay: MakeRelay, dial: Dial) -> None:
    relay = make_relay(config=AT_ONCE).start()
    listener = Listener(dial, relay)
    streams = [Stream(dial, relay, f"stream {number}", [ALICE.address, BOB.address]) for number in range(3)]
    for stream in streams:
        assert stream.under_way.wait(30)
    relay.signal(signal.SIGTERM)
    assert relay.wait() == 0
    for thread in [listener.thread, *(stream.thread for stream in streams)]:
        thread.join(30)
    relay.start()
    waiting = set()
    for key in (ALICE, BOB):
        reader = dial(relay, key, window=4096)
        while backlog := reader.subscribe()[1]:
            waiting |= {item["ciphertext"] for item in backlog}
            reader.ack(*(item["id"] for item in backlog))
            reader.settle()
            reader.request("unsubscribe")
            reader.wait_for("subscribed")
    promised = 0
    for stream in streams:
        assert stream.closed is not None and stream.closed.code == 1012
        for ref, result in stream.results.items():
            if result["status"] == "rejected":
                assert result["code"] == "draining"
                assert stream.sent[ref] not in waiting | listener.heard
                continue
            promised += 1
            where = waiting | listener.heard if result["status"] == "stored" else listener.heard
            assert stream.sent[ref] in where, result
    assert promised > 1500


def test_a_relay_that_another_promotion_has_fenced_promises_nothing_more_and_ends(
    make_relay: MakeRelay, dial: Dial
) -> None:
    relay = make_relay("--lease", "none", config=NEVER_BY_ITSELF).start()
    client = dial(relay)
    assert client.post(b"mine", recipient=ALICE.address)["status"] == "stored"
    writer = open_store(relay.store).open_writer()
    fence = writer.fence()
    assert writer.promote(fence, fence.epoch + 1, b"t" * 16) is not None
    writer.close()
    client.publish(b"too late", recipient=ALICE.address)
    items, closed = farewell(client)
    assert [item["type"] for item in items] == ["goaway"]
    assert closed.code == 1012
    assert relay.wait() == 1
    assert "another promotion owns the store: this relay ends" in relay.events()


def test_a_store_that_hangs_does_not_keep_a_stopping_relay(make_relay: MakeRelay, dial: Dial) -> None:
    config = AT_ONCE + "store.commit_timeout_s = 0.3\nstore.busy_timeout_ms = 60000\n"
    relay = make_relay(config=config).start()
    client = dial(relay)
    with contextlib.closing(sqlite3.connect(relay.folder / "relay.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        client.publish(b"nobody knows yet", recipient=ALICE.address)
        relay.wait_for("a commit takes too long: messages are refused until it ends")
        result = client.post(b"no way in", recipient=ALICE.address)
        assert (result["status"], result["code"]) == ("rejected", "store-unavailable")
        assert relay.get("/readyz") == (503, b"the store does not take writes\n")
        relay.signal(signal.SIGTERM)
        assert farewell(client)[1].code == 1012
        assert relay.wait() == 1
        assert relay.events()[-1] == "the store's writer hangs: this process ends"
    assert dial(relay.start(), ALICE).subscribe()[1] == []


def test_a_signal_during_the_start_stops_it_cleanly(make_relay: MakeRelay) -> None:
    relay = make_relay(config=AT_ONCE).start_unseen()
    relay.wait_for("promoted")
    assert relay.stop() == 0
    assert relay.start().stop() == 0


def test_every_session_has_one_line_in_the_log_without_what_was_said(
    make_relay: MakeRelay, dial: Dial
) -> None:
    relay = make_relay(config=AT_ONCE).start()
    client = dial(relay, ALICE)
    client.post(b"a-secret-payload", recipient=ALICE.address)
    client.settle()
    client.close()
    line = relay.wait_for("session ended")
    assert (line["dialect"], line["code"], line["frames_in"], line["refused"]) == (
        "posthouse.v2.msgpack",
        1006,
        3,
        0,
    )
    assert line["frames_out"] >= 3
    assert relay.stop() == 0
    log = str(relay.lines)
    assert "a-secret-payload" not in log
    assert ALICE.public.hex() not in log and ALICE.address not in log
