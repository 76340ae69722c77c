"""Opening a PostgreSQL store: what it makes, what it refuses, what it warns of, what it never shows; and its check."""

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from postgres_server import PostgresServer, emptied
from posthouse.cli import store as command_line
from posthouse.cli.running import NotDone
from posthouse.config import Config
from posthouse.config.sections import Store as StoreSettings
from posthouse.identity import address_digest, canonical_address
from posthouse.store.interface import Mailbox, Mark, StoreUnusable, Tally
from posthouse.store.opening import open_store
from posthouse.store.postgres import PostgresStore
from posthouse.store.postgres.address import parse
from posthouse.store.postgres.places import Places
from posthouse.store.postgres.schema import SCHEMA, Schema, Step, migrate
from posthouse.store.postgres.sessions import Patience, open_session
from store_samples import Promoted, mailbox, message, own, shelves

SCHEMA_NAME = "opening"
ALICE, BOB = mailbox(1), mailbox(2, shelf=6)
ADDRESS = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    """An empty store."""
    emptied(postgres, SCHEMA_NAME)
    return postgres.url(SCHEMA_NAME)


@pytest.fixture
def nothing(postgres: PostgresServer) -> Iterator[str]:
    """The URL of a store that was never made."""
    with postgres.connect() as connection:
        connection.execute("DROP SCHEMA IF EXISTS unmade CASCADE")
        yield postgres.url("unmade")
        connection.execute("DROP SCHEMA IF EXISTS unmade CASCADE")


def session(url: str):  # type: ignore[no-untyped-def]
    """A session as a writer has it."""
    return open_session(parse(url), "test", Patience(1000, 10_000))


def config(url: str) -> Config:
    """The configuration of a relay with this store."""
    return Config(store=StoreSettings(url=url))


# --- making and refusing -------------------------------------------------------------------------------------


def test_members_that_start_together_make_one_store(nothing: str) -> None:
    fences: list[object] = []

    def start() -> None:
        writer = open_store(nothing).open_writer()
        fences.append(writer.fence())
        writer.close()

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(fences) == 4
    assert len(set(map(repr, fences))) == 1


def test_a_reader_makes_nothing(nothing: str) -> None:
    with pytest.raises(StoreUnusable, match="unmade"):
        open_store(nothing).open_reader()


def test_a_schema_with_other_tables_is_refused_and_left_alone(nothing: str, postgres: PostgresServer) -> None:
    with postgres.connect() as connection:
        connection.execute("CREATE SCHEMA unmade CREATE TABLE invoices (no int)")
        with pytest.raises(StoreUnusable, match="not a store of Posthouse"):
            open_store(nothing).open_writer()
        assert connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'unmade'"
        ).fetchall() == [("invoices",)]


def test_a_store_of_a_later_release_is_refused_but_one_that_only_added_is_used(nothing: str) -> None:
    added = Step(("ALTER TABLE mailbox ADD COLUMN colour text",), readable_by=1, writable_by=1)
    contracted = Step(("ALTER TABLE mailbox DROP COLUMN colour",), readable_by=2, writable_by=3)
    open_store(nothing).open_writer().close()
    connection = session(nothing)
    assert migrate(connection, Schema((*SCHEMA.steps, added), oldest=1)) == 1
    Promoted(PostgresStore(nothing)).close()
    assert migrate(connection, Schema((*SCHEMA.steps, added, contracted), oldest=1)) == 2
    connection.close()
    with pytest.raises(StoreUnusable, match="later release"):
        open_store(nothing).open_writer()
    with pytest.raises(StoreUnusable, match="later release"):
        open_store(nothing).open_reader()


def test_a_migration_that_fails_changes_nothing(nothing: str) -> None:
    open_store(nothing).open_writer().close()
    broken = Step(
        ("ALTER TABLE mailbox ADD COLUMN colour text", "SELECT nothing"), readable_by=2, writable_by=2
    )
    connection = session(nothing)
    with pytest.raises(Exception, match="nothing"):
        migrate(connection, Schema((*SCHEMA.steps, broken), oldest=1))
    assert connection.one("SELECT version FROM schema_version") == [(1,)]
    assert connection.one("SELECT count(*) FROM information_schema.columns WHERE column_name = 'colour'") == [
        (0,)
    ]
    connection.close()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:pass/word@host/db",
        "postgresql://user:pass@word@[host/db",
        "postgresql://user:word@host:port/db",
        "postgresql://user:word@host/db?schema=No-Name",
        "postgres://user:word@127.0.0.1:1/db",
        "postgresql://user@127.0.0.1:1/db?password=word",
    ],
)
def test_no_error_shows_a_password(url: str) -> None:
    with pytest.raises(StoreUnusable) as refused:
        open_store(url).open_writer()
    assert "word" not in str(refused.value).replace("a password", "")
    assert "\n" not in str(refused.value)


def test_without_psycopg_the_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("posthouse.store.postgres")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StoreUnusable, match=r"posthouse\[postgres\]"):
        open_store("postgresql://127.0.0.1/posthouse")


# --- what the engine is set to -------------------------------------------------------------------------------


