"""The active member is killed: clients of the others keep their sockets, and nothing promised is lost."""

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from members import Members, epochs, members, settled, survives, until
from relay_process import RelayProcess
from wire_client import Item, is_result, texts
from wire_fixtures import Dial
from wire_keys import Key, message_id
from wire_load import Books, Reader, Sender, load

KeyOf = Callable[[str], Key]
ROUNDS = 4
SESSIONS = 300


class OnceBooks(Books):
    """Books in which nothing whose sender has its result comes once more. (What is published again may.)"""

    def __init__(self) -> None:
        super().__init__()
        self.answered: set[tuple[str, str]] = set()
        """Had their result when the last active member was killed."""

    def message(self, reader: Key, item: Item) -> None:
        """A reader was sent a message."""
        name = reader.address, item["id"]
        if name in self.received and name in self.answered:
            self.fault(f"once more, though answered: {item['ciphertext'][:60]!r}")
        super().message(reader, item)


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Members]:
    with members(tmp_path) as made:
        yield made


@pytest.mark.timeout(240)
def test_a_crash_under_load_loses_nothing_promised(group: Members, key: KeyOf) -> None:
    strict, other = OnceBooks(), Books()
    away = Reader(key("away"), strict)
    online = Reader(key("online"), strict)
    sender = Sender("here", key("here"), [online.key.address, away.key.address], strict)
    # Its publishes are made again by itself: then the reader may be sent one that it has had.
    moving = Sender("moving", key("moving"), [key("moving to").address], other)
    moved = Reader(key("moving to"), other)
    chance = random.Random(11)
    for _ in range(ROUNDS):
        active, (one, two) = group.split()
        epoch = active.status()["epoch"]
        with load(two, [], [online, moved]), load(one, [sender], []), load(active, [moving], []):
            strict.wait_for_results(400 + chance.randrange(400))
            other.wait_for_results(100)
            connected = [one.status()["connections"], two.status()["connections"]]
            strict.answered.update(strict.promised)

            active.kill()
            strict.wait_for_results(800)
            assert [one.status()["connections"], two.status()["connections"]] == connected == [1, 2]
            assert group.wait_active(above=epoch)[1] == epoch + 1
        with load(two, [moving], [moved]) as stopping:
            other.wait_for_results(200)
            stopping.set()
        group.restart(active)
    active, (one, two) = group.split()
    for reader in (online, away):
        reader.drain(one)
    moved.drain(one)
    for books in (strict, other):
        assert not books.faults, books.faults[:3]
        assert not books.lost()
    assert strict.statuses["delivered"] and strict.statuses["stored"]
    assert strict.statuses.keys() <= {"delivered", "stored", "duplicate"}
    assert two.stop() == 0


def test_every_publish_under_way_gets_its_answer_over_the_same_socket(
    group: Members, dial: Dial, key: KeyOf
) -> None:
    active, (one, two) = group.split()
    epoch = active.status()["epoch"]
    sender, reader = dial(one), dial(two, key("reader"))
    reader.subscribe()
    before = sender.publish(b"held by the reader", recipient=key("reader").address)
    assert reader.message()["ciphertext"] == b"held by the reader"
    refs = [sender.publish(b"%d" % n, recipient=key("nobody").address) for n in range(500)]
    active.kill()
    refs += [sender.publish(b"%d" % n, recipient=key("nobody").address) for n in range(500, 520)]
    reader.ack(message_id(b"held by the reader"))
    # Those that the killed one had committed are there already.
    results = [sender.result(ref) for ref in refs]
    assert {result.get("state", result["status"]) for result in results} == {"stored"}
    assert sender.result(before)["status"] in ("stored", "delivered")
    for client in (sender, reader):  # each when its own front has gone on
        assert client.wait_for("epoch")["epoch"] == epoch + 1
        assert epochs(settled(client)) == []
    _, backlog = dial(one, key("nobody"), window=4096).subscribe()
    assert texts(backlog) == [b"%d" % n for n in range(520)]


def test_what_was_acknowledged_does_not_come_again_and_what_is_held_is_not_sent_twice(
    group: Members, dial: Dial, key: KeyOf
) -> None:
    active, (one, two) = group.split()
    sender, reader, other = dial(one), dial(two, key("reader")), dial(one, key("reader"))
    stored = [b"stored %d" % n for n in range(10)]
    for text in stored:
        is_result(sender.post(text, recipient=key("reader").address), "stored")
    _, backlog = reader.subscribe()
    assert texts(backlog) == stored
    reader.ack(*map(message_id, stored[:4]))
    until(lambda: active.status()["store"]["messages"] == 6, "the acks are for good")
    active.kill()
    # At another front, where no ack is remembered.
    _, again = other.subscribe()
    assert texts(again) == stored[4:]
    reader.ack(*map(message_id, stored[4:8]))
    group.wait_active(among=[one, two])
    assert texts(reader.settle()) == []
    is_result(sender.post(b"new", recipient=key("reader").address), "stored")
    assert texts([reader.message()]) == [b"new"]
    reader.close()
    other.close()
    reader = dial(one, key("reader"))
    _, rest = reader.subscribe()
    assert texts(rest) == [*stored[8:], b"new"]


