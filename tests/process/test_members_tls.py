"""Links over TCP with mutual TLS: who has no certificate of the members' authority gets no link; renewal is live."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from certificates import Authority
from members import Members, survives, until
from peer_rig import write_peer_files
from relay_process import RelayProcess
from wire_client import is_result, texts
from wire_fixtures import Dial
from wire_keys import Key, message_id

KeyOf = Callable[[str], Key]
CONFIG = """
peer.listen = "127.0.0.1:0"
peer.tls_cert = "cert.pem"
peer.tls_key = "key.pem"
peer.tls_ca = "ca.pem"
"""
OURS, NEXT, THEIRS = (Authority(name) for name in ("ours", "next", "theirs"))


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Members]:
    """Not started; every member has a certificate of the same authority."""
    made = Members(tmp_path, 3, config=CONFIG)
    for member in made.all:
        write_peer_files(member.folder, OURS.issue(), OURS)
    yield made
    made.clean_up()


def test_members_are_linked_over_tcp(group: Members, dial: Dial, key: KeyOf) -> None:
    group.start()
    assert not list(group.folder.glob("*-peer-*"))
    active, (one, two) = group.split()
    assert active.wait_for("listening for members")["address"].startswith("127.0.0.1:")
    sender, reader = dial(one), dial(two, key("reader"))
    reader.subscribe()
    for number in range(3):
        text = b"%d" % number
        ref = sender.publish(text, recipient=key("reader").address)
        assert texts([reader.message()]) == [text]
        reader.ack(message_id(text))
        assert sender.result(ref)["status"] in ("stored", "delivered")
        epoch = one.status()["epoch"]
        if number == 0:
            active.kill()
        elif number == 1:
            assert group.promote(one)["ok"]
        else:
            break
        group.wait_active(above=epoch)
        group.wait_whole()
    assert survives(sender) and survives(reader)


def test_a_stranger_gets_no_link_until_it_has_a_certificate(group: Members, dial: Dial, key: KeyOf) -> None:
    one, two, stranger = group.all
    write_peer_files(stranger.folder, THEIRS.issue(), OURS)
    one.start()
    group.wait_role(one, "active")
    for member in (two, stranger):
        member.start_unseen()
    for member in (two, stranger):
        group.wait_started(member)
    group.wait_whole([one, two])
    assert one.wait_for("link refused")["reason"]
    stranger.wait_for("no link to member")
    status = stranger.status()
    assert (status["role"], status["active"], status["epoch"]) == ("standby", None, 0)
    assert group.id_of(stranger) not in [member["name"] for member in one.status()["members"]]
    client = dial.unopened(stranger)
    client.send(client.hello_item())
    with pytest.raises(TimeoutError):
        client.next_item(0.5)
    # And now it has one of ours.
    write_peer_files(stranger.folder, OURS.issue(), OURS)
    assert client.expect("welcome")["epoch"] == one.status()["epoch"]
    assert "peer certificate loaded" in stranger.events()
    group.wait_whole()
    is_result(client.post(b"from a member", recipient=key("x").address), "stored")


def test_an_authority_takes_the_place_of_another_while_members_run(group: Members, dial: Dial) -> None:
    group.start()
    clients = [dial(member) for member in group.all]
    # First everybody accepts both, then gets a certificate of the new one, then nobody accepts the old one.
    for pairs, authorities in ((OURS, (OURS, NEXT)), (NEXT, (OURS, NEXT)), (NEXT, (NEXT,))):
        known = {member: member.events().count("peer certificate loaded") for member in group.all}
        for member in group.all:
            write_peer_files(member.folder, pairs.issue(), *authorities)
        for member in group.all:
            until(partial(_loaded_more_than, known[member], member), "the new certificate is in use")
        epoch = group.split()[0].status()["epoch"]
        assert group.promote(group.all[0])["ok"]
        group.wait_active(above=epoch)
        group.wait_whole()
    assert all(survives(client) for client in clients)
    broken = group.all[0]
    (broken.folder / "cert.pem").write_text("no certificate")
    broken.wait_for("new peer certificate refused, the old one stays")
    assert group.promote(group.split()[0])["ok"]
    group.wait_whole()


def _loaded_more_than(times: int, member: RelayProcess) -> bool:
    return member.events().count("peer certificate loaded") > times
