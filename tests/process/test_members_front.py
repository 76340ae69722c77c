"""The front of a member that is not active: everything that clients know of the protocol, over a link."""

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from members import Members, epochs, members, settled, settled_texts, until
from relay_process import RelayProcess
from test_protocol_legacy import ack_frame, message_text, publish_frame, subscribe_frame
from wire_client import ENCODINGS, WireClient, is_result, leave, texts, wait_for_pending
from wire_fixtures import Dial
from wire_keys import Key, message_id
from wire_socket import WireSocket

KeyOf = Callable[[str], Key]
SMALL = "limits.connections_per_key = 3\nlimits.max_frame_bytes = 65536\nlimits.max_outbound_bytes = 65536\n"
SMALL += "limits.live_timeout_ms = 200\n"


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Members]:
    """Three members for all tests here: none of them ends one."""
    with members(tmp_path_factory.mktemp("members"), config=SMALL) as made:
        yield made


@pytest.fixture
def active(group: Members) -> RelayProcess:
    return group.split()[0]


@pytest.fixture
def one(group: Members) -> RelayProcess:
    return group.split()[1][0]


@pytest.fixture
def two(group: Members) -> RelayProcess:
    return group.split()[1][1]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_message_goes_from_one_standby_to_the_other(
    one: RelayProcess, two: RelayProcess, dial: Dial, key: KeyOf, encoding: str
) -> None:
    reader, sender = dial(one, key("reader"), encoding), dial(two, key("sender"), encoding)
    assert reader.welcome["epoch"] == one.status()["epoch"]
    assert reader.welcome["relay"] == two.status()["relay"]
    answer, _ = reader.subscribe()
    assert answer["pending"]["count"] == 0
    ref = sender.publish(b"across", recipient=key("reader").address)
    assert texts([reader.message()]) == [b"across"]
    reader.ack(message_id(b"across"))
    assert sender.result(ref)["status"] in ("stored", "delivered")
    is_result(sender.post(b"across", recipient=key("reader").address), "duplicate", state="delivered")
    is_result(sender.post(b"now", recipient=key("away").address, mode="live"), "undeliverable")
    assert settled_texts(reader) == []


def test_the_legacy_dialect(
    active: RelayProcess, one: RelayProcess, two: RelayProcess, dial: Dial, key: KeyOf, lone_bucket: str
) -> None:
    old = dial.socket(one)
    old.send_text(subscribe_frame(lone_bucket, "old client"))
    assert old.read_text() == '{"subscribe": true}'
    reader = dial(active, key("reader"))
    reader.subscribe()
    old.send_text(publish_frame(b"from an old one", key("reader").address))
    assert texts([reader.message()]) == [b"from an old one"]
    sender = dial(two)
    for text in (b"1", b"2"):
        is_result(sender.post(text, bucket=lone_bucket), "stored")
        assert old.read_text() == message_text(text)
    old.send_text(ack_frame(b"1"))
    old.close()
    # Its mark is known wherever it comes back, when it is committed.
    for member in (two, active):
        until(
            partial(_is_marked, dial, member, lone_bucket),
            "the first one is marked",
        )


def _is_marked(dial: Dial, member: RelayProcess, bucket: str) -> bool:
    return legacy_backlog(dial.socket(member), bucket) == [message_text(b"2")]


def legacy_backlog(socket: WireSocket, bucket: str) -> list[str]:
    """All that an old client is sent, down to the message "2"."""
    socket.send_text(subscribe_frame(bucket, "old client"))
    assert socket.read_text() == '{"subscribe": true}'
    seen = [socket.read_text()]
    while seen[-1] != message_text(b"2"):
        seen.append(socket.read_text())
    return seen


def test_pages_say_what_it_is(group: Members, active: RelayProcess, one: RelayProcess) -> None:
    epoch = active.status()["epoch"]
    for member, role in ((active, "active"), (one, "standby")):
        connection = http.client.HTTPConnection("127.0.0.1", member.port, timeout=10)
        connection.request("GET", "/")
        document = json.loads(connection.getresponse().read())
        connection.close()
        assert (document["role"], document["epoch"]) == (role, epoch)
        assert document["relay"] == active.status()["relay"]
        assert member.get("/readyz") == (200, b"ready\n")
        metrics = member.metrics()
        assert metrics[f'posthouse_role{{role="{role}"}}'] == 1
        assert sum(value for name, value in metrics.items() if name.startswith("posthouse_role")) == 1
        assert (metrics["posthouse_epoch"], metrics["posthouse_ready"]) == (epoch, 1)
        status = member.status()
        assert status["active"] == group.id_of(active)
        assert {one["role"] for one in status["members"]} == {"active", "standby"}
        assert status["lease"] == {"kind": "file", "held": member is active}