def test_each_weakness_of_the_engine_is_one_warning(url: str) -> None:
    with structlog.testing.capture_logs() as logs:
        open_store(url).open_writer().close()
    reasons = [line["reason"].partition(" ")[0] for line in logs if line["log_level"] == "warning"]
    assert reasons == ["fsync", "synchronous_standby_names"]


@pytest.mark.parametrize("level", ["off", "local"])
def test_commits_are_synchronous_whatever_the_role_is_set_to(url: str, level: str) -> None:
    writer = PostgresStore(f"{url}&options=-c%20synchronous_commit%3D{level}").open_writer()
    assert writer._session.sound().one("SELECT current_setting('synchronous_commit')") == [("on",)]
    writer.close()


# --- reading beside a crowd ----------------------------------------------------------------------------------


def test_a_mailbox_is_found_beside_a_neighbour_with_thousands(url: str) -> None:
    active = Promoted(open_store(url))
    crowd = mailbox(3, shelf=ALICE.shelf)
    active.write(*(message(seq, crowd) for seq in range(1, 5001)))
    active.write(
        *(message(seq, ALICE, expires_at=900 if seq == 6003 else 10**6) for seq in range(6001, 6006))
    )
    first = active.page(own(ALICE), limit=2)
    assert ([m.seq for m in first.messages], first.complete) == ([6001, 6002], False)
    assert active.seqs(own(ALICE), 6002) == [6004, 6005]
    active.close()


# --- deleting, with the place known or not -------------------------------------------------------------------


def test_messages_are_deleted_whether_their_mailbox_is_known_or_not(url: str) -> None:
    before = Promoted(open_store(url))
    before.write(*(message(seq, (ALICE, BOB)[seq % 2]) for seq in range(1, 9)))
    before.close()
    active = Promoted(open_store(url))
    active.write(message(9, ALICE))
    assert active.seqs(own(BOB), upto=3) == [1, 3]
    outcome = active.write(deletes=[1, 2, 3, 7, 9, 77])
    assert outcome.tallies == {ALICE.no: Tally(3, 27), BOB.no: Tally(1, 9)}
    assert active.seqs(shelves(5, 6)) == [4, 5, 6, 8]
    active.close()


def test_places_are_bounded_and_the_oldest_go_first() -> None:
    places = Places(limit=3)
    places.learn([(1, 10), (2, 20)])
    places.learn([(3, 30), (4, 40)])
    assert places.find([1, 2, 4, 5]) == ({2: 20, 4: 40}, [1, 5])
    places.forget()
    assert places.find([4]) == ({}, [4])


# --- check and purge -----------------------------------------------------------------------------------------


def filled(url: str) -> Promoted:
    """A store with some of everything."""
    active = Promoted(open_store(url))
    active.write(message(1, ALICE, guest=True), message(2, ALICE), message(3, BOB))
    active.write(marks=[Mark(2, "bucket", "one"), Mark(3, "bucket", "two")], deletes=[3])
    return active


def test_a_sound_store_is_found_sound(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    filled(url).close()
    place, report = command_line._check_postgres(config(url))
    assert report.problems == []
    assert (report.messages, report.mailboxes, report.marks) == (2, 1, 1)
    assert "schema opening" in place


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("UPDATE opening.message SET ciphertext = 'x' WHERE seq = 1", "message 1 is not what its id says"),
        ("DELETE FROM opening.message WHERE seq = 1", "mailbox 1 says 2 messages"),
        ("UPDATE opening.relay SET count = 7", "the store says 7 messages"),
        ("UPDATE opening.relay SET next_seq = 2", "the next sequence number is 2, but 2 is taken"),
        ("UPDATE opening.message SET shelf = 9 WHERE seq = 2", "message 2 is of mailbox 1 on shelf 9"),
        ("INSERT INTO opening.mark VALUES (77, 1)", "has marked message 77"),
        ("UPDATE opening.reader SET count = 5", "says 5 marks"),
    ],
)
def test_damage_is_found(url: str, postgres: PostgresServer, damage: str, words: str) -> None:
    filled(url).close()
    with postgres.connect() as connection:
        connection.execute(damage)
    _, report = command_line._check_postgres(config(url))
    assert any(words in line for line in report.problems), report.problems


def test_a_purge_empties_a_mailbox_unless_a_relay_is_active(url: str) -> None:
    key = b"a" + address_digest(canonical_address(ADDRESS))
    box = Mailbox(ALICE.no, key, 5)
    active = Promoted(open_store(url))
    active.write(message(1, box), message(2, box), message(3, BOB))
    with pytest.raises(NotDone, match="a relay is active"):
        command_line._purge_here(config(url), key)
    active.close()
    assert command_line._purge_here(config(url), key) == 2
    assert command_line._purge_here(config(url), key) == 0
    reader = open_store(url).open_reader()
    assert [m.seq for m in reader.page(shelves(5, 6), 0, 10, 0, 10, 10**6).messages] == [3]
    reader.close()


def test_copies_are_left_to_the_engine(url: str, tmp_path: Path) -> None:
    with pytest.raises(NotDone, match="pg_dump"):
        command_line._path(config(url))
