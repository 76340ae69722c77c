"""Planned hand-overs: on request, and by SIGTERM. Nobody's connection ends but those of the process that ends."""

import random
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from members import PATIENT, WAIT_S, Members, epochs, members, settled, survives, until
from posthouse.server.control import ControlSocketError, ask
from wire_client import Item, WireClient, is_result, texts, wait_for_pending
from wire_fixtures import Dial
from wire_keys import Key, message_id
from wire_load import Books, Reader, Sender, load
from wire_socket import Closed, Refused

KeyOf = Callable[[str], Key]
ROUNDS = 6


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Members]:
    with members(tmp_path) as made:
        yield made


def refused(answer: Item) -> str:
    """The line with which a request was refused."""
    assert answer["ok"] is False
    line: str = answer["error"]
    assert line and "\n" not in line
    return line


def test_hand_overs_by_whomever_is_asked_to_whomever_is_named(group: Members, dial: Dial) -> None:
    first, (one, two) = group.split()
    clients = [dial(member) for member in group.all]
    epoch = first.status()["epoch"]
    ids = {member: group.id_of(member) for member in group.all}

    # The active one is asked, and nobody is named.
    answer = group.promote(first)
    assert answer["ok"], answer
    told = answer["handover"]
    second, _ = group.wait_active(above=epoch)
    assert second in (one, two)
    assert (told["reason"], told["from"], told["to"]) == ("promote", ids[first], ids[second])
    assert told["epoch"] == epoch + 1 == second.status()["epoch"]
    assert told["gap_ms"] is not None and told["gap_ms"] >= 0
    group.wait_whole()

    # A standby is asked, and names itself; by its name and by its full id.
    assert group.promote(first, group.name(first))["handover"]["to"] == ids[first]
    group.wait_role(first, "active")
    group.wait_whole()
    (third,) = {one, two} - {second}
    assert group.promote(second, ids[third])["handover"]["to"] == ids[third]
    group.wait_role(third, "active")
    group.wait_whole()

    for member in group.all:
        status = member.status()
        assert status["last_handover"]["to"] == status["active"] == ids[third]
        assert status["epoch"] == epoch + 3
    for client in clients:
        assert survives(client)
        assert epochs(settled(client)) == [epoch + 1, epoch + 2, epoch + 3]


def test_a_hand_over_to_nobody_is_refused_with_a_line(group: Members) -> None:
    active, (one, two) = group.split()
    epoch = active.status()["epoch"]
    for at in (active, one):
        line = refused(group.promote(at, "nobody"))
        assert "nobody" in line and group.id_of(one) in line and group.id_of(two) in line
        assert group.name(active) in refused(group.promote(at, group.name(active)))
    for member in (one, two):
        assert member.stop() == 0
    until(lambda: len(active.status()["members"]) == 1, "the others are gone")
    assert "ready: none" in refused(group.promote(active))
    assert active.status()["epoch"] == epoch and active.get("/readyz")[0] == 200


def test_the_socket_beside_the_store_is_that_of_the_active_member(tmp_path: Path) -> None:
    path = tmp_path / "relay.db.sock"
    with members(tmp_path, own_control=False) as group:
        for _ in range(3):
            before, _ = group.split()
            status = ask(path, {"command": "status"})["status"]
            assert status["member"] == group.id_of(before)
            answer = ask(path, {"command": "promote"})
            assert answer["handover"]["from"] == group.id_of(before)
            group.wait_whole()
            after, _ = group.split()
            assert answer["handover"]["to"] == group.id_of(after)
            until(partial(_belongs_to, path, group.id_of(after)), "the socket is the new one's")
        active, (one, two) = group.split()
        for member in (one, two, active):
            assert member.stop() == 0
        assert not path.exists()


def _belongs_to(path: Path, member: str) -> bool:
    """Whether this is the control socket of that member."""
    try:
        return bool(ask(path, {"command": "status"})["status"]["member"] == member)
    except ControlSocketError:
        return False  # just being replaced


@pytest.mark.timeout(180)
def test_hand_overs_under_load_lose_nothing_and_end_no_connection(group: Members, key: KeyOf) -> None:
    books = Books()
    readers = [Reader(key(f"reader {n}"), books) for n in range(3)]
    away = Reader(key("away"), books)
    addresses = [reader.key.address for reader in readers] + [away.key.address]
    senders = [Sender(f"{n}", key(f"sender {n}"), addresses, books) for n in range(3)]
    a, b, c = group.all
    chance = random.Random(5)
    with (
        load(a, [], readers[:1]) as stopping,
        load(b, [], readers[1:2]),
        load(c, [], readers[2:]),
        load(a, senders[:1], []) as a_stops,
        load(b, senders[1:2], []) as b_stops,
        load(c, senders[2:], []) as c_stops,
    ):
        for _ in range(ROUNDS):
            books.wait_for_results(300 + chance.randrange(600))
            assert [member.status()["connections"] for member in group.all] == [2, 2, 2]
            assert group.promote(chance.choice(group.all))["ok"]
            group.wait_whole()
        books.wait_for_results(600)
        assert [member.status()["connections"] for member in group.all] == [2, 2, 2]
        for event in (a_stops, b_stops, c_stops, stopping):
            event.set()
    for reader in [*readers, away]:
        reader.drain(a)
    assert not books.faults, books.faults[:3]
    assert not books.lost()
    assert books.statuses.keys() <= {"stored", "delivered", "duplicate"}


