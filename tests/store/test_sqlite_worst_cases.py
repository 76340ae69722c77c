"""What an attacker or bad luck can do to the SQLite store, and that it still does what it should."""

import threading
import time
from contextlib import closing
from pathlib import Path

import apsw
import pytest
from posthouse.store.interface import Mark
from posthouse.store.sqlite import SqliteStore, applying, checks, reader, slots
from posthouse.store.sqlite.connection import BUSY_MS, How, open_to_read
from posthouse.store.sqlite.schema import SCHEMA
from store_samples import Promoted, mailbox, marking, message, own

ALICE, BOB = mailbox(1), mailbox(2)


@pytest.fixture
def active(tmp_path: Path) -> Promoted:
    return Promoted(SqliteStore(tmp_path / "store.db"))


def problems(active: Promoted) -> list[str]:
    connection = open_to_read(active.store.path, How(SCHEMA))  # type: ignore[attr-defined]
    try:
        return checks.check(connection).problems
    finally:
        connection.close()


def test_messages_that_meet_in_a_slot_are_all_kept_and_still_known(
    active: Promoted, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = (ALICE.no << 40) | (1 << 40) - 1
    for module in (applying, reader):
        monkeypatch.setattr(module, "slot_of", lambda no, message_id: last)
    assert active.write(*(message(seq, ALICE) for seq in range(1, 71)), message(71, BOB)).duplicates == {}
    assert active.seqs(own(ALICE)) == list(range(1, 71))
    repeats = [message(100 + seq, ALICE, b"message %d" % seq) for seq in (1, 35, 70)]
    assert active.write(*repeats).duplicates == {101: 1, 135: 35, 170: 70}
    assert active.reader.holds(ALICE.no, message(70, ALICE).id, 0)
    assert not active.reader.holds(ALICE.no, message(71, ALICE).id, 0)
    assert problems(active) == []
    active.write(deletes=[1, 35, 70, 71])
    assert problems(active) == []
    # The gap at 35 hides what lies behind it from the search for repeats: then it is stored again.
    assert active.write(message(200, ALICE, b"message 50")).duplicates == {}
    assert problems(active) == []
    active.close()


def test_the_slots_of_a_mailbox_lie_together() -> None:
    first, last = slots.slots_of(ALICE.no)
    assert first <= slots.slot_of(ALICE.no, "0" * 64) <= slots.slot_of(ALICE.no, "f" * 64) <= last
    assert slots.slots_of(BOB.no)[0] == last + 1
    assert slots.next_slot(last) == first
    assert slots.slots_of(ALICE.no + (1 << 23)) == (first, last)  # type: ignore[arg-type]
    assert last < 1 << 63


def test_an_owner_beside_a_crowded_neighbour_reads_by_its_own_slots(
    active: Promoted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "CROWD", 10)
    twin = mailbox(ALICE.no + (1 << 23))  # shares the slots' upper bits, and the shelf
    active.write(*(message(seq, BOB, expires_at=9000) for seq in range(1, 400)))
    active.write(*(message(seq, (ALICE, twin)[seq % 2], expires_at=2000 + seq) for seq in range(400, 420)))
    asked: list[str] = []

    def note(_cursor: object, statement: str, _bindings: object) -> bool:
        asked.append(statement)
        return True

    active.reader._connection.exec_trace = note  # type: ignore[attr-defined]
    mine = list(range(400, 420, 2))
    assert active.seqs(own(ALICE)) == mine
    assert any("FROM slot" in sql for sql in asked)
    page = active.page(own(ALICE), 401, 412, limit=3, clock_ms=2404)
    assert ([m.seq for m in page.messages], page.complete) == ([406], False)
    assert active.seqs(own(ALICE), 406, 412, clock_ms=2404) == [408, 410, 412]
    active.close()


def test_marks_survive_a_promotion_and_die_with_messages_after_it(active: Promoted) -> None:
    active.write(message(1, ALICE), message(2, ALICE))
    active.write(marks=[Mark(1, "bucket", "one"), Mark(2, "bucket", "one")])
    active.promote()
    active.write(deletes=[1])
    assert active.reader.waiting(marking("one", 5), 0).count == 0
    active.write(deletes=[2])
    with apsw.Connection(str(active.store.path)) as other:  # type: ignore[attr-defined]
        assert other.execute("SELECT (SELECT count(*) FROM mark) + (SELECT count(*) FROM reader)").get == 0
    active.close()


def test_the_log_is_copied_and_used_again_while_writing_goes_on(
    active: Promoted, monkeypatch: pytest.MonkeyPatch
) -> None:
    from posthouse.store.sqlite import writer

    monkeypatch.setattr(writer, "CHECKPOINT_PAGES", 50)
    active.writer._checkpoint_at = 50  # type: ignore[attr-defined]
    for seq in range(1, 400):
        active.write(message(seq, ALICE, b"%d " % seq * 500))
        active.writer.tidy()
        assert active.page(own(ALICE), seq - 1).complete
    log = active.store.path.with_name("store.db-wal")  # type: ignore[attr-defined]
    assert log.stat().st_size < 100 * 4200
    active.close()


def test_the_log_is_used_again_though_something_is_always_being_read(
    active: Promoted, monkeypatch: pytest.MonkeyPatch
) -> None:
    from posthouse.store.sqlite import writer

    monkeypatch.setattr(writer, "CHECKPOINT_PAGES", 50)
    monkeypatch.setattr(writer, "READS_END_MS", 5000)
    active.writer._checkpoint_at = 50  # type: ignore[attr-defined]
    with closing(apsw.Connection(str(active.store.path))) as reading:  # type: ignore[attr-defined]
        reading.execute("BEGIN")
        assert reading.execute("SELECT count(*) FROM message").get == 0
        for seq in range(1, 30):
            active.write(message(seq, ALICE, b"%d " % seq * 500))
        page_ends = threading.Timer(0.05, reading.execute, ["ROLLBACK"])
        page_ends.start()
        active.writer.tidy()
        page_ends.join()
    active.write(message(30, ALICE, b"thirtieth"))
    assert active.writer._log_pages < 50  # type: ignore[attr-defined]
    active.close()


def test_a_read_that_takes_long_holds_up_nothing(active: Promoted) -> None:

    active.writer._checkpoint_at = 1  # type: ignore[attr-defined]
    with closing(apsw.Connection(str(active.store.path))) as reading:  # type: ignore[attr-defined]
        reading.execute("BEGIN")
        assert reading.execute("SELECT count(*) FROM message").get == 0
        active.write(message(1, ALICE))
        began = time.monotonic()
        active.writer.tidy()
        assert time.monotonic() - began < BUSY_MS / 2000
        active.write(message(2, ALICE))
    waits = active.writer._connection.execute("PRAGMA busy_timeout").get  # type: ignore[attr-defined]
    assert waits == BUSY_MS
    active.close()
