"""A member that is stopped and goes on: the active one has lost its place, a standby finds its sessions again."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from members import WAIT_S, Members, epochs, members, settled, settled_texts, survives, until
from postgres_server import need_server, running_server
from relay_process import RelayProcess
from wire_client import Item, WireClient, is_result, texts, wait_for_pending
from wire_fixtures import Dial
from wire_keys import Key, message_id

KeyOf = Callable[[str], Key]


@contextmanager
def stopped(member: RelayProcess) -> Iterator[None]:
    """Inside, the process does nothing."""
    member.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        if member.running:
            member.signal(signal.SIGCONT)


def test_a_stopped_holder_of_the_file_is_killed(tmp_path: Path, dial: Dial, key: KeyOf) -> None:
    with members(tmp_path) as group:
        active, others = group.split()
        epoch = active.status()["epoch"]
        sender, reader = dial(others[0]), dial(others[1], key("reader"))
        reader.subscribe()
        is_result(sender.post(b"before", recipient=key("away").address), "stored")
        with stopped(active):
            ref = sender.publish(b"into the silence", recipient=key("reader").address)
            group.wait_active(among=others, above=epoch)
            assert texts([reader.message()]) == [b"into the silence"]
            reader.ack(message_id(b"into the silence"))
            assert sender.result(ref)["status"] in ("stored", "delivered")
            assert active.wait() == -signal.SIGKILL
        assert epochs(settled(sender)) == epochs(settled(reader)) == [epoch + 1]
        assert texts(dial(others[1], key("away")).subscribe()[1]) == [b"before"]
        group.restart(active)
        assert active.status()["role"] == "standby"


def read_empty(client: WireClient) -> list[Item]:
    """Read and acknowledge until nothing waits: the messages."""
    found: list[Item] = []
    deadline = time.monotonic() + WAIT_S
    while client.wait_for("status", ref=client.request("status"))["pending"]["count"]:
        assert time.monotonic() < deadline
        came = [item for item in client.settle() if item["type"] == "message"]
        if came:
            client.ack(*[item["id"] for item in came])
        found += came
    return found + [item for item in client.settle() if item["type"] == "message"]


def promises_nothing_more(group: Members, dial: Dial, key: KeyOf) -> None:
    """The active one is stopped for so long that another takes over, and goes on: it is a standby, nothing is lost."""
    active, others = group.split()
    epoch = active.status()["epoch"]
    address = key("reader").address
    own, own_reader, other = dial(active), dial(active, key("reader")), dial(others[0])
    own_reader.subscribe()
    held = own.publish(b"held", recipient=address)
    assert texts([own_reader.message()]) == [b"held"]
    assert own.result(held)["status"] == "stored"
    with stopped(active):
        # In its socket when it goes on.
        under_way = [own.publish(b"%d" % n, recipient=address) for n in range(20)]
        own_reader.ack(message_id(b"held"))
        meanwhile = other.publish(b"meanwhile", recipient=address)
        successor, _ = group.wait_active(among=others, above=epoch)
        is_result(other.result(meanwhile), "stored")
        with dial(others[0], key("reader")) as reader:
            # The ack did not get anywhere: the message is there for another connection.
            assert texts(reader.subscribe()[1]) == [b"held", b"meanwhile"]
            reader.ack(message_id(b"meanwhile"))
            wait_for_pending(reader, 1)
    status = group.wait_role(active, "standby")
    until(lambda: active.status()["active"] == group.id_of(successor), "it follows the new one")
    group.wait_whole()
    assert status["lease"]["held"] is False
    results = [own.result(ref) for ref in under_way]
    assert {result["status"] for result in results} <= {"stored", "delivered", "duplicate"}
    assert epochs(settled(own))[-1:] == [epoch + 1]
    # What its old broker had under way goes on, once. What it alone knew of others is told again, by the same id:
    # an ack is lost with it, and what it had been sent for this reader has been read elsewhere.
    sent = texts(read_empty(own_reader))
    assert [text for text in sent if text.isdigit()] == [b"%d" % n for n in range(20)]
    assert {text for text in sent if not text.isdigit()} <= {b"held", b"meanwhile"}
    until(lambda: successor.status()["store"]["messages"] == 0, "nothing is left in the store", 3)
    assert successor.status()["epoch"] == epoch + 1
    assert survives(own)


def test_with_a_lease_in_sqlite_it_promises_nothing_more(tmp_path: Path, dial: Dial, key: KeyOf) -> None:
    with members(tmp_path, 3, "--lease", "store") as group:
        promises_nothing_more(group, dial, key)


def test_with_a_lease_in_postgresql_it_promises_nothing_more(tmp_path: Path, dial: Dial, key: KeyOf) -> None:
    need_server()
    with running_server() as server, members(tmp_path, store=server.url()) as group:
        promises_nothing_more(group, dial, key)


def test_the_sessions_of_a_silent_standby_go_on_afterwards(tmp_path: Path, dial: Dial, key: KeyOf) -> None:
    with members(tmp_path) as group:
        active, (silent, other) = group.split()
        epoch = active.status()["epoch"]
        address = key("reader").address
        reader, sender = dial(silent, key("reader")), dial(other)
        idle = [dial(silent) for _ in range(5)]
        reader.subscribe()
        for text in (b"held", b"acked"):
            is_result(sender.post(text, recipient=address), "stored")
            assert texts([reader.message()]) == [text]
        assert active.status()["hosted_sessions"] == 7
        with stopped(silent):
            reader.ack(message_id(b"acked"))
            until(lambda: active.status()["hosted_sessions"] == 1, "its sessions are gone")
            assert len(active.status()["members"]) == 2
            is_result(sender.post(b"meanwhile", recipient=address), "stored")
            is_result(sender.post(b"held", recipient=address), "duplicate", state="stored")
        assert texts([reader.message()]) == [b"meanwhile"]
        reader.ack(message_id(b"meanwhile"))
        wait_for_pending(reader, 1)
        assert settled_texts(reader) == []
        assert active.status()["hosted_sessions"] == 7
        assert all(survives(client) for client in idle)
        reader.ack(message_id(b"held"))
        wait_for_pending(reader, 0)
        assert active.status()["epoch"] == epoch
        for client in (*idle, reader):
            client.close()
        until(lambda: active.status()["hosted_sessions"] == 1, "they are closed at the active too")


def test_members_that_are_stopped_together_go_on_together(tmp_path: Path, dial: Dial, key: KeyOf) -> None:
    with members(tmp_path) as group:
        active, (one, _) = group.split()
        epoch = active.status()["epoch"]
        client = dial(one)
        with stopped(group.all[0]), stopped(group.all[1]), stopped(group.all[2]):
            ref = client.publish(b"into the silence", recipient=key("x").address)
            # Longer than the lease's duration, by nobody's clock but that of the machine.
            with pytest.raises(TimeoutError):
                client.next_item(1.5)
        is_result(client.result(ref), "stored")
        assert survives(client)
        assert group.wait_active()[1] in (epoch, epoch + 1)