def said_until_goaway(client: WireClient, recipient: str) -> list[Item]:
    """Publish one message after the other until the relay sends the client away: all that it has said."""
    said: list[Item] = []
    deadline = time.monotonic() + WAIT_S
    while True:
        assert time.monotonic() < deadline
        text = f"{client.welcome['session']} {client.new_ref()}".encode()
        ref = client.publish(text, recipient=recipient)
        answered = False
        while not answered:
            said.append(client.next_item())
            if said[-1]["type"] == "goaway":
                return said
            answered = said[-1]["type"] == "result" and said[-1]["ref"] == ref


def test_sigterm_hands_over_first_and_then_sends_its_clients_away(
    tmp_path: Path, dial: Dial, key: KeyOf
) -> None:
    with members(tmp_path, drain_s=1.0) as group:
        active, (one, two) = group.split()
        epoch = active.status()["epoch"]
        name = group.id_of(active)
        there, reader = dial(one), dial(two, key("reader"))
        reader.subscribe()
        # The last one to be sent away publishes all the time.
        idle, busy = [dial(active) for _ in range(8)], dial(active)
        active.signal(signal.SIGTERM)
        said = said_until_goaway(busy, key("reader").address)
        kinds = [item["type"] for item in said]
        assert kinds.index("epoch") < kinds.index("goaway")
        assert said[-1]["reason"] == "drain"
        results = [item for item in said if item["type"] == "result"]
        assert results and {item["status"] for item in results} <= {"stored", "delivered"}
        # It was answered by the next one too.
        assert kinds.index("epoch") < len(kinds) - 1 - kinds[::-1].index("result")
        for client in idle:
            items, closed = client.read_to_close()
            assert [item["type"] for item in items] == ["epoch", "goaway"]
            assert closed.code == 1012
        assert busy.wait_closed().code == 1012
        assert active.wait() == 0
        assert survives(there) and epochs(settled(there)) == [epoch + 1]
        sent = [reader.message()["id"] for _ in results]
        assert sent == [item["id"] for item in results]
        told = one.status()["last_handover"]
        assert (told["reason"], told["from"], told["epoch"]) == ("stopping", name, epoch + 1)
        assert told["gap_ms"] is not None


def test_a_member_that_ends_takes_no_new_clients_while_it_still_serves(
    tmp_path: Path, dial: Dial, key: KeyOf
) -> None:
    with members(tmp_path, 2, drain_s=2.0) as group:
        active, (other,) = group.split()
        clients = [dial(active) for _ in range(4)]
        active.signal(signal.SIGTERM)
        group.wait_role(other, "active")
        assert active.get("/readyz") == (503, b"draining\n")
        assert active.status()["role"] in ("draining", "stopped")
        with pytest.raises((Closed, Refused, ConnectionRefusedError)):
            dial(active)
        is_result(clients[-1].post(b"still", recipient=key("away").address), "stored")
        for client in clients:
            client.close()
        active.signal(signal.SIGTERM)  # and now quickly
        assert active.wait() == 0


def test_standbys_and_the_last_member_end_with_0(group: Members, dial: Dial, key: KeyOf) -> None:
    active, (one, two) = group.split()
    sender, reader = dial(active), dial(one, key("reader"))
    for number in range(20):
        is_result(sender.post(b"%d" % number, recipient=key("reader").address), "stored")
    _, backlog = reader.subscribe()
    reader.ack(*[item["id"] for item in backlog])
    reader.settle()
    reader.close()
    leaving = dial(one)
    one.signal(signal.SIGTERM)
    # Its acks were for good before it ended.
    assert [item["type"] for item in leaving.read_to_close()[0]] == ["goaway"]
    assert one.wait() == 0
    assert survives(sender)
    with dial(two, key("reader")) as again:
        assert texts(again.subscribe()[1]) == []
    epoch = active.status()["epoch"]
    sender.close()
    assert active.stop() == 0
    group.wait_active(above=epoch, among=[two])
    with dial(two) as last:
        is_result(last.post(b"alone", recipient=key("reader").address), "stored")
    assert two.stop() == 0
    group.restart(two)
    assert texts(dial(two, key("reader")).subscribe()[1]) == [b"alone"]


