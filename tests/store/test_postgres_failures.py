"""What the PostgreSQL store promises when the engine, the network or another member fails: on real servers."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import structlog
from postgres_server import PostgresServer, emptied, need_server, running_server, server_folder
from posthouse.store.interface import (
    FENCED,
    UNKNOWN,
    Batch,
    Committed,
    Doubt,
    Mark,
    Store,
    StoreUnavailable,
    Tally,
    Waiting,
)
from posthouse.store.opening import open_store
from posthouse.store.postgres import checks
from posthouse.store.postgres import statements as sql
from posthouse.store.postgres.address import parse
from posthouse.store.postgres.applying import Applying
from posthouse.store.postgres.places import Places
from store_proxy import Fault, Proxy, proxy_to
from store_samples import Promoted, mailbox, marking, message, own, promote

ALICE = mailbox(1, shelf=5)
BOB = mailbox(2, shelf=6)
SCHEMA = "failures"
COMMIT_MS = 3000
BOUND_S = 10.0
"""Far above what COMMIT_MS allows, far below for ever."""
ENDS_NOTHING = "SELECT 0 * ($1::int4 + length($2::text))"
"""As on an engine that does not let sessions be ended."""
WENT_BACK = "the store went back in time: the engine has lost commits that it had confirmed"


def store_at(server: PostgresServer, port: int | None = None, commit_ms: int = COMMIT_MS) -> Store:
    """The store of these tests, perhaps by way of a proxy."""
    return open_store(server.url(SCHEMA, port), 1000, commit_ms)


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """A server that the test may kill."""
    need_server()
    with running_server({}) as server:
        yield server


@pytest.fixture
def proxied(postgres: PostgresServer) -> Iterator[tuple[Promoted, Proxy]]:
    """A promoted writer whose connections go through a proxy."""
    emptied(postgres, SCHEMA)
    with proxy_to(postgres.port) as proxy:
        active = Promoted(store_at(postgres, proxy.port))
        yield active, proxy
        active.close()


@contextmanager
def within(seconds: float = BOUND_S) -> Iterator[None]:
    """What is inside must not hang."""
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


def resolved(active: Promoted, batch: Batch) -> Committed | Doubt:
    """The outcome, asked for until there is one."""
    deadline = time.monotonic() + 30
    while (outcome := active.writer.resolve(batch, active.fence)) is UNKNOWN:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return outcome


def problems(server: PostgresServer) -> list[str]:
    """What a check of the store finds."""
    return checks.check(parse(server.url(SCHEMA))).problems


# --- the answer to a commit is lost --------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["answers lost", "questions lost"])
def test_a_commit_whose_answer_is_lost_is_resolved_to_what_it_did(
    proxied: tuple[Promoted, Proxy], postgres: PostgresServer, fault: Fault
) -> None:
    active, proxy = proxied
    active.write(message(1, ALICE), message(2, BOB, b"12"), message(3, BOB, b"345"))
    batch = active.batch(message(4, ALICE, guest=True), deletes=[2, 1])
    proxy.break_trip(fault)
    assert active.writer.commit(batch, active.fence) is UNKNOWN
    assert proxy.broken.is_set()
    with pytest.raises(StoreUnavailable, match="in doubt"):
        active.writer.commit(active.batch(), active.fence)
    outcome = resolved(active, batch)
    assert isinstance(outcome, Committed)
    assert outcome.tallies == {ALICE.no: Tally(1, 9, 1, 9), BOB.no: Tally(1, 3)}
    assert outcome.total == Tally(2, 12, 1, 9)
    assert active.seqs(own(ALICE)) == [4]
    active.number = batch.number
    active.write(message(5, ALICE))
    assert problems(postgres) == []


@pytest.mark.parametrize("fault", ["answers lost", "questions lost"])
def test_expiry_repeats_and_purges_in_doubt_are_answered_as_if_nothing_had_been(
    proxied: tuple[Promoted, Proxy], fault: Fault
) -> None:
    active, proxy = proxied
    active.write(message(1, ALICE, expires_at=2000), message(2, ALICE, b"same"), message(3, BOB))
    batch = active.batch(message(4, ALICE, b"same"), clock_ms=2000, purges=[BOB.no], expire_limit=10)
    proxy.break_trip(fault, after=4)  # a try, its end, which ones are known, what goes; then COMMIT
    outcome = active.writer.commit(batch, active.fence)
    assert outcome is UNKNOWN
    assert proxy.broken.is_set()
    outcome = resolved(active, batch)
    assert isinstance(outcome, Committed)
    assert outcome.duplicates == {4: 2}
    assert sorted(gone.seq for gone in outcome.gone) == [1, 3]
    assert outcome.tallies == {ALICE.no: Tally(1, 4), BOB.no: Tally()}
    assert active.seqs(own(ALICE), clock_ms=2000) == [2]


def test_a_connection_lost_before_commit_was_sent_has_certainly_written_nothing(
    proxied: tuple[Promoted, Proxy],
) -> None:
    active, proxy = proxied
    active.write(message(1, ALICE, expires_at=2000))
    proxy.break_trip("answers lost")
    with pytest.raises(StoreUnavailable):
        active.write(message(2, ALICE), clock_ms=2000, expire_limit=10)
    assert proxy.broken.is_set()
    assert active.seqs(own(ALICE)) == [1]
    active.write(message(3, ALICE))
    assert active.seqs(own(ALICE)) == [1, 3]


def test_a_commit_that_arrives_late_finds_that_it_was_given_up(
    proxied: tuple[Promoted, Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "END_OWN", ENDS_NOTHING)
    active, proxy = proxied
    batch = active.batch(message(1, ALICE))
    proxy.break_trip("questions held")
    assert active.writer.commit(batch, active.fence) is UNKNOWN
    assert proxy.broken.wait(10)
    assert isinstance(resolved(active, batch), Committed)
    active.number = batch.number
    active.write(deletes=[1])
    proxy.release()
    assert active.seqs(own(ALICE)) == []
    active.write(message(2, ALICE))


def test_a_commit_that_arrives_late_after_it_was_found_missing_writes_nothing(
    proxied: tuple[Promoted, Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else separates the two when the second try fails."""
    monkeypatch.setattr(sql, "END_OWN", ENDS_NOTHING)
    active, proxy = proxied
    batch = active.batch(message(1, ALICE))
    proxy.break_trip("questions held")
    assert active.writer.commit(batch, active.fence) is UNKNOWN
    second_try = type(active.writer)._write  # type: ignore[attr-defined]

    def refused(*_: object) -> Committed:
        raise StoreUnavailable("no room")

    monkeypatch.setattr(type(active.writer), "_write", refused)
    with pytest.raises(StoreUnavailable):
        active.writer.resolve(batch, active.fence)
    proxy.release()
    assert active.seqs(own(ALICE)) == []
    monkeypatch.setattr(type(active.writer), "_write", second_try)
    active.write(message(2, ALICE))
    assert active.seqs(own(ALICE)) == [2]


