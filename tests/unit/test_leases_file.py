"""The lease of one machine, with real processes: killed, stopped, and one that only has a dead holder's number."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from math import inf
from pathlib import Path

import pytest
from msgspec.structs import replace
from posthouse.single_active.leases import file_content, processes
from posthouse.single_active.leases.file import FileLease
from posthouse.single_active.leases.interface import LeaseConflict, LeaseUnavailable, Process, Record
from posthouse.store.locks import LeaseHolder, read_lease_holder, take_lease

WAIT_S = 20.0

HOLD = """
import asyncio, sys
from pathlib import Path
from posthouse.single_active.leases.file import FileLease, this_process
from posthouse.single_active.leases.interface import Record

async def main():
    lease = FileLease(Path(sys.argv[1]), "/run/socket")
    record = Record("child", 1, 1, 5.0, "child:8081", this_process())
    before = await lease.read()
    record = await lease.write(record, before.version if before else None)
    print(record.version, flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        record = await lease.write(record, record.version)
        print(record.version, flush=True)

asyncio.run(main())
"""


class Holder:
    """Another process that holds the lease, and renews it when told."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.version = self._line()

    def renew(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.version = self._line()

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@contextmanager
def holding(path: Path) -> Iterator[Holder]:
    with started(HOLD, str(path)) as process:
        try:
            holder = Holder(process)
            assert holder.version
            yield holder
        finally:
            process.kill()


def started(program: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[FileLease]:
    lease = FileLease(path)
    try:
        yield lease
    finally:
        await lease.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def mine() -> Record:
    return Record("me", 1, 2, 5.0, "me:8081", processes.this_process())


async def test_a_new_lease_is_absent_then_ours_then_free_again(path: Path) -> None:
    async with opened(path) as lease:
        assert await lease.read() is None
        first = await lease.write(mine(), None)
        assert await lease.read() == first
        second = await lease.write(first, first.version)
        assert second.version != first.version
        with pytest.raises(LeaseConflict):
            await lease.write(first, first.version)
        await lease.write(replace(second, released=True, successor="other"), second.version)
        async with opened(path) as other:
            free = await other.read()
            assert free is not None
            assert free.released
            assert free.successor == "other"
            await other.write(mine(), free.version)
            with pytest.raises(LeaseConflict):
                await lease.write(mine(), free.version)


async def test_others_see_who_holds_it_and_cannot_write(path: Path) -> None:
    with holding(path) as holder:
        async with opened(path) as lease:
            record = await lease.read()
            assert record is not None
            assert (record.holder, record.peer, record.version) == ("child", "child:8081", holder.version)
            assert record.process == Process(
                holder.process.pid, processes.start_ticks(holder.process.pid) or 0, processes.pid_namespace()
            )
            for expected in (None, "another version"):
                with pytest.raises(LeaseConflict):
                    await lease.write(mine(), expected)
        assert holder.process.poll() is None


async def test_commands_that_ask_who_is_active_understand_the_line(path: Path) -> None:
    with holding(path) as holder:
        found = read_lease_holder(path)
        assert found is not None
        assert (found.pid, found.control_socket) == (holder.process.pid, "/run/socket")


async def test_the_kernel_frees_the_lease_of_a_killed_holder_and_the_watch_hears_of_it(path: Path) -> None:
    with holding(path) as holder:
        async with opened(path) as lease, aclosing(lease.watch()) as records, asyncio.timeout(WAIT_S):
            seen = await anext(records)
            assert seen is not None
            assert not seen.released
            holder.process.send_signal(signal.SIGKILL)
            freed = await anext(records)
            assert freed is not None
            assert freed.released
            assert freed.version == seen.version
            taken = await lease.write(mine(), freed.version)
            assert await lease.read() == taken


async def test_the_watch_sees_every_renewal_s_version_in_the_end(path: Path) -> None:
    with holding(path) as holder:
        async with opened(path) as lease, aclosing(lease.watch()) as records, asyncio.timeout(WAIT_S):
            await anext(records)
            holder.renew()
            async for record in records:
                assert record is not None
                if record.version == holder.version:
                    break


async def test_a_stopped_holder_is_killed_before_its_lease_is_taken(path: Path) -> None:
    with holding(path) as holder:
        async with opened(path) as lease:
            record = await lease.read()
            assert record is not None
            holder.process.send_signal(signal.SIGSTOP)
            taken = await lease.write(mine(), record.version)
            assert await lease.read() == taken
        assert holder.process.wait(WAIT_S) == -signal.SIGKILL


async def test_a_holder_that_has_renewed_meanwhile_is_not_killed(path: Path) -> None:
    with holding(path) as holder:
        async with opened(path) as lease:
            record = await lease.read()
            assert record is not None
            holder.renew()
            with pytest.raises(LeaseConflict):
                await lease.write(mine(), record.version)
            holder.renew()
        assert holder.process.poll() is None


async def test_a_caller_with_better_evidence_can_have_the_holder_killed(path: Path) -> None:
    with holding(path) as holder:
        async with opened(path) as lease:
            record = await lease.read()
            assert record is not None
            assert not await lease.kill_stopped_holder(mine())
            holder.process.send_signal(signal.SIGSTOP)
            assert await lease.kill_stopped_holder(record)
            assert not await lease.kill_stopped_holder(record)
            free = await lease.read()
            assert free is not None
            assert free.released


async def test_a_process_with_a_dead_holders_number_is_never_killed(path: Path) -> None:
    """The record names a living process by its number, but with another start: it is a later one."""
    bystander = started("input()")
    try:
        ticks = processes.start_ticks(bystander.pid)
        assert ticks is not None
        earlier = Process(bystander.pid, ticks - 1, processes.pid_namespace())
        async with opened(path) as holder, opened(path) as other:
            record = await holder.write(replace(mine(), process=earlier), None)
            with pytest.raises(LeaseConflict):
                await other.write(mine(), record.version)
            assert not await other.kill_stopped_holder(record)
        assert bystander.poll() is None
        assert not processes.kill(earlier, 0.0)
        assert not processes.kill(replace(earlier, start_ticks=ticks, namespace=1), 0.0)
        assert bystander.poll() is None
        assert processes.kill(replace(earlier, start_ticks=ticks), WAIT_S)
        assert bystander.wait(WAIT_S) == -signal.SIGKILL
    finally:
        bystander.kill()
        bystander.communicate()


async def test_who_only_locks_the_file_never_expires_and_is_never_killed(path: Path) -> None:
    held = take_lease(path, LeaseHolder(os.getpid(), 1.0))
    assert held is not None
    async with opened(path) as lease:
        record = await lease.read()
        assert record is not None
        assert not record.released
        assert record.duration_s == inf
        with pytest.raises(LeaseConflict):
            await lease.write(mine(), record.version)
        held.release()
        free = await lease.read()
        assert free is not None
        assert free.released
        await lease.write(mine(), free.version)
        assert take_lease(path, LeaseHolder(1, 1.0)) is None


async def test_a_lease_file_that_was_deleted_is_no_longer_ours(path: Path) -> None:
    async with opened(path) as lease, opened(path) as other:
        first = await lease.write(mine(), None)
        lease.path.unlink()
        assert await lease.read() is None
        taken = await other.write(mine(), None)
        with pytest.raises(LeaseConflict):
            await lease.write(first, first.version)
        with pytest.raises(LeaseConflict):
            await lease.write(first, None)
        assert await lease.read() == taken


async def test_a_file_that_is_not_a_lease_is_unavailable_not_free(path: Path) -> None:
    async with opened(path) as lease:
        lease.path.write_bytes(b"nonsense\n")
        with pytest.raises(LeaseUnavailable, match="whole line"):
            await lease.read()


async def test_a_directory_that_is_not_there_is_said_in_one_line(tmp_path: Path) -> None:
    async with opened(tmp_path / "nowhere" / "store.db") as lease:
        with pytest.raises(LeaseUnavailable, match="No such file"):
            await lease.write(mine(), None)


def test_the_start_of_a_process_is_read_whatever_its_name() -> None:
    ours = processes.this_process()
    assert ours is not None
    assert processes.start_ticks(ours.pid) == ours.start_ticks
    program = (
        "import ctypes, sys; ctypes.CDLL(None).prctl(15, b'a) b (', 0, 0, 0); print(flush=True); input()"
    )
    with started(program) as process:
        assert process.stdout is not None
        process.stdout.readline()
        ticks = processes.start_ticks(process.pid)
        assert ticks is not None
        assert ticks >= ours.start_ticks
        process.kill()
    assert processes.start_ticks(process.pid) is None


def test_half_of_a_write_is_never_taken_for_a_record(tmp_path: Path) -> None:
    holders = ("older", "newer")
    lines = []
    for version, holder in zip(("0a", "0b"), holders, strict=True):
        record = Record(holder, 1, 1, 5.0, f"{holder}.host:8081", version=version)
        descriptor = os.open(tmp_path / holder, os.O_RDWR | os.O_CREAT)
        file_content.write_line(descriptor, file_content.Line(7, 1.5, "/run/socket", record, version))
        lines.append(os.pread(descriptor, 4096, 0))
        os.close(descriptor)
    older, newer = lines
    written = len(older.rstrip())
    seen = []
    for at in range(written + 1):
        (tmp_path / "torn").write_bytes(newer[:at] + older[at:])
        descriptor = os.open(tmp_path / "torn", os.O_RDONLY)
        with suppress(LeaseUnavailable):
            seen.append(file_content.read_line(descriptor)[1].record)
        os.close(descriptor)
    assert {(record.holder, record.peer, record.version) for record in seen if record is not None} == {
        (holder, f"{holder}.host:8081", version)
        for holder, version in zip(holders, ("0a", "0b"), strict=True)
    }
    assert None not in seen