def test_connections_of_a_key_are_counted_across_members(
    group: Members, active: RelayProcess, dial: Dial, key: KeyOf
) -> None:
    oldest = dial(group.all[2], key("device"))
    oldest.subscribe()
    others = [dial(member, key("device")) for member in group.all]
    oldest.expect("goaway", reason="superseded")
    assert oldest.wait_closed().code == 4505
    for client in others:
        client.subscribe()
        assert client.settle() == []
    # After one of them acknowledges, the others are not sent it again.
    is_result(dial(active).post(b"for a device", recipient=key("device").address), "stored")
    for client in others:
        assert texts([client.message()]) == [b"for a device"]
    others[0].ack(message_id(b"for a device"))
    wait_for_pending(others[1], 0)
    for client in others:
        client.close()
    assert texts(dial(active, key("device")).subscribe()[1]) == []


def test_buckets_and_receipts(
    active: RelayProcess, one: RelayProcess, two: RelayProcess, dial: Dial, key: KeyOf
) -> None:
    bucket = key("owner").bucket_16
    first, second = dial(one), dial(two)
    for reader, name in ((first, "reader name of one"), (second, "reader name of two")):
        reader.subscribe(buckets=[bucket], reader=name)
    sender = dial(two)
    is_result(sender.post(b"in a bucket", recipient=key("owner").address, receipts=["delivered"]), "stored")
    for reader in (first, second):
        assert reader.message()["bucket"] == bucket
    first.ack(message_id(b"in a bucket"))
    assert first.settle() == []
    first.close()
    owner = dial(active, key("owner"))
    assert texts(owner.subscribe()[1]) == [b"in a bucket"]
    # Its mark was that reader's alone, and the owner's ack is everybody's.
    wait_until_marked(dial(two), bucket)
    owner.ack(message_id(b"in a bucket"))
    assert sender.wait_for("receipt", id=message_id(b"in a bucket"))["status"] == "delivered"
    assert texts(dial(one).subscribe(buckets=[bucket], reader="reader name of 333")[1]) == []


def wait_until_marked(client: WireClient, bucket: str) -> None:
    """Until the ack of the first reader is committed: by its name nothing waits."""
    for _ in range(100):
        _, backlog = client.subscribe(buckets=[bucket], reader="reader name of one", live=False)
        if not backlog:
            return
    raise AssertionError("the mark was lost")


def test_windows_and_order(one: RelayProcess, two: RelayProcess, dial: Dial, key: KeyOf) -> None:
    contents = [b"%03d" % n for n in range(120)]
    sender, reader = dial(two), dial(one, key("reader"), window=7)
    leave(sender, key("reader").address, *contents[:60])
    reader.request("subscribe")
    seen: list[bytes] = []
    refs = [sender.publish(text, recipient=key("reader").address) for text in contents[60:]]
    while len(seen) < len(contents):
        came = [reader.message()]
        came += [item for item in reader.settle() if item["type"] == "message"]
        assert len(came) <= 7
        seen += texts(came)
        reader.ack(*[item["id"] for item in came])
    assert seen == contents
    assert {sender.result(ref)["status"] for ref in refs} <= {"stored", "delivered"}


def test_a_slow_reader_stalls_nobody_else_and_gets_everything(
    group: Members, one: RelayProcess, two: RelayProcess, dial: Dial, key: KeyOf
) -> None:
    contents = [b"%03d" % n + bytes(20_000) for n in range(300)]
    sender = dial(two)
    slow = dial.unopened(one, receive_buffer_bytes=8192).open(key("slow"), window=4096)
    slow.request("subscribe")
    slow.wait_for("caught_up")
    quick = dial(one, key("quick"))
    quick.subscribe()
    publishing = threading.Thread(target=leave, args=(sender, key("slow").address, *contents))
    publishing.start()
    other = dial(two)
    for number in range(50):
        ref = other.publish(b"%d" % number, recipient=key("quick").address)
        assert texts([quick.message()]) == [b"%d" % number]
        quick.ack(message_id(b"%d" % number))
        assert other.result(ref)["status"] in ("stored", "delivered")
    publishing.join(30)
    assert not publishing.is_alive()
    # Its credit goes with it to the next active member.
    epoch = one.status()["epoch"]
    assert group.promote(two)["ok"]
    group.wait_whole()
    assert texts([slow.message() for _ in contents]) == contents
    assert epochs(settled(slow)) == [epoch + 1]
    assert epochs(settled(quick)) == [epoch + 1]


def test_no_member_logged_an_error(group: Members) -> None:
    for member in group.all:
        assert not [
            line for line in member.lines if line.get("level") in ("error", "critical") or "text" in line
        ]
