"""Backup of a store in use and restore of one that is not, by the functions and by the command line."""

import json
import os
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest
from command_line import one_line_error, posthouse
from posthouse.identity import DeviceKey, address_digest
from posthouse.store.interface import FENCED, Append, Mailbox, MailboxNo, StoreUnusable
from posthouse.store.locks import LeaseHolder, take_lease
from posthouse.store.sqlite import SqliteStore, copies, files
from store_samples import Promoted, mailbox, message, own

BOX = mailbox(1)
KEY = DeviceKey(b"k" * 32)
ADDRESSED = Mailbox(MailboxNo(7), b"a" + address_digest(KEY.address), 9)


@pytest.fixture
def active(tmp_path: Path) -> Iterator[Promoted]:
    """A store in use, with three messages of which the last two are in its log only."""
    active = Promoted(SqliteStore(tmp_path / "store.db"))
    active.write(message(1, BOX))
    active.write(message(2, BOX), message(3, BOX))
    yield active
    active.close()


def seqs(path: Path) -> list[int]:
    reader = SqliteStore(path).open_reader()
    try:
        return [m.seq for m in reader.page(own(BOX), 0, 2**53, 0, 1000, 10**9).messages]
    finally:
        reader.close()


def no_leftovers(folder: Path) -> bool:
    return not [file for file in folder.iterdir() if "unfinished" in file.name or "restoring" in file.name]


# --- backup --------------------------------------------------------------------------------------------------


def test_a_backup_of_a_store_in_use_is_one_sound_file(active: Promoted, tmp_path: Path) -> None:
    copied: list[tuple[int, int]] = []
    report = copies.back_up(
        tmp_path / "store.db", tmp_path / "copy.db", progress=lambda *step: copied.append(step)
    )
    assert (report.messages, report.problems) == (3, [])
    assert copied[-1][0] == copied[-1][1] > 0
    active.write(message(4, BOX))
    assert seqs(tmp_path / "copy.db") == [1, 2, 3]
    assert no_leftovers(tmp_path)


def test_writing_goes_on_while_a_backup_is_made(
    active: Promoted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "PAGES_A_STEP", 1)
    seq = 10

    def write(done: int, of: int) -> None:
        nonlocal seq
        active.write(message(seq, BOX))
        seq += 1

    assert copies.back_up(tmp_path / "store.db", tmp_path / "copy.db", progress=write).messages == 3
    assert seq > 15
    assert seqs(tmp_path / "copy.db") == [1, 2, 3]