def test_receipts_are_owed_by_the_next_active_member(group: Members, dial: Dial, key: KeyOf) -> None:
    active, (one, two) = group.split()
    sender = dial(one)
    is_result(sender.post(b"wanted", recipient=key("r").address, receipts=["delivered", "expired"]), "stored")
    is_result(sender.post(b"short", recipient=key("s").address, receipts=["expired"], ttl_s=1), "stored")
    active.kill()
    reader = dial(two, key("r"))
    reader.subscribe()
    reader.ack(message_id(b"wanted"))
    receipt = sender.wait_for("receipt", id=message_id(b"wanted"))
    assert (receipt["status"], receipt["recipient"]) == ("delivered", key("r").address)
    assert sender.wait_for("receipt", id=message_id(b"short"))["status"] == "expired"


def test_hundreds_of_sessions_go_on(group: Members, dial: Dial, key: KeyOf) -> None:
    active, standbys = group.split()
    epoch = active.status()["epoch"]
    readers = []
    for number in range(SESSIONS):
        reader = dial(standbys[number % 2], key(f"{number}"))
        reader.request("subscribe")
        readers.append(reader)
    for reader in readers:
        reader.wait_for("caught_up")
    assert active.status()["hosted_sessions"] == SESSIONS
    active.kill()
    successor, _ = group.wait_active(above=epoch)
    (other,) = [member for member in standbys if member is not successor]
    sender = dial(other)
    refs = [sender.publish(b"%d" % n, recipient=key(f"{n}").address) for n in range(SESSIONS)]
    for number, reader in enumerate(readers):
        assert texts([reader.message()]) == [b"%d" % number]
        reader.ack(message_id(b"%d" % number))
    assert {sender.result(ref)["status"] for ref in refs} <= {"delivered", "stored"}
    assert all(epochs(settled(reader)) == [epoch + 1] for reader in readers)
    assert successor.status()["hosted_sessions"] == other.status()["connections"] == SESSIONS // 2 + 1
    assert successor.status()["connections"] == SESSIONS // 2


def test_its_successor_is_killed_too(group: Members, dial: Dial, key: KeyOf) -> None:
    for planned in (False, True):
        first, others = group.split()
        epoch = first.status()["epoch"]
        clients = {member: dial(member) for member in others}
        refs = {
            member: client.publish(b"%d" % epoch, recipient=key("r").address)
            for member, client in clients.items()
        }
        if planned:
            assert group.promote(first)["ok"]
        first.kill()
        second, _ = group.wait_active(among=others, above=epoch)
        second.kill()
        (last,) = [member for member in others if member is not second]
        client = clients[last]
        result = client.result(refs[last])
        assert result.get("state", result["status"]) == "stored"
        group.wait_active(among=[last])
        is_result(client.post(b"new %d" % epoch, recipient=key("r").address), "stored")
        assert epochs(settled(client))[-1] == last.status()["epoch"] == epoch + 2
        group.restart(first)
        group.restart(second)


def test_the_last_change_is_told_by_everybody(group: Members, dial: Dial) -> None:
    first, others = group.split()
    name = group.id_of(first)
    assert first.status()["last_handover"] is None
    client = dial(others[0])
    first.kill()
    active, epoch = group.wait_active(among=others)
    group.wait_whole()
    assert survives(client)
    for member in others:
        status = member.status()
        told = status["last_handover"]
        assert (told["from"], told["to"], told["epoch"]) == (name, group.id_of(active), epoch)
        assert told["gap_ms"] >= 0 and told["reason"]
        assert [one["name"] for one in status["members"] if one["role"] == "active"] == [status["active"]]
    group.restart(first)
    status = first.status()
    assert (status["role"], status["active"], status["epoch"]) == ("standby", group.id_of(active), epoch)
    assert len(status["members"]) == 3


def test_all_are_killed_and_come_back(group: Members, dial: Dial, key: KeyOf) -> None:
    _, (one, _) = group.split()
    is_result(dial(one).post(b"kept", recipient=key("reader").address), "stored")
    for member in group.all:
        member.kill()
    threads = [threading.Thread(target=member.start) for member in group.all]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    group.wait_whole()
    assert sorted(member.status()["role"] for member in group.all) == ["active", "standby", "standby"]
    _, (_, two) = group.split()
    reader = dial(two, key("reader"))
    assert texts(reader.subscribe()[1]) == [b"kept"]


def test_sockets_of_dead_members_do_not_pile_up(group: Members) -> None:
    active, standbys = group.split()
    for member in group.all:
        member.kill()
    group.all[0].start()
    group.wait_active()
    assert len(list(group.folder.glob("*-peer-*.sock"))) == 1
    assert all(isinstance(member, RelayProcess) for member in (active, *standbys))
    until(lambda: group.all[0].status()["members"][0]["ready"], "it knows itself")