# --- the engine dies, hangs, comes back ----------------------------------------------------------------------


def write_until_it_fails(active: Promoted, first: int, told: Callable[[int], object]) -> tuple[Batch, object]:
    """Batches of ten messages; says which sequence numbers are promised. The last batch and its outcome."""
    seq = first
    while True:
        batch = active.batch(*(message(seq + at, (ALICE, BOB)[at % 2]) for at in range(10)))
        try:
            outcome: object = active.writer.commit(batch, active.fence)
        except StoreUnavailable as error:
            return batch, error
        if not isinstance(outcome, Committed):
            return batch, outcome
        told(seq)
        seq += 10


def test_what_was_committed_survives_a_kill_and_what_is_unknown_is_resolved(
    own_server: PostgresServer,
) -> None:
    active = Promoted(store_at(own_server))
    promised: list[int] = []
    first = 1
    for rounds in range(4):
        enough = threading.Event()
        goal = len(promised) + 20 + rounds
        ended: list[tuple[Batch, object]] = []

        def told(seq: int, goal: int = goal, enough: threading.Event = enough) -> None:
            promised.append(seq)
            if len(promised) >= goal:
                enough.set()

        def write(first: int = first, told: Callable[[int], object] = told, ended: list = ended) -> None:  # type: ignore[type-arg]
            ended.append(write_until_it_fails(active, first, told))

        writing = threading.Thread(target=write)
        writing.start()
        assert enough.wait(30)
        own_server.kill()
        writing.join(30)
        own_server.start()
        batch, outcome = ended[0]
        if outcome is UNKNOWN:
            outcome = resolved(active, batch)
            assert isinstance(outcome, Committed)
            promised.append(batch.appends[0].seq)
        else:
            assert isinstance(outcome, StoreUnavailable)
        expected = sorted(seq + at for seq in promised for at in range(10))
        assert active.page(own(ALICE), limit=10**6).messages, "the reader has reconnected"
        found = active.seqs(own(ALICE), limit=10**6) + active.seqs(own(BOB), limit=10**6)
        assert sorted(found) == expected
        assert problems(own_server) == []
        active.number = batch.number
        first = batch.appends[0].seq + 10
    active.close()