def test_what_is_held_and_acknowledged_passes_over_a_hand_over(
    group: Members, dial: Dial, key: KeyOf
) -> None:
    first, (one, _) = group.split()
    # Sessions of the old active, of the new, and of neither.
    sender = dial(one)
    readers = {member: dial(member, key(group.name(member))) for member in group.all}
    for member, reader in readers.items():
        address = key(group.name(member)).address
        reader.subscribe()
        refs = [sender.publish(b"%d" % n, recipient=address) for n in range(3)]
        assert texts([reader.message() for _ in range(3)]) == [b"0", b"1", b"2"]
        reader.ack(message_id(b"0"))
        assert {sender.result(ref)["status"] for ref in refs} <= {"stored", "delivered"}
    assert group.promote(first, group.name(one))["ok"]
    for member, reader in readers.items():
        address = key(group.name(member)).address
        reader.ack(message_id(b"1"))
        is_result(sender.post(b"new", recipient=address), "stored")
        assert texts([reader.message()]) == [b"new"]
        assert texts(reader.settle()) == []
        wait_for_pending(reader, 2)
        reader.close()
        assert texts(dial(first, key(group.name(member))).subscribe()[1]) == [b"2", b"new"]


def test_a_successor_that_does_not_come_is_not_waited_for(group: Members, dial: Dial, key: KeyOf) -> None:
    active, (named, other) = group.split()
    epoch = active.status()["epoch"]
    client = dial(other)
    named.signal(signal.SIGSTOP)
    answer = group.promote(active, group.name(named))
    # Anybody else will do, also the one that gave it up: and that is no hand-over.
    if answer["ok"]:
        assert answer["handover"]["to"] == group.id_of(other)
    else:
        assert refused(answer) == f"no other member took over: {group.id_of(active)} is active again"
        assert active.status()["last_handover"] is None
    is_result(client.post(b"served", recipient=key("x").address), "stored")
    assert epochs(settled(client)) == [epoch + 1]
    named.signal(signal.SIGCONT)
    group.wait_whole()
    assert named.status()["epoch"] == epoch + 1


LINGER_S = 2.0


@pytest.mark.parametrize("leaving", ["active", "standby"])
def test_a_member_that_ends_lingers_for_those_whom_a_load_balancer_still_sends(
    tmp_path: Path, dial: Dial, key: KeyOf, leaving: str
) -> None:
    with members(tmp_path, 2, config=f"server.linger_s = {LINGER_S}") as group:
        active, (other,) = group.split()
        ends, stays = (active, other) if leaving == "active" else (other, active)
        before = dial(ends)
        began = time.monotonic()
        ends.signal(signal.SIGTERM)
        until(lambda: ends.get("/readyz")[0] == 503, "it is not ready")
        not_ready = time.monotonic() - began
        group.wait_role(stays, "active")
        assert ends.get("/readyz") == (503, b"draining\n")
        assert ends.get("/healthz")[0] == 200
        late = dial(ends)
        is_result(late.post(b"late", recipient=key("reader").address), "stored")
        is_result(before.post(b"before", recipient=key("reader").address), "stored")
        assert time.monotonic() - began < LINGER_S, "too slow to see anything"
        assert "goaway" not in [item["type"] for item in (*settled(before), *settled(late))]
        for client in (before, late):
            items, closed = client.read_to_close()
            assert time.monotonic() - began >= LINGER_S
            assert [item["type"] for item in items] == ["goaway"]
            assert closed.code == 1012
        assert not_ready < LINGER_S / 2
        assert ends.wait() == 0
        assert texts(dial(stays, key("reader")).subscribe()[1]) == [b"late", b"before"]


def test_a_second_signal_ends_the_lingering(tmp_path: Path, dial: Dial) -> None:
    with members(tmp_path, 2, config="server.linger_s = 3600.0") as group:
        active, (other,) = group.split()
        client = dial(active)
        active.signal(signal.SIGTERM)
        group.wait_role(other, "active")
        until(lambda: active.status()["active"] == group.id_of(other), "its clients are served elsewhere")
        assert survives(dial(active)) and survives(client)
        active.signal(signal.SIGTERM)
        assert client.read_to_close()[1].code == 1012
        assert active.wait() == 0


def test_a_successor_that_ends_does_not_keep_the_lingering_one(tmp_path: Path, dial: Dial) -> None:
    with members(tmp_path, 2, config=f"server.linger_s = {LINGER_S}") as group:
        active, (other,) = group.split()
        client = dial(active)
        active.signal(signal.SIGTERM)
        group.wait_role(other, "active")
        other.kill()
        assert client.read_to_close()[1].code == 1012
        assert active.wait() == 0


def test_one_whose_clients_nobody_serves_does_not_linger(tmp_path: Path, dial: Dial) -> None:
    timing = PATIENT | {"POSTHOUSE_LEASE_DURATION_S": "60"}
    config = "server.linger_s = 3600.0"
    with members(tmp_path, 2, "--lease", "store", config=config, timing=timing) as group:
        active, (other,) = group.split()
        client = dial(other)
        active.signal(signal.SIGSTOP)
        until(lambda: other.status()["active"] is None, "it sees nobody")
        other.signal(signal.SIGTERM)
        assert client.read_to_close()[1].code == 1012
        assert other.wait() == 0
        active.signal(signal.SIGCONT)
