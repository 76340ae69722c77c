"""The locks beside a store: between processes, and given back by the kernel however a process ends."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from posthouse.store.interface import StoreUnusable
from posthouse.store.locks import LeaseHolder, own_open, read_lease_holder, share_open, take_lease

HOLD = """
import sys, time
from pathlib import Path
from posthouse.store import locks
path = Path(sys.argv[2])
held = {
    "share": lambda: locks.share_open(path),
    "own": lambda: locks.own_open(path),
    "lease": lambda: locks.take_lease(path, locks.LeaseHolder(4711, 12.5, "/run/socket")),
}[sys.argv[1]]()
print(held is not None, flush=True)
time.sleep(60)
"""


@contextmanager
def holding(what: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds a lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, what, str(path)], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def test_a_lease_has_one_holder_and_tells_who_that_is(path: Path) -> None:
    assert read_lease_holder(path) is None
    with holding("lease", path):
        assert take_lease(path, LeaseHolder(1, 1.0)) is None
        assert read_lease_holder(path) == LeaseHolder(4711, 12.5, "/run/socket")


def test_a_lease_is_free_once_its_holder_is_killed(path: Path) -> None:
    with holding("lease", path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert read_lease_holder(path) is None
    lease = take_lease(path, LeaseHolder(1, 1.0))
    assert lease is not None
    assert read_lease_holder(path) == LeaseHolder(1, 1.0)
    lease.release()
    lease.release()
    assert read_lease_holder(path) is None


def test_two_holders_in_one_process_exclude_each_other_too(path: Path) -> None:
    first = take_lease(path, LeaseHolder(1, 1.0))
    assert first is not None
    assert take_lease(path, LeaseHolder(2, 1.0)) is None
    first.release()
    assert take_lease(path, LeaseHolder(2, 1.0)) is not None


def test_a_shorter_line_takes_the_place_of_a_longer_one(path: Path) -> None:
    lease = take_lease(path, LeaseHolder(1, 1.0, "/a/very/long/path/of/a/socket"))
    assert lease is not None
    lease.release()
    lease = take_lease(path, LeaseHolder(2, 2.0))
    assert read_lease_holder(path) == LeaseHolder(2, 2.0)


def test_many_may_have_a_store_open_unless_one_owns_it(path: Path) -> None:
    with holding("share", path):
        mine = share_open(path)
        assert own_open(path) is None
        mine.release()
        assert own_open(path) is None
    with holding("own", path):
        assert own_open(path) is None
        with pytest.raises(StoreUnusable, match="being restored"):
            share_open(path)
    owned = own_open(path)
    assert owned is not None
    owned.release()
    share_open(path).release()


def test_a_lock_that_cannot_be_made_is_an_error_with_its_name(tmp_path: Path) -> None:
    missing = tmp_path / "missing" / "store.db"
    with pytest.raises(StoreUnusable, match=r"store\.db-open"):
        share_open(missing)
    with pytest.raises(StoreUnusable, match=r"store\.db-lease"):
        take_lease(missing, LeaseHolder(1, 1.0))


def test_a_held_lease_file_that_says_nothing_is_an_error(path: Path) -> None:
    lease = take_lease(path, LeaseHolder(1, 1.0))
    path.with_name("store.db-lease").write_text("nobody\n")
    with pytest.raises(StoreUnusable, match="does not say by whom"):
        read_lease_holder(path)
    assert lease is not None
    lease.release()


def test_a_lease_on_a_full_disk_is_refused_in_one_line_and_given_back(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as disk, pytest.raises(StoreUnusable, match="No space left"):
        disk.setattr(os, "pwrite", full)
        take_lease(path, LeaseHolder(1, 1.0))
    assert take_lease(path, LeaseHolder(1, 1.0)) is not None