def test_an_engine_that_is_stopped_is_not_waited_for_for_ever(own_server: PostgresServer) -> None:
    active = Promoted(store_at(own_server, commit_ms=1500))
    active.write(message(1, ALICE))
    batch = active.batch(message(2, ALICE))
    with own_server.stopped():
        with within():
            assert active.writer.commit(batch, active.fence) is UNKNOWN
        with within():
            assert active.writer.resolve(batch, active.fence) is UNKNOWN
        with within(), pytest.raises(StoreUnavailable):
            active.page(own(ALICE))
        with within(), pytest.raises(StoreUnavailable):
            active.writer.fence()
    assert isinstance(resolved(active, batch), Committed)
    assert active.seqs(own(ALICE)) == [1, 2]
    active.close()


def test_an_engine_that_is_away_refuses_and_is_used_again_when_it_is_back(own_server: PostgresServer) -> None:
    active = Promoted(store_at(own_server))
    active.write(message(1, ALICE))
    own_server.stop()
    with within(), pytest.raises(StoreUnavailable):
        active.write(message(2, ALICE))
    with within(), pytest.raises(StoreUnavailable):
        active.page(own(ALICE))
    own_server.start()
    active.write(message(3, ALICE))
    assert active.seqs(own(ALICE)) == [1, 3]
    active.close()


def test_readers_and_writers_come_back_after_their_sessions_were_ended(postgres: PostgresServer) -> None:
    emptied(postgres, SCHEMA)
    active = Promoted(store_at(postgres))
    active.write(message(1, ALICE))
    with postgres.connect() as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name LIKE 'posthouse%'"
        )
    assert active.seqs(own(ALICE)) == [1]
    active.write(message(2, ALICE))
    assert active.reader.waiting(own(ALICE), 0) == Waiting(2, 18, 0)
    active.close()


# --- fences --------------------------------------------------------------------------------------------------


def test_nothing_of_any_kind_is_written_under_an_old_fence(postgres: PostgresServer) -> None:
    emptied(postgres, SCHEMA)
    old = promote(store_at(postgres))
    old.write(message(1, ALICE, expires_at=2000), message(2, BOB))
    new = promote(store_at(postgres))
    attempts: list[dict[str, object]] = [
        {"deletes": [1, 2]},
        {"marks": [Mark(2, "bucket", "one")]},
        {"clock_ms": 3000, "expire_limit": 10},
        {"purges": [BOB.no], "expire_limit": 10},
        {"reserve_seq": 10**6},
    ]
    for attempt in attempts:
        assert old.writer.commit(old.batch(message(9, ALICE), **attempt), old.fence) is FENCED  # type: ignore[arg-type]
    assert new.seqs(own(ALICE)) == [1]
    assert new.reader.waiting(marking("one", 6), 0).count == 1
    assert new.promote().next_seq == 3
    old.close()
    new.close()


def test_an_old_writer_stopped_with_the_row_locked_does_not_keep_a_promoter_out(
    postgres: PostgresServer,
) -> None:
    emptied(postgres, SCHEMA)
    old, new = promote(store_at(postgres)), store_at(postgres)
    batch = old.batch(message(1, ALICE))
    known = old.writer._known  # type: ignore[attr-defined]
    # As if the process were stopped in the middle: the row is changed and locked, COMMIT is not sent.
    old.writer._session.sound().run([sql.BEGIN, *Applying(batch, known, Places()).advance()])  # type: ignore[attr-defined]
    with within(5):
        successor = promote(new)
    successor.write(message(2, ALICE))
    assert old.writer.commit(batch, old.fence) is FENCED
    assert successor.seqs(own(ALICE)) == [2]
    old.close()
    successor.close()


def test_a_lock_that_cannot_be_broken_makes_a_promotion_fail_in_time(postgres: PostgresServer) -> None:
    emptied(postgres, SCHEMA)
    writer = store_at(postgres).open_writer()
    seen = writer.fence()
    with postgres.connect() as stranger, stranger.transaction():
        stranger.execute(f"SELECT * FROM {SCHEMA}.relay FOR UPDATE")
        with within(), pytest.raises(StoreUnavailable, match="lock timeout"):
            writer.promote(seen, 1, b"t" * 16)
    assert writer.promote(seen, 1, b"t" * 16) is not None
    writer.close()


def test_a_commit_behind_a_lock_is_certainly_refused(postgres: PostgresServer) -> None:
    emptied(postgres, SCHEMA)
    active = promote(store_at(postgres))
    with postgres.connect() as stranger, stranger.transaction():
        stranger.execute(f"SELECT * FROM {SCHEMA}.relay FOR UPDATE")
        with within(), pytest.raises(StoreUnavailable, match="lock timeout"):
            active.write(message(1, ALICE))
    active.write(message(2, ALICE))
    assert active.seqs(own(ALICE)) == [2]
    active.close()


