"""docs/protocol.md 2.4, "No status is ever sent before its promise holds": a relay that is killed, stopped or paused
in the middle of a stream at full load loses nothing that it has promised, and gives nobody another's message."""

import random
import signal
from collections.abc import Callable

import pytest
from wire_fixtures import Dial, RelayOf
from wire_keys import Key, message_id
from wire_load import Books, Reader, Sender, load

ROUNDS = 10
RESULTS_A_ROUND = 6000


class Crowd:
    """Senders, and readers that are online and acknowledge, online and half silent, or away."""

    def __init__(self, key: Callable[[str], Key]) -> None:
        self.books = Books()
        self.online = [Reader(key(f"online {n}"), self.books) for n in range(4)]
        self.half = [Reader(key(f"half silent {n}"), self.books, acks=2) for n in range(2)]
        self.away = [Reader(key(f"away {n}"), self.books) for n in range(4)]
        self.readers = [*self.online, *self.half, *self.away]
        addresses = [reader.key.address for reader in self.readers]
        self.senders = [
            Sender(f"sender {n}", key(f"sender {n}"), addresses[n:] + addresses[:n], self.books)
            for n in range(4)
        ]

    def check(self) -> None:
        """After the readers have drained: every promise has been kept."""
        assert not self.books.faults, self.books.faults[:5]
        assert not self.books.lost()


@pytest.fixture
def crowd(key: Callable[[str], Key]) -> Crowd:
    return Crowd(key)


@pytest.mark.timeout(240)
def test_ten_times_kill_9_in_the_middle_of_a_stream_loses_nothing_promised(
    own_relay: RelayOf, crowd: Crowd
) -> None:
    relay, books, chance = own_relay(), crowd.books, random.Random(2024)
    for _ in range(ROUNDS):
        before = len(books.promised)
        with load(relay, crowd.senders, [*crowd.online, *crowd.half]):
            books.wait_for_results(RESULTS_A_ROUND + chance.randrange(RESULTS_A_ROUND))
            relay.kill()
        relay.start()
        acked_before = set(books.acked)
        drained = {(reader.key.address, one) for reader in crowd.readers for one in reader.drain(relay)}
        # What nobody had acknowledged before this drain was in the store, or was never promised.
        unacked = books.promised.keys() - acked_before
        assert unacked <= drained, f"{len(unacked - drained)} promised messages are lost"
        crowd.check()
        assert len(books.promised) > before
    assert books.statuses["stored"] and books.statuses["delivered"] and books.statuses["duplicate"]


def test_a_paused_relay_goes_on_where_it_was(own_relay: RelayOf, crowd: Crowd) -> None:
    relay, books = own_relay(), crowd.books
    with load(relay, crowd.senders, [*crowd.online, *crowd.half]) as stopping:
        for _ in range(3):
            books.wait_for_results(1000)
            relay.signal(signal.SIGSTOP)
            # Senders run dry: what is read now had been written before.
            while (seen := books.results) != (stopping.wait(0.3) or books.results):
                assert seen
            relay.signal(signal.SIGCONT)
            books.wait_for_results(1000)
        stopping.set()
    for reader in crowd.readers:
        reader.drain(relay)
    crowd.check()
    assert relay.stop() == 0


@pytest.mark.parametrize("drain_s", [0, 1])
def test_sigterm_under_load_loses_nothing_promised(own_relay: RelayOf, crowd: Crowd, drain_s: float) -> None:
    relay, books = own_relay(drain_s=drain_s), crowd.books
    with load(relay, crowd.senders, [*crowd.online, *crowd.half]):
        books.wait_for_results(2000)
        relay.signal(signal.SIGTERM)
        assert relay.wait() == 0
    assert books.statuses.keys() <= {"stored", "delivered", "duplicate", "rejected"}
    relay.start()
    for reader in crowd.readers:
        reader.drain(relay)
    crowd.check()


def test_an_ack_that_was_committed_is_not_forgotten_by_kill_9(
    own_relay: RelayOf, dial: Dial, key: Callable[[str], Key]
) -> None:
    relay = own_relay()
    sender, recipient = dial(relay, key("sender")), key("reader").address
    contents = [b"%d" % n for n in range(100)]
    for ref in [sender.publish(one, recipient=recipient, receipts=["delivered"]) for one in contents]:
        assert sender.result(ref)["status"] == "stored"
    reader = dial(relay, key("reader"))
    reader.subscribe()
    reader.ack(*(message_id(one) for one in contents[:60]))
    # A later publish of the same connection that is stored was committed after the acks, or with them.
    for n in range(2):
        assert reader.post(b"later %d" % n, recipient=key("other").address)["status"] == "stored"
    relay.kill()
    relay.start()
    left = [item["ciphertext"] for item in dial(relay, key("reader")).subscribe()[1]]
    assert set(left) >= set(contents[60:])
    assert left == sorted(left, key=contents.index)


def test_kill_9_twice_without_a_word_between_keeps_what_was_stored(
    own_relay: RelayOf, dial: Dial, key: Callable[[str], Key]
) -> None:
    relay = own_relay()
    sender, recipient = dial(relay), key("reader").address
    contents = [b"%d" % n for n in range(20)]
    for ref in [sender.publish(one, recipient=recipient) for one in contents]:
        assert sender.result(ref)["status"] == "stored"
    for _ in range(2):
        relay.kill()
        relay.start_unseen()
    relay.kill()
    relay.start()
    assert [item["ciphertext"] for item in dial(relay, key("reader")).subscribe()[1]] == contents