def test_a_backup_replaces_nothing_unless_told(active: Promoted, tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    target.write_text("precious")
    with pytest.raises(StoreUnusable, match="it exists"):
        copies.back_up(tmp_path / "store.db", target)
    assert target.read_text() == "precious"
    copies.back_up(tmp_path / "store.db", target, replace=True)
    assert seqs(target) == [1, 2, 3]


def test_a_backup_of_a_damaged_store_is_refused(active: Promoted, tmp_path: Path) -> None:
    with apsw.Connection(str(tmp_path / "store.db")) as other:
        other.execute("UPDATE message SET ciphertext = x'00' WHERE seq = 2")
    with pytest.raises(StoreUnusable, match="not sound"):
        copies.back_up(tmp_path / "store.db", tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()
    assert no_leftovers(tmp_path)


# --- restore -------------------------------------------------------------------------------------------------


def test_a_restore_is_refused_while_the_store_is_open(active: Promoted, tmp_path: Path) -> None:
    copies.back_up(tmp_path / "store.db", tmp_path / "copy.db")
    with pytest.raises(StoreUnusable, match="stop every member first"):
        copies.restore(tmp_path / "copy.db", tmp_path / "store.db")


def test_a_restored_store_is_a_new_incarnation_above_both(active: Promoted, tmp_path: Path) -> None:
    copies.back_up(tmp_path / "store.db", tmp_path / "copy.db")
    old = active.fence
    active.promote(epoch=50)
    active.write(message(900, BOX))
    active.close()

    restored = copies.restore(tmp_path / "copy.db", tmp_path / "store.db")
    assert restored.epoch == 51
    assert restored.before is not None
    assert seqs(restored.before) == [1, 2, 3, 900]
    assert no_leftovers(tmp_path)
    again = Promoted(SqliteStore(tmp_path / "store.db"))
    assert again.fence.incarnation != old.incarnation
    assert again.fence.epoch == 52
    assert again.recovered.relay_id == active.recovered.relay_id
    assert again.recovered.next_seq == 901
    assert again.seqs(own(BOX)) == [1, 2, 3]
    assert again.writer.commit(active.batch(message(2000, BOX)), active.fence) is FENCED
    again.close()


def test_a_restore_to_a_new_place_and_a_second_one_keep_everything(active: Promoted, tmp_path: Path) -> None:
    copies.back_up(tmp_path / "store.db", tmp_path / "copy.db")
    target = tmp_path / "elsewhere.db"
    assert copies.restore(tmp_path / "copy.db", target).before is None
    first = copies.restore(tmp_path / "copy.db", target).before
    second = copies.restore(tmp_path / "copy.db", target).before
    assert first is not None and second is not None and first != second
    assert seqs(first) == seqs(second) == seqs(target) == [1, 2, 3]


def test_a_restored_store_belongs_to_whom_it_did(active: Promoted, tmp_path: Path) -> None:
    copies.back_up(tmp_path / "store.db", tmp_path / "copy.db")
    assert (tmp_path / "copy.db").stat().st_mode & 0o777 == 0o600
    active.close()
    (tmp_path / "store.db").chmod(0o640)
    if os.geteuid() == 0:
        os.chown(tmp_path / "store.db", 65534, 65534)
    before = (tmp_path / "store.db").stat()
    copies.restore(tmp_path / "copy.db", tmp_path / "store.db")
    after = (tmp_path / "store.db").stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert after.st_ino != before.st_ino


def test_a_restore_over_a_damaged_store_keeps_it_and_its_log(active: Promoted, tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    copies.back_up(path, tmp_path / "copy.db")
    log = files.beside(path, "-wal").read_bytes()
    active.close()
    path.write_bytes(b"nothing that could be read" * 1000)
    files.beside(path, "-wal").write_bytes(log)
    restored = copies.restore(tmp_path / "copy.db", path)
    assert restored.epoch > 1000
    assert restored.before is not None
    assert restored.before.read_bytes().startswith(b"nothing")
    assert files.beside(restored.before, "-wal").read_bytes() == log
    assert seqs(path) == [1, 2, 3]


def test_a_damaged_copy_is_not_restored(active: Promoted, tmp_path: Path) -> None:
    copies.back_up(tmp_path / "store.db", tmp_path / "copy.db")
    active.close()
    with apsw.Connection(str(tmp_path / "copy.db")) as other:
        other.execute("UPDATE mailbox SET count = 5")
    with pytest.raises(StoreUnusable, match="not sound"):
        copies.restore(tmp_path / "copy.db", tmp_path / "store.db")
    assert seqs(tmp_path / "store.db") == [1, 2, 3]
    assert no_leftovers(tmp_path)


# --- the command line ----------------------------------------------------------------------------------------


def url(path: Path) -> str:
    return f"sqlite:///{path}"


def test_check_backup_and_restore_by_command(active: Promoted, tmp_path: Path) -> None:
    store = url(tmp_path / "store.db")
    checked = posthouse("store", "check", "--store", store)
    assert checked.returncode == 0, checked
    assert "3 messages" in checked.stdout.replace("messages    3", "3 messages")
    assert checked.stdout.splitlines()[-1].split() == ["result", "sound"]
    done = posthouse("store", "backup", str(tmp_path / "copy.db"), "--store", store)
    assert (done.returncode, done.stdout.split()[0]) == (0, "3")
    assert "it exists" in one_line_error(
        posthouse("store", "backup", str(tmp_path / "copy.db"), "--store", store)
    )
    refused = posthouse("store", "restore", str(tmp_path / "copy.db"), "--store", store)
    assert "stop every member" in one_line_error(refused)
    active.close()
    restored = posthouse("store", "restore", str(tmp_path / "copy.db"), "--store", store)
    assert restored.returncode == 0, restored
    assert "store.db-before-1" in restored.stdout


def test_check_says_what_is_wrong(active: Promoted, tmp_path: Path) -> None:
    with apsw.Connection(str(tmp_path / "store.db")) as other:
        other.execute("UPDATE message SET ciphertext = x'00' WHERE seq = 2")
        other.execute("UPDATE relay SET count = 9")
        other.execute("DELETE FROM slot WHERE seq = 1")
        other.execute("INSERT INTO mark VALUES (77, 1)")
    checked = posthouse("store", "check", "--store", url(tmp_path / "store.db"))
    assert checked.returncode == 1
    for words in (
        "message 2 is not what its id says",
        "the store says 9 messages",
        "mailbox 1 says 3 messages",
        "message 1 has not the slot",
        "marked message 77",
        "NOT SOUND",
    ):
        assert words in checked.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["check", "--store", "memory:"], "not in a file"),
        (["check", "--store", "sqlite:////nowhere/at/all.db"], "no such file"),
        (["purge", "nobody", "--store", "sqlite:////nowhere/at/all.db"], "not an address"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(arguments: list[str], words: str) -> None:
    assert words in one_line_error(posthouse("store", *arguments))


def test_purge_without_a_relay_empties_the_mailbox_and_raises_the_epoch(
    active: Promoted, tmp_path: Path
) -> None:
    active.write(
        *(Append(s, ADDRESSED, message(s, BOX).id, b"message %d" % s, 0, 10**15, False) for s in (20, 21))
    )
    for name in KEY.addresses:
        active.write(message(active.number + 100, ADDRESSED))
        active.close()
        done = posthouse("store", "purge", name, "--store", url(tmp_path / "store.db"))
        assert done.returncode == 0, done
        assert done.stdout.split()[0] in ("3", "1")
        active.__init__(SqliteStore(tmp_path / "store.db"))  # type: ignore[misc]
        assert active.seqs(own(ADDRESSED)) == []
        assert active.seqs(own(BOX)) == [1, 2, 3]
    assert active.fence.epoch == 5
    active.close()
    again = posthouse("store", "purge", KEY.address, "--store", url(tmp_path / "store.db"))
    assert again.stdout == "0 messages deleted\n"


@contextmanager
def listening(path: Path, answer: dict[str, object]) -> Iterator[list[dict[str, object]]]:
    """A control socket that answers one request."""
    asked: list[dict[str, object]] = []
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            asked.append(json.loads(connection.makefile().readline()))
            connection.sendall(json.dumps(answer).encode() + b"\n")

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield asked
    finally:
        thread.join(10)
        server.close()


def test_purge_asks_the_relay_that_holds_the_lease(active: Promoted, tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    place = tmp_path / "control"
    lease = take_lease(path, LeaseHolder(4711, 0.0, str(place)))
    assert lease is not None
    with listening(place, {"ok": True, "purged": 12}) as asked:
        done = posthouse("store", "purge", KEY.addresses[1], "--store", url(path))
    assert (done.returncode, done.stdout) == (0, "12 messages deleted\n")
    assert asked == [{"command": "purge", "address": KEY.address}]
    place.unlink()
    with listening(place, {"ok": False, "error": "not now"}):
        refused = posthouse("store", "purge", KEY.address, "--store", url(path))
    assert "not now" in one_line_error(refused)
    lease.release()


def test_purge_does_not_fence_a_relay_without_a_lease(active: Promoted, tmp_path: Path) -> None:
    refused = posthouse("store", "purge", KEY.address, "--store", url(tmp_path / "store.db"))
    assert "stop it first" in one_line_error(refused)
    assert active.writer.fence() == active.fence
    assert secrets.compare_digest(active.fence.token, active.recovered.fence.token)