# --- the engine's own failover -------------------------------------------------------------------------------


def follow(primary: PostgresServer) -> None:
    """Wait until a standby follows."""
    deadline = time.monotonic() + 30
    with primary.connect() as connection:
        while not connection.execute("SELECT FROM pg_stat_replication WHERE state = 'streaming'").fetchall():
            assert time.monotonic() < deadline
            time.sleep(0.02)


@contextmanager
def pair(synchronous: bool) -> Iterator[tuple[PostgresServer, PostgresServer, Store]]:
    """A primary, its standby, and a store that knows both."""
    need_server()
    with running_server({}) as primary, server_folder() as folder:
        if synchronous:
            primary.settings["synchronous_standby_names"] = "standby"
        standby = PostgresServer(folder, {"wal_retrieve_retry_interval": "100ms"})
        try:
            standby.copy_of(primary, "standby")
            primary.stop()
            primary.start()
            follow(primary)
            url = primary.url(SCHEMA).replace(
                f"127.0.0.1:{primary.port}", f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
            )
            yield primary, standby, open_store(url, 1000, COMMIT_MS)
        finally:
            standby.stop()


def test_a_promoted_synchronous_standby_holds_all_that_was_committed() -> None:
    with pair(synchronous=True) as (primary, standby, store):
        with structlog.testing.capture_logs() as logs:
            active = Promoted(store)
            promised: list[int] = []
            for seq in range(1, 400, 10):
                active.write(*(message(seq + at, ALICE) for at in range(10)))
                promised += range(seq, seq + 10)
            primary.kill()
            standby.promote()
            active.write(message(1000, ALICE))
        assert active.seqs(own(ALICE)) == [*promised, 1000]
        assert not [line for line in logs if line["log_level"] == "error"]
        active.close()


def test_a_commit_that_did_not_reach_its_synchronous_standby_is_not_promised() -> None:
    with pair(synchronous=True) as (_, standby, store):
        active = Promoted(store)
        active.write(message(1, ALICE))
        batch = active.batch(message(2, ALICE), deletes=[1])
        with standby.stopped():
            with within():
                assert active.writer.commit(batch, active.fence) is UNKNOWN
            with within():
                assert active.writer.resolve(batch, active.fence) is UNKNOWN
        outcome = resolved(active, batch)
        assert isinstance(outcome, Committed)
        assert outcome.total == Tally(1, 9)
        assert active.seqs(own(ALICE)) == [2]
        active.close()


def test_a_commit_that_is_confirmed_without_its_standby_is_not_promised() -> None:
    """An administrator may end the engine's wait: it answers with success, and a warning."""
    with pair(synchronous=True) as (primary, standby, store):
        active = Promoted(store)
        batch = active.batch(message(1, ALICE))
        outcomes: list[object] = []
        with standby.stopped(), primary.connect() as administrator:
            writing = threading.Thread(
                target=lambda: outcomes.append(active.writer.commit(batch, active.fence))
            )
            writing.start()
            cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
            while writing.is_alive() and not administrator.execute(cancel).fetchall():
                time.sleep(0.01)
            writing.join(BOUND_S)
            assert outcomes == [UNKNOWN]
            assert active.writer._doubt.answer is not None  # type: ignore[attr-defined]  # the engine did answer
        assert isinstance(resolved(active, batch), Committed)
        assert active.seqs(own(ALICE)) == [1]
        active.close()


def test_a_standby_that_lost_commits_is_noticed() -> None:
    with pair(synchronous=False) as (primary, standby, store):
        active = Promoted(store)
        active.write(message(1, ALICE))
        with primary.connect() as connection:
            written = connection.execute("SELECT pg_current_wal_lsn()").fetchone()
        assert written is not None
        with standby.connect() as connection:
            deadline = time.monotonic() + 30
            while connection.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", written).fetchone() != (
                True,
            ):
                assert time.monotonic() < deadline
                time.sleep(0.02)
        standby.stop()
        active.write(message(2, ALICE))
        primary.kill()
        standby.start()
        standby.promote()
        with structlog.testing.capture_logs() as logs:
            assert active.writer.commit(active.batch(message(3, ALICE)), active.fence) is FENCED
        assert [line["found_batch"] for line in logs if line["event"] == WENT_BACK] == [1]
        assert active.promote().next_seq == 2
        active.write(message(4, ALICE))
        assert active.seqs(own(ALICE)) == [1, 4]
        active.close()
