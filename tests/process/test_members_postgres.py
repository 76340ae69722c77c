"""Members on a PostgreSQL store: its server ends and comes back, and the lease alone cannot be reached."""

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from members import PATIENT, Members, epochs, members, settled, settled_texts, survives, until
from postgres_server import PostgresServer, need_server, running_server
from wire_client import WireClient, is_result, texts
from wire_fixtures import Dial
from wire_keys import Key, message_id

KeyOf = Callable[[str], Key]
CONFIG = "store.commit_timeout_s = 2\n"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server of this module's own, because it is ended; one that writes to its disk what it commits."""
    need_server()
    with running_server({}) as started:
        yield started


@pytest.fixture
def group(server: PostgresServer, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Members]:
    """Each test has a store of its own on it."""
    store = server.url(f"s{message_id(request.node.name.encode())[:8]}")
    with members(tmp_path, store=store, config=CONFIG, timing=PATIENT) as made:
        yield made


class Publisher(threading.Thread):
    """Publishes one message after the other until it is stopped; what was promised, and how all were answered."""

    def __init__(self, client: WireClient, recipient: str) -> None:
        super().__init__(daemon=True)
        self.promised: list[bytes] = []
        self.statuses: set[str] = set()
        self.failure: Exception | None = None
        self._client = client
        self._recipient = recipient
        self._stopping = threading.Event()

    def run(self) -> None:
        number = 0
        try:
            while not self._stopping.is_set():
                number += 1
                text = f"{self._recipient} {number}".encode()
                ref = self._client.publish(text, recipient=self._recipient)
                result = self._client.wait_for("result", 30, ref=ref)
                self.statuses.add(result.get("code") or result["status"])
                if result["status"] != "rejected":
                    self.promised.append(text)
        except Exception as error:
            self.failure = error

    def stop(self) -> None:
        """Have it end after its next answer."""
        self._stopping.set()
        self.join(40)
        assert not self.is_alive() and self.failure is None, self.failure

    def wait_for_more(self, count: int = 20) -> None:
        """Until so many more are promised."""
        wanted = len(self.promised) + count
        until(lambda: self.failure or len(self.promised) >= wanted, "promises", 30)
        assert self.failure is None, self.failure


def outage(
    group: Members, dial: Dial, key: KeyOf, end: Callable[[], None], begin: Callable[[], None]
) -> None:
    """The server ends and begins again while all members serve: no connection ends, nothing promised is lost."""
    active, (one, two) = group.split()
    epoch = active.status()["epoch"]
    reader = dial(two, key("online"))
    reader.subscribe()
    idle = [dial(member) for member in group.all]
    publishers = [Publisher(dial(member), key(f"away {n}").address) for n, member in enumerate(group.all)]
    for publisher in publishers:
        publisher.start()
    for publisher in publishers:
        publisher.wait_for_more()
    end()
    # What its reader acknowledges is delivered, store or not; or it waits for a commit that is in doubt.
    sender = dial(one)
    ref = sender.publish(b"meanwhile", recipient=key("online").address)
    group.wait_role(active, "in doubt")
    begin()
    for publisher in publishers:
        publisher.wait_for_more()
        publisher.stop()
        assert publisher.statuses <= {"stored", "duplicate", "store-unavailable", "not-active"}
    assert sender.wait_for("result", 30, ref=ref)["status"] in ("stored", "rejected", "duplicate")
    group.wait_whole()
    assert all(survives(client) for client in idle)
    assert group.wait_active()[1] <= epoch + 1
    for number, publisher in enumerate(publishers):
        _, backlog = dial(one, key(f"away {number}"), window=4096).subscribe()
        found = texts(backlog)
        assert set(publisher.promised) <= set(found)
        assert len(found) == len(set(found))


def test_the_server_is_restarted(server: PostgresServer, group: Members, dial: Dial, key: KeyOf) -> None:
    outage(group, dial, key, server.stop, server.start)


def test_the_server_is_killed(server: PostgresServer, group: Members, dial: Dial, key: KeyOf) -> None:
    outage(group, dial, key, server.kill, server.start)


def test_the_active_member_is_killed_while_the_server_lives(group: Members, dial: Dial, key: KeyOf) -> None:
    active, (one, two) = group.split()
    epoch = active.status()["epoch"]
    publisher = Publisher(dial(one), key("reader").address)
    publisher.start()
    publisher.wait_for_more()
    active.kill()
    publisher.wait_for_more()
    publisher.stop()
    assert publisher.statuses <= {"stored", "duplicate"}
    assert group.wait_active()[1] == epoch + 1
    reader = dial(two, key("reader"), window=4096)
    assert texts(reader.subscribe()[1]) == publisher.promised


def test_in_doubt_it_goes_on_and_nobody_takes_over(
    server: PostgresServer, group: Members, dial: Dial, key: KeyOf
) -> None:
    active, (one, two) = group.split()
    epoch = active.status()["epoch"]
    sender, reader = dial(one), dial(two, key("reader"))
    own = dial(active)
    reader.subscribe()
    schema = group.store.rpartition("=")[2]
    with server.connect() as connection, connection.transaction():
        connection.execute(f"SELECT * FROM {schema}.lease FOR UPDATE")
        group.wait_role(active, "in doubt")
        assert active.status()["lease"]["held"] is False
        assert active.get("/readyz")[0] == 200
        commits = active.metrics()["posthouse_commit_seconds_count"]
        # With a reader who acknowledges at once: else it would never touch the store.
        ref = sender.publish(b"in doubt", recipient=key("reader").address)
        assert texts([reader.message()]) == [b"in doubt"]
        reader.ack(message_id(b"in doubt"))
        assert sender.result(ref)["status"] in ("delivered", "stored")
        for client in (own, sender):
            text = b"by %d" % id(client)
            is_result(client.post(text, recipient=key("away").address), "stored")
            is_result(client.post(text, recipient=key("away").address), "duplicate", state="stored")
        assert active.metrics()["posthouse_commit_seconds_count"] > commits
        assert one.status()["active"] == group.id_of(active)
        assert active.status()["role"] == "in doubt"
    group.wait_role(active, "active")
    group.wait_whole()
    assert active.status()["epoch"] == epoch
    assert epochs(settled(sender)) == []
    assert settled_texts(reader) == []
    is_result(sender.post(b"sure", recipient=key("away").address), "stored")


def test_a_holder_in_doubt_that_is_replaced_hands_its_sessions_on(
    server: PostgresServer, group: Members, dial: Dial, key: KeyOf
) -> None:
    active, (one, _) = group.split()
    epoch = active.status()["epoch"]
    own, other = dial(active), dial(one)
    schema = group.store.rpartition("=")[2]
    with server.connect() as connection:
        # Somebody else has the lease: nothing is known to the holder but that it cannot renew.
        connection.execute(f"UPDATE {schema}.lease SET version = 'of somebody else'")
    ref = own.publish(b"whoever it is", recipient=key("reader").address)
    is_result(own.result(ref), "stored")
    group.wait_whole()
    assert group.wait_active()[1] in (epoch, epoch + 1)
    is_result(other.post(b"after", recipient=key("reader").address), "stored")
    assert survives(own)
    with dial(one, key("reader")) as reader:
        assert texts(reader.subscribe()[1]) == [b"whoever it is", b"after"]
    for client in (own, other):
        client.close()
    for member in group.all:
        member.signal(signal.SIGTERM)
    assert [member.wait() for member in group.all] == [0, 0, 0]
